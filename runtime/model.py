"""The model: what each sector of a volume may legally hold.

It knows no target, table or disk, only what a user of a block device may rely on:

* a read answers, for each sector, one of the contents that the sector had at some moment of the read;
* from the moment when a write was acknowledged, what had ended before that write began is gone;
* a write that failed, or that nobody heard the end of, may have happened, in each sector by itself;
* a discard leaves the old contents or zeros;
* a power cut leaves, in each sector, any of the contents that no flush has made history: those that were
  not overwritten yet by an acknowledged write that had ended when a flush began which was acknowledged
  itself (a write with FUA is its own flush);
* a snapshot is a volume of its own that begins with what its origin holds when it is taken.

:class:`Volume` is told what happens, in the order in which it happens, and is asked :meth:`Volume.wrong`.
What a sector may hold is a short list of :class:`Version`; a sector that is not listed holds what it held in
the beginning, which is zeros unless :attr:`Volume.initial` says otherwise.
Positions are in sectors of 512 bytes.  ``now`` counts everything that is told to any volume.
"""

from __future__ import annotations

from collections.abc import Iterable

SECTOR = 512
ZEROS = bytes(SECTOR)


class Version:
    """Contents that one sector may have.

    ``ended`` is ``None`` while the write is under way.  ``readable``: a read may see it now; ``durable``: a
    power cut may bring it (back).  ``acknowledged``: it has overwritten what ended before it began.
    ``stale``: a snapshot's origin could only have had it after a power cut.
    """

    __slots__ = ("acknowledged", "began", "durable", "ended", "readable", "stale", "value")

    def __init__(self, value: bytes, began: int, ended: int | None = None) -> None:
        self.value = value
        self.began = began
        self.ended = ended
        self.readable = True
        self.durable = True
        self.acknowledged = False
        self.stale = False


class Write:
    """A write or discard under way: the versions that it adds.

    ``parts`` are the sectors that it changes in part: where in the sector, and to what; ``elsewhere`` are
    versions in other volumes that it may have got into.
    """

    __slots__ = ("added", "began", "elsewhere", "fua", "parts", "volume")

    def __init__(self, volume: Volume, began: int, fua: bool) -> None:
        self.volume = volume
        self.began = began
        self.fua = fua
        self.added: list[tuple[int, list[Version]]] = []
        self.parts: dict[int, tuple[int, bytes]] = {}
        self.elsewhere: list[Version] = []


class Read:
    """A read under way: for each of its sectors, what it may answer."""

    __slots__ = ("first", "legal", "volume")

    def __init__(self, volume: Volume, first: int, legal: list[set[bytes]]) -> None:
        self.volume = volume
        self.first = first
        self.legal = legal


class Flush:
    """A flush under way."""

    __slots__ = ("began", "volume")

    def __init__(self, volume: Volume, began: int) -> None:
        self.volume = volume
        self.began = began


