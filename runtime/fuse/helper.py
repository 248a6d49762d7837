"""The server's end of the guardian: start it before mounting, ask it for errands, dismiss it after unmounting."""

import contextlib
import errno
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import dmspec
from dmspec.runtime.fuse import mounts

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from dmspec.runtime.fuse.guardian import main
main()
"""
_FAREWELL_SECONDS = 5.0

_Answer = tuple[Any, tuple[int, str] | None]


class Guardian:
    """The process of guardian.py; its methods wait for the answer and raise OSError when there is none."""

    def __init__(self, mountpoint: str) -> None:
        package_folder = Path(dmspec.__path__[0]).parent
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _PROGRAM, str(package_folder), str(os.getpid()), mountpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._numbers = itertools.count(1)
        self._waiting: dict[int, SimpleQueue[_Answer]] = {}
        self._lock = threading.Lock()
        self._is_gone = False
        self._read_answer()
        self._listener = threading.Thread(target=self._listen, name="guardian", daemon=True)
        self._listener.start()

    def watch(self, entry: mounts.MountEntry) -> None:
        """Tell which mount is ours."""
        self._call("watch", entry.mount_id, entry.device)

    def size(self, name: str) -> int:
        """Ask for the kernel's idea of a file's size."""
        return int(self._call("size", name))

    def truncate(self, name: str, size_bytes: int) -> int:
        """Confirm a file's size to the kernel, and tell the inode."""
        return int(self._call("truncate", name, size_bytes))

    def leave(self, names: list[str]) -> bool:
        """Write files back and unmount; False when the mount is only detached since files are open."""
        return bool(self._call("leave", names))

    def poke(self) -> None:
        """Send the detached mount a request."""
        self._call("poke")

    def dismiss(self) -> None:
        """End it; what is still mounted stays."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._send(0, "dismiss")
        with self._lock, contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL_SECONDS)
            self._listener.join()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _send(self, number: int, errand: str, *arguments: Any) -> None:
        assert self._process.stdin is not None
        line = json.dumps([number, errand, *arguments]).encode() + b"\n"
        with self._lock:
            if self._process.stdin.closed:
                raise OSError(errno.EPIPE, "the guardian process is dismissed")
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _call(self, errand: str, *arguments: Any) -> Any:
        number = next(self._numbers)
        answers: SimpleQueue[_Answer] = SimpleQueue()
        with self._lock:
            if self._is_gone:
                raise OSError(errno.EPIPE, "the guardian process is gone")
            self._waiting[number] = answers
        self._send(number, errand, *arguments)
        result, problem = answers.get()
        if problem is not None:
            raise OSError(*problem)
        return result

    def _read_answer(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: list[Any] = json.loads(line) if line else []
        return answer

    def _listen(self) -> None:
        while answer := self._read_answer():
            number, result, problem = answer
            with self._lock:
                answers = self._waiting.pop(number)
            answers.put((result, problem))
        with self._lock:
            self._is_gone = True
            for answers in self._waiting.values():
                answers.put((None, (errno.EPIPE, "the guardian process is gone")))
