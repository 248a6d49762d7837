"""Where a snapshot keeps what was copied, and how it remembers it.

Kernel: drivers/md/dm-exception-store.c, dm-snap-persistent.c, dm-snap-transient.c; what is on disk, the
order of its writes and the words of the log are those of the reference (snapshot.md, sections 2 to 4)
and of recordings from Linux 6.1.

A store counts in chunks.  It answers at once where the kernel does (:meth:`ExceptionStore.prepare`); what
needs I/O is a frame, run by whoever has to wait for it: the table load, or the worker of the snapshot's
copier.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from .bio import Bio, Buffer, Op
from .errors import DmError
from .frames import WaitForBios
from .task import Enter, Frame, Outcome, Return, Task

if TYPE_CHECKING:
    from .block import BlockDevice
    from .stack import Stack

MAGIC: Final = 0x70416E53
DISK_VERSION: Final = 1
DEFAULT_CHUNK_SECTORS: Final = 32
MAXIMUM_CHUNK_SECTORS: Final = ((1 << 31) - 1) >> 9
HEADER: Final = struct.Struct("<IIII")
ENTRY: Final = struct.Struct("<QQ")

LOG_PREFIX: Final = "device-mapper: persistent snapshot: "


class StoredException(Protocol):
    """What a store commits: chunk ``old`` of the origin lies in chunk ``new`` of the COW device."""

    @property
    def old(self) -> int: ...
    @property
    def new(self) -> int: ...


class Answer(Frame):
    """A frame that has its value already, for a place that takes frames only."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def start(self, task: Task) -> Outcome:
        del task
        return Return(self.value)


class ExceptionStore:
    """``chunk_sectors`` is 0 until it is known.  ``overflow``: a full store need not lose the snapshot (PO).

    ``can_merge``: it knows what to merge into the origin next, and forgets what has been merged.
    """

    can_merge: ClassVar[bool] = False

    def __init__(self, stack: Stack, origin: BlockDevice, cow: BlockDevice) -> None:
        self.stack = stack
        self.origin = origin
        self.cow = cow
        self.chunk_sectors = 0
        self.overflow = False

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_sectors * 512

    def set_chunk_sectors(self, sectors: int) -> None:
        """``dm_exception_store_set_chunk_size``, with its reasons in its order."""
        if sectors <= 0 or sectors & (sectors - 1):
            raise DmError(errno.EINVAL, "Chunk size is not a power of 2")
        if sectors % self.cow.logical_block_sectors or sectors % self.origin.logical_block_sectors:
            raise DmError(errno.EINVAL, "Chunk size is not a multiple of device blocksize")
        if sectors > MAXIMUM_CHUNK_SECTORS:
            raise DmError(errno.EINVAL, "Chunk size is too high")
        self.chunk_sectors = sectors

    def word(self) -> str:
        """The store's own word in a table."""
        raise NotImplementedError

    def read_metadata(self, exceptions: MutableMapping[int, int]) -> Frame:
        """Fill ``exceptions``; the value is 0, 1 (the snapshot is invalid on disk) or a negative errno."""
        raise NotImplementedError

    def prepare(self) -> int | None:
        """Set a chunk of the COW device aside; ``None`` when there is no room."""
        raise NotImplementedError

    def commit(self, exception: StoredException, *, copied: bool) -> Frame:
        """The value is a pair: the exceptions that this settles, in order, and whether they hold."""
        raise NotImplementedError

    def drop(self) -> Frame | None:
        """Mark the snapshot as invalid where that outlasts it."""
        return None

    def prepare_merge(self) -> Frame:
        """The value is a triple: how many consecutive chunks come next, and where the last one lay and lies.

        No chunks: there is nothing left to merge.  Or it is a negative errno.
        """
        raise NotImplementedError

    def commit_merge(self, count: int) -> Frame:
        """Forget the last so many exceptions, for good; the value is 0 or a negative errno."""
        raise NotImplementedError

    def usage(self) -> tuple[int, int, int]:
        """Allocated, total and metadata sectors."""
        raise NotImplementedError


