"""dm-log-writes: every write is also kept, in order, on a log device (kernel: drivers/md/dm-log-writes.c).

The facts are those of the reference (targets.md, section 11) and of the recordings h-others and f2-invalid-tables
(Linux 6.1, version 1.1.0 of the driver).  What is logged is what has *ended*, since only that can be on the disk:

* a plain write or discard that has ended waits on the unflushed list;
* a flush takes that list with it when it comes, and puts it and then itself on the log's list when it has ended, so
  a write that ends while a flush is under way is logged with the next one;
* a write with FUA, and a mark, go straight to the log's list.

A worker writes the entries one after the other and does not wait for them, apart from the super block, which it
writes after an entry with FUA or a mark.  The status of a write does not matter: one that failed is logged too.  The
log on disk is what ``replay-log`` reads: little-endian, in units of the device's logical block.

Sectors are those of the mapped device: the target takes it that it begins at 0, and does not shift.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..signature import Kind, pos, signature
from ..task import DONE, Frame, Goto, Latch, Outcome, Task, Wait, Work
from ..units import SECTOR_BYTES
from .base import REMAPPED, SUBMITTED, Target, TargetType

MAGIC: Final = 0x6A736677736872
VERSION: Final = 1
SUPER: Final = struct.Struct("<QQQI")
ENTRY: Final = struct.Struct("<QQQQ")

FLAG_FLUSH: Final = 1
FLAG_FUA: Final = 2
FLAG_DISCARD: Final = 4
FLAG_MARK: Final = 8

END_MARK: Final = b"dm-log-writes-end"

# The kernel's log prints its own numbers for how a bio ended (``blk_status_t``); all others are 10.
_BLK_STS: Final = {errno.EOPNOTSUPP: 1, errno.ETIMEDOUT: 2, errno.ENOSPC: 3, errno.ENOLINK: 4, errno.EREMOTEIO: 5,
                   errno.EBADE: 6, errno.ENODATA: 7, errno.EILSEQ: 8, errno.ENOMEM: 9}
_BLK_STS_IOERR: Final = 10


class Entry:
    """One entry of the log to be.  ``before`` is what a flush took with it."""

    __slots__ = ("before", "data", "flags", "sector", "sectors", "text")

    def __init__(self, flags: int, sector: int = 0, sectors: int = 0, *, text: bytes = b"") -> None:
        self.flags = flags
        self.sector = sector
        self.sectors = sectors
        self.text = text
        self.data = b""
        self.before: list[Entry] = []


class LogWrites(Target):
    """``next_sector`` is where the next entry goes, in sectors; ``io`` and ``pending`` are the kernel's counters.

    ``pending`` counts entries from the map of their bio until the worker has written them, ``io`` the bios on the
    log device; the destructor waits for both.
    """

    has_end_io = True
    flush_supported = True
    num_discard_bios = 1
    discards_supported = True
    discard_zeroes = True

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) < 2:
            raise DmError(errno.EINVAL, "Invalid argument count")
        self.device = self.get_device(argv[0], "Device lookup failed")
        self.log_device = self.get_device(argv[1], "Log device lookup failed")
        self.unit_sectors = self.device.logical_block_sectors
        self.next_sector = self.unit_sectors
        self.end_sector = self.log_device.sectors
        self.logging = True
        self.entries = 0
        self.unflushed: list[Entry] = []
        self.queue: deque[Entry] = deque()
        self.pending = 0
        self.io = 0
        self.super_under_way = False
        name = self.table.md.name
        self.super_done = Latch(f"the super block of the log of {name}")
        self.settled = Latch(f"the log of {name}")
        self.work = Work(self.stack.engine, f"log-write {name}", WriteLog(self))
        return None

    # What the core asks

    def map(self, bio: Bio) -> int:
        bio.device = self.device
        if not self.logging or bio.op is Op.READ:
            return REMAPPED
        entry = bio.hook = Entry(self._flags(bio), bio.sector // self.unit_sectors, bio.sectors // self.unit_sectors)
        self.pending += 1
        if entry.flags & FLAG_FLUSH:
            entry.before, self.unflushed = self.unflushed, []
        if bio.op is Op.WRITE:
            entry.data = bytes(bio.view())
        elif bio.op is Op.DISCARD and not self.device.supports_discard:
            bio.complete(0)
            return SUBMITTED
        return REMAPPED

    @staticmethod
    def _flags(bio: Bio) -> int:
        flush = bio.op is Op.FLUSH or bio.preflush
        return (FLAG_FLUSH if flush else 0) | (FLAG_FUA if bio.fua else 0) | \
            (FLAG_DISCARD if bio.op is Op.DISCARD else 0)

    def end_io(self, bio: Bio, status: int) -> int:
        """Logged at completion, however it ended."""
        entry = bio.hook
        if entry is None:
            return status
        if entry.flags & (FLAG_FLUSH | FLAG_FUA):
            self.queue.extend(entry.before)
            entry.before = []
            self.queue.append(entry)
            self.work.queue()
        else:
            self.unflushed.append(entry)
        return status

    def message(self, argv: list[str]) -> str:
        if len(argv) != 2:
            self._log("warning", f"Invalid log-writes message arguments, expect 2 arguments, got {len(argv)}")
            raise DmError(errno.EINVAL)
        if argv[0].lower() != "mark":
            self._log("warning", f"Unrecognised log writes target message received: {argv[0]}")
            raise DmError(errno.EINVAL)
        self.mark(argv[1].encode())
        return ""

    def destroy(self) -> Frame | None:
        return EndLog(self)

    def info(self) -> str:
        return f"{self.entries} {self.next_sector - 1}{'' if self.logging else ' logging_disabled'}"

    def parameters(self) -> str:
        return f"{self.device.number} {self.log_device.number}"

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        """The log device is not among them, so its size is not looked at."""
        yield self.device, 0, self.length

    # The log

    def mark(self, text: bytes) -> None:
        """A text that does not fit behind the entry in its unit is cut."""
        self.pending += 1
        self.queue.append(Entry(FLAG_MARK, text=text[:self.unit_sectors * SECTOR_BYTES - ENTRY.size - 1]))
        self.work.queue()

    def place(self, entry: Entry) -> int | None:
        """The sector of an entry that is to be written now; ``None`` when nothing is logged any more.

        The room of the entry that did not fit is counted all the same, as the kernel's status shows.
        """
        if not self.logging:
            return None
        sector = self.next_sector
        if not entry.flags & FLAG_DISCARD:
            self.next_sector += entry.sectors * self.unit_sectors
        self.next_sector += self.unit_sectors
        self.end_sector = self.end_sector or self.log_device.sectors
        if self.end_sector and self.next_sector >= self.end_sector:
            self._log("err", "Ran out of space on the logdev")
            self.logging = False
            return None
        self.entries += 1
        return sector

    def write_entry(self, entry: Entry, sector: int) -> None:
        head = ENTRY.pack(entry.sector, entry.sectors, entry.flags, len(entry.text))
        self._write(sector, (head + entry.text).ljust(self.unit_sectors * SECTOR_BYTES, b"\0"))
        if entry.data:
            self._write(sector + self.unit_sectors, entry.data)

    def write_super(self) -> None:
        self.super_under_way = True
        head = SUPER.pack(MAGIC, VERSION, self.entries, self.unit_sectors * SECTOR_BYTES)
        self._write(0, head.ljust(self.unit_sectors * SECTOR_BYTES, b"\0"))

    def _write(self, sector: int, data: bytes) -> None:
        self.io += 1
        Bio(Op.WRITE, self.log_device, sector, len(data) // SECTOR_BYTES, data, owner=self).submit()

    def bio_done(self, bio: Bio) -> None:
        """A write to the log device has ended; the super block is what lies at 0."""
        if not bio.sector:
            self.super_under_way = False
            self.super_done.release()
        if bio.status:
            self._log("err", f"Error writing log block, error={_BLK_STS.get(bio.status, _BLK_STS_IOERR)}")
            self.logging = False
        self.io -= 1
        self.look_settled()

    def forget(self) -> None:
        """An entry is through the worker."""
        self.pending -= 1
        self.look_settled()

    def look_settled(self) -> None:
        if not self.io and not self.pending:
            self.settled.release()

    def _log(self, level: str, text: str) -> None:
        self.stack.log(level, f"device-mapper: log-writes: {text}")


class WriteLog(Frame):
    """The log's thread: one entry at a time, others may run in between."""

    def __init__(self, target: LogWrites) -> None:
        self.target = target

    def start(self, task: Task) -> Outcome:
        del task
        target = self.target
        if not target.queue:
            return DONE
        entry = target.queue.popleft()
        sector = target.place(entry)
        if sector is not None:
            target.write_entry(entry, sector)
        target.forget()
        if sector is not None and entry.flags & (FLAG_FUA | FLAG_MARK):
            target.write_super()
            return Goto("wait_for_super")
        return Goto("start")

    def wait_for_super(self, task: Task) -> Outcome:
        """It is written in order, else an older one could come last and take entries away."""
        self.at = "wait_for_super"
        if self.target.super_under_way:
            return Wait(self.target.super_done, f"for {self.target.super_done.name}")
        self.at = "start"
        return self.start(task)


class EndLog(Frame):
    """The destructor: what no flush has moved goes in front of the log's list, then a last mark behind it."""

    def __init__(self, target: LogWrites) -> None:
        self.target = target

    def start(self, task: Task) -> Outcome:
        del task
        target = self.target
        target.queue.extendleft(reversed(target.unflushed))
        target.unflushed.clear()
        target.mark(END_MARK)
        return Goto("settle")

    def settle(self, task: Task) -> Outcome:
        del task
        target = self.target
        if target.io or target.pending:
            return Wait(target.settled, f"for {target.settled.name} to be written")
        return Wait(target.work.idle, f"for {target.work.name}") if target.work.busy else DONE


def _params(args: dict[str, Any]) -> list[str]:
    return [args["device"], args["log"]]


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return size_of(argv[0])


LOG_WRITES: Final = TargetType(
    "log-writes", (1, 1, 0), signature(pos("device", Kind.DEVICE), pos("log", Kind.DEVICE)),
    _params, "Every write is also kept, in order, on a log device.", LogWrites, _natural_length)
