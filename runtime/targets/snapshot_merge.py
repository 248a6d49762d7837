"""snapshot-merge: a snapshot's changes go back into its origin (kernel: drivers/md/dm-snap.c).

What it shows is the snapshot, from its first moment on.  The facts are those of the reference (snapshot.md,
section 8) and of the recordings d2-merge and d3-merge-transient (Linux 6.1).

The loop takes one range of consecutive chunks at a time, the last committed one first: the other snapshots
of the origin get their copies, writes under way to the range end and new ones wait, kcopyd copies the range
to the origin, the origin is flushed, and only then the entries are cleared on disk; so whenever the power
fails, what the entries say is still true.  As in the kernel the first range is prepared by whoever resumes
the table and each later one by the worker of kcopyd, and that is who waits for the other snapshots.

Where this differs from that kernel: a transient store is refused at the first resume, where the kernel of
the recordings crashes; and a range whose entries could not be cleared can be merged again after a resume,
where the kernel would take the cleared entries in its memory for chunk 0.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..exception_store import Answer
from ..frames import InTurn, WaitForBios
from ..kcopyd import CopyJob
from ..task import DONE, Enter, Frame, Latch, Outcome, Return, Task, Wait
from .base import REMAPPED, SUBMITTED, TargetType
from .snapshot import SNAPSHOT, Snapshot
from .snapshot_origin import keep_extent, snapshots_of, write_origin
from .snapshot_work import DestroySnapshot, ResumeSnapshot

if TYPE_CHECKING:
    from ..table import Table


class SnapshotMerge(Snapshot):
    """``running``: the loop is at work; ``shutting_down``: it is to end after the present range.

    ``range`` is what is being copied, in chunks of the origin; ``queued`` are the writes that wait for it.
    """

    merging = True
    in_background = True
    num_flush_bios = 2

    def __init__(self, table: Table, begin: int, length: int) -> None:
        super().__init__(table, begin, length)
        self.failed = False
        self.running = False
        self.shutting_down = False
        self.stopped = Latch(f"the merge of {table.md.name}")
        self.range = range(0)
        self.queued: list[Bio] = []

    # The table's side

    def construct(self, argv: list[str]) -> Frame | None:
        """A kernel without handover has no merge either."""
        if not self.stack.era.snapshot_handover:
            self.stack.log("err", f"device-mapper: table: {self.table.md.number}: snapshot-merge: unknown target type")
            raise DmError(errno.EINVAL)
        return super().construct(argv)

    def check_source(self, source: Snapshot) -> None:
        """Only who takes over is asked; a merging table of its own may stand beside another one."""
        if snapshots_of(self.stack).merging(self.origin) is not None:
            raise DmError(errno.EINVAL, "A snapshot is already merging.")
        if not source.store.can_merge:
            raise DmError(errno.EINVAL, "Snapshot exception store does not support snapshot-merge.")

    def preresume(self) -> Frame | None:
        refusal = super().preresume()
        if refusal is not None:
            return refusal
        source, destination, _count = snapshots_of(self.stack).sharing_cow(self)
        store = source.store if source is not None and destination is self else self.store
        if not store.can_merge:
            self.log("Snapshot exception store does not support snapshot-merge.")
            return Answer(-errno.EINVAL)
        return None

    def resume(self) -> Frame | None:
        return InTurn([ResumeSnapshot(self), StartMerge(self)])

    def presuspend(self) -> Frame | None:
        return self.stop()

    def destroy(self) -> Frame | None:
        return InTurn([self.stop(), DestroySnapshot(self)])

    def info(self) -> str:
        return "Merge failed" if self.valid and self.failed else super().info()

    def write_areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        return self.areas()

    # I/O

    def map(self, bio: Bio) -> int:
        """``snapshot_merge_map``.  A discard changes nothing any more."""
        if bio.op is Op.FLUSH:
            bio.device = self.cow if bio.number else self.origin
            return REMAPPED
        if bio.op is Op.DISCARD:
            bio.complete(0)
            return SUBMITTED
        writing = bio.op is Op.WRITE
        chunk = bio.sector // self.chunk_sectors if self.valid else 0
        copy = self.complete.where(chunk) if self.valid else None
        if copy is not None:
            if writing and chunk in self.range:
                bio.device = self.origin
                self.queued.append(bio)
                return SUBMITTED
            self.to_cow(bio, copy)
            if writing:
                self.track(bio, chunk)
            return REMAPPED
        bio.device = self.origin
        return write_origin(self.stack, self.origin, bio, limited=False) if writing else REMAPPED

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...] | None:
        """Reads only: a write may have to wait for the range that is being merged."""
        return self.by_map(bio) if bio.op is Op.READ else None

    def straight_sectors(self, sector: int, most: int) -> int:
        """A chunk at a time: one may have been merged when the next has not."""
        del sector, most
        return 0

    # The loop

    def stop(self) -> Frame:
        """``stop_merge``: wait for the end of the present range."""
        return StopMerge(self)

    def go_on(self) -> Frame:
        """``start_merge``."""
        return MergeNext(self, starting=True)

    def shut(self, *, failed: bool) -> None:
        """The loop has ended."""
        self.failed = self.failed or failed
        self.release(failed=failed)
        self.running = False
        self.stopped.release()

    def release(self, *, failed: bool) -> None:
        """Nothing is being copied; the writes that waited go to the origin, or fail."""
        self.range = range(0)
        queued, self.queued = self.queued, []
        for bio in queued:
            if failed:
                bio.complete(errno.EIO)
            else:
                bio.submit()

    def copied(self, job: CopyJob) -> Frame:
        return MergeCopied(self, job)


class StartMerge(Frame):
    """``snapshot_merge_resume``: writes are cut as an origin's are; then the loop begins."""

    def __init__(self, merge: SnapshotMerge) -> None:
        self.merge = merge

    def start(self, task: Task) -> Outcome:
        del task
        merge = self.merge
        merge.max_io_sectors = snapshots_of(merge.stack).smallest_chunk(merge.origin)
        return Enter(merge.go_on(), "started")

    def started(self, task: Task) -> Outcome:
        del task
        return DONE


