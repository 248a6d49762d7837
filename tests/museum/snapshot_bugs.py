"""Bugs of dm-snapshot, its stores, merge and handover, and of the targets beneath."""

from __future__ import annotations

from typing import Any

import pytest
from tests.museum.bug import Bug
from tests.museum.mirror_bugs import failed_leg_ignored

from dmspec.runtime import exception_store
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.exception_store import Commit, PersistentStore, ReadMetadata
from dmspec.runtime.exception_table import ExceptionTable
from dmspec.runtime.targets import snapshot_merge, snapshot_origin, snapshot_work
from dmspec.runtime.targets.base import REMAPPED, SUBMITTED
from dmspec.runtime.targets.log_writes import LogWrites
from dmspec.runtime.targets.snapshot import Snapshot
from dmspec.runtime.targets.snapshot_merge import MergeCopied, MergeNext, SnapshotMerge
from dmspec.runtime.targets.snapshot_origin import SnapshotOrigin
from dmspec.runtime.targets.snapshot_work import ParkedBios, PendingComplete, PendingException
from dmspec.runtime.targets.striped import Striped
from dmspec.runtime.task import DONE, Outcome, Task


def completed_looked_up_before_pending(patch: pytest.MonkeyPatch) -> None:
    """A write to the origin looks at the completed table first, where a copy is before its readers have ended."""
    original = snapshot_origin._wants_copy

    def wants_copy(snapshot: Snapshot, sector: int) -> bool:
        return original(snapshot, sector) and sector // snapshot.chunk_sectors not in snapshot.complete

    patch.setattr(snapshot_origin, "_wants_copy", wants_copy)


def reads_not_tracked(patch: pytest.MonkeyPatch) -> None:
    """Nobody counts the snapshot's reads of its origin."""
    patch.setattr(Snapshot, "track", lambda self, bio, chunk: None)


def origin_write_not_held_back(patch: pytest.MonkeyPatch) -> None:
    """The write to the origin goes on while its chunk is being copied."""
    original = snapshot_origin.write_origin

    def write_origin(stack: Any, origin: Any, bio: Bio, *, limited: bool) -> int:
        answer = original(stack, origin, bio, limited=limited)
        for snapshot in snapshot_origin.snapshots_of(stack).of(origin):
            for pending in snapshot.pending.values():
                if bio in pending.origin_bios:
                    pending.origin_bios.remove(bio)
                    return REMAPPED
        return answer

    patch.setattr(snapshot_origin, "write_origin", write_origin)
    patch.setattr(snapshot_work, "write_origin", write_origin)


def writes_not_split_at_chunks(patch: pytest.MonkeyPatch) -> None:
    """An origin write is not cut at its snapshots' chunks, so only the first one is copied."""
    original = SnapshotOrigin.resume

    def resume(self: SnapshotOrigin) -> None:
        original(self)
        self.max_write_sectors = 0

    patch.setattr(SnapshotOrigin, "resume", resume)


def second_snapshot_not_asked(patch: pytest.MonkeyPatch) -> None:
    """Only the first snapshot of an origin gets copies."""
    original = snapshot_origin._wants_copy

    def wants_copy(snapshot: Snapshot, sector: int) -> bool:
        first = snapshot_origin.snapshots_of(snapshot.stack).of(snapshot.origin)[0]
        return snapshot is first and original(snapshot, sector)

    patch.setattr(snapshot_origin, "_wants_copy", wants_copy)


def _chunk_io(patch: pytest.MonkeyPatch, *, preflush: bool, fua: bool) -> None:
    original = PersistentStore.chunk_io

    def chunk_io(self: PersistentStore, op: Op, chunk: int, buffer: Any, why: str, *, durable: bool = False) -> Any:
        frame: Any = original(self, op, chunk, buffer, why, durable=durable)
        [bio] = frame.bios
        bio.preflush = bio.preflush and preflush
        bio.fua = bio.fua and fua
        return frame

    patch.setattr(PersistentStore, "chunk_io", chunk_io)