class TransientStore(ExceptionStore):
    """Nothing but the data is on disk; ``next_free`` counts sectors, from the very start of the device."""

    def __init__(self, stack: Stack, origin: BlockDevice, cow: BlockDevice) -> None:
        super().__init__(stack, origin, cow)
        self.next_free = 0

    def word(self) -> str:
        return "N"

    def read_metadata(self, exceptions: MutableMapping[int, int]) -> Frame:
        del exceptions
        return Answer(0)

    def prepare(self) -> int | None:
        if self.cow.sectors < self.next_free + self.chunk_sectors:
            return None
        chunk = self.next_free // self.chunk_sectors
        self.next_free += self.chunk_sectors
        return chunk

    def commit(self, exception: StoredException, *, copied: bool) -> Frame:
        return Answer(([exception], copied))

    def usage(self) -> tuple[int, int, int]:
        return self.next_free, self.cow.sectors, 0


class PersistentStore(ExceptionStore):
    """A header in chunk 0, then again and again a chunk of entries and as many chunks of data.

    ``area`` is the present chunk of entries as it will be written, with ``committed`` entries in use;
    ``unwritten`` has the exceptions whose entries are not on disk yet, ``pending`` counts those that
    have a chunk and no entry.
    """

    can_merge = True

    def __init__(self, stack: Stack, origin: BlockDevice, cow: BlockDevice) -> None:
        super().__init__(stack, origin, cow)
        self.valid = 1
        self.version = DISK_VERSION
        self.area = bytearray()
        self.area_index = 0
        self.committed = 0
        self.next_free = 2
        self.pending = 0
        self.unwritten: list[StoredException] = []

    @property
    def entries_per_area(self) -> int:
        return self.chunk_bytes // ENTRY.size

    def word(self) -> str:
        return "PO" if self.overflow else "P"

    def area_chunk(self, index: int) -> int:
        return 1 + index * (self.entries_per_area + 1)

    def skip_metadata(self) -> None:
        """Data never goes where a chunk of entries belongs."""
        if self.next_free % (self.entries_per_area + 1) == 1:
            self.next_free += 1

    def prepare(self) -> int | None:
        if self.cow.sectors < (self.next_free + 1) * self.chunk_sectors:
            return None
        chunk = self.next_free
        self.next_free += 1
        self.skip_metadata()
        self.pending += 1
        return chunk

    def usage(self) -> tuple[int, int, int]:
        chunk = self.chunk_sectors
        return self.next_free * chunk, self.cow.sectors, (self.area_index + 2) * chunk

    def read_metadata(self, exceptions: MutableMapping[int, int]) -> Frame:
        return ReadMetadata(self, exceptions)

    def commit(self, exception: StoredException, *, copied: bool) -> Frame:
        return Commit(self, exception, copied=copied)

    def drop(self) -> Frame:
        return DropSnapshot(self)

    def prepare_merge(self) -> Frame:
        return PrepareMerge(self)

    def commit_merge(self, count: int) -> Frame:
        return CommitMerge(self, count)

    def log(self, level: str, text: str) -> None:
        self.stack.log(level, LOG_PREFIX + text)

    # I/O of one chunk: a frame whose value is a list with one status.

    def chunk_io(self, op: Op, chunk: int, buffer: Buffer, why: str, *, durable: bool = False) -> Frame:
        bio = Bio(op, self.cow, chunk * self.chunk_sectors, self.chunk_sectors, buffer,
                  preflush=durable, fua=durable)
        return WaitForBios([bio], f"{why} on {self.cow.name}")

    def write_header(self) -> Frame:
        header = bytearray(self.chunk_bytes)
        HEADER.pack_into(header, 0, MAGIC, self.valid, self.version, self.chunk_sectors)
        return self.chunk_io(Op.WRITE, 0, bytes(header), "the snapshot's header")

    def zero_area(self, index: int) -> Frame:
        return self.chunk_io(Op.WRITE, self.area_chunk(index), bytes(self.chunk_bytes), "the next area of exceptions")


def _failed(statuses: Any) -> bool:
    """Whether the frame of :meth:`PersistentStore.chunk_io` failed.  The kernel makes ``EIO`` of any error."""
    return any(statuses)


