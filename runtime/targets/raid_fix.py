"""Reads that failed on one leg of a raid1 (kernel: raid1.c): repaired from another leg, then made again."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from ..bio import Bio, Op
from ..frames import WaitForBios
from ..task import DONE, Enter, Frame, Goto, Outcome, Task, Wait

if TYPE_CHECKING:
    from .raid import Raid, RaidLeg

PIECE_SECTORS: Final = 8


class FixReads(Frame):
    """``fix_read_error`` for each read that failed, while a barrier keeps writes away."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.bio: Bio | None = None
        self.leg: RaidLeg | None = None
        self.area = range(0)
        self.sector = 0

    def start(self, task: Task) -> Outcome:
        raid = self.raid
        if not raid.bad_reads:
            self.bio = self.leg = None
            return DONE
        self.bio = raid.bad_reads.pop(0)
        self.leg = self.bio.hook
        first = self.bio.first_sector - raid.begin
        self.area = range(first, first + self.bio.sectors)
        self.sector = first
        raid.barriers.append(self.area)
        return self.quiet(task)

    def quiet(self, task: Task) -> Outcome:
        self.at = "quiet"
        raid = self.raid
        if raid.busy(self.area):
            return Wait(raid.quiet, f"for writes to sectors {self.area.start} to {self.area.stop - 1} "
                                    f"of {raid.table.md.name}, to repair what could not be read")
        return self.piece(task)

    def piece(self, task: Task) -> Outcome:
        leg = self.leg
        assert leg is not None
        if not leg.alive or self.sector >= self.area.stop:
            return self.again(task)
        first, self.sector = self.sector, min(self.sector + PIECE_SECTORS, self.area.stop)
        return Enter(FixPiece(self.raid, leg, range(first, self.sector)), "piece")

    def again(self, task: Task) -> Outcome:
        """Make the read anew; should that fail too, it comes here again, or there is no other leg left."""
        del task
        raid, bio = self.raid, self.bio
        assert bio is not None
        raid.lower(self.area)
        leg = raid.choose(self.area.start)
        if leg is None or leg.data is None:
            bio.hook = None
            bio.complete(errno.EIO)
            return Goto("start")
        raid.log_md("info", f"redirecting sector {self.area.start} to other mirror: {raid.stack.kernel_name(leg.data)}")
        ReadAgain(bio, leg).submit()
        return Goto("start")


class ReadAgain:
    """The read on its way to another leg, or to the same one after the repair."""

    __slots__ = ("bio", "leg")

    def __init__(self, bio: Bio, leg: RaidLeg) -> None:
        self.bio = bio
        self.leg = leg

    def submit(self) -> None:
        clone = self.bio.clone(self)
        clone.device = self.leg.data
        clone.submit()

    def bio_done(self, clone: Bio) -> None:
        """The target's ``end_io`` judges it like a first read of this leg."""
        self.bio.hook = self.leg
        self.bio.complete(clone.status)


class FixPiece(Frame):
    """Read a piece from each leg in turn, the bad one first; write it to those that could not be read."""

    def __init__(self, raid: Raid, leg: RaidLeg, area: range) -> None:
        self.raid = raid
        self.leg = leg
        self.area = area
        self.todo = [leg, *[other for other in raid.sources() if other is not leg]]
        self.bad: list[RaidLeg] = []
        self.buffer = bytearray(len(area) * 512)

    def _io(self, op: Op, leg: RaidLeg, buffer: bytearray) -> Frame:
        return WaitForBios([Bio(op, leg.data, self.area.start, len(self.area), buffer)],
                           f"the repair of a read of {self.raid.table.md.name}")

    def start(self, task: Task) -> Outcome:
        del task
        if not self.todo:
            self.raid.fail_leg(self.leg)
            return DONE
        return Enter(self._io(Op.READ, self.todo[0], self.buffer), "read")

    def read(self, task: Task) -> Outcome:
        leg = self.todo.pop(0)
        if self.result[0]:
            self.bad.append(leg)
            return self.start(task)
        return self.rewrite(task)

    def rewrite(self, task: Task) -> Outcome:
        del task
        if not self.bad:
            return DONE
        return Enter(self._io(Op.WRITE, self.bad[0], self.buffer), "rewritten")

    def rewritten(self, task: Task) -> Outcome:
        if self.result[0]:
            return self._failed(task)
        return Enter(self._io(Op.READ, self.bad[0], bytearray(len(self.buffer))), "verified")

    def verified(self, task: Task) -> Outcome:
        if self.result[0]:
            return self._failed(task)
        leg = self.bad.pop(0)
        assert leg.data is not None
        self.raid.log_md("info", f"read error corrected ({len(self.area)} sectors at {self.area.start} "
                                 f"on {self.raid.stack.kernel_name(leg.data)})")
        return self.rewrite(task)

    def _failed(self, task: Task) -> Outcome:
        self.raid.fail_leg(self.bad.pop(0))
        return self.rewrite(task)
