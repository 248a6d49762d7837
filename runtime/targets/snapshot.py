"""snapshot (kernel: drivers/md/dm-snap.c).

Order of decisions and wording: the reference (snapshot.md) and recordings from Linux 6.1.  snapshot-merge
(:mod:`.snapshot_merge`) is this target with another map, another resume and a loop that goes backwards
through the store.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..exception_store import Answer, ExceptionStore, create_store
from ..exception_table import ExceptionTable
from ..kcopyd import Copier
from ..signature import Kind, flag, opt, pos, signature
from ..task import Frame, Latch, Work
from .base import KILL, REMAPPED, SUBMITTED, Target, TargetType, parse_number
from .snapshot_origin import snapshots_of
from .snapshot_work import DestroySnapshot, ParkedBios, PendingException, ReadStore, ResumeSnapshot, ZeroChunk

if TYPE_CHECKING:
    from ..table import Table

# How many copies of one snapshot may be under way before writes wait (module parameter snapshot_cow_threshold).
COW_THRESHOLD: Final = 2048


class Snapshot(Target):
    """The origin as it was, with its own changes.

    ``complete`` maps chunks of the origin to chunks of the COW device; ``pending`` has the copies under
    way, ``early`` those of them that ended before their turn.  ``reads`` counts the reads that went to
    the origin, by chunk (of a merging snapshot: the writes that went to the COW device).  ``parked`` bios
    wait where the kernel's caller would wait inside ``map``; the flag tells those that are writes to the
    origin.  ``invalidating``: the snapshot is lost as soon as its header says so.  ``merging``: it is
    a merging one, to which its origin is open for writing.
    """

    has_end_io = True
    merging: ClassVar[bool] = False

    def __init__(self, table: Table, begin: int, length: int) -> None:
        super().__init__(table, begin, length)
        name = table.md.name
        self.threshold = COW_THRESHOLD
        self.active = False
        self.valid = True
        self.overflowed = False
        self.invalidating = False
        self.invalidated = Latch(f"header of {name}")
        self.complete = ExceptionTable()
        self.pending: dict[int, PendingException] = {}
        self.settled = Latch(f"copies of {name}")
        self.sequence = 0
        self.next_to_commit = 0
        self.early: dict[int, PendingException] = {}
        self.copies = 0
        self.reads: dict[int, int] = {}
        self.reads_over = Latch(f"reads of {name}")
        self.parked: deque[tuple[Bio, bool]] = deque()
        self.copier = Copier(self.stack, name)
        self.work = Work(self.stack.engine, f"ksnaphd {name}", ParkedBios(self))

    # The table's side

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) < 4:
            raise DmError(errno.EINVAL, "requires 4 or more arguments")
        self.discard_zeroes_cow = self.discard_passdown_origin = False
        self._parse_features(argv[4:])
        self.origin = self.get_device(argv[0], "Cannot get origin device", write=self.merging,
                                      read=not self.merging)
        self.cow = self._get_cow(argv[1])
        try:
            self.store: ExceptionStore = create_store(self.stack, self.origin, self.cow, argv[2], argv[3])
        except DmError:
            raise DmError(errno.EINVAL, "Couldn't create exception store") from None
        if self.discard_zeroes_cow:
            self.num_discard_bios = 2 if self.discard_passdown_origin else 1
        return self._register()

    def _parse_features(self, words: list[str]) -> None:
        """What follows the features is not looked at."""
        if not words:
            return
        reason = "Invalid number of feature arguments"
        count = parse_number(words[0], reason)
        if count > min(2, len(words) - 1):
            raise DmError(errno.EINVAL, reason)
        for word in words[1:1 + count]:
            if word.lower() == "discard_zeroes_cow":
                self.discard_zeroes_cow = True
            elif word.lower() == "discard_passdown_origin":
                self.discard_passdown_origin = True
            else:
                raise DmError(errno.EINVAL, "Unrecognised feature requested")
        if self.discard_passdown_origin and not self.discard_zeroes_cow:
            raise DmError(errno.EINVAL, "discard_passdown_origin feature depends on discard_zeroes_cow")

    def _get_cow(self, path: str) -> BlockDevice:
        try:
            same = self.stack.lookup(path) is self.origin
        except DmError:
            same = False
        if same:
            raise DmError(errno.EINVAL, "COW device cannot be the same as origin device")
        return self.get_device(path, "Cannot get COW device")

    def _register(self) -> Frame | None:
        """Be in the origin's list; whoever will take exceptions over reads nothing, and knows no chunk size."""
        snapshots = snapshots_of(self.stack)
        source = None
        if self.stack.era.snapshot_handover:
            source, destination, count = snapshots.sharing_cow(self)
            if count == 2 or destination is not None:
                raise DmError(errno.EINVAL, "Snapshot cow pairing for exception table handover failed")
            if source is not None:
                self.check_source(source)
        snapshots.insert(self)
        if source is not None:
            self.store.chunk_sectors = 0
            return None
        return ReadStore(self)

    def check_source(self, source: Snapshot) -> None:
        """Refuse to take over from a snapshot where that cannot be."""

    def metadata_read(self, answer: int) -> int | DmError:
        """The end of the constructor: 0, or its failure."""
        if answer < 0:
            snapshots_of(self.stack).remove(self)
            return DmError(-answer, "Failed to read snapshot metadata")
        if answer:
            self.valid = False
            self.log("Snapshot is marked invalid.", "warning")
        if not self.chunk_sectors:
            snapshots_of(self.stack).remove(self)
            return DmError(errno.EINVAL, "Chunk size not set")
        self.max_io_sectors = self.max_discard_sectors = self.chunk_sectors
        return 0

    @property
    def chunk_sectors(self) -> int:
        return self.store.chunk_sectors

    def log(self, text: str, level: str = "err") -> None:
        self.stack.log(level, f"device-mapper: snapshots: {text}")

    def preresume(self) -> Frame | None:
        if not self.stack.era.snapshot_handover:
            return None
        source, destination, _count = snapshots_of(self.stack).sharing_cow(self)
        if source is None or destination is None:
            return None
        if source is self:
            self.log("Unable to resume snapshot source until handover completes.")
            return Answer(-errno.EINVAL)
        if not source.table.md.suspended:
            self.log("Unable to perform snapshot handover until source is suspended.")
            return Answer(-errno.EINVAL)
        return None

    def resume(self) -> Frame | None:
        return ResumeSnapshot(self)

    def take_over(self, source: Snapshot) -> None:
        """``__handover_exceptions``: swap tables and stores; whether a full store may overflow stays here."""
        overflow = self.store.overflow
        self.complete, source.complete = source.complete, self.complete
        self.store, source.store = source.store, self.store
        self.store.overflow = overflow
        self.max_io_sectors = self.max_discard_sectors = self.chunk_sectors
        self.valid = source.valid
        self.overflowed = source.overflowed
        source.valid = False

    def destroy(self) -> Frame | None:
        return DestroySnapshot(self)

    def info(self) -> str:
        """While the header is being written as invalid, the state is still what it was."""
        if not self.valid:
            return "Invalid"
        if self.overflowed:
            return "Overflow"
        allocated, total, metadata = self.store.usage()
        if self.stack.era.snapshot_usage_metadata:
            return f"{allocated}/{total} {metadata}"
        return f"{allocated}/{total}"

    def measurement(self) -> list[str]:
        flags = (("snap_valid", self.valid), ("snap_merge_failed", self.info() == "Merge failed"),
                 ("snapshot_overflowed", self.overflowed))
        return [f"snap_origin_name={self.origin.number}", f"snap_cow_name={self.cow.number}",
                *(f"{word}={'y' if on else 'n'}" for word, on in flags)]

    def parameters(self) -> str:
        words = [self.origin.number, self.cow.number, self.store.word(), str(self.chunk_sectors)]
        features = [name for name, given in (("discard_zeroes_cow", self.discard_zeroes_cow),
                                             ("discard_passdown_origin", self.discard_passdown_origin)) if given]
        return " ".join(words + ([str(len(features)), *features] if features else []))

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        yield self.origin, 0, self.length
        yield self.cow, 0, self.cow.sectors

    def write_areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        """It never writes its origin."""
        yield self.cow, 0, self.cow.sectors

    # I/O to the snapshot

    def map(self, bio: Bio) -> int:
        """``snapshot_map``.  The sector is not moved: a snapshot lies on its origin from sector 0 on."""
        if bio.op is Op.FLUSH:
            bio.device = self.cow
            return REMAPPED
        if not self.valid:
            return KILL
        writing = bio.op is not Op.READ
        if self.invalidating or (writing and self.has_too_many_copies):
            self.park(bio, from_origin=False)
            return SUBMITTED
        if writing and self.overflowed:
            return KILL
        chunk = bio.sector // self.chunk_sectors
        if bio.op is Op.DISCARD:
            return self._map_discard(bio, chunk)
        copy = self.complete.where(chunk)
        if copy is not None:
            self.to_cow(bio, copy)
            return REMAPPED
        if writing:
            return self._map_write(bio, chunk)
        bio.device = self.origin
        self.track(bio, chunk)
        return REMAPPED

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...] | None:
        """Reads, and writes to what has been copied."""
        if not self.valid or self.invalidating:
            return None
        if bio.op is Op.WRITE and (self.overflowed or self.has_too_many_copies
                                   or bio.sector // self.chunk_sectors not in self.complete):
            return None
        return self.by_map(bio)

    def straight_sectors(self, sector: int, most: int) -> int:
        """As far as chunks that have been copied follow one another in the store too."""
        size = self.chunk_sectors
        run = self.complete.run(sector // size, most // size + 2)
        return min(run * size - sector % size, most) if run else 0

    def _map_discard(self, bio: Bio, chunk: int) -> int:
        """The second clone goes to the origin, behind the back of every snapshot; without a copy, nothing is to do."""
        if bio.number and self.discard_passdown_origin:
            bio.device = self.origin
            self.track(bio, chunk)
            return REMAPPED
        copy = self.complete.where(chunk)
        if copy is None:
            bio.complete(0)
            return SUBMITTED
        self.to_cow(bio, copy)
        if bio.sectors != self.chunk_sectors:
            return REMAPPED
        ZeroChunk(self, bio).start()
        return SUBMITTED

    def _map_write(self, bio: Bio, chunk: int) -> int:
        pending = self.pending.get(chunk) or self.new_pending(chunk)
        if pending is None:
            if self.store.overflow:
                self.overflowed = True
                self.log("Snapshot overflowed: Unable to allocate exception.")
                return KILL
            self.invalidate(errno.ENOMEM)
            self.park(bio, from_origin=False)
            return SUBMITTED
        self.to_cow(bio, pending.new)
        if not pending.started and bio.sectors == self.chunk_sectors:
            pending.start_full(bio)
        else:
            pending.snapshot_bios.append(bio)
            pending.start_copy()
        return SUBMITTED

    def to_cow(self, bio: Bio, new: int) -> None:
        """``remap_exception``."""
        bio.device = self.cow
        bio.sector = new * self.chunk_sectors + bio.sector % self.chunk_sectors

    def track(self, bio: Bio, chunk: int) -> None:
        """Count it until it ends: something has to wait for that."""
        bio.hook = chunk
        self.reads[chunk] = self.reads.get(chunk, 0) + 1

    def end_io(self, bio: Bio, status: int) -> int:
        if bio.hook is not None:
            chunk, bio.hook = bio.hook, None
            self.reads[chunk] -= 1
            if not self.reads[chunk]:
                del self.reads[chunk]
                self.reads_over.release()
        return status

    # What mapping and copies share

    @property
    def has_too_many_copies(self) -> bool:
        return self.copies > self.threshold

    def new_pending(self, chunk: int) -> PendingException | None:
        """``None``: the store has no room left."""
        new = self.store.prepare()
        if new is None:
            return None
        pending = PendingException(self, chunk, new, self.sequence)
        self.sequence += 1
        self.pending[chunk] = pending
        return pending

    def park(self, bio: Bio, *, from_origin: bool) -> None:
        self.parked.append((bio, from_origin))

    def less_copies(self) -> None:
        self.copies -= 1
        if self.parked and not self.has_too_many_copies:
            self.work.queue()

    def invalidate(self, error: int) -> None:
        """``__invalidate_snapshot``, in the worker: valid until the header on disk says that it is not."""
        if not self.valid or self.invalidating:
            return
        reason = "Error reading/writing." if error == errno.EIO else "Unable to allocate exception."
        self.log(f"Invalidating snapshot: {reason}")
        self.invalidating = True
        self.work.queue()


def _params(args: dict[str, Any]) -> list[str]:
    features = [word for word in ("discard_zeroes_cow", "discard_passdown_origin") if args[word]]
    words = [args["origin"], args["cow"], args["store"], str(args["chunk"] // 512)]
    return words + ([str(len(features)), *features] if features else [])


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return size_of(argv[0])


SNAPSHOT: Final = TargetType(
    "snapshot", (1, 16, 0),
    signature(
        pos("origin", Kind.DEVICE), pos("cow", Kind.DEVICE),
        pos("store", Kind.WORD, default="P", choices=("P", "PO", "N")), opt("chunk", Kind.SIZE, 4096),
        flag("discard_zeroes_cow"), flag("discard_passdown_origin"),
    ), _params, "A device as it was, with its changes on another one.", Snapshot, _natural_length)
