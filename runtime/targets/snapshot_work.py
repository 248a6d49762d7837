"""What happens inside a snapshot besides mapping: copies, their order, invalidation, handover, the end.

Kernel: drivers/md/dm-snap.c.  Who runs what: the worker of the snapshot's copier settles copies, one at a
time (:class:`CopyDone`, :class:`PendingComplete`); the snapshot's own worker (:class:`ParkedBios`) does what
the kernel does inside ``map`` while the caller waits; the rest runs in the process that resumes or removes.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from ..bio import Bio, Op
from ..kcopyd import CopyJob
from ..suspend import InternalSuspend, internal_resume
from ..task import DONE, Enter, Frame, Goto, Outcome, Return, Task, Wait
from .base import KILL, REMAPPED
from .snapshot_origin import snapshots_of, write_origin

if TYPE_CHECKING:
    from ..bio import BioOwner
    from ..mapped_device import MappedDevice
    from .snapshot import Snapshot
    from .snapshot_merge import SnapshotMerge


class PendingException:
    """A copy that is being made: chunk ``old`` of the origin goes to chunk ``new`` of the COW device.

    Bios wait in ``snapshot_bios`` (to be sent to the COW device) and ``origin_bios``.  ``full_bio`` is a
    write of the whole chunk, which took the place of the copy, and ``full_owner`` who is to be told.
    """

    in_background = False

    def __init__(self, snapshot: Snapshot, old: int, new: int, sequence: int) -> None:
        self.snapshot = snapshot
        self.old = old
        self.new = new
        self.sequence = sequence
        self.started = False
        self.failed = False
        self.snapshot_bios: list[Bio] = []
        self.origin_bios: list[Bio] = []
        self.full_bio: Bio | None = None
        self.full_owner: BioOwner | None = None

    def start_copy(self) -> None:
        """Once; the last chunk of an origin may be a short one."""
        if self.started:
            return
        self.started = True
        snapshot = self.snapshot
        chunk = snapshot.chunk_sectors
        source = self.old * chunk
        sectors = min(chunk, max(snapshot.origin.sectors - source, 0)) or chunk
        snapshot.copies += 1
        snapshot.copier.copy(CopyJob((snapshot.origin, source), [(snapshot.cow, self.new * chunk)], sectors, self))

    def start_full(self, bio: Bio) -> None:
        """Nothing of the old chunk would be left, so the bio itself is the copy."""
        self.started = True
        self.full_bio = bio
        self.full_owner = bio.owner
        self.snapshot.copies += 1
        bio.owner = self
        bio.submit()

    def bio_done(self, bio: Bio) -> None:
        """The full bio has ended; what follows happens in its turn, in the copier's worker."""
        job = CopyJob((self.snapshot.cow, 0), [], 0, self)
        job.write_errors = 1 if bio.status else 0
        self.snapshot.copier.finish(job)

    def copied(self, job: CopyJob) -> Frame:
        self.failed = job.failed
        return CopyDone(self)


class ZeroChunk:
    """A discard of a whole chunk that has been copied: the copy becomes zeros."""

    in_background = False

    def __init__(self, snapshot: Snapshot, bio: Bio) -> None:
        self.snapshot = snapshot
        self.bio = bio

    def start(self) -> None:
        chunk = self.snapshot.chunk_sectors
        self.snapshot.copies += 1
        Bio(Op.WRITE, self.bio.device, self.bio.sector, chunk, bytes(chunk * 512), owner=self).submit()

    def bio_done(self, zeros: Bio) -> None:
        job = CopyJob((self.snapshot.cow, 0), [], 0, self)
        job.write_errors = 1 if zeros.status else 0
        self.snapshot.copier.finish(job)

    def copied(self, job: CopyJob) -> Frame | None:
        self.snapshot.less_copies()
        self.bio.complete(errno.EIO if job.failed else 0)
        return None


