"""The quick way through a mounted stack: a read or write that only has to be moved to where its bytes lie.

The thread that brings it asks each target where it goes (:meth:`Target.straight`, which is ``map`` wherever ``map``
answers with another place), moves the bytes itself, and tells the targets that it has ended.  There is no bio owner,
no task, no hop to another thread and no copy.  The stack's lock is held while it asks and while it tells, so all that
a suspend, a swap or another thread can see is what they see of any bio: it is counted in every mapped device that it
passes (a suspend waits for it), its sectors are entered among the writes under way, regions and reads are counted.

Whatever does not go straight takes the ordinary path, from its beginning: a device that is suspended, a disk with
something wrong, a copy to be made, a region out of sync, a write that begins within a sector.  So does what went
straight and failed; it has been acknowledged to nobody, and writing the same bytes again does no harm.

A table of nothing but targets that always move by one distance is compiled, at its first use, into a list of segments,
with their own answers; then a request costs one look-up.  That list lies beside the stack's state, which is copied and
compared between steps, and never in it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from .backing import FileBacking
from .bio import Bio, Op
from .block import Backing, BlockDevice, Disk
from .byte_io import Passage, WriteRanges
from .mapped_device import MappedDevice
from .units import SECTOR_BYTES

if TYPE_CHECKING:
    from .fuse.export import Pages
    from .live import LiveEngine
    from .table import Table
    from .targets.base import Target

MOST_SEGMENTS: Final = 4096
MOST_LEGS: Final = 9

# From this size on a write to several places is worth waking a second thread for half of them.
SHARED_BYTES: Final = 256 << 10


class Move(NamedTuple):
    """Bytes of the request's buffer, from ``start`` on, and where they lie: both in bytes."""

    backing: Backing
    offset: int
    start: int
    length: int


class Segment(NamedTuple):
    """Up to sector ``end`` everything lies on ``disk``, moved by ``shift`` sectors, through all of ``chain``."""

    end: int
    disk: Disk
    shift: int
    chain: tuple[tuple[MappedDevice, Table], ...]


def moved(moves: list[Move], buffer: memoryview) -> bool:
    """Write all of it; ``False``: the host has refused some."""
    try:
        for backing, at, start, length in moves:
            backing.write(at, buffer[start:start + length])
    except OSError:
        return False
    return True


def put(moves: list[Move], pages: Pages) -> bool:
    """Write all of it without a copy in our memory; ``False``: these moves cannot be, or the host has refused some.

    They can be where each goes on where the one before it has ended, or begins anew, as a mirror's legs do.
    """
    last = max(index for index, move in enumerate(moves) if not move.start)
    end = 0
    try:
        for index, (backing, at, start, length) in enumerate(moves):
            if not isinstance(backing, FileBacking) or start not in (0, end):
                return False
            if not start:
                pages.rewind(last=index == last)
            pages.put(backing.fd, at, length)
            end = start + length
    except OSError:
        return False
    return True