class StopMerge(Frame):
    """See :meth:`SnapshotMerge.stop`."""

    def __init__(self, merge: SnapshotMerge) -> None:
        self.merge = merge

    def start(self, task: Task) -> Outcome:
        del task
        merge = self.merge
        merge.shutting_down = merge.running
        if merge.running:
            return Wait(merge.stopped, f"for the merge of {merge.table.md.name} to end its present range")
        return DONE


class MergeNext(Frame):
    """``snapshot_merge_next_chunks``: begin with the next range, if there is one.

    With ``starting`` it sets the loop going, unless that runs already.
    """

    def __init__(self, merge: SnapshotMerge, *, starting: bool = False) -> None:
        self.merge = merge
        self.starting = starting
        self.old = self.new = self.count = 0

    def start(self, task: Task) -> Outcome:
        del task
        merge = self.merge
        if self.starting:
            if merge.running:
                return DONE
            merge.running = True
        if merge.shutting_down:
            return self._shut()
        if not merge.valid:
            merge.log("Snapshot is invalid: can't merge")
            return self._shut()
        return Enter(merge.store.prepare_merge(), "prepared")

    def _shut(self, *, failed: bool = False) -> Outcome:
        self.merge.shut(failed=failed)
        return DONE

    def prepared(self, task: Task) -> Outcome:
        if isinstance(self.result, int):
            self.merge.log("Read error in exception store: shutting down merge")
            return self._shut(failed=True)
        self.count, last_old, last_new = self.result
        if not self.count:
            return self._shut()
        self.old = last_old + 1 - self.count
        self.new = last_new + 1 - self.count
        return self.keep(task)

    def keep(self, task: Task) -> Outcome:
        """No other snapshot may lose what is about to be overwritten."""
        self.at = "keep"
        merge = self.merge
        wait = keep_extent(merge, self.old * merge.chunk_sectors, self.count * merge.chunk_sectors)
        if wait is not None:
            return wait
        merge.range = range(self.old, self.old + self.count)
        return self.drain(task)

    def drain(self, task: Task) -> Outcome:
        """``__check_for_conflicting_io``: the copy must have all that was acknowledged."""
        del task
        self.at = "drain"
        merge = self.merge
        if any(chunk in merge.reads for chunk in merge.range):
            return Wait(merge.reads_over, f"for writes to chunks {self.old} to {merge.range[-1]} of "
                                          f"{merge.table.md.name}, to merge them")
        chunk = merge.chunk_sectors
        first = self.old * chunk
        sectors = self.count * chunk
        left = merge.origin.sectors - first
        merge.copier.copy(CopyJob((merge.cow, self.new * chunk), [(merge.origin, first)],
                                  min(sectors, left) if left > 0 else sectors, merge))
        return DONE


class MergeCopied(Frame):
    """``merge_callback``: flush what was copied, forget the entries, let the writes go, go on."""

    def __init__(self, merge: SnapshotMerge, job: CopyJob) -> None:
        self.merge = merge
        self.read_error = job.read_error
        self.failed = job.failed

    def start(self, task: Task) -> Outcome:
        del task
        if self.failed:
            return self._shut(f"{'Read' if self.read_error else 'Write'} error: shutting down merge.")
        origin = self.merge.origin
        return Enter(WaitForBios([Bio(Op.FLUSH, origin, 0, 0)], f"a flush of {origin.name} after a merge"), "flushed")

    def flushed(self, task: Task) -> Outcome:
        del task
        if any(self.result):
            return self._shut("Flush after merge failed: shutting down merge")
        merge = self.merge
        return Enter(merge.store.commit_merge(len(merge.range)), "committed")

    def committed(self, task: Task) -> Outcome:
        del task
        if self.result < 0:
            return self._shut("Write error in exception store: shutting down merge")
        merge = self.merge
        merge.stack.engine.note(merge.table.md.name, f"merged chunks {merge.range[0]} to {merge.range[-1]}")
        for chunk in merge.range:
            del merge.complete[chunk]
        merge.release(failed=False)
        return Enter(MergeNext(merge), "done")

    def done(self, task: Task) -> Outcome:
        del task
        return Return(0)

    def _shut(self, why: str) -> Outcome:
        self.merge.log(why)
        self.merge.shut(failed=True)
        return DONE


SNAPSHOT_MERGE: Final = TargetType(
    "snapshot-merge", (1, 5, 0), SNAPSHOT.signature, SNAPSHOT.params,
    "A snapshot whose changes go back into its origin.", SnapshotMerge, SNAPSHOT.natural_length,
    assembled_late=True)