class CopyDone(Frame):
    """``copy_callback``: commit in the order in which the chunks were allocated (since Linux 3.14).

    A copy that ends early waits for those before it, so entries on disk are in that order too.
    """

    def __init__(self, pending: PendingException) -> None:
        self.snapshot = pending.snapshot
        self.pending = pending
        self.settled: list[PendingException] = []
        self.holds = True

    def start(self, task: Task) -> Outcome:
        del task
        snapshot = self.snapshot
        if self.pending.sequence != snapshot.next_to_commit:
            snapshot.early[self.pending.sequence] = self.pending
            snapshot.less_copies()
            return DONE
        return self._commit()

    def _commit(self) -> Outcome:
        self.snapshot.next_to_commit += 1
        if self.pending.failed and not self.snapshot.stack.era.failed_copies_are_committed:
            self.settled, self.holds = [self.pending], False
            return Goto("settle")
        return Enter(self.snapshot.store.commit(self.pending, copied=not self.pending.failed), "committed")

    def committed(self, task: Task) -> Outcome:
        settled, self.holds = self.result
        self.settled = list(settled)
        return self.settle(task)

    def settle(self, task: Task) -> Outcome:
        """Complete what the commit has settled, one after the other; then the next one that came early."""
        del task
        if self.settled:
            return Enter(PendingComplete(self.settled.pop(0), holds=self.holds), "settle")
        following = self.snapshot.early.pop(self.snapshot.next_to_commit, None)
        if following is not None:
            self.pending = following
            return self._commit()
        self.snapshot.less_copies()
        return DONE


class PendingComplete(Frame):
    """``pending_complete``: publish the exception, then let go what waited for it.

    First published, then waited for the reads of the origin that began before: later reads go to the
    copy, so the wait ends; and while it is pending nobody overwrites the chunk that they read.  An
    origin write goes on whatever became of the copy.
    """

    def __init__(self, pending: PendingException, *, holds: bool) -> None:
        self.snapshot = pending.snapshot
        self.pending = pending
        self.holds = holds

    def start(self, task: Task) -> Outcome:
        snapshot = self.snapshot
        if not self.holds:
            snapshot.invalidate(errno.EIO)
        if snapshot.invalidating:
            return Wait(snapshot.invalidated, "for the snapshot's header to be written as invalid")
        if not self.holds or not snapshot.valid:
            return self._release(error=True)
        snapshot.complete[self.pending.old] = self.pending.new
        return self.published(task)

    def published(self, task: Task) -> Outcome:
        del task
        self.at = "published"
        snapshot = self.snapshot
        reads = snapshot.reads.get(self.pending.old, 0)
        if reads and snapshot.stack.era.snapshot_tracks_reads:
            return Wait(snapshot.reads_over, f"for {reads} read{'s' if reads > 1 else ''} of chunk "
                                             f"{self.pending.old} of the origin that began before its copy was made")
        return self._release(error=False)

    def _release(self, *, error: bool) -> Outcome:
        snapshot, pending = self.snapshot, self.pending
        del snapshot.pending[pending.old]
        if pending.full_bio is not None:
            pending.full_bio.owner = pending.full_owner
            pending.full_bio.complete(errno.EIO if error else 0)
        for bio in pending.snapshot_bios:
            if error:
                bio.complete(errno.EIO)
            else:
                bio.submit()
        for bio in pending.origin_bios:
            if write_origin(snapshot.stack, snapshot.origin, bio, limited=False) == REMAPPED:
                bio.submit()
        if not snapshot.pending:
            snapshot.settled.release()
        snapshots_of(snapshot.stack).settled.release()
        return DONE


class ParkedBios(Frame):
    """The snapshot's worker: where ``map`` would have to wait, it does the I/O and runs the bios again."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.todo: deque[tuple[Bio, bool]] = deque()

    def start(self, task: Task) -> Outcome:
        """Have the header say first that the snapshot is lost, if it is to be given up."""
        snapshot = self.snapshot
        if not snapshot.invalidating:
            return self.rerun(task)
        frame = snapshot.store.drop()
        return Enter(frame, "dropped") if frame is not None else self.dropped(task)

    def dropped(self, task: Task) -> Outcome:
        snapshot = self.snapshot
        snapshot.valid = False
        snapshot.invalidating = False
        snapshot.table.event()
        snapshot.invalidated.release()
        return self.rerun(task)

    def rerun(self, task: Task) -> Outcome:
        """Each bio once; what has to wait again is parked again, until the worker is queued the next time."""
        self.todo, self.snapshot.parked = self.snapshot.parked, deque()
        return self.again(task)

    def again(self, task: Task) -> Outcome:
        del task
        if not self.todo:
            return DONE
        snapshot = self.snapshot
        bio, from_origin = self.todo.popleft()
        if from_origin:
            answer = write_origin(snapshot.stack, snapshot.origin, bio, limited=True)
        else:
            answer = snapshot.map(bio)
        if answer == REMAPPED:
            bio.submit()
        elif answer == KILL:
            bio.complete(errno.EIO)
        return Goto("again")


class ReadStore(Frame):
    """The constructor's I/O.  The value is 0 or the :class:`DmError` of the failure."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def start(self, task: Task) -> Outcome:
        del task
        return Enter(self.snapshot.store.read_metadata(self.snapshot.complete), "read")

    def read(self, task: Task) -> Outcome:
        del task
        return Return(self.snapshot.metadata_read(self.result))


