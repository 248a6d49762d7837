"""Dirty region logs: which regions of a mirror are clean and in sync (kernel: drivers/md/dm-log.c).

On disk, little-endian, from sector 0 of the log device: magic ``rRiM``, version 2, the number of
regions (u64), and from byte 1024 on one bit per region, 1 = clean (recorded case b-mirror).  The
header and the whole bitset are read and written as one unit.

A bit that was set (a region became clean) and a bit that was cleared are noted apart: before the
former is written the legs are flushed, after the latter the log device is.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final, Protocol

from .bio import Bio, Op
from .block import BlockDevice
from .errors import DmError
from .frames import WaitForBios
from .task import DONE, Enter, Frame, Outcome, Return, Task
from .units import SECTOR_BYTES

if TYPE_CHECKING:
    from .stack import Stack
    from .table import Table

MAGIC: Final = 0x4D695272
VERSION: Final = 2
HEADER: Final = struct.Struct("<IIQ")
BITS_OFFSET: Final = 1024


class LogOwner(Protocol):
    """The target that keeps a log."""

    length: int
    table: Table

    @property
    def stack(self) -> Stack: ...

    def flush_legs(self) -> Frame:
        """Flush what the log speaks about; the frame's value is 0 or a negative errno."""


class Bits:
    """A bitset; ``data`` may be a part of a larger buffer."""

    __slots__ = ("count", "data", "offset")

    def __init__(self, count: int, data: bytearray | None = None, offset: int = 0) -> None:
        self.count = count
        self.data = data if data is not None else bytearray(bitset_bytes(count))
        self.offset = offset

    def test(self, index: int) -> bool:
        return bool(self.data[self.offset + (index >> 3)] >> (index & 7) & 1)

    def set(self, index: int) -> None:
        self.data[self.offset + (index >> 3)] |= 1 << (index & 7)

    def clear(self, index: int) -> None:
        self.data[self.offset + (index >> 3)] &= ~(1 << (index & 7)) & 0xFF

    def fill(self, value: bool) -> None:
        size = bitset_bytes(self.count)
        self.data[self.offset:self.offset + size] = (b"\xff" if value else b"\0") * size

    def raw(self) -> bytes:
        return bytes(self.data[self.offset:self.offset + bitset_bytes(self.count)])

    def load(self, raw: bytes) -> None:
        self.data[self.offset:self.offset + len(raw)] = raw

    def weight(self) -> int:
        return int.from_bytes(self.raw(), "little").bit_count()

    def next_zero(self, first: int) -> int:
        """The first clear bit from ``first`` on; ``count`` when there is none."""
        index = first
        while index < self.count:
            if index & 7 == 0 and self.data[self.offset + (index >> 3)] == 0xFF:
                index += 8
            elif self.test(index):
                index += 1
            else:
                return index
        return self.count


def bitset_bytes(count: int) -> int:
    """Whole 64-bit words, as on a 64-bit host."""
    return (count + 63) // 64 * 8


