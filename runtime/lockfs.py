"""What a suspend with lockfs does to the real machine (the mount's :class:`~.stack.Freezer`).

A device's file may be loop-mounted.  Then its filesystem is frozen (``FIFREEZE``) and the loop
device's and the file's cached pages are written back; without a mount only the latter is done, as
the kernel syncs a block device's page cache.  All this sends I/O through the device itself, so it
is done by a thread of its own while the suspend waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .live import LiveEngine
from .task import DONE, Frame, Latch, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .mapped_device import MappedDevice

FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878


class LiveFreezer:
    """``directory`` is where the devices' files are, as soon as it is mounted."""

    def __init__(self, engine: LiveEngine) -> None:
        self.engine = engine
        self.directory: str | None = None
        self.frozen: dict[str, list[str]] = {}

    def freeze(self, device: MappedDevice, task: Task) -> Frame | None:
        del task
        if self.directory is None or not device.sectors:
            return None
        return InThread(self, device.name, thaw=False)

    def thaw(self, device: MappedDevice) -> Frame | None:
        if not self.frozen.get(device.name):
            return None
        return InThread(self, device.name, thaw=True)

    def freeze_now(self, name: str) -> int:
        """0 or a negative errno; what was frozen before a failure is thawed again."""
        assert self.directory is not None
        path = os.path.join(self.directory, name)
        frozen = self.frozen.setdefault(name, [])
        try:
            for loop in loops_over(path):
                for mountpoint in mountpoints_of(loop):
                    _ioctl(mountpoint, FIFREEZE)
                    frozen.append(mountpoint)
                _sync(f"/dev/{loop}")
            _sync(path)
        except OSError as error:
            self.thaw_now(name)
            return -(error.errno or errno.EIO)
        return 0

    def thaw_now(self, name: str) -> int:
        result = 0
        for mountpoint in reversed(self.frozen.pop(name, [])):
            try:
                _ioctl(mountpoint, FITHAW)
            except OSError as error:
                result = -(error.errno or errno.EIO)
        return result


class InThread(Frame):
    """Freeze or thaw in a thread, and wait for it."""

    def __init__(self, freezer: LiveFreezer, name: str, *, thaw: bool) -> None:
        self.freezer = freezer
        self.name = name
        self.thaw = thaw
        self.over: int | None = None
        self.latch = Latch(f"the {'thaw' if thaw else 'freeze'} of {name}")

    def start(self, task: Task) -> Outcome:
        del task
        if self.over is not None:
            return DONE if self.thaw else Return(self.over)
        thread = threading.Thread(target=self._work, name=f"dmspec-lockfs-{self.name}", daemon=True)
        thread.start()
        self.at = "wait"
        return self._wait()

    def wait(self, task: Task) -> Outcome:
        return self.start(task) if self.over is not None else self._wait()

    def _wait(self) -> Outcome:
        return Wait(self.latch, f"for what lies on {self.name} to be {'thawed' if self.thaw else 'frozen'}")

    def _work(self) -> None:
        freezer = self.freezer
        over = freezer.thaw_now(self.name) if self.thaw else freezer.freeze_now(self.name)
        def tell() -> None:
            self.over = over
            self.latch.release()
        freezer.engine.call(tell)


def loops_over(path: str) -> Iterator[str]:
    """The loop devices (``loop0``) whose backing file is this one."""
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            if backing.read_text().strip() == os.path.realpath(path):
                yield backing.parent.parent.name
        except OSError:
            continue


def mountpoints_of(loop: str) -> Iterator[str]:
    """Where a loop device is mounted."""
    try:
        number = Path(f"/sys/block/{loop}/dev").read_text().strip()
    except OSError:
        return
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[2] == number:
            yield words[4].encode().decode("unicode_escape")
            return


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