class Clock:
    """Counts what happens to all volumes."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0

    def tick(self) -> int:
        self.now += 1
        return self.now


class Volume:
    """One volume.  ``snapshots`` were taken of it; those that are ``being_taken`` may still get what is written.

    ``anything``: something happened after which nobody can say what it holds (a disk lied); ``no_flush``: a
    disk under it has lost a flush, so no flush is believed any more.
    """

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock = clock
        self.name = name
        self.initial: dict[int, bytes] = {}
        self.vague: set[int] = set()
        self.sectors: dict[int, list[Version]] = {}
        self.reads: list[Read] = []
        self.writes: list[Write] = []
        self.snapshots: list[Volume] = []
        self.being_taken = False
        self.taken = 0
        self.anything = False
        self.no_flush = False

    def versions(self, sector: int) -> list[Version]:
        """The list of a sector, to be changed."""
        found = self.sectors.get(sector)
        if found is None:
            found = self.sectors[sector] = [Version(self.initial.get(sector, ZEROS), 0, 0)]
        return found

    def readable(self, sector: int) -> set[bytes]:
        """What a read of the sector may answer now."""
        found = self.sectors.get(sector)
        if found is None:
            return {self.initial.get(sector, ZEROS)}
        return {one.value for one in found if one.readable}

    # Writes and discards

    def begin_write(self, offset: int, data: bytes, *, fua: bool = False) -> Write:
        """A write of bytes at a byte offset is handed down.  The rest of its edge sectors stays what it is."""
        end = offset + len(data)
        write = self._begin(fua)
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            start = sector * SECTOR
            if start >= offset and start + SECTOR <= end:
                self._add(write, sector, (data[start - offset:start - offset + SECTOR],))
            else:
                low, high = max(start, offset), min(start + SECTOR, end)
                write.parts[sector] = low - start, data[low - offset:high - offset]
                self._add(write, sector, sorted(_laid_over(write.parts[sector], self.readable(sector))))
        return write

    def begin_discard(self, first: int, sectors: int) -> Write:
        """A discard is handed down."""
        write = self._begin(False)
        for sector in range(first, first + sectors):
            self._add(write, sector, (ZEROS,))
        return write

    def _begin(self, fua: bool) -> Write:
        write = Write(self, self.clock.tick(), fua)
        self.writes.append(write)
        return write

    def _add(self, write: Write, sector: int, values: Iterable[bytes]) -> None:
        added = [Version(value, write.began) for value in values]
        self.versions(sector).extend(added)
        write.added.append((sector, added))
        for read in self.reads:
            if 0 <= sector - read.first < len(read.legal):
                read.legal[sector - read.first].update(one.value for one in added)
        for snapshot in self.snapshots:
            if snapshot.being_taken:
                snapshot.inherit(sector, added)
        for other in self.writes:
            if other is not write and sector in other.parts:
                more = _laid_over(other.parts[sector], values) - self.readable(sector)
                if more:
                    self._add(other, sector, sorted(more))

    def acknowledged(self, write: Write) -> None:
        """A write has succeeded: what had ended before it began is overwritten."""
        now = self._end(write)
        for sector, added in write.added:
            versions = self.sectors[sector]
            for one in versions:
                if one.ended is not None and one.ended < write.began:
                    one.readable = False
                    if write.fua and not self.no_flush:
                        one.durable = False
            self.sectors[sector] = [one for one in versions if one.readable or one.durable]
            for one in added:
                one.ended = now
                one.acknowledged = True

    def not_acknowledged(self, write: Write) -> None:
        """A write has failed, or a discard is over: it overwrites nothing for certain."""
        now = self._end(write)
        for _sector, added in write.added:
            for one in added:
                one.ended = now

    def _end(self, write: Write) -> int:
        self.writes.remove(write)
        now = self.clock.tick()
        for one in write.elsewhere:
            one.ended = now
        return now

    def may_get(self, write: Write) -> None:
        """A write under way may go here: its device shows this volume now.

        What it changes in part is laid over nobody knows which contents, so these sectors are not judged.
        """
        self.vague.update(write.parts)
        for sector, added in write.added:
            copies = [Version(one.value, write.began) for one in added]
            self.versions(sector).extend(copies)
            write.elsewhere.extend(copies)

    # Flushes and power cuts

    def begin_flush(self) -> Flush:
        """A flush is handed down."""
        return Flush(self, self.clock.tick())

    def flushed(self, flush: Flush) -> None:
        """It has succeeded: what it found overwritten does not come back."""
        self.clock.tick()
        if self.no_flush:
            return
        for sector, versions in self.sectors.items():
            over = max((one.began for one in versions if one.acknowledged and one.ended is not None
                        and one.ended < flush.began), default=0)
            for one in versions:
                if one.ended is not None and one.ended < over:
                    one.durable = False
            if not all(one.readable or one.durable for one in versions):
                self.sectors[sector] = [one for one in versions if one.readable or one.durable]
        for snapshot in self.snapshots:
            if flush.began > snapshot.taken:
                snapshot.origin_flushed()

    def origin_flushed(self) -> None:
        """What the origin held when this was taken is durable, there or as a copy."""
        for versions in self.sectors.values():
            for one in versions:
                if one.stale:
                    one.durable = False

    def power_cut(self) -> None:
        """Whatever may be on the disks may be read from now on, and nothing else."""
        now = self.clock.tick()
        for sector, versions in self.sectors.items():
            left = [one for one in versions if one.durable]
            for one in left:
                one.readable = True
                one.acknowledged = one.stale = False
                one.ended = now if one.ended is None else one.ended
            self.sectors[sector] = left
        self.reads.clear()
        self.writes.clear()
        self.being_taken = False

    # Snapshots

    def snapshot(self, name: str) -> Volume:
        """A snapshot is about to be taken; it is ``being_taken`` until :meth:`now_taken`."""
        made = Volume(self.clock, name)
        made.initial = self.initial
        for sector, versions in self.sectors.items():
            made.sectors[sector] = []
            made.inherit(sector, versions)
        made.being_taken = True
        made.anything = self.anything
        made.no_flush = self.no_flush
        self.snapshots.append(made)
        return made

    def inherit(self, sector: int, versions: list[Version]) -> None:
        """The origin may have had these contents when this was taken."""
        mine = self.versions(sector)
        for one in versions:
            copy = Version(one.value, 0, 0)
            copy.readable = one.readable
            copy.durable = one.durable
            copy.stale = not one.readable
            mine.append(copy)

    def now_taken(self) -> None:
        """From here on what is written to the origin is no longer its business."""
        self.being_taken = False
        self.taken = self.clock.tick()

    # Questions

    def begin_read(self, offset: int, length: int) -> Read:
        """A read of a range of bytes is handed down."""
        first = offset // SECTOR
        end = -(-(offset + length) // SECTOR)
        read = Read(self, first, [self.readable(sector) for sector in range(first, end)])
        self.reads.append(read)
        return read

    def answered(self, read: Read, offset: int, data: bytes) -> tuple[int, bytes, set[bytes]] | None:
        """A read has answered: the first sector where it is wrong, what it said, and what would be right."""
        self.forget(read)
        if self.anything:
            return None
        end = offset + len(data)
        for at, legal in enumerate(read.legal):
            start = (read.first + at) * SECTOR
            low, high = max(start, offset), min(start + SECTOR, end)
            said = data[low - offset:high - offset]
            if read.first + at not in self.vague and not any(one[low - start:high - start] == said for one in legal):
                return read.first + at, said, legal
        return None

    def answers_too(self, read: Read) -> None:
        """A read under way may get what this volume holds: its device shows this volume now."""
        for at, legal in enumerate(read.legal):
            legal.update(self.readable(read.first + at))
        self.reads.append(read)

    def forget(self, read: Read) -> None:
        """A read has failed, or its answer does not matter."""
        if read in self.reads:
            self.reads.remove(read)

    def wrong(self, first: int, data: bytes) -> tuple[int, bytes, set[bytes]] | None:
        """Whole sectors, read while nothing moves: the first that is wrong, and what would be right."""
        if self.anything:
            return None
        for at in range(len(data) // SECTOR):
            said = data[at * SECTOR:(at + 1) * SECTOR]
            if first + at not in self.sectors and said == self.initial.get(first + at, ZEROS):
                continue
            legal = self.readable(first + at)
            if said not in legal and first + at not in self.vague:
                return first + at, said, legal
        return None


def _laid_over(part: tuple[int, bytes], old: Iterable[bytes]) -> set[bytes]:
    """What a sector may hold after a part of it has been written."""
    at, data = part
    return {one[:at] + data + one[at + len(data):] for one in old}
