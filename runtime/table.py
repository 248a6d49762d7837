"""Tables: the targets of a mapped device in order (kernel: drivers/md/dm-table.c)."""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .block import BlockDevice
from .errors import DmError, errno_name
from .frames import EachTarget
from .task import DONE, Enter, Frame, Outcome, Return, Task

if TYPE_CHECKING:
    from .mapped_device import MappedDevice
    from .targets.base import Target

TOO_LARGE_SECTORS = 1 << 54
# How a table opens a device (FMODE_READ, FMODE_WRITE).
READ = 1
WRITE = 2


def split_args(text: str) -> list[str]:
    """``dm_split_args``: words between white space; a backslash quotes the next character."""
    words: list[str] = []
    word: list[str] | None = None
    quoted = False
    for char in text:
        if quoted:
            quoted = False
        elif char == "\\":
            quoted = True
            if word is None:
                word = []
            continue
        elif char.isspace():
            if word is not None:
                words.append("".join(word))
                word = None
            continue
        if word is None:
            word = []
        word.append(char)
    if word is not None:
        words.append("".join(word))
    return words


class Table:
    """``devices`` is in the order in which ``deps`` prints them: the last one first."""

    def __init__(self, md: MappedDevice, *, read_only: bool = False) -> None:
        self.md = md
        self.read_only = read_only
        self.targets: list[Target] = []
        self.types: list[str] = []
        self.ends: list[int] = []
        self.devices: list[BlockDevice] = []
        self.modes: list[int] = []
        self.live = False

    @property
    def sectors(self) -> int:
        return self.ends[-1] if self.ends else 0

    def find(self, sector: int) -> Target:
        return self.targets[bisect_right(self.ends, sector)]

    def event(self) -> None:
        """``dm_table_event``: only the live table's events are seen."""
        if self.live:
            self.md.event()

    def get_device(self, path: str, *, write: bool = True, read: bool = True) -> BlockDevice:
        """``dm_get_device``: one open for each distinct device, however often it is named.

        A mapped device opens it once for all its tables in each mode (``dm_get_table_device``), so a table that is
        only loaded does not raise the open count of what the live one uses.  Whether the device is read-only is not
        asked: Linux 6.1 warns when it is written, and writes.
        """
        device = self.md.stack.lookup(path)
        mode = (READ if read else 0) | (WRITE if write and not self.read_only else 0)
        for index, held in enumerate(self.devices):
            if held is device:
                self._change_mode(index, self.modes[index] | mode)
                return device
        self.devices.insert(0, device)
        self.modes.insert(0, 0)
        self._change_mode(0, mode)
        return device

    def _change_mode(self, index: int, mode: int) -> None:
        """Open a device in a mode, and close it in the one that it had (``upgrade_mode``); mode 0 is closed."""
        device, old = self.devices[index], self.modes[index]
        self.modes[index] = mode
        if mode == old:
            return
        used = self.md.table_devices
        if mode:
            if not any(one[0] is device and one[1] == mode for one in used):
                self.md.stack.hold(device)
            used.append((device, mode))
        if old:
            del used[next(at for at, one in enumerate(used) if one[0] is device and one[1] == old)]
            if not any(one[0] is device and one[1] == old for one in used):
                self.md.stack.release(device)

    def release_devices(self) -> None:
        for index in range(len(self.devices)):
            self._change_mode(index, 0)
        self.modes.clear()
        self.devices.clear()

    @property
    def write_cache(self) -> bool:
        """Whether a flush to the mapped device means anything (``dm_table_supports_flush``)."""
        return any(target.num_flush_bios and (
            target.flush_supported or any(area[0].write_cache for area in target.areas())) for target in self.targets)

    @property
    def supports_discard(self) -> bool:
        """``dm_table_supports_discards``: every target takes them, and so do all the devices that it names.

        A target that names none (zero, error) has nobody to vouch for it, so its table takes none.
        """
        return all(target.num_discard_bios and self._takes_discards(target) for target in self.targets)

    @staticmethod
    def _takes_discards(target: Target) -> bool:
        below = [area[0].supports_discard for area in target.areas()]
        return target.discards_supported or (bool(below) and all(below))

    @property
    def discard_zeroes(self) -> bool:
        return all(target.discard_zeroes and all(area[0].discard_zeroes for area in target.areas())
                   for target in self.targets)

    def check_areas(self) -> bool:
        """``device_area_is_invalid`` for every part of another device, with the kernel's log lines."""
        for target in self.targets:
            for device, start, length in target.areas():
                if device.sectors and not self._area_fits(device, start, length):
                    return False
        return True

    def _area_fits(self, device: BlockDevice, start: int, length: int) -> bool:
        log = self.md.stack.log
        prefix = f"device-mapper: table: {self.md.number}: {self.md.stack.kernel_name(device)}"
        if start >= device.sectors or start + length > device.sectors:
            log("err", f"{prefix} too small for target: start={start}, len={length}, dev_size={device.sectors}")
            return False
        block = device.logical_block_sectors
        if block > 1 and start % block:
            log("err", f"{prefix}: start={start} not aligned to h/w logical block size {block * 512}")
            return False
        return True