def committed_before_the_copy_is_durable(patch: pytest.MonkeyPatch) -> None:
    """An entry is written without flushing the data that it refers to."""
    _chunk_io(patch, preflush=False, fua=True)


def entries_not_durable(patch: pytest.MonkeyPatch) -> None:
    """An origin write goes on while the entry for its copy is in a write cache."""
    _chunk_io(patch, preflush=True, fua=False)


def committed_before_the_copy_is_done(patch: pytest.MonkeyPatch) -> None:
    """The exception counts as soon as the copy has begun."""
    original = PendingException.start_copy

    def start_copy(self: PendingException) -> None:
        if not self.started:
            self.snapshot.complete[self.old] = self.new
        original(self)

    patch.setattr(PendingException, "start_copy", start_copy)


def next_area_not_zeroed(patch: pytest.MonkeyPatch) -> None:
    """The area behind a full one keeps what lay there."""
    patch.setattr(PersistentStore, "zero_area", lambda self, index: exception_store.Answer([0]))


def data_goes_where_metadata_belongs(patch: pytest.MonkeyPatch) -> None:
    """The chunk of the next area is given to data."""
    patch.setattr(PersistentStore, "skip_metadata", lambda self: None)


def load_does_not_skip_metadata(patch: pytest.MonkeyPatch) -> None:
    """After a load the next free chunk may be one of metadata, as before 2.6.33."""
    original = ReadMetadata.area_read

    def area_read(self: ReadMetadata, task: Task) -> Outcome:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(PersistentStore, "skip_metadata", lambda store: None)
            return original(self, task)

    patch.setattr(ReadMetadata, "area_read", area_read)


def load_stops_after_the_first_area(patch: pytest.MonkeyPatch) -> None:
    """Only the first area of exceptions is read."""
    original = ReadMetadata.read_area

    def read_area(self: ReadMetadata, task: Task) -> Outcome:
        if self.index:
            self.store.area = bytearray(self.store.chunk_bytes)
            self.store.area_index, self.store.committed = self.index, 0
            self.store.skip_metadata()
            return DONE
        return original(self, task)

    patch.setattr(ReadMetadata, "read_area", read_area)


def failed_copy_committed(patch: pytest.MonkeyPatch) -> None:
    """A copy that failed counts like any other."""
    original = Commit.__init__

    def init(self: Commit, store: PersistentStore, exception: Any, *, copied: bool) -> None:
        del copied
        original(self, store, exception, copied=True)

    patch.setattr(Commit, "__init__", init)


def invalid_only_in_memory(patch: pytest.MonkeyPatch) -> None:
    """The header is not told that the snapshot is lost."""
    patch.setattr(ParkedBios, "start", lambda self, task: self.dropped(task) if self.snapshot.invalidating
                  else self.rerun(task))
    patch.setattr(PersistentStore, "drop", lambda self: None)


def garbage_taken_for_a_new_store(patch: pytest.MonkeyPatch) -> None:
    """A header with a wrong magic is written anew."""
    original = ReadMetadata.header

    def header(self: ReadMetadata, task: Task) -> Outcome:
        if int.from_bytes(self.buffer[:4], "little") != exception_store.MAGIC:
            self.buffer[:] = bytes(len(self.buffer))
        return original(self, task)

    patch.setattr(ReadMetadata, "header", header)


def overflow_forgives_the_origin(patch: pytest.MonkeyPatch) -> None:
    """A full PO store lets origin writes pass without losing the snapshot."""
    original = Snapshot.invalidate

    def invalidate(self: Snapshot, error: int) -> None:
        if self.store.overflow:
            self.overflowed = True
            parked, self.parked = self.parked, type(self.parked)()
            for bio, from_origin in parked:
                assert not from_origin
                bio.complete(error)
        else:
            original(self, error)

    def wants_copy(snapshot: Snapshot, sector: int) -> bool:
        return wanted(snapshot, sector) and not (snapshot.store.overflow and snapshot.overflowed)

    wanted = snapshot_origin._wants_copy
    patch.setattr(snapshot_origin, "_wants_copy", wants_copy)
    patch.setattr(Snapshot, "invalidate", invalidate)


