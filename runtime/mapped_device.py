"""Mapped devices: the life of a bio, suspend and resume (kernel: drivers/md/dm.c).

The order of every step is that of the kernel (reference: dm-core.md, sections 4 to 6).
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from .bio import REQUEUE, Bio, Op
from .block import DM_MAJOR, BlockDevice
from .targets.base import INCOMPLETE, KILL, REMAPPED
from .task import DONE, Frame, Goto, Latch, Mutex, Outcome, Task, Work

if TYPE_CHECKING:
    from .stack import Stack
    from .table import Table
    from .targets.base import Target


class MappedDevice(BlockDevice):
    """``live`` is the table in use, ``inactive`` the one that waits for a resume."""

    __slots__ = ("block_io", "deferred", "deferred_remove", "drained", "event_nr", "events", "flush_means",
                 "frozen_by", "in_flight", "inactive", "initialized", "live",
                 "noflush_suspending", "stack", "suspend_lock", "suspended", "table_devices", "uuid", "work")

    major = DM_MAJOR

    def __init__(self, stack: Stack, name: str, minor: int, uuid: str = "") -> None:
        super().__init__(name, minor, 0)
        self.stack = stack
        self.uuid = uuid
        self.live: Table | None = None
        self.inactive: Table | None = None
        self.table_devices: list[tuple[BlockDevice, int]] = []
        self.initialized = False
        self.event_nr = 0
        self.events = Latch(f"an event of {name}")
        self.deferred: deque[Bio] = deque()
        self.in_flight = 0
        self.drained = Latch(f"bios of {name}")
        self.block_io = False
        self.suspended = False
        self.noflush_suspending = False
        self.deferred_remove = False
        self.flush_means = False
        self.frozen_by: Task | None = None
        self.suspend_lock = Mutex(f"suspend lock of {name}")
        self.work = Work(stack.engine, f"kdmwork {name}", DeferredBios(self))

    @property
    def write_cache(self) -> bool:
        return self.flush_means

    @property
    def supports_discard(self) -> bool:
        return self.live is not None and self.live.supports_discard

    @property
    def discard_zeroes(self) -> bool:
        return self.live is not None and self.live.discard_zeroes

    def event(self) -> None:
        """Count a table event and wake whoever waits for one."""
        self.event_nr += 1
        self.stack.engine.note(self.name, f"event {self.event_nr}")
        self.events.release()
        if self.stack.on_event is not None:
            self.stack.on_event()

    # The life of a bio

    def submit(self, bio: Bio) -> None:
        """What the block layer and ``dm_submit_bio`` do with it."""
        if not self.flush_means:
            bio.preflush = bio.fua = False
            if bio.op is Op.FLUSH:
                bio.complete(0)
                return
        if bio.sector + bio.sectors > self.sectors and not (
                self.stack.era.empty_device_waits and self.live is None):
            bio.complete(errno.EIO)
        elif self.block_io or self.live is None:
            self.defer(bio)
        elif bio.op is Op.FLUSH:
            self._flush(bio)
        elif bio.preflush:
            first = FlushFirst(self, bio)
            self._flush(Bio(Op.FLUSH, self, 0, 0, owner=first))
        else:
            self._split(bio, self.live)

    def defer(self, bio: Bio) -> None:
        if bio.readahead:
            bio.complete(errno.EIO)
            return
        self.stack.engine.note(self.name, f"{bio!r} waits: the device is suspended")
        self.deferred.append(bio)

    def _flush(self, bio: Bio) -> None:
        """``__send_empty_flush``: to every target at once, as often as it asks for."""
        assert self.live is not None
        io = MappedIo(self, bio)
        for target in self.live.targets:
            for number in range(target.num_flush_bios):
                self._map(io, target, bio.clone(io), number)
        io.over(0)

    def _split(self, bio: Bio, table: Table) -> None:
        """Cut at target boundaries and at the targets' own limits; map each piece."""
        io = MappedIo(self, bio)
        first = 0
        left = bio.sectors
        while left:
            target = table.find(bio.sector + first)
            piece = self.piece_sectors(target, bio, bio.sector + first, left)
            if bio.op is Op.DISCARD:
                self._discard(io, target, bio, first, piece)
            else:
                self._map(io, target, bio.piece(first, piece, io), 0)
            first += piece
            left -= piece
        io.over(0)

    @staticmethod
    def piece_sectors(target: Target, bio: Bio, sector: int, left: int) -> int:
        """How much of a bio goes to a target as one piece, from a sector on."""
        offset = sector - target.begin
        size = min(left, target.length - offset)
        limit = target.max_discard_sectors if bio.op is Op.DISCARD else target.max_io_sectors
        if limit:
            size = min(size, limit - offset % limit)
        if target.max_write_sectors and bio.op is Op.WRITE:
            size = min(size, target.max_write_sectors - sector % target.max_write_sectors)
        return size

    def _discard(self, io: MappedIo, target: Target, bio: Bio, first: int, sectors: int) -> None:
        if not target.num_discard_bios:
            io.clones += 1
            io.over(errno.EOPNOTSUPP)
            return
        for number in range(target.num_discard_bios):
            self._map(io, target, bio.piece(first, sectors, io), number)

    def _map(self, io: MappedIo, target: Target, clone: Bio, number: int) -> None:
        clone.tag = target
        clone.number = number
        io.clones += 1
        self.in_flight += 1
        answer = target.map(clone)
        if answer == REMAPPED:
            clone.device.submit(clone)
        elif answer == KILL:
            clone.status = errno.EIO
            io.piece_over(clone, errno.EIO)

    def less_in_flight(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.drained.release()

    def kick(self) -> None:
        """Let the worker resubmit what waits, if anything does."""
        if self.deferred:
            self.work.queue()

    def take_back(self, bio: Bio) -> None:
        """A requeued bio goes in front of all that wait."""
        self.stack.engine.note(self.name, f"{bio!r} is pushed back")
        self.deferred.appendleft(bio)


class MappedIo:
    """One bio inside a mapped device (``struct dm_io``): how many clones are out, and the outcome."""

    __slots__ = ("bio", "clones", "md", "status")

    def __init__(self, md: MappedDevice, bio: Bio) -> None:
        self.md = md
        self.bio = bio
        self.clones = 1
        self.status = 0

    def bio_done(self, clone: Bio) -> None:
        """``clone_endio``."""
        status = clone.status
        target = clone.tag
        if target.has_end_io:
            status = target.end_io(clone, status)
            if status == INCOMPLETE:
                return
        self.piece_over(clone, status)

    def piece_over(self, clone: Bio, status: int) -> None:
        md = self.md
        if status == REQUEUE:
            if md.noflush_suspending:
                md.take_back(self._again(clone))
                md.less_in_flight()
                return
            status = errno.EIO
        md.less_in_flight()
        self.over(status)

    def _again(self, clone: Bio) -> Bio:
        """What to resubmit: the bio itself where this clone is all of it, else the piece.

        So a bio that is pushed back many times does not grow a chain of owners.
        """
        bio = self.bio
        if self.clones == 1 and not self.status and clone.sectors == bio.sectors:
            return bio
        if clone.op is Op.FLUSH:
            return bio.clone(AgainOwner(self))
        return bio.piece(clone.first_sector - bio.sector, clone.sectors, AgainOwner(self))

    def over(self, status: int) -> None:
        """One clone less; the last one ends the bio.  The last error wins."""
        if status:
            self.status = status
        self.clones -= 1
        if not self.clones:
            self.bio.complete(self.status)


class AgainOwner:
    """Owns a piece that was pushed back: its second run ends the first one's clone."""

    __slots__ = ("io",)

    def __init__(self, io: MappedIo) -> None:
        self.io = io

    def bio_done(self, bio: Bio) -> None:
        self.io.over(bio.status)


class FlushFirst:
    """A write with PREFLUSH: flush, then the worker takes the write without it.

    The outcome of the flush is dropped, as ``__dm_io_complete`` does.
    """

    __slots__ = ("bio", "md")

    def __init__(self, md: MappedDevice, bio: Bio) -> None:
        self.md = md
        self.bio = bio

    def bio_done(self, flush: Bio) -> None:
        del flush
        self.bio.preflush = False
        self.md.deferred.append(self.bio)
        self.md.work.queue()


class DeferredBios(Frame):
    """``dm_wq_work``: resubmit deferred bios one at a time, unless blocked again."""

    def __init__(self, md: MappedDevice) -> None:
        self.md = md

    def start(self, task: Task) -> Outcome:
        del task
        if self.md.block_io or not self.md.deferred:
            return DONE
        self.md.submit(self.md.deferred.popleft())
        return Goto("start")