class Helper:
    """A thread that takes half of a large write to several places, if it is not busy with another one."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.todo: SimpleQueue[tuple[list[Move], memoryview] | None] = SimpleQueue()
        self.done: SimpleQueue[bool] = SimpleQueue()
        self.thread: threading.Thread | None = None

    def share(self, moves: list[Move], buffer: memoryview) -> bool:
        """Write all of it; ``False``: the host has refused some."""
        if not self.free.acquire(blocking=False):
            return moved(moves, buffer)
        try:
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="dmspec-straight", daemon=True)
                self.thread.start()
            half = len(moves) // 2
            self.todo.put((moves[half:], buffer))
            own = moved(moves[:half], buffer)
            return self.done.get() and own
        finally:
            self.free.release()

    def _work(self) -> None:
        while (todo := self.todo.get()) is not None:
            self.done.put(moved(*todo))

    def stop(self) -> None:
        """End the thread."""
        self.todo.put(None)
        if self.thread is not None:
            self.thread.join()


class Sectors:
    """What a request covers, among the writes under way (:class:`~.byte_io.Passage`)."""

    __slots__ = ("device", "end", "first")

    edges: tuple[int, ...] = ()

    def __init__(self, device: BlockDevice, first: int, end: int) -> None:
        self.device = device
        self.first = first
        self.end = end


class Trip:
    """One request on its way: what was counted for it, and where its bytes are to go."""

    __slots__ = ("chain", "counted", "moves")

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self.counted: list[tuple[MappedDevice, Target, Bio]] = []
        self.chain: tuple[tuple[MappedDevice, Table], ...] = ()

    def go(self, bio: Bio) -> bool:
        """Follow a bio down to the disks; ``False``: it does not go straight, and :meth:`over` is to be called."""
        device = bio.device
        if isinstance(device, Disk):
            return self._to_disk(device, bio.sector, bio)
        if not isinstance(device, MappedDevice) or device.block_io or bio.sector + bio.sectors > device.sectors:
            return False
        table = device.live
        if table is None:
            return False
        first, left = 0, bio.sectors
        while left:
            target = table.find(bio.sector + first)
            sector = bio.sector + first
            size = device.piece_sectors(target, bio, sector, left)
            if size < left:
                size = max(size, target.straight_sectors(sector, min(left, target.begin + target.length - sector)))
            if not self._through(device, target, bio if size == bio.sectors else bio.piece(first, size, None)):
                return False
            first += size
            left -= size
        return True

    def _through(self, device: MappedDevice, target: Target, piece: Bio) -> bool:
        places = target.straight(piece)
        if places is None:
            return False
        device.in_flight += 1
        self.counted.append((device, target, piece))
        for place, sector in places:
            if isinstance(place, Disk):
                if not self._to_disk(place, sector, piece):
                    return False
            elif not self.go(Bio(piece.op, place, sector, piece.sectors, piece.buf, piece.offset)):
                return False
        return True

    def _to_disk(self, disk: Disk, sector: int, piece: Bio) -> bool:
        if disk.faults or disk.detached or sector + piece.sectors > disk.sectors:
            return False
        self._move(disk.backing, sector * SECTOR_BYTES, piece.offset, piece.sectors * SECTOR_BYTES)
        return True

    def _move(self, backing: Backing, offset: int, start: int, length: int) -> None:
        moves = self.moves
        for index in range(len(moves) - 1, max(len(moves) - MOST_LEGS, 0) - 1, -1):  # the pieces of legs take turns
            last = moves[index]
            if last.backing is backing and last.offset + last.length == offset and last.start + last.length == start:
                moves[index] = Move(backing, last.offset, last.start, last.length + length)
                return
        moves.append(Move(backing, offset, start, length))

    def over(self) -> None:
        """Tell everybody who has counted it, in the order in which a bio's end passes them."""
        for device, target, piece in reversed(self.counted):
            if target.has_end_io:
                target.end_io(piece, 0)
            device.less_in_flight()
        for device, _table in self.chain:
            device.less_in_flight()