def one_chunk_too_many(patch: pytest.MonkeyPatch) -> None:
    """A full transient store gives out its last chunk again."""
    original = exception_store.TransientStore.prepare

    def prepare(self: exception_store.TransientStore) -> int | None:
        chunk = original(self)
        return self.next_free // self.chunk_sectors - 1 if chunk is None else chunk

    patch.setattr(exception_store.TransientStore, "prepare", prepare)


def waiting_bios_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Writes to the snapshot that waited for a copy are not sent when it is done."""
    original = PendingComplete._release

    def release(self: PendingComplete, *, error: bool) -> Outcome:
        del self.pending.snapshot_bios[1:]
        return original(self, error=error)

    patch.setattr(PendingComplete, "_release", release)


def handover_loses_exceptions(patch: pytest.MonkeyPatch) -> None:
    """The new table of a snapshot begins with no exceptions."""
    original = Snapshot.take_over

    def take_over(self: Snapshot, source: Snapshot) -> None:
        original(self, source)
        self.complete = ExceptionTable()

    patch.setattr(Snapshot, "take_over", take_over)


def merge_does_not_flush(patch: pytest.MonkeyPatch) -> None:
    """Entries are cleared before what was merged is durable."""
    def start(self: MergeCopied, task: Task) -> Outcome:
        if self.failed:
            return original(self, task)
        self.result = [0]
        return self.flushed(task)

    original = MergeCopied.start
    patch.setattr(MergeCopied, "start", start)
    _chunk_io(patch, preflush=False, fua=True)


def merge_ignores_other_snapshots(patch: pytest.MonkeyPatch) -> None:
    """What a merge overwrites is not kept for the origin's other snapshots."""
    patch.setattr(snapshot_merge, "keep_extent", lambda merge, first, sectors: None)


def merge_does_not_wait_for_writes(patch: pytest.MonkeyPatch) -> None:
    """A chunk is merged while a write to its copy is under way."""
    original = MergeNext.drain

    def drain(self: MergeNext, task: Task) -> Outcome:
        reads, self.merge.reads = self.merge.reads, {}
        try:
            return original(self, task)
        finally:
            self.merge.reads = reads

    patch.setattr(MergeNext, "drain", drain)


def merge_forgets_queued_writes(patch: pytest.MonkeyPatch) -> None:
    """Writes that waited for the merge of their chunk are not sent."""
    def release(self: SnapshotMerge, *, failed: bool) -> None:
        del failed
        self.range = range(0)
        self.queued = []

    patch.setattr(SnapshotMerge, "release", release)


def merge_lets_writes_into_its_range(patch: pytest.MonkeyPatch) -> None:
    """A write to a chunk that is being merged goes to the copy that will be forgotten."""
    original = SnapshotMerge.map

    def map_(self: SnapshotMerge, bio: Bio) -> int:
        merging, self.range = self.range, range(0)
        try:
            return original(self, bio)
        finally:
            self.range = merging

    patch.setattr(SnapshotMerge, "map", map_)


def full_store_is_forgiven(patch: pytest.MonkeyPatch) -> None:
    """A write to the origin goes on where there is no room for the copy, and the snapshot stays as it is."""
    original = Snapshot.new_pending

    def new_pending(self: Snapshot, chunk: int) -> Any:
        found = original(self, chunk)
        if found is None:
            self.complete[chunk] = 2
        return found

    patch.setattr(Snapshot, "new_pending", new_pending)
    patch.setattr(Snapshot, "invalidate", lambda self, error: self.work.queue())


