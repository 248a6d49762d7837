"""What a suspend with lockfs does to the real machine (the mount's :class:`~.stack.Freezer`).

A device's file may be loop-mounted.  Then its filesystem is frozen (``FIFREEZE``) and the loop
device's and the file's cached pages are written back; without a mount only the latter is done, as
the kernel syncs a block device's page cache.  All this sends I/O through the device itself, so it
is done by a thread of its own while the suspend waits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import DmspecError
from .live import LiveEngine
from .task import Frame, Latch, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .mapped_device import MappedDevice

FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878


class LiveFreezer:
    """``directory`` is where the devices' files are, as soon as it is mounted; ``names_of`` knows their names.

    ``frozen`` has the mountpoints that were frozen for a device, by its number: a name may change meanwhile.
    ``on_resume`` is told of every resume, under the stack's lock.
    """

    def __init__(self, engine: LiveEngine, names_of: Callable[[MappedDevice], list[str]]) -> None:
        self.engine = engine
        self.names_of = names_of
        self.directory: str | None = None
        self.frozen: dict[str, list[str]] = {}
        self.on_resume: Callable[[MappedDevice], None] | None = None

    def freeze(self, device: MappedDevice, task: Task) -> Frame | None:
        del task
        directory = self.directory
        if directory is None or not device.sectors:
            return None
        number, paths = device.number, [f"{directory}/{name}" for name in self.names_of(device)]
        return InThread(self.engine, f"what lies on {device.name} to be frozen",
                        functools.partial(self.freeze_now, number, paths))

    def thaw(self, device: MappedDevice) -> Frame | None:
        if self.on_resume is not None:
            self.on_resume(device)
        number = device.number
        if not self.frozen.get(number):
            return None
        return InThread(self.engine, f"what lies on {device.name} to be thawed",
                        functools.partial(self.thaw_now, number))

    def freeze_now(self, number: str, paths: Iterable[str]) -> int:
        """0 or a negative errno; what was frozen before a failure is thawed again."""
        frozen = self.frozen.setdefault(number, [])
        try:
            for path in paths:
                for loop in loops_over(path):
                    for mountpoint in mountpoints_of(loop):
                        _ioctl(mountpoint, FIFREEZE)
                        frozen.append(mountpoint)
                    _sync(f"/dev/{loop}")
                _sync(path)
        except OSError as error:
            self.thaw_now(number)
            return -(error.errno or errno.EIO)
        return 0

    def thaw_now(self, number: str) -> int:
        """A failure is no reason to stop a resume: the answer is always 0."""
        for mountpoint in reversed(self.frozen.pop(number, [])):
            with contextlib.suppress(OSError):
                _ioctl(mountpoint, FITHAW)
        return 0

    def thaw_all(self) -> None:
        """At the end of a mount: what stays frozen could never be unmounted."""
        for number in list(self.frozen):
            self.thaw_now(number)


class InThread(Frame):
    """Do something in a thread, and wait for it; the value is its answer."""

    def __init__(self, engine: LiveEngine, what: str, work: Callable[[], int]) -> None:
        self.engine = engine
        self.what = what
        self.work = work
        self.answer: int | None = None
        self.latch = Latch(what)

    def start(self, task: Task) -> Outcome:
        del task
        threading.Thread(target=self._work, name="dmspec-lockfs", daemon=True).start()
        return self._wait()

    def wait(self, task: Task) -> Outcome:
        del task
        return self._wait()

    def _wait(self) -> Outcome:
        self.at = "wait"
        return Wait(self.latch, f"for {self.what}") if self.answer is None else Return(self.answer)

    def _work(self) -> None:
        answer = -errno.EIO
        try:
            answer = self.work()
        finally:
            def tell() -> None:
                self.answer = answer
                self.latch.release()

            with contextlib.suppress(DmspecError):
                self.engine.call(tell)


def loops_over(path: str) -> Iterator[str]:
    """The loop devices (``loop0``) whose backing file is this one."""
    real = os.path.realpath(path)
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            if backing.read_text(errors="surrogateescape").removesuffix("\n") == real:
                yield backing.parent.parent.name
        except OSError:
            continue


def mountpoints_of(loop: str) -> Iterator[str]:
    """One place where a loop device is mounted, and one for each of its partitions that is."""
    numbers = set()
    for file in (Path(f"/sys/block/{loop}/dev"), *Path(f"/sys/block/{loop}").glob(f"{loop}p*/dev")):
        with contextlib.suppress(OSError):
            numbers.add(file.read_text().strip())
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words = line.split(" ")
        if words[2] in numbers:
            numbers.remove(words[2])
            yield re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])


def _ioctl(path: str, request: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, 0)
    finally:
        os.close(fd)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
