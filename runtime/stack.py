"""A stack: the disks, the mapped devices, and what the kernel keeps beside them."""

from __future__ import annotations

import errno
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .bio import Bio
from .block import DISK_MAJOR, Backing, BlockDevice, Disk
from .eras import Era
from .errors import DmError
from .mapped_device import MappedDevice

if TYPE_CHECKING:
    from .table import Table
    from .targets.base import TargetType
    from .task import Engine, Frame, Task

_MINOR = operator.attrgetter("minor")
_LOOP = re.compile(r"loop(\d{1,5})\Z", re.ASCII)
_DM = re.compile(r"/dev/dm-(\d{1,7})\Z", re.ASCII)
_THREE_NUMBERS = re.compile(r"(\d{1,9}):(\d{1,9}):\d{1,9}:?\Z", re.ASCII)
_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]{1,15}\Z", re.ASCII)
_NUMBER = re.compile(r"(\d{1,9}):(\d{1,9})\Z", re.ASCII)


class Freezer(Protocol):
    """Who locks what lies on a device: simulated filesystems, or those that really are mounted."""

    def freeze(self, device: MappedDevice, task: Task) -> Frame | None: ...
    def thaw(self, device: MappedDevice) -> Frame | None: ...


class EmptyLoop(BlockDevice):
    """A loop device that no file has been given to."""

    __slots__ = ()

    major = DISK_MAJOR

    def submit(self, bio: Bio) -> None:
        bio.complete(errno.EIO)


