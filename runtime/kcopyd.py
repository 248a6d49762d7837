"""Copying in the background (kernel: drivers/md/dm-kcopyd.c).

A job reads a range of one device and writes it to up to eight others, in pieces of 512 KiB of
which eight are under way at once.  Its owner is told from the client's own worker, one job at a
time, as the kernel's callbacks are.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from .bio import Bio, Op
from .block import BlockDevice
from .task import DONE, Enter, Frame, Goto, Outcome, Task, Work

if TYPE_CHECKING:
    from .stack import Stack

SUB_JOB_SECTORS: Final = 1024
SPLIT_COUNT: Final = 8


class CopyOwner(Protocol):
    """Who wanted the copy.  ``in_background``: no bio waits for it, so an engine may let others go first."""

    @property
    def in_background(self) -> bool: ...

    def copied(self, job: CopyJob) -> Frame | None:
        """The job is over; a frame is run by the client's worker before the next job's."""


class CopyJob:
    """``write_errors`` has bit i set when destination i failed.

    With ``ignore_errors`` a piece that could not be read is written all the same (as zeros), and
    a failed write does not end the job.
    """

    def __init__(self, source: tuple[BlockDevice, int], destinations: list[tuple[BlockDevice, int]], sectors: int,
                 owner: CopyOwner, *, tag: object = None, ignore_errors: bool = False) -> None:
        self.source = source
        self.destinations = destinations
        self.sectors = sectors
        self.owner = owner
        self.tag = tag
        self.ignore_errors = ignore_errors
        self.read_error = False
        self.write_errors = 0
        self.next_sector = 0
        self.under_way = 0

    @property
    def failed(self) -> bool:
        return self.read_error or bool(self.write_errors)


class Copier:
    """A kcopyd client."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.work = Work(stack.engine, f"kcopyd {name}", TellOwners(self))
        self.over: deque[CopyJob] = deque()

    def copy(self, job: CopyJob) -> None:
        job.under_way = 1
        for _ in range(SPLIT_COUNT):
            self.next_piece(job)
        self.less_under_way(job)

    def next_piece(self, job: CopyJob) -> None:
        """Start one more piece, unless the job is through or has failed."""
        if job.next_sector >= job.sectors or (job.failed and not job.ignore_errors):
            return
        sectors = min(SUB_JOB_SECTORS, job.sectors - job.next_sector)
        piece = Piece(self, job, job.next_sector, sectors)
        job.next_sector += sectors
        job.under_way += 1
        piece.read()

    def less_under_way(self, job: CopyJob) -> None:
        """When nothing is under way any more the owner will be told, from the worker."""
        job.under_way -= 1
        if not job.under_way:
            self.finish(job)

    def finish(self, job: CopyJob) -> None:
        self.over.append(job)
        self.work.queue()


class Piece:
    """One piece of a job: a read, then all writes at once."""

    def __init__(self, copier: Copier, job: CopyJob, first: int, sectors: int) -> None:
        self.copier = copier
        self.job = job
        self.first = first
        self.sectors = sectors
        self.buffer = bytearray(sectors * 512)
        self.pending = 0

    @property
    def in_background(self) -> bool:
        return self.job.owner.in_background

    def read(self) -> None:
        device, sector = self.job.source
        Bio(Op.READ, device, sector + self.first, self.sectors, self.buffer, owner=self).submit()

    def bio_done(self, bio: Bio) -> None:
        job = self.job
        if bio.op is Op.READ:
            if bio.status:
                job.read_error = True
                self.buffer[:] = bytes(len(self.buffer))
            if bio.status and not job.ignore_errors:
                self._end()
            else:
                self._write()
            return
        if bio.status:
            job.write_errors |= 1 << bio.tag
        self.pending -= 1
        if not self.pending:
            self._end()

    def _write(self) -> None:
        self.pending = len(self.job.destinations)
        for index, (device, sector) in enumerate(self.job.destinations):
            bio = Bio(Op.WRITE, device, sector + self.first, self.sectors, self.buffer, owner=self)
            bio.tag = index
            bio.submit()

    def _end(self) -> None:
        self.copier.next_piece(self.job)
        self.copier.less_under_way(self.job)


class TellOwners(Frame):
    """The client's worker."""

    def __init__(self, copier: Copier) -> None:
        self.copier = copier

    def start(self, task: Task) -> Outcome:
        del task
        if not self.copier.over:
            return DONE
        job = self.copier.over.popleft()
        frame = job.owner.copied(job)
        return Enter(frame, "again") if frame is not None else Goto("start")

    def again(self, task: Task) -> Outcome:
        del task
        return Goto("start")