class ResumeSnapshot(Frame):
    """``snapshot_resume``: take the exceptions over if there is somebody to take them from; be active.

    Meanwhile the origin's mapped device is suspended, without its targets knowing, so that no copy is
    under way (since Linux 4.0).  If that device holds bios that cannot end, this waits as well.  A merge
    that runs in it is stopped for that time; as in the kernel it goes on before this snapshot is active, so
    the range that it begins with is not kept for it.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.origin_md: MappedDevice | None = None
        self.merge: SnapshotMerge | None = None

    def start(self, task: Task) -> Outcome:
        snapshot = self.snapshot
        if not snapshot.stack.era.snapshot_handover:
            return self._activate()
        snapshots = snapshots_of(snapshot.stack)
        self.origin_md = snapshots.mapped_origin(snapshot.origin)
        if self.origin_md is None:
            self.merge = snapshots.merging(snapshot.origin)
            self.origin_md = self.merge.table.md if self.merge is not None else None
        if self.origin_md is snapshot.table.md:
            self.origin_md = None
        if self.origin_md is None:
            self.merge = None
            return self.take_over(task)
        return Enter(InternalSuspend(self.origin_md), "stop_merge")

    def stop_merge(self, task: Task) -> Outcome:
        if self.merge is None or not self.merge.running:
            self.merge = None
            return self.take_over(task)
        return Enter(self.merge.stop(), "take_over")

    def take_over(self, task: Task) -> Outcome:
        """The wait is ours: the kernel would go on, and fall over copies of a snapshot that is invalid."""
        self.at = "take_over"
        snapshot = self.snapshot
        source, destination, _count = snapshots_of(snapshot.stack).sharing_cow(snapshot)
        if source is not None and destination is snapshot:
            if source.invalidating:
                return Wait(source.invalidated, "for the header of the table whose exceptions it takes over")
            if source.pending or source.copier.work.busy:
                latch = source.settled if source.pending else source.copier.work.idle
                return Wait(latch, "for copies of the table whose exceptions it takes over")
            snapshot.take_over(source)
        if self.merge is not None:
            return Enter(self.merge.go_on(), "release_origin")
        return self.release_origin(task)

    def release_origin(self, task: Task) -> Outcome:
        if self.origin_md is not None:
            internal_resume(self.origin_md, task)
        return self._activate()

    def _activate(self) -> Outcome:
        snapshots = snapshots_of(self.snapshot.stack)
        snapshots.remove(self.snapshot)
        snapshots.insert(self.snapshot)
        self.snapshot.active = True
        return DONE


class DestroySnapshot(Frame):
    """``snapshot_dtr``: no new copies, then wait for those under way."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def start(self, task: Task) -> Outcome:
        snapshot = self.snapshot
        snapshots = snapshots_of(snapshot.stack)
        if snapshot.stack.era.snapshot_handover:
            source, destination, _count = snapshots.sharing_cow(snapshot)
            if source is snapshot and destination is not None:
                destination.valid = False
                snapshot.log("Cancelling snapshot handover.")
        snapshots.remove(snapshot)
        return self.drain(task)

    def drain(self, task: Task) -> Outcome:
        del task
        self.at = "drain"
        snapshot = self.snapshot
        if snapshot.pending:
            return Wait(snapshot.settled, f"for {len(snapshot.pending)} copies into the snapshot to be settled")
        for work in (snapshot.copier.work, snapshot.work):
            if work.busy:
                return Wait(work.idle, f"for {work.name}")
        snapshot.copier.work.end()
        snapshot.work.end()
        return DONE