class Stack:
    """Everything that one machine has.  ``log_lines`` is the kernel log: ``(level, text)``.

    ``nodes``: which devices have a node in /dev/mapper although they have no table yet; ``None`` where
    nobody keeps nodes, and a device's path is there as soon as the device is.  ``folder`` is where the
    devices are files, if they are: a table may name them by these paths as well.  ``waits_for_workers``: a suspend is
    not over while a worker is at work that has been woken by its last writes; the kernel relies on workers being quick.
    """

    waits_for_workers = False

    def __init__(self, engine: Engine, era: Era, target_types: Mapping[str, TargetType]) -> None:
        self.engine = engine
        self.era = era
        self.target_types = target_types
        self.disks: dict[str, Disk] = {}
        self.devices: dict[str, MappedDevice] = {}
        self.log_lines: list[tuple[str, str]] = []
        self.freezer: Freezer | None = None
        self.shared: dict[str, Any] = {}
        self.on_removed: Callable[[MappedDevice], None] | None = None
        self.on_event: Callable[[], None] | None = None
        self.nodes: set[str] | None = None
        self.folder = ""

    def log(self, level: str, text: str) -> None:
        """A line of the kernel log, in the kernel's words."""
        self.log_lines.append((level, text))
        self.engine.note("kernel", f"{level}: {text}")

    def add_disk(self, name: str, sectors: int, backing: Backing) -> Disk:
        disk = Disk(self.engine, name, self._disk_minor(name), sectors, backing)
        self.disks[name] = disk
        return disk

    def _disk_minor(self, name: str) -> int:
        """A disk called loop3 has minor 3 if that is free; others get the next one that is."""
        used = {disk.minor for disk in self.disks.values()}
        match = _LOOP.match(name)
        if match and int(match[1]) not in used:
            return int(match[1])
        return next(minor for minor in range(len(used) + 1) if minor not in used)

    def everything(self) -> Iterator[BlockDevice]:
        yield from self.disks.values()
        yield from self.devices.values()

    def lookup(self, path: str) -> BlockDevice:
        """What a table's device word names: a name, ``/dev/mapper/NAME`` or ``major:minor``."""
        number = _NUMBER.match(path)
        if number:
            return self._by_number(int(number[1]), int(number[2]))
        number = _DM.match(path)
        if number:
            return self.lookup(f"{MappedDevice.major}:{number[1]}")
        name = path.removeprefix(f"{self.folder}/") if self.folder else path
        name = name.removeprefix("/dev/mapper/").removeprefix("/dev/")
        found = self.disks.get(name) or self.devices.get(name)
        if found is None and self.nodes is not None:
            return self._by_odd_number(path)
        if found is None or (path != name and isinstance(found, MappedDevice) and not self.has_node(found)):
            raise DmError(errno.ENODEV)
        return self._usable(found)

    def _by_number(self, major: int, minor: int) -> BlockDevice:
        if major >= 1 << 12 or minor >= 1 << 20:
            raise DmError(errno.EOVERFLOW)
        for device in self.everything():
            if (device.major, device.minor) == (major, minor):
                return self._usable(device)
        return self._autoload(major, minor)

    def _by_odd_number(self, path: str) -> BlockDevice:
        """What is no path may be a number in the ways of the kernel's command line: ``7:0:0``, or hexadecimal."""
        number = _THREE_NUMBERS.match(path)
        if number and int(number[1]) < 1 << 12 and int(number[2]) < 1 << 20:
            return self._by_number(int(number[1]), int(number[2]))
        if _HEX.match(path) and int(path, 16) & 0xFFFFFFFF:
            code = int(path, 16)
            return self._by_number(code >> 8 & 0xFFF, code & 0xFF | code >> 12 & 0xFFF00)
        raise DmError(errno.ENODEV)

    def _autoload(self, major: int, minor: int) -> BlockDevice:
        """A loop device of the machine that has no disk yet: opened by its number it comes to be, without a size.

        So do later names of it find the same one (recorded case f2-invalid-tables, ``7:99``).
        """
        loops: dict[int, EmptyLoop] = self.shared.setdefault("empty loops", {})
        if self.nodes is None or major != DISK_MAJOR:
            raise DmError(errno.ENXIO)
        if minor not in loops:
            self.log("warning", "block device autoloading is deprecated and will be removed.")
            loops[minor] = EmptyLoop(f"loop{minor}", minor, 0)
        return loops[minor]

    def has_node(self, md: MappedDevice) -> bool:
        """Whether /dev/mapper has a file for it: once it has a table, or where user space made one."""
        return self.nodes is None or md.live is not None or md.name in self.nodes

    @staticmethod
    def _usable(device: BlockDevice) -> BlockDevice:
        if isinstance(device, Disk) and device.detached:
            raise DmError(errno.ENXIO)
        return device

    def device(self, name: str) -> MappedDevice:
        """A mapped device by name; ``ENXIO`` when there is none, as the ioctls say."""
        found = self.devices.get(name)
        if found is None:
            raise DmError(errno.ENXIO)
        return found

    def hold(self, device: BlockDevice) -> None:
        device.open_count += 1

    def release(self, device: BlockDevice) -> None:
        device.open_count -= 1
        if isinstance(device, MappedDevice) and device.deferred_remove and not device.open_count \
                and self.on_removed is not None:
            self.on_removed(device)

    @staticmethod
    def kernel_name(device: BlockDevice) -> str:
        """The name by which the kernel's messages call a device."""
        return f"dm-{device.minor}" if isinstance(device, MappedDevice) else device.name

    def free_minor(self) -> int:
        """The lowest; with thousands of devices it matters that none of them is looked for one by one."""
        highest = max(map(_MINOR, self.devices.values()), default=-1)
        if highest + 1 == len(self.devices):
            return highest + 1
        used = {device.minor for device in self.devices.values()}
        return next(minor for minor in range(highest + 2) if minor not in used)

    def loops(self, md: MappedDevice, table: Table) -> bool:
        """Whether I/O to ``md`` would come back to it for ever through this table."""
        todo = list(table.devices)
        seen: list[BlockDevice] = []
        while todo:
            device = todo.pop()
            if device is md:
                return True
            if isinstance(device, MappedDevice) and device.live is not None and \
                    not any(one is device for one in seen):
                seen.append(device)
                todo.extend(device.live.devices)
        return False

    def freeze(self, md: MappedDevice, task: Task) -> Frame | None:
        return self.freezer.freeze(md, task) if self.freezer is not None else None

    def thaw(self, md: MappedDevice) -> Frame | None:
        return self.freezer.thaw(md) if self.freezer is not None else None