class ReadMetadata(Frame):
    """``persistent_read_metadata``: what is there, or a new header and an empty first area.

    A new store is written at once, so it is on disk from the load of the table on.
    """

    def __init__(self, store: PersistentStore, exceptions: MutableMapping[int, int]) -> None:
        self.store = store
        self.exceptions = exceptions
        self.buffer = bytearray()
        self.index = 0
        self.chunk_given = bool(store.chunk_sectors)

    def start(self, task: Task) -> Outcome:
        del task
        store = self.store
        if not self.chunk_given:
            store.chunk_sectors = max(DEFAULT_CHUNK_SECTORS, store.cow.logical_block_sectors)
        self.buffer = bytearray(store.chunk_bytes)
        return Enter(store.chunk_io(Op.READ, 0, self.buffer, "the snapshot's header"), "header")

    def header(self, task: Task) -> Outcome:
        store = self.store
        if _failed(self.result):
            return Return(-errno.EIO)
        magic, valid, version, chunk = HEADER.unpack_from(self.buffer)
        if not magic:
            return Enter(store.write_header(), "header_written")
        if magic != MAGIC:
            store.log("warning", "Invalid or corrupt snapshot")
            return Return(-errno.ENXIO)
        store.valid = valid
        store.version = version
        if chunk != store.chunk_sectors and not self._override(chunk):
            return Return(-errno.EINVAL)
        if version != DISK_VERSION:
            store.log("warning", f"unable to handle snapshot disk version {version}")
            return Return(-errno.EINVAL)
        if not valid:
            return Return(1)
        return self.read_area(task)

    def _override(self, chunk: int) -> bool:
        """The chunk size on disk is the one that counts, if it is one at all."""
        store = self.store
        if self.chunk_given:
            store.log("warning", f"chunk size {chunk} in device metadata overrides table chunk size "
                                 f"of {store.chunk_sectors}.")
        try:
            store.set_chunk_sectors(chunk)
        except DmError as error:
            store.log("err", f"invalid on-disk chunk size {chunk}: {error.reason}.")
            return False
        return True

    def header_written(self, task: Task) -> Outcome:
        del task
        if _failed(self.result):
            self.store.log("warning", "write_header failed")
            return Return(-errno.EIO)
        self.store.area = bytearray(self.store.chunk_bytes)
        return Enter(self.store.zero_area(0), "area_zeroed")

    def area_zeroed(self, task: Task) -> Outcome:
        del task
        if _failed(self.result):
            self.store.log("warning", "zero_disk_area(0) failed")
            return Return(-errno.EIO)
        return Return(0)

    def read_area(self, task: Task) -> Outcome:
        del task
        store = self.store
        self.buffer = bytearray(store.chunk_bytes)
        return Enter(store.chunk_io(Op.READ, store.area_chunk(self.index), self.buffer, "an area of exceptions"),
                     "area_read")

    def area_read(self, task: Task) -> Outcome:
        """Take entries until the first whose new chunk is 0; an area without one is followed by another."""
        if _failed(self.result):
            return Return(-errno.EIO)
        store = self.store
        for index, (old, new) in enumerate(ENTRY.iter_unpack(self.buffer)):
            if not new:
                store.area = self.buffer
                store.area_index = self.index
                store.committed = index
                store.skip_metadata()
                return Return(0)
            store.next_free = max(store.next_free, new + 1)
            self.exceptions[old] = new
        self.index += 1
        return self.read_area(task)


class Commit(Frame):
    """``persistent_commit_exception``: enter it, and write the entries when no other copy is under way.

    So many copies cost one write.  A full area is written only when the one behind it has been wiped,
    because a load reads on until it meets an entry that is empty.  The write flushes first: what an
    entry refers to is durable before the entry is.
    """

    def __init__(self, store: PersistentStore, exception: StoredException, *, copied: bool) -> None:
        self.store = store
        self.exception = exception
        self.copied = copied

    def start(self, task: Task) -> Outcome:
        store = self.store
        if not self.copied:
            store.valid = 0
        ENTRY.pack_into(store.area, store.committed * ENTRY.size, self.exception.old, self.exception.new)
        store.committed += 1
        store.unwritten.append(self.exception)
        store.pending -= 1
        if store.committed == store.entries_per_area:
            return Enter(store.zero_area(store.area_index + 1), "zeroed")
        if store.pending:
            return Return(([], True))
        return self.write(task)

    def zeroed(self, task: Task) -> Outcome:
        if _failed(self.result):
            self.store.valid = 0
        return self.write(task)

    def write(self, task: Task) -> Outcome:
        store = self.store
        if not store.valid:
            return self.finish(task)
        return Enter(store.chunk_io(Op.WRITE, store.area_chunk(store.area_index), bytes(store.area),
                                    "the area of exceptions", durable=True), "written")

    def written(self, task: Task) -> Outcome:
        if _failed(self.result):
            self.store.valid = 0
        return self.finish(task)

    def finish(self, task: Task) -> Outcome:
        del task
        store = self.store
        if store.committed == store.entries_per_area:
            store.committed = 0
            store.area_index += 1
            store.area = bytearray(store.chunk_bytes)
        settled, store.unwritten = store.unwritten, []
        return Return((settled, bool(store.valid)))


