"""A small process beside the server that works on the mount from outside and takes it away in the end.

It exists for two reasons. The kernel leaves the mount of a killed FUSE server behind as "Transport endpoint is not
connected", and somebody must remove it; libfuse's own auto_unmount needs the set-uid helper even for root and is
refused by some versions. And a server must never wait for a request to itself: when it is killed meanwhile, the
kernel waits for an answer that cannot come, in a thread that keeps /dev/fuse open, so that neither the process nor
the mount nor any program using it ever ends. So whatever needs the mounted files, a sync or a truncate, is done
here, where the end of the server is an error like any other.

It was started before the mount and holds nothing of it. It only takes away the mount that it was told of or, when
the server died before it could tell, one of our kind that was not there at the start. It ends with the server.
"""

import contextlib
import errno
import json
import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmspec.runtime.fuse import mounts


class _Errands:
    """What the server may ask for; every method may wait for the server, so each call has its own thread."""

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = Path(mountpoint)
        self._before = set(mounts.entries())
        self._ours: mounts.MountEntry | None = None
        self._root = -1

    def watch(self, mount_id: int, device: str) -> None:
        """Take note which mount is the server's."""
        self._ours = mounts.MountEntry(mount_id, device, str(self._mountpoint), mounts.FILESYSTEM_TYPE)

    def size(self, name: str) -> int:
        """Tell the kernel's idea of a file's size."""
        return (self._mountpoint / name).lstat().st_size

    def truncate(self, name: str, size_bytes: int) -> int:
        """Confirm a file's size to the kernel, and tell the inode."""
        path = self._mountpoint / name
        os.truncate(path, size_bytes)
        return path.lstat().st_ino

    def leave(self, names: list[str]) -> bool:
        """Write these files back and unmount; False when programs still have files open.

        Then the mount is detached, so that nothing new begins, and what was written meanwhile is written back.
        """
        self._sync(names)
        try:
            mounts.unmount(self._mountpoint)
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
        else:
            return True
        self._root = os.open(self._mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.unmount(self._mountpoint, lazy=True)
        self._sync(names)
        return False

    def poke(self) -> None:
        """Send the detached mount one request, so that a server that was told to end notices."""
        os.fstatvfs(self._root)

    def _sync(self, names: list[str]) -> None:
        """Sync all files at once: a suspended one must delay no other."""
        syncs = [threading.Thread(target=self._sync_file, args=(name,), daemon=True) for name in names]
        for sync in syncs:
            sync.start()
        for sync in syncs:
            sync.join()

    def _sync_file(self, name: str) -> None:
        path, folder = (self._mountpoint / name, None) if self._root < 0 else (Path(name), self._root)
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def clean_up(self) -> None:
        """Take the dead server's mount away, and no other."""
        ours = self._ours
        if ours is None:
            found = mounts.topmost(self._mountpoint)
            if found is None or found in self._before or found.filesystem_type != mounts.FILESYSTEM_TYPE:
                return
            ours = found
        if mounts.is_mounted(ours):
            with contextlib.suppress(OSError):
                mounts.unmount_exactly(ours)


def _orders(server: int) -> Iterator[list[Any]]:
    """Give the server's orders until it dies; its end of the pipe may live on in a child that it forked."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(ProcessLookupError):
        poll.register(os.pidfd_open(server), select.POLLIN)
    rest = b""
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        data = os.read(0, 1 << 16) if 0 in ready else b""
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def main() -> None:
    """Serve the process `argv[2]`, whose mountpoint is `argv[3]`, until it dismisses us or dies."""
    errands = _Errands(sys.argv[3])
    writing = threading.Lock()

    def answer(number: int, result: Any, problem: OSError | None = None) -> None:
        error = None if problem is None else [problem.errno, str(problem)]
        with writing, contextlib.suppress(OSError):
            os.write(1, json.dumps([number, result, error]).encode() + b"\n")

    def run(number: int, errand: str, *arguments: Any) -> None:
        try:
            answer(number, getattr(errands, errand)(*arguments))
        except OSError as problem:
            answer(number, None, problem)

    answer(0, None)
    for number, errand, *arguments in _orders(int(sys.argv[2])):
        if errand == "dismiss":
            os._exit(0)
        if errand == "watch":
            run(number, errand, *arguments)
        else:
            threading.Thread(target=run, args=(number, errand, *arguments), daemon=True).start()
    errands.clean_up()
    os._exit(0)
