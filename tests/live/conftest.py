"""A mounted spec, given as text, and what tests do to it.

A mount is made by the command itself, in a process of its own; things are done to it over the control socket, from
within the test, as `dmspec do` does them. Whatever happens in a test, its mounts are taken away at the end, and the
folder of sockets, locks and logs has to be empty then.
"""

import fcntl
import hashlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dmspec.compiler import compile_statements, compile_text
from dmspec.runtime import wire
from dmspec.runtime.fuse import mounts
from dmspec.runtime.plan import Plan, from_bytes, to_bytes

KIB = 1024
MIB = 1 << 20
DEADLINE_SECONDS = 20.0

BINDINGS = [
    pytest.param("mfusepy", marks=pytest.mark.requires("fuse", "libfuse3")),
    pytest.param("fusepy", marks=pytest.mark.requires("fuse", "libfuse2")),
]


def until(condition: Callable[[], object], what: str = "", seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for what another process or thread does and nothing signals."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        pause.wait(0.005)


@contextmanager
def fails_with(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, os.strerror(caught.value.errno or 0)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # close(2) repeats the error of a write-back
            os.close(descriptor)


def aligned(data: bytes) -> memoryview:
    """The bytes at an address that O_DIRECT takes."""
    memory = mmap.mmap(-1, max(len(data), 4096))
    memory.write(data)
    return memoryview(memory)[:len(data)]


def direct(path: Path, data: bytes, offset: int) -> None:
    """Write past the page cache, all of it."""
    with opened(path, os.O_RDWR | os.O_DIRECT) as descriptor:
        assert os.pwrite(descriptor, aligned(data), offset) == len(data)


def hashes(*roots: Path) -> dict[str, str]:
    """Every file and folder below some folders, with what is in it."""
    found = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                found[str(path)] = f"-> {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "folder"
    return found


def plan_of(text: str) -> Plan:
    compiled = compile_text(text)
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


def statements(text: str, plan: Plan) -> Plan:
    """What `dmspec do` makes of its arguments."""
    compiled = compile_statements(text, plan)
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


class InThread:
    """A call that may wait; ``result`` waits for its end and gives its value or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.value: Any = None
        self.problem: BaseException | None = None
        self.call = (function, arguments)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        function, arguments = self.call
        try:
            self.value = function(*arguments)
        except BaseException as problem:  # noqa: BLE001 - raised again by result()
            self.problem = problem

    @property
    def over(self) -> bool:
        return not self.thread.is_alive()

    def result(self, seconds: float = DEADLINE_SECONDS) -> Any:
        self.thread.join(seconds)
        assert self.over, "it still waits"
        if self.problem is not None:
            raise self.problem
        return self.value


def command(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `dmspec`."""
    return subprocess.run([sys.executable, "-m", "dmspec", *map(str, arguments)],
                          capture_output=True, text=True, timeout=60, check=False, **more)


@dataclass
class Done:
    """What came of things done."""

    error: str = ""
    violations: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Stack:
    """A mount of a spec. ``disk`` and ``device`` are paths; the server is a process, not our child unless it stays
    in the foreground."""

    def __init__(self, folder: Path, text: str, binding: str, *, store: Path | None, foreground: bool,
                 options: Sequence[object] = ()) -> None:
        self.folder = folder
        self.dir = folder / "mnt"
        self.dir.mkdir(exist_ok=True)
        self.spec = folder / "spec.dms"
        self.spec.write_text(text)
        self.store = store
        words = [*map(str, options), "--fuse", binding, *(["--store", str(store)] if store is not None else [])]
        self.process: subprocess.Popen[str] | None = None
        if foreground:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dmspec", "mount", str(self.spec), str(self.dir), *words, "--foreground"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert self.process.stdout is not None
            assert self.process.stdout.readline().startswith("mounted at"), self.process.communicate()[1]
        else:
            done = command("mount", self.spec, self.dir, *words, "--quiet")
            assert done.returncode == 0, done.stderr
        server = wire.holder(self.dir)
        assert server is not None
        self.server = server
        self.entry = mounts.topmost(self.dir)
        assert self.entry is not None

    def device(self, name: str) -> Path:
        return self.dir / name

    def names(self) -> list[str]:
        return sorted(path.name for path in self.dir.iterdir())

    def disk(self, name: str) -> Path:
        assert self.store is not None
        return self.store / f"{name}.img"

    def plan(self) -> Plan:
        [answer] = wire.ask(self.dir, "plan")
        return from_bytes(answer["plan"])

    def do(self, text: str) -> Done:
        """Do it and wait for its end; any error is the test's to judge."""
        done = Done()
        for answer in wire.ask(self.dir, "run", plan=to_bytes(statements(text, self.plan()))):
            if "note" in answer:
                done.notes.append(" ".join(answer["note"]))
            else:
                assert "problem" not in answer, answer["problem"]
                done.error, done.violations = answer["error"], answer["violations"]
        return done

    def ok(self, text: str) -> Done:
        done = self.do(text)
        assert (done.error, done.violations) == ("", []), done
        return done

    def devices(self) -> dict[str, dict[str, Any]]:
        [answer] = wire.ask(self.dir, "status")
        return {device["name"]: device for device in answer["devices"]}

    def status(self, name: str) -> str:
        lines: list[str] = self.devices()[name]["status"]
        return "; ".join(lines)

    def in_sync(self, name: str) -> bool:
        """Whether a mirror's regions are all in sync: ``0 2048 mirror 2 pv1 pv2 16/16 1 AA ...``."""
        words = self.status(name).split()
        synced, total = words[4 + int(words[3])].split("/")
        return synced == total

    @property
    def is_mounted(self) -> bool:
        assert self.entry is not None
        return mounts.is_mounted(self.entry)

    @property
    def is_running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        try:
            return Path(f"/proc/{self.server}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def umount(self) -> None:
        done = command("umount", self.dir)
        assert done.returncode == 0, done.stderr
        self.gone()

    def gone(self) -> None:
        """Nothing of it is left."""
        until(lambda: not self.is_running, "the server's end")
        until(lambda: not self.is_mounted, "the mount's end")

    def kill(self) -> None:
        """As a power cut of this one process."""
        os.kill(self.server, signal.SIGKILL)
        self.gone()

    def ended(self) -> tuple[int, str]:
        """Wait for the end in the foreground: exit status and what was said on stderr."""
        assert self.process is not None
        _, said = self.process.communicate(timeout=DEADLINE_SECONDS)
        self.gone()
        return self.process.returncode, said

    def clear_away(self) -> None:
        if self.is_running:
            command("umount", "--force", self.dir)
        with suppress(OSError):
            os.kill(self.server, 0)
            if self.is_running:
                os.kill(self.server, signal.SIGKILL)
        if self.is_mounted and self.entry is not None:
            mounts.unmount_exactly(self.entry)
        if self.process is not None:
            self.process.communicate(timeout=DEADLINE_SECONDS)


Mount = Callable[..., Stack]


@pytest.fixture
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sockets, locks and logs are for one test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run" / "dmspec"


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mount(tmp_path: Path, runtime_folder: Path) -> Iterator[Mount]:
    """Mounts a spec: ``mount(text)``; the same store and folder again unless told otherwise."""
    made: list[Stack] = []

    def mounter(text: str, binding: str = "auto", *, name: str = "one", store: Path | None = None,
                memory: bool = False, foreground: bool = False, options: Sequence[object] = ()) -> Stack:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        place = None if memory else store or folder / "disks"
        made.append(Stack(folder, text, binding, store=place, foreground=foreground, options=options))
        return made[-1]

    yield mounter
    for stack in made:
        stack.clear_away()


def left_over(folder: Path) -> list[str]:
    """What mounts have left in the runtime folder; a held lock is a server that lives."""
    left = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix == ".lock":
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.append(path.suffix)
    return left