def logged_and_not_done(patch: pytest.MonkeyPatch) -> None:
    """A write with FUA goes to the log only."""
    original = LogWrites.map

    def map_(self: LogWrites, bio: Bio) -> int:
        answer = original(self, bio)
        if answer == REMAPPED and bio.fua:
            bio.complete(0)
            return SUBMITTED
        return answer

    patch.setattr(LogWrites, "map", map_)


def flush_reaches_one_stripe(patch: pytest.MonkeyPatch) -> None:
    """A flush of a striped device flushes its first stripe."""
    original = Striped.construct

    def construct(self: Striped, argv: list[str]) -> Any:
        frame = original(self, argv)
        self.num_flush_bios = 1
        return frame

    patch.setattr(Striped, "construct", construct)


def fua_lost_when_split(patch: pytest.MonkeyPatch) -> None:
    """Of a write with FUA that is cut only the first piece has it."""
    original = Bio.piece

    def piece(self: Bio, first: int, sectors: int, owner: Any) -> Bio:
        made = original(self, first, sectors, owner)
        made.fua = made.fua and not first
        return made

    patch.setattr(Bio, "piece", piece)


SNAPSHOT_BUGS = (
    Bug("completed looked up before pending", "snapshot", "one-chunk", completed_looked_up_before_pending),
    Bug("reads not tracked", "snapshot", "frozen", reads_not_tracked),
    Bug("origin write not held back", "snapshot", "frozen", origin_write_not_held_back),
    Bug("writes not split at chunks", "snapshot", "frozen", writes_not_split_at_chunks),
    Bug("second snapshot not asked", "snapshots", "apart", second_snapshot_not_asked),
    Bug("entry before its data is durable", "snapshot", "crashes", committed_before_the_copy_is_durable),
    Bug("entries not durable", "snapshot", "crashes", entries_not_durable),
    Bug("committed before the copy is done", "snapshot", "frozen", committed_before_the_copy_is_done),
    Bug("next area not zeroed", "snapshot-areas", "areas", next_area_not_zeroed),
    Bug("data where metadata belongs", "snapshot-areas", "areas", data_goes_where_metadata_belongs),
    Bug("load does not skip metadata", "snapshot-areas", "areas", load_does_not_skip_metadata),
    Bug("load stops after the first area", "snapshot-areas", "areas", load_stops_after_the_first_area),
    Bug("failed copy committed", "snapshot", "fails", failed_copy_committed),
    Bug("invalid only in memory", "snapshot", "reopens", invalid_only_in_memory),
    Bug("garbage taken for a new store", "snapshot", "corrupts", garbage_taken_for_a_new_store),
    Bug("overflow forgives the origin", "snapshot-overflow", "overflows", overflow_forgives_the_origin),
    Bug("one chunk too many", "snapshot-transient", "frozen", one_chunk_too_many),
    Bug("waiting bios forgotten", "snapshot", "frozen", waiting_bios_forgotten),
    Bug("handover loses exceptions", "snapshot", "reloads", handover_loses_exceptions),
    Bug("2.6.32: no handover", "snapshot", "reloads", kernel="2.6.32"),
    Bug("merge does not flush", "snapshot-merge", "merges", merge_does_not_flush),
    Bug("merge ignores other snapshots", "snapshot-merge", "merges", merge_ignores_other_snapshots),
    Bug("merge does not wait for writes", "snapshot-merge", "merges", merge_does_not_wait_for_writes),
    Bug("merge forgets queued writes", "snapshot-merge", "merges", merge_forgets_queued_writes),
    Bug("merge lets writes into its range", "snapshot-merge", "merges", merge_lets_writes_into_its_range),
    Bug("a full store is forgiven", "snapshot-full", "full", full_store_is_forgiven),
    Bug("logged and not done", "log-writes", "passes", logged_and_not_done),
    Bug("a failed leg is ignored below a snapshot", "snapshot-of-mirror", "survives", failed_leg_ignored),
    Bug("flush reaches one stripe", "striped", "keeps", flush_reaches_one_stripe),
    Bug("FUA lost when split", "linear", "keeps", fua_lost_when_split),
)