class PrepareMerge(Frame):
    """``persistent_prepare_merge``: the longest run that ends with the last entry, inside one area.

    When an area is used up the one before it is read back.  That fails without a trace, so it can be
    tried again; the kernel would have gone one area further by then.
    """

    def __init__(self, store: PersistentStore) -> None:
        self.store = store
        self.buffer = bytearray()

    def start(self, task: Task) -> Outcome:
        store = self.store
        if store.committed:
            return self.count(task)
        if not store.area_index:
            return Return((0, 0, 0))
        self.buffer = bytearray(store.chunk_bytes)
        return Enter(store.chunk_io(Op.READ, store.area_chunk(store.area_index - 1), self.buffer,
                                    "an area of exceptions"), "read")

    def read(self, task: Task) -> Outcome:
        if _failed(self.result):
            return Return(-errno.EIO)
        store = self.store
        store.area = self.buffer
        store.area_index -= 1
        store.committed = store.entries_per_area
        return self.count(task)

    def count(self, task: Task) -> Outcome:
        del task
        store = self.store
        last_old, last_new = ENTRY.unpack_from(store.area, (store.committed - 1) * ENTRY.size)
        count = 1
        while count < store.committed:
            entry = ENTRY.unpack_from(store.area, (store.committed - 1 - count) * ENTRY.size)
            if entry != (last_old - count, last_new - count):
                break
            count += 1
        return Return((count, last_old, last_new))


class CommitMerge(Frame):
    """``persistent_commit_merge``: the area without its last entries, and nothing is allocated behind it.

    Only when that is on disk it is so in memory too: what could not be written may be tried again.
    """

    def __init__(self, store: PersistentStore, count: int) -> None:
        self.store = store
        self.left = store.committed - count
        self.area = bytearray(store.area)
        self.area[self.left * ENTRY.size:store.committed * ENTRY.size] = bytes(count * ENTRY.size)

    def start(self, task: Task) -> Outcome:
        del task
        store = self.store
        return Enter(store.chunk_io(Op.WRITE, store.area_chunk(store.area_index), bytes(self.area),
                                    "the area of exceptions", durable=True), "written")

    def written(self, task: Task) -> Outcome:
        del task
        if _failed(self.result):
            return Return(-errno.EIO)
        store = self.store
        store.area = self.area
        store.committed = self.left
        store.next_free = store.area_chunk(store.area_index) + store.committed + 1
        return Return(0)


class DropSnapshot(Frame):
    """``persistent_drop_snapshot``: write the header as invalid; the entries stay as they are."""

    def __init__(self, store: PersistentStore) -> None:
        self.store = store

    def start(self, task: Task) -> Outcome:
        del task
        self.store.valid = 0
        return Enter(self.store.write_header(), "written")

    def written(self, task: Task) -> Outcome:
        del task
        if _failed(self.result):
            self.store.log("warning", "write header failed")
        return Return(0)


def create_store(stack: Stack, origin: BlockDevice, cow: BlockDevice, word: str, chunk: str) -> ExceptionStore:
    """``dm_exception_store_create``: ``P``, ``PO`` or ``N`` in either case, and a chunk size in sectors.

    Letters behind an ``N`` mean nothing, as in the kernel; before ``PO`` existed, neither did those
    behind a ``P``.  Why it refuses is not said: the table's own words replace the reason.
    """
    letter = word[:1].upper()
    if letter not in ("P", "N"):
        raise DmError(errno.EINVAL)
    store = PersistentStore(stack, origin, cow) if letter == "P" else TransientStore(stack, origin, cow)
    digits = chunk.removeprefix("+")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20 or int(digits) >= 1 << 32:
        raise DmError(errno.EINVAL)
    if int(digits):
        store.set_chunk_sectors(int(digits))
    if letter == "P" and len(word) > 1 and stack.era.snapshot_overflow:
        if word[1].upper() != "O":
            stack.log("err", f"{LOG_PREFIX}Unsupported persistent store option: {word[1:]}")
            raise DmError(errno.EINVAL)
        store.overflow = True
    return store