class Straight:
    """The quick way to one device.  Offsets in bytes; an answer of ``False``: nothing has been done."""

    def __init__(self, engine: LiveEngine, ranges: WriteRanges, helper: Helper, device: BlockDevice) -> None:
        self.engine = engine
        self.helper = helper
        self.ranges = ranges
        self.device = device
        self.table: Table | None = None
        self.segments: list[Segment] = []
        self.ends: list[int] = []

    def read(self, offset: int, buffer: memoryview) -> bool:
        """Fill the buffer."""
        engine = self.engine
        with engine.lock:
            trip = self._trip(Op.READ, offset, len(buffer))
            if trip is None:
                return False
            engine.performing += 1
            engine.used()
        try:
            for backing, at, start, length in trip.moves:
                backing.read(at, buffer[start:start + length])
        except OSError:
            return self._over(trip, None, done=False)
        return self._over(trip, None, done=True)

    def write(self, offset: int, buffer: memoryview) -> bool:
        """Write all of the buffer."""
        begun = self._begin_write(offset, len(buffer))
        if begun is None:
            return False
        trip, sectors = begun
        return self._over(trip, sectors, done=self._move(trip.moves, buffer))

    def write_pages(self, offset: int, length: int, pages: Pages) -> bool:
        """Write all of the pages."""
        begun = self._begin_write(offset, length)
        if begun is None:
            return False
        trip, sectors = begun
        return self._over(trip, sectors, done=put(trip.moves, pages) or self._move(trip.moves, pages.buffer()))

    def _begin_write(self, offset: int, length: int) -> tuple[Trip, Passage] | None:
        engine = self.engine
        with engine.lock:
            if self.device.read_only:
                return None
            trip = self._trip(Op.WRITE, offset, length)
            if trip is None:
                return None
            first = offset // SECTOR_BYTES
            sectors = Sectors(self.device, first, first + length // SECTOR_BYTES)
            if self.ranges.enter(sectors) is not None:
                trip.over()
                engine.work_left()
                return None
            engine.performing += 1
            engine.used()
        return trip, sectors

    def _move(self, moves: list[Move], buffer: memoryview) -> bool:
        if len(moves) > 1 and len(buffer) >= SHARED_BYTES:
            return self.helper.share(moves, buffer)
        return moved(moves, buffer)

    def _over(self, trip: Trip, sectors: Passage | None, *, done: bool) -> bool:
        engine = self.engine
        with engine.lock:
            engine.performed()
            if sectors is not None:
                self.ranges.leave(sectors)
            trip.over()
            if engine.runnable:
                engine.work_left()
        return done

    def _trip(self, op: Op, offset: int, length: int) -> Trip | None:
        """What is asked of the targets may not fail; if it does the mistake is ours, and the stack is half changed."""
        try:
            return self._plan(op, offset, length)
        except BaseException as error:
            self.engine.fail(error)
            raise

    def _plan(self, op: Op, offset: int, length: int) -> Trip | None:
        if self.engine.broken is not None or offset % SECTOR_BYTES or length % SECTOR_BYTES or not length:
            return None
        first, sectors = offset // SECTOR_BYTES, length // SECTOR_BYTES
        trip = Trip()
        if self._along_segment(trip, first, sectors):
            return trip
        if trip.go(Bio(op, self.device, first, sectors)):
            return trip
        trip.over()
        if self.engine.runnable:
            self.engine.work_left()
        return None

    def _along_segment(self, trip: Trip, first: int, sectors: int) -> bool:
        device = self.device
        if not isinstance(device, MappedDevice) or device.live is None:
            return False
        if device.live is not self.table:
            self._compile(device, device.live)
        place = bisect_right(self.ends, first)
        if place == len(self.ends):
            return False
        segment = self.segments[place]
        disk = segment.disk
        if first + sectors > segment.end or disk.faults or disk.detached:
            return False
        for mapped, table in segment.chain:
            if mapped.live is not table:
                self.table = None
                return False
            if mapped.block_io:
                return False
        for mapped, _table in segment.chain:
            mapped.in_flight += 1
        trip.chain = segment.chain
        trip.moves.append(Move(disk.backing, (first + segment.shift) * SECTOR_BYTES, 0, sectors * SECTOR_BYTES))
        return True

    def _compile(self, device: MappedDevice, table: Table) -> None:
        self.table = table
        self.segments = compiled(device, 0, table.sectors) or []
        self.ends = [segment.end for segment in self.segments]


def compiled(device: MappedDevice, first: int, end: int) -> list[Segment] | None:
    """A range of a mapped device as segments, if all of it is steady down to the disks; not too many of them."""
    table = device.live
    if table is None or end > table.sectors:
        return None
    found: list[Segment] = []
    at = first
    while at < end:
        target = table.find(at)
        stop = min(end, target.begin + target.length)
        below = _steady(target, at, stop)
        if below is None:
            return None
        found += [Segment(one.end + at, one.disk, one.shift - at, ((device, table), *one.chain)) for one in below]
        if len(found) > MOST_SEGMENTS:
            return None
        at = stop
    return found


def _steady(target: Target, first: int, end: int) -> list[Segment] | None:
    """Where sectors of a steady target lie, in segments counted from the first of them."""
    if not target.steady:
        return None
    bio = Bio(Op.READ, target.table.md, first, end - first)
    places = target.straight(bio)
    assert places is not None, f"{target!r} is steady and does not go straight"
    (device, sector), = places
    if isinstance(device, Disk):
        return [Segment(end - first, device, sector, ())] if sector + end - first <= device.sectors else None
    if not isinstance(device, MappedDevice):
        return None
    below = compiled(device, sector, sector + end - first)
    if below is None:
        return None
    return [Segment(one.end - sector, one.disk, one.shift + sector, one.chain) for one in below]