class DirtyLog:
    """The core log: everything in memory.  ``word`` is ``sync``, ``nosync`` or empty."""

    name = "core"

    def __init__(self, target: LogOwner, region_sectors: int, word: str) -> None:
        self.target = target
        self.region_sectors = region_sectors
        self.region_count = -(-target.length // region_sectors)
        self.word = word
        self.clean = Bits(self.region_count)
        self.clean.fill(True)
        self.sync = Bits(self.region_count)
        self.sync.fill(word == "nosync")
        self.recovering = Bits(self.region_count)
        self.sync_count = self.region_count if word == "nosync" else 0
        self.sync_search = 0
        self.flush_failed = False
        self.touched_cleaned = False
        self.touched_dirtied = False

    def in_sync(self, region: int) -> bool:
        return self.sync.test(region)

    def is_clean(self, region: int) -> bool:
        return self.clean.test(region)

    def is_marked(self, region: int) -> bool:
        """Whether a write may go to the region before a flush; all that is in memory can be marked at once."""
        del region
        return True

    def mark_region(self, region: int) -> None:
        """A write is about to go to the region."""
        self.clean.clear(region)
        self.touched_dirtied = True

    def clear_region(self, region: int) -> None:
        """No write is pending in the region."""
        if not self.flush_failed:
            self.clean.set(region)
            self.touched_cleaned = True

    def set_region_sync(self, region: int, in_sync: bool) -> None:
        self.recovering.clear(region)
        self.touched_dirtied = True
        if in_sync:
            self.sync.set(region)
            self.touched_cleaned = True
            self.sync_count += 1
        elif self.sync.test(region):
            self.sync_count -= 1
            self.sync.clear(region)

    def get_resync_work(self) -> int | None:
        """The next region to recover.  The search only goes forward; a resume starts it anew."""
        while self.sync_search < self.region_count:
            region = self.sync.next_zero(self.sync_search)
            self.sync_search = region + 1
            if region >= self.region_count:
                return None
            if not self.recovering.test(region):
                self.recovering.set(region)
                self.touched_cleaned = True
                return region
        return None

    def flush(self) -> Frame | None:
        """Make the marks durable; the frame's value is 0 or a negative errno."""
        return None

    def resume(self) -> Frame | None:
        self.sync_search = 0
        return None

    def postsuspend(self) -> Frame | None:
        return None

    def info(self) -> str:
        return "1 core"

    def parameters(self) -> str:
        return f"core {2 if self.word else 1} {self.region_sectors} " + (f"{self.word} " if self.word else "")


class DiskLog(DirtyLog):
    """The log on a device of its own."""

    name = "disk"

    def __init__(self, target: LogOwner, device: BlockDevice, region_sectors: int, word: str) -> None:
        super().__init__(target, region_sectors, word)
        self.device = device
        block_bytes = device.logical_block_sectors * SECTOR_BYTES
        size = BITS_OFFSET + bitset_bytes(self.region_count)
        self.buffer = bytearray(-(-size // block_bytes) * block_bytes)
        if device.sectors * SECTOR_BYTES < len(self.buffer):
            warn(target, f"log device {device.number} too small: need {len(self.buffer)} bytes")
            raise DmError(errno.EINVAL)
        self.clean = Bits(self.region_count, self.buffer, BITS_OFFSET)
        self.clean.fill(True)
        self.header = (0, 0, 0)
        self.failed = False
        self.device_flush_failed = False

    def fail(self) -> None:
        """``fail_log_device``: one event for the life of the log."""
        if not self.failed:
            self.failed = True
            self.target.table.event()

    def is_marked(self, region: int) -> bool:
        """It is on disk that the region is not clean, and stays there until somebody clears it."""
        return not self.touched_dirtied and not self.clean.test(region)

    def flush(self) -> Frame | None:
        return DiskFlush(self) if self.touched_cleaned or self.touched_dirtied else None

    def resume(self) -> Frame | None:
        return DiskResume(self)

    def postsuspend(self) -> Frame | None:
        return self.flush()

    def io(self, op: Op) -> Frame:
        """Read or write the header and the bitset."""
        if op is Op.WRITE:
            HEADER.pack_into(self.buffer, 0, *self.header)
        what = "reads" if op is Op.READ else "writes"
        bio = Bio(op, self.device, 0, len(self.buffer) // SECTOR_BYTES, self.buffer)
        return WaitForBios([bio], f"the log of {self.target.table.md.name}, which {what} {self.device.name}")

    def flush_device(self) -> Frame:
        return WaitForBios([Bio(Op.FLUSH, self.device, 0, 0)], f"a flush of the log device {self.device.name}")

    def info(self) -> str:
        letter = "F" if self.device_flush_failed else "D" if self.failed else "A"
        return f"3 disk {self.device.number} {letter}"

    def parameters(self) -> str:
        count = 3 if self.word else 2
        return f"disk {count} {self.device.number} {self.region_sectors} " + (f"{self.word} " if self.word else "")


class DiskFlush(Frame):
    """``disk_flush``."""

    def __init__(self, log: DiskLog) -> None:
        self.log = log
        self.flushes = log.target.stack.era.log_flushes_devices

    def start(self, task: Task) -> Outcome:
        if self.flushes and self.log.touched_cleaned:
            return Enter(self.log.target.flush_legs(), "legs_flushed")
        return self.write(task)

    def legs_flushed(self, task: Task) -> Outcome:
        """After a failure nobody knows what is clean on the legs, so nothing is, from now on."""
        if self.result < 0:
            self.log.flush_failed = True
            self.log.clean.fill(False)
            self.log.touched_dirtied = True
        return self.write(task)

    def write(self, task: Task) -> Outcome:
        del task
        return Enter(self.log.io(Op.WRITE), "written")

    def written(self, task: Task) -> Outcome:
        del task
        log = self.log
        if self.result[0]:
            log.fail()
            return Return(-self.result[0])
        log.touched_cleaned = False
        if self.flushes and log.touched_dirtied:
            return Enter(log.flush_device(), "flushed")
        log.touched_dirtied = False
        return DONE

    def flushed(self, task: Task) -> Outcome:
        del task
        if self.result[0]:
            self.log.device_flush_failed = True
            self.log.fail()
            return Return(-self.result[0])
        self.log.touched_dirtied = False
        return DONE


class DiskResume(Frame):
    """``disk_resume``: read the header, take over its bits, write it back.

    The write does not count as a flush: what has been touched is still touched, so the worker's first pass
    writes once more, and flushes the legs if there are bits that ``nosync`` has set.
    """

    def __init__(self, log: DiskLog) -> None:
        self.log = log

    def start(self, task: Task) -> Outcome:
        del task
        return Enter(self.log.io(Op.READ), "read")

    def read(self, task: Task) -> Outcome:
        del task
        log = self.log
        if self.result[0] or not self._take_header():
            warn(log.target, f"{log.device.number}: Failed to read header on dirty region log device")
            log.fail()
            log.header = (log.header[0], log.header[1], 0)
        self._take_bits()
        return Enter(log.io(Op.WRITE), "written")

    def _take_header(self) -> bool:
        log = self.log
        log.header = HEADER.unpack_from(log.buffer)
        if log.word or log.header[0] != MAGIC:
            log.header = (MAGIC, VERSION, 0)
        if log.header[1] == 1:
            log.header = (MAGIC, VERSION, log.header[2])
        if log.header[1] != VERSION:
            warn(log.target, "incompatible disk log version")
            return False
        return True

    def _take_bits(self) -> None:
        log = self.log
        known = log.header[2]
        change = log.clean.set if log.word == "nosync" else log.clean.clear
        for region in range(min(known, log.region_count), log.region_count):
            change(region)
            log.touched_cleaned |= log.word == "nosync"
            log.touched_dirtied |= log.word != "nosync"
        for region in range(log.region_count, bitset_bytes(log.region_count) * 8):
            log.clean.clear(region)
            log.touched_dirtied = True
        log.sync.load(log.clean.raw())
        log.sync_count = log.clean.weight()
        log.sync_search = 0
        log.header = (log.header[0], log.header[1], log.region_count)

    def written(self, task: Task) -> Outcome:
        if self.result[0]:
            return self._write_failed(-self.result[0])
        if self.log.target.stack.era.log_flushes_devices:
            return Enter(self.log.flush_device(), "flushed")
        return DONE

    def flushed(self, task: Task) -> Outcome:
        if self.result[0]:
            self.log.device_flush_failed = True
            return self._write_failed(-self.result[0])
        return DONE

    def _write_failed(self, error: int) -> Outcome:
        warn(self.log.target, f"{self.log.device.number}: Failed to write header on dirty region log device")
        self.log.fail()
        return Return(error)


def warn(target: LogOwner, text: str) -> None:
    """A line of the kernel log in the log code's name."""
    target.stack.log("warning", f"device-mapper: dirty region log: {text}")


def create_log(target: LogOwner, kind: str, argv: list[str]) -> DirtyLog:
    """``dm_dirty_log_create``; why it failed goes to the kernel log only, as in the kernel."""
    if kind not in ("core", "disk"):
        warn(target, f'Module for logging type "{kind}" not found.')
        raise DmError(errno.EINVAL)
    words = list(argv)
    device = None
    if kind == "disk":
        if not 2 <= len(words) <= 3:
            warn(target, "wrong number of arguments to disk dirty region log")
            raise DmError(errno.EINVAL)
        device = target.table.get_device(words.pop(0))
    if not 1 <= len(words) <= 2:
        warn(target, "wrong number of arguments to dirty region log")
        raise DmError(errno.EINVAL)
    word = words[1] if len(words) > 1 else ""
    if word not in ("", "sync", "nosync"):
        warn(target, f"unrecognised sync argument to dirty region log: {word}")
        raise DmError(errno.EINVAL)
    region = int(words[0]) % (1 << 32) if words[0].isascii() and words[0].isdigit() and len(words[0]) < 40 else 0
    if not 2 <= region <= target.length or region & (region - 1):
        warn(target, f"invalid region size {words[0]}")
        raise DmError(errno.EINVAL)
    if device is not None:
        return DiskLog(target, device, region, word)
    return DirtyLog(target, region, word)
