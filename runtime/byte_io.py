"""Byte ranges over block devices: what an application does, at any alignment and of any size.

A range that does not begin or end at a sector's edge is read, merged and written (read-modify-write) at
its edges.  Between the read and the write somebody else may write to the same sector, and the merge would
undo that; so every write is entered in a :class:`WriteRanges`, and those that would touch each other's
edge sectors wait for each other.  Operations of a spec and the live mount use the same frames.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

from dmspec.runtime.bio import Bio, Buffer, Op
from dmspec.runtime.block import BlockDevice
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.task import DONE, Enter, Frame, Goto, Latch, Outcome, Return, Task, Wait
from dmspec.runtime.units import MIB, SECTOR_BYTES, bytes_text

MAX_BIO_SECTORS: Final = MIB // SECTOR_BYTES
HASH_PIECE_BYTES: Final = MIB
KEPT_BYTES: Final = 16 * MIB


class Passage(Protocol):
    """Something that changes sectors ``first`` to ``end``; ``edges`` are those of them that it changes in part."""

    @property
    def device(self) -> BlockDevice: ...
    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def edges(self) -> tuple[int, ...]: ...


class WriteRanges:
    """The writes under way, by device number (``major:minor``)."""

    __slots__ = ("busy", "latches")

    def __init__(self) -> None:
        self.busy: dict[str, list[Passage]] = {}
        self.latches: dict[str, Latch] = {}

    def enter(self, write: Passage) -> Wait | None:
        """Enter a write, or say what it has to wait for."""
        number = write.device.number
        others = self.busy.setdefault(number, [])
        for other in others:
            if (write.edges or other.edges) and (_touches(write, other) or _touches(other, write)):
                latch = self.latches.setdefault(number, Latch(f"writes to a sector of {write.device.name}"))
                return Wait(latch, f"for another write to the same sector of {write.device.name}")
        others.append(write)
        return None

    def leave(self, write: Passage) -> None:
        """A write is over; those that wait look again."""
        number = write.device.number
        self.busy[number].remove(write)
        latch = self.latches.get(number)
        if latch is not None:
            latch.release()


def _touches(one: Passage, other: Passage) -> bool:
    return any(other.first <= edge < other.end for edge in one.edges)


def _bios(op: Op, device: BlockDevice, first: int, sectors: int, buf: Buffer, *, fua: bool = False) -> list[Bio]:
    """Bios of at most :data:`MAX_BIO_SECTORS` that cover a range of sectors."""
    made = []
    for done in range(0, sectors, MAX_BIO_SECTORS):
        count = min(MAX_BIO_SECTORS, sectors - done)
        made.append(Bio(op, device, first + done, count, buf, done * SECTOR_BYTES, fua=fua))
    return made


def _first_error(statuses: list[int]) -> int:
    """The first status that is an error, as a negative errno; 0 when all went well."""
    return next((-abs(status) for status in statuses if status), 0)


def _where(device: BlockDevice, offset: int, length: int) -> str:
    return f"{device.name} ({bytes_text(length)} at {bytes_text(offset)})"


class ReadBytes(Frame):
    """The value is what was read, or a negative errno."""

    def __init__(self, device: BlockDevice, offset: int, length: int) -> None:
        self.device = device
        self.offset = offset
        self.length = length

    def start(self, task: Task) -> Outcome:
        """Read the sectors that the range touches."""
        del task
        if not self.length:
            return Return(b"")
        first = self.offset // SECTOR_BYTES
        sectors = -(-(self.offset + self.length) // SECTOR_BYTES) - first
        self.buffer = bytearray(sectors * SECTOR_BYTES)
        bios = _bios(Op.READ, self.device, first, sectors, self.buffer)
        return Enter(WaitForBios(bios, f"a read of {_where(self.device, self.offset, self.length)}"), "done")

    def done(self, task: Task) -> Outcome:
        """Cut the range out of the sectors."""
        del task
        error = _first_error(self.result)
        if error:
            return Return(error)
        skip = self.offset % SECTOR_BYTES
        return Return(bytes(self.buffer[skip:skip + self.length]))


class WriteBytes(Frame):
    """The value is 0 or a negative errno.  ``data`` must not change until then."""

    def __init__(self, device: BlockDevice, offset: int, data: Buffer, *, fua: bool = False,
                 ranges: WriteRanges | None = None) -> None:
        self.device = device
        self.offset = offset
        self.data = data
        self.fua = fua
        self.ranges = ranges
        self.first = offset // SECTOR_BYTES
        self.end = -(-(offset + len(data)) // SECTOR_BYTES)
        edges = [self.first] if offset % SECTOR_BYTES else []
        if (offset + len(data)) % SECTOR_BYTES and self.end - 1 not in edges:
            edges.append(self.end - 1)
        self.edges = tuple(edges)

    @property
    def what(self) -> str:
        """The write in words, for those who ask what its task waits for."""
        return f"a write to {_where(self.device, self.offset, len(self.data))}"

    def start(self, task: Task) -> Outcome:
        """Read the edge sectors that are written in part."""
        if not len(self.data):
            return DONE
        wait = self.ranges.enter(self) if self.ranges is not None else None
        if wait is not None:
            return wait
        if not self.edges:
            return self.write(task)
        buffers = [bytearray(SECTOR_BYTES) for _ in self.edges]
        self.old = [Bio(Op.READ, self.device, sector, 1, buffer)
                    for sector, buffer in zip(self.edges, buffers, strict=True)]
        return Enter(WaitForBios(self.old, f"the old edges of {self.what}"), "merge")

    def merge(self, task: Task) -> Outcome:
        """Lay the data over the edges."""
        error = _first_error(self.result)
        if error:
            return self._over(error)
        whole = bytearray((self.end - self.first) * SECTOR_BYTES)
        for bio in self.old:
            at = (bio.first_sector - self.first) * SECTOR_BYTES
            whole[at:at + SECTOR_BYTES] = bio.buf
        skip = self.offset % SECTOR_BYTES
        whole[skip:skip + len(self.data)] = self.data
        self.data = whole
        return self.write(task)

    def write(self, task: Task) -> Outcome:
        """Write whole sectors."""
        del task
        bios = _bios(Op.WRITE, self.device, self.first, self.end - self.first, self.data, fua=self.fua)
        return Enter(WaitForBios(bios, self.what), "written")

    def written(self, task: Task) -> Outcome:
        """Answer with the first error."""
        del task
        return self._over(_first_error(self.result))

    def _over(self, value: int) -> Outcome:
        if self.ranges is not None:
            self.ranges.leave(self)
        return Return(value)


class FlushDevice(Frame):
    """An empty flush; the value is 0 or a negative errno."""

    def __init__(self, device: BlockDevice) -> None:
        self.device = device

    def start(self, task: Task) -> Outcome:
        """Send it."""
        del task
        return Enter(WaitForBios([Bio(Op.FLUSH, self.device, 0, 0)], f"a flush of {self.device.name}"), "done")

    def done(self, task: Task) -> Outcome:
        """Answer with its error."""
        del task
        return Return(_first_error(self.result))


class DiscardBytes(Frame):
    """Discard the whole sectors inside a range; the value is 0 or a negative errno."""

    def __init__(self, device: BlockDevice, offset: int, length: int) -> None:
        self.device = device
        self.first = -(-offset // SECTOR_BYTES)
        self.sectors = max((offset + length) // SECTOR_BYTES - self.first, 0)

    def start(self, task: Task) -> Outcome:
        """Send one bio: a discard carries no data, so it needs no cutting here."""
        del task
        if not self.sectors:
            return DONE
        if not self.device.supports_discard:
            return Return(-errno.EOPNOTSUPP)
        bio = Bio(Op.DISCARD, self.device, self.first, self.sectors)
        where = _where(self.device, self.first * SECTOR_BYTES, self.sectors * SECTOR_BYTES)
        return Enter(WaitForBios([bio], f"a discard of {where}"), "done")

    def done(self, task: Task) -> Outcome:
        """Answer with its error."""
        del task
        return Return(_first_error(self.result))


class Digest:
    """A sha256 under way that can be copied and pickled, as all state can.

    To be pickled it keeps what it was fed, up to :data:`KEPT_BYTES`; an explorer's ranges are small.
    """

    __slots__ = ("hash", "kept", "size")

    def __init__(self, kept: tuple[bytes, ...] = ()) -> None:
        self.hash = hashlib.sha256()
        self.kept: list[bytes] = []
        self.size = 0
        for piece in kept:
            self.update(piece)

    def update(self, piece: bytes) -> None:
        """Feed it."""
        self.hash.update(piece)
        self.size += len(piece)
        if self.size <= KEPT_BYTES:
            self.kept.append(piece)
        else:
            self.kept.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Digest:
        copied = Digest()
        copied.hash = self.hash.copy()
        copied.kept = list(self.kept)
        copied.size = self.size
        return copied

    def __reduce__(self) -> tuple[type[Digest], tuple[tuple[bytes, ...]]]:
        assert self.size <= KEPT_BYTES, "a sha256 of so large a range cannot be pickled half-way"
        return Digest, (tuple(self.kept),)


class HashBytes(Frame):
    """The value is the sha256 of a range in hexadecimal, or a negative errno."""

    def __init__(self, device: BlockDevice, offset: int, length: int) -> None:
        self.device = device
        self.offset = offset
        self.end = offset + length
        self.digest = Digest()

    def start(self, task: Task) -> Outcome:
        """Read the next piece."""
        del task
        if self.offset >= self.end:
            return Return(self.digest.hash.hexdigest())
        length = min(HASH_PIECE_BYTES, self.end - self.offset)
        return Enter(ReadBytes(self.device, self.offset, length), "piece")

    def piece(self, task: Task) -> Outcome:
        """Add a piece; others may run before the next one."""
        del task
        if isinstance(self.result, int):
            return Return(self.result)
        self.digest.update(self.result)
        self.offset += len(self.result)
        self.result = None
        return Goto("start")


def stream(label: str, first: int, length: int) -> bytes:
    """``length`` bytes, from byte ``first`` on, of an endless text that differs in every sector.

    Sector 7 of it reads ``label sector 00000007 .....`` and ends in a newline, so that a hexdump or grep
    shows at once whose data lies where.
    """
    begin = first // SECTOR_BYTES
    end = -(-(first + length) // SECTOR_BYTES)
    text = b"".join(_sector(label, number) for number in range(begin, end))
    skip = first - begin * SECTOR_BYTES
    return text[skip:skip + length]


def _sector(label: str, number: int) -> bytes:
    line = f"{label} sector {number:08d} ".encode()[:SECTOR_BYTES - 1]
    return line + b"." * (SECTOR_BYTES - 1 - len(line)) + b"\n"


def sector_words(data: bytes | bytearray | memoryview) -> str:
    """What a sector holds, in a few words for a message."""
    first = bytes(data[:SECTOR_BYTES])
    if not any(first):
        return "zeros"
    head = first.split(b" .", 1)[0][:48]
    if head and all(32 <= byte < 127 for byte in head):
        return f"'{head.decode()}'"
    return f"0x{first[:16].hex()}…"


def differing_sectors(first: bytes, second: bytes) -> Iterator[int]:
    """The numbers of the sectors in which two texts of one length differ."""
    for at in range(0, max(len(first), len(second)), SECTOR_BYTES):
        if first[at:at + SECTOR_BYTES] != second[at:at + SECTOR_BYTES]:
            yield at // SECTOR_BYTES