class LoadTable(Frame):
    """Build a table from its lines: ``(start, length, type, params)``.

    The value is the table, or a negative errno; what was built until then has been destroyed.
    """

    def __init__(self, md: MappedDevice, lines: Sequence[tuple[int, int, str, str]], *, read_only: bool) -> None:
        self.table = Table(md, read_only=read_only)
        self.lines = list(lines)
        self.index = 0
        self.error = 0

    def start(self, task: Task) -> Outcome:
        if not self.lines:
            self._log("no targets specified", "ioctl")
            return Return(-errno.EINVAL)
        return self.add(task)

    def add(self, task: Task) -> Outcome:
        """Add one target after the other; constructors that do I/O come back at ``constructed``."""
        while self.index < len(self.lines):
            begin, length, type_name, params = self.lines[self.index]
            try:
                target = self._new(begin, length, type_name)
                self.table.targets.append(target)
                self.table.types.append(type_name)
                self.table.ends.append(begin + length)
                frame = target.construct(split_args(params))
            except DmError as error:
                return self._failed(task, error, type_name)
            if frame is not None:
                return Enter(frame, "constructed")
            self.index += 1
        return Return(self.table)

    def constructed(self, task: Task) -> Outcome:
        """A constructor's frame ends with 0 or with the :class:`DmError` of its failure."""
        result: Any = self.result
        if isinstance(result, DmError):
            return self._failed(task, result, self.lines[self.index][2])
        self.index += 1
        return self.add(task)

    def _new(self, begin: int, length: int, type_name: str) -> Target:
        types = self.table.md.stack.target_types
        if not length:
            self._log("zero-length target")
            raise DmError(errno.EINVAL)
        if begin + length > TOO_LARGE_SECTORS:
            self._log("too large device")
            raise DmError(errno.EINVAL)
        if type_name not in types:
            self._log(f"{type_name}: unknown target type")
            raise DmError(errno.EINVAL)
        target = types[type_name].create(self.table, begin, length)
        if begin != self.table.sectors:
            raise DmError(errno.EINVAL, "Gap in table")
        return target

    def _failed(self, task: Task, error: DmError, type_name: str) -> Outcome:
        del task
        if error.reason:
            self._log(f"{type_name}: {error.reason} (-{errno_name(error.errno)})")
        self._log("error adding target to table", "ioctl")
        self.error = error.errno
        if len(self.table.targets) > self.index:
            del self.table.targets[self.index:]
        return Enter(DestroyTable(self.table), "destroyed")

    def destroyed(self, task: Task) -> Outcome:
        del task
        return Return(-self.error)

    def _log(self, text: str, part: str = "table") -> None:
        where = f"{self.table.md.number}: " if part == "table" else ""
        self.table.md.stack.log("err", f"device-mapper: {part}: {where}{text}")


class DestroyTable(Frame):
    """``dm_table_destroy``: each target's ``dtr``, then let go of the devices."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def start(self, task: Task) -> Outcome:
        del task
        self.table.live = False
        return Enter(EachTarget(self.table.targets, "destroy"), "destroyed")

    def destroyed(self, task: Task) -> Outcome:
        del task
        self.table.release_devices()
        return DONE
