"""A stack as the FUSE layer shows it: each mapped device is a file of its size.

Reads and writes of whole sectors go down as one bio whose data is the request's own memory.  Others
go through :mod:`dmspec.runtime.byte_io`, which reads, changes and writes the edge sectors.

FUSE knows a file by the name under which it was opened.  As an open file of the kernel does, that name goes
on to mean the same device until the last close, also when the device has got another name meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .bio import Bio, Op
from .block import BlockDevice
from .byte_io import ReadBytes, WriteBytes, WriteRanges
from .frames import WaitForBios
from .live import Abandoned, LiveEngine
from .live_straight import Straight
from .task import Enter, Frame, Outcome, Return, Task
from .units import SECTOR_BYTES

if TYPE_CHECKING:
    from .stack import Stack


_NUMBER: Final = re.compile(r"number (\d{1,9}):(\d{1,9})\Z", re.ASCII)


def name_of_number(major: int, minor: int) -> str:
    """A file for each device that has a number, never listed: the one name of it that no rename changes.

    As with a block device, all who open it have one page cache.  A device of just this name hides it.
    """
    return f"number {major}:{minor}"


def number_of_name(name: str) -> tuple[int, int] | None:
    """The other way round."""
    match = _NUMBER.match(name)
    return (int(match[1]), int(match[2])) if match else None


def control_node() -> BlockDevice:
    """What stands for /dev/mapper/control: a file that nothing can be done with."""
    node = BlockDevice("control", 236, 0)
    node.read_only = True
    return node


class WholeSectors:
    """A write or discard of whole sectors, among the writes under way."""

    __slots__ = ("device", "end", "first")

    edges: tuple[int, ...] = ()

    def __init__(self, bio: Bio) -> None:
        self.device: BlockDevice = bio.device
        self.first = bio.sector
        self.end = bio.sector + bio.sectors


class InTurnWithWrites(Frame):
    """Such a bio, when it has to wait for a write that changes a sector of its in part."""

    def __init__(self, bio: Bio, ranges: WriteRanges) -> None:
        self.bio = bio
        self.ranges = ranges
        self.passage = WholeSectors(bio)

    def start(self, task: Task) -> Outcome:
        del task
        wait = self.ranges.enter(self.passage)
        return wait if wait is not None else Enter(WaitForBios([self.bio], f"{self.bio!r}"), "done")

    def done(self, task: Task) -> Outcome:
        del task
        self.ranges.leave(self.passage)
        return Return(-self.bio.status)


class LiveExport:
    """The mapped devices of a stack that have a size.  Failures are :class:`OSError`.

    ``opened`` has each name with open files: the device, and how many they are; ``numbered`` the names by number that
    have been opened at some time, which the kernel may remember.  ``disks`` are shown too, in a
    directory listing only with ``list_disks``; a mapped device hides a disk of its name.  ``control`` is a file without
    contents that stands for /dev/mapper/control, which scripts look for.
    """

    def __init__(self, stack: Stack, engine: LiveEngine, ranges: WriteRanges | None = None) -> None:
        self.stack = stack
        self.engine = engine
        self.ranges = ranges if ranges is not None else WriteRanges()
        self.opened: dict[str, tuple[BlockDevice, int]] = {}
        self.numbered: set[str] = set()
        self.disks: Mapping[str, BlockDevice] = {}
        self.list_disks = True
        self.control: BlockDevice | None = None

    def names(self) -> Sequence[str]:
        """Devices without a table have no size and are left out, unless user space made a node for them."""
        nodes = self.stack.nodes or ()
        names = {name for name, md in list(self.stack.devices.items()) if md.sectors or name in nodes}
        names.update(self.disks if self.list_disks else (), (self.control.name,) if self.control else ())
        return sorted(names)

    def size_bytes(self, name: str) -> int:
        return self._known(name).sectors * SECTOR_BYTES

    def is_read_only(self, name: str) -> bool:
        return self._known(name).read_only

    def open(self, name: str, *, write: bool) -> None:
        """``EBUSY`` for a new device while an older one of that name, renamed since, is still open."""
        del write

        def hold() -> None:
            opened, count = self.opened.get(name, (None, 0))
            device = self._present(name) or opened
            if device is None or not (device.sectors or device is self.control):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            if opened is not None and opened is not device:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.stack.hold(device)
            self.opened[name] = (device, count + 1)
            if device.name != name:
                self.numbered.add(name)

        self._call(hold)

    def close(self, name: str, *, write: bool) -> None:
        del write
        def release() -> None:
            device, count = self.opened.pop(name)
            if count > 1:
                self.opened[name] = (device, count - 1)
            self.stack.release(device)

        if self.engine.broken is None:
            self._call(release)

    def straight(self, name: str) -> Straight | None:
        """``None`` for what is no block device."""
        device = self._device(name)
        return None if device is self.control else Straight(self.engine, self.ranges, device)

    def names_of(self, device: BlockDevice) -> list[str]:
        """The names under which its file is open; each may have a page cache of its own.

        A file that nobody has open has no page that is still to be written: the last close has waited for that.
        """
        return sorted(name for name, (opened, _) in self.opened.items() if opened is device)

    def close_all(self) -> None:
        """The mount is gone, and with it every open file; not each of them has been closed by FUSE."""
        for name, (_device, count) in list(self.opened.items()):
            for _ in range(count):
                self.close(name, write=False)

    def read(self, name: str, offset: int, buffer: memoryview) -> int:
        device = self._device(name)
        size = device.sectors * SECTOR_BYTES
        length = max(min(len(buffer), size - offset), 0)
        if not length:
            return 0
        first = offset // SECTOR_BYTES
        if offset % SECTOR_BYTES == 0 and length % SECTOR_BYTES == 0:
            self._do(Bio(Op.READ, device, first, length // SECTOR_BYTES, buffer))
            return length
        buffer[:length] = self._run(ReadBytes(device, offset, length))
        return length

    def write(self, name: str, offset: int, buffer: memoryview) -> int:
        device = self._device(name)
        if device.read_only:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        size = device.sectors * SECTOR_BYTES
        if offset >= size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        length = min(len(buffer), size - offset)
        if offset % SECTOR_BYTES == 0 and length % SECTOR_BYTES == 0:
            self._do_among_writes(Bio(Op.WRITE, device, offset // SECTOR_BYTES, length // SECTOR_BYTES, buffer))
        elif length:
            self._run(WriteBytes(device, offset, bytes(buffer[:length]), ranges=self.ranges))
        return length

    def flush(self, name: str) -> None:
        if self._device(name) is self.control:
            return
        self._do(Bio(Op.FLUSH, self._device(name), 0, 0))

    def discard(self, name: str, offset: int, length: int) -> None:
        """Whole sectors are discarded, parts of sectors at the edges are zeroed."""
        device = self._device(name)
        if device.read_only:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if not (device.supports_discard and device.discard_zeroes):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        end = offset + length
        first = -(-offset // SECTOR_BYTES)
        last = end // SECTOR_BYTES
        if first >= last:
            self.write(name, offset, memoryview(bytes(length)))
            return
        if offset % SECTOR_BYTES:
            self.write(name, offset, memoryview(bytes(first * SECTOR_BYTES - offset)))
        if end % SECTOR_BYTES:
            self.write(name, last * SECTOR_BYTES, memoryview(bytes(end - last * SECTOR_BYTES)))
        self._do_among_writes(Bio(Op.DISCARD, device, first, last - first))

    def _do(self, bio: Bio, passage: WholeSectors | None = None) -> bool:
        """Whether it could be done at once; without a passage it always can."""
        try:
            status = self.engine.do_bio(bio, self.ranges, passage)
        except Abandoned:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        if status:
            raise OSError(status, os.strerror(status))
        return status is not None

    def _do_among_writes(self, bio: Bio) -> None:
        if not self._do(bio, WholeSectors(bio)):
            self._run(InTurnWithWrites(bio, self.ranges))

    def _call(self, function: Callable[[], None]) -> None:
        try:
            self.engine.call(function)
        except Abandoned:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    def _run(self, frame: Frame) -> Any:
        try:
            value = self.engine.run(frame, "file I/O")
        except Abandoned:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        if isinstance(value, int) and value < 0:
            raise OSError(-value, os.strerror(-value))
        return value

    def _present(self, name: str) -> BlockDevice | None:
        if self.control is not None and name == self.control.name:
            return self.control
        return self.stack.devices.get(name) or self.disks.get(name) or self._numbered(name)

    def _numbered(self, name: str) -> BlockDevice | None:
        wanted = number_of_name(name)
        if wanted is None:
            return None
        devices = [*list(self.stack.devices.values()), *list(self.stack.disks.values())]
        return next((one for one in devices if (one.major, one.minor) == wanted), None)

    def _known(self, name: str) -> BlockDevice:
        opened = self.opened.get(name)
        device = self._present(name) if opened is None else opened[0]
        if device is None or not (device.sectors or device is self.control or name in (self.stack.nodes or ())):
            raise KeyError(name)
        return device

    def _device(self, name: str) -> BlockDevice:
        try:
            return self._known(name)
        except KeyError:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO)) from None
