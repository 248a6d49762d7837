"""What happens inside a raid1: its worker, writes and flushes, superblocks and bitmap.

Kernel: drivers/md/raid1.c, md.c, md-bitmap.c.  One worker (``raid1d``) takes the writes, marks their regions in the
bitmaps first, and is the only one that writes metadata while the array is in use: so nothing on disk goes back in
time.  A write that failed on a leg comes back to it and is acknowledged when the superblocks know of the failure.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..bio import Bio, Op
from ..block import BlockDevice
from ..frames import WaitForBios
from ..task import DONE, Enter, Frame, Outcome, Task, Wait
from .raid_superblock import BITMAP_SECTOR, DEFAULT_DAEMON_SLEEP_S, MAX_SECTOR, Superblock

if TYPE_CHECKING:
    from .raid import Raid, RaidLeg

# How many marks that are not needed may stay in a bitmap before a write to another region removes them.
IDLE_MARKS = 8


class RaidWrite:
    """A write or discard on its way to every leg that is alive."""

    __slots__ = ("bio", "failed", "first", "good", "pending", "raid", "regions", "sectors")

    def __init__(self, raid: Raid, bio: Bio) -> None:
        self.raid = raid
        self.bio = bio
        self.first = bio.sector
        self.sectors = bio.sectors
        self.regions = raid.intent.regions(bio.sector, bio.sectors)
        self.pending = 0
        self.failed: list[RaidLeg] = []
        self.good: list[RaidLeg] = []

    def submit(self) -> None:
        raid = self.raid
        if raid.degraded:
            raid.intent.differs(self.regions)
        legs = [(leg, leg.data) for leg in raid.legs if leg.alive and leg.data is not None]
        self.pending = len(legs)
        for leg, device in legs:
            clone = self.bio.clone(self)
            clone.tag = leg
            clone.device = device
            clone.submit()

    def bio_done(self, clone: Bio) -> None:
        """Whether a leg could do a discard is not looked at."""
        leg: RaidLeg = clone.tag
        if clone.status and clone.op is not Op.DISCARD:
            self.failed.append(leg)
        else:
            self.good.append(leg)
        self.pending -= 1
        if self.pending:
            return
        if self.failed:
            self.raid.intent.differs(self.regions)
            self.raid.ended.append(self)
            self.raid.work.queue()
        else:
            self.over()

    def over(self) -> None:
        """It is acknowledged, if a leg has it that is in sync and has not failed meanwhile."""
        raid = self.raid
        raid.intent.end(self.regions)
        raid.writing.remove(self)
        raid.quiet.release()
        self.bio.complete(0 if any(leg.readable for leg in self.good) else errno.EIO)


class RaidFlush:
    """An empty flush on its way to every leg.  As in md, whether a leg could do it is not looked at."""

    __slots__ = ("bio", "pending", "raid")

    def __init__(self, raid: Raid, bio: Bio) -> None:
        self.raid = raid
        self.bio = bio
        self.pending = 1

    def submit(self) -> None:
        for leg in self.raid.legs:
            if leg.alive:
                self.pending += 1
                Bio(Op.FLUSH, leg.data, 0, 0, owner=self).submit()
        self.bio_done(self.bio)

    def bio_done(self, clone: Bio) -> None:
        del clone
        self.pending -= 1
        if not self.pending:
            self.bio.complete(0)


class Raid1d(Frame):
    """The worker: failures and superblocks first, then the writes that failed, then new ones."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.ended: list[RaidWrite] = []
        self.batch: list[RaidWrite] = []

    def start(self, task: Task) -> Outcome:
        self.ended, self.raid.ended = self.raid.ended, []
        for write in self.ended:
            for leg in write.failed:
                self.raid.fail_leg(leg)
        return self.record(task)

    def record(self, task: Task) -> Outcome:
        raid = self.raid
        if raid.clean_wanted:
            raid.clean_wanted = False
            raid.superblocks_changed = True
            return Enter(CleanBitmap(raid), "record")
        if raid.superblocks_changed:
            return Enter(UpdateSuperblocks(raid), "record")
        for write in self.ended:
            write.over()
        self.ended = []
        return self.take(task)

    def take(self, task: Task) -> Outcome:
        """Take what no barrier stops, and mark its regions."""
        raid = self.raid
        writes, raid.writes = raid.writes, []
        marked = True
        for bio in writes:
            if raid.blocked(bio.sector, bio.sectors):
                raid.waiting.append(bio)
                continue
            write = RaidWrite(raid, bio)
            self.batch.append(write)
            raid.writing.append(write)
            marked = not raid.intent.begin(write.regions) and marked
        if marked or not raid.has_bitmap:
            return self.submit(task)
        if len(raid.intent.idle()) > IDLE_MARKS:
            return Enter(CleanBitmap(raid), "mark")
        return self.mark(task)

    def mark(self, task: Task) -> Outcome:
        del task
        return Enter(WriteBitmap(self.raid), "submit")

    def submit(self, task: Task) -> Outcome:
        del task
        if self.raid.superblocks_changed and self.batch:
            return Enter(UpdateSuperblocks(self.raid), "submit")
        batch, self.batch = self.batch, []
        for write in batch:
            write.submit()
        return DONE


class WriteMetadata(Frame):
    """Write something to every metadata device that is in use; a leg whose device fails is failed."""

    def __init__(self, raid: Raid, what: str) -> None:
        self.raid = raid
        self.what = what
        self.legs: list[RaidLeg] = []

    def bio(self, leg: RaidLeg, device: BlockDevice) -> Bio:
        raise NotImplementedError

    def start(self, task: Task) -> Outcome:
        del task
        places = self.raid.metadata_legs()
        self.legs = [leg for leg, _device in places]
        bios = [self.bio(leg, device) for leg, device in places]
        return Enter(WaitForBios(bios, f"{self.what} of {self.raid.table.md.name}"), "written")

    def written(self, task: Task) -> Outcome:
        del task
        for leg, status in zip(self.legs, self.result, strict=True):
            if status:
                self.raid.stack.log("err", f"md: super_written gets error=-{status}")
                self.raid.fail_leg(leg)
        return DONE


class WriteBitmap(WriteMetadata):
    """The marks have to be on disk before what they are for is written."""

    def __init__(self, raid: Raid) -> None:
        super().__init__(raid, "the write-intent bitmap")

    def bio(self, leg: RaidLeg, device: BlockDevice) -> Bio:
        raid = self.raid
        sleep_ms = raid.params.numbers.get("daemon_sleep", 0)
        data = raid.intent.pack(raid.events, -(-sleep_ms // 1000) or DEFAULT_DAEMON_SLEEP_S,
                                raid.params.numbers.get("max_write_behind", 0))
        return Bio(Op.WRITE, device, BITMAP_SECTOR, len(data) // 512, data, preflush=True, fua=True)


class WriteSuperblocks(WriteMetadata):
    """``super_sync`` and ``md_super_write``."""

    def __init__(self, raid: Raid) -> None:
        super().__init__(raid, "the superblocks")

    def bio(self, leg: RaidLeg, device: BlockDevice) -> Bio:
        raid = self.raid
        failed = sum(1 << other.index for other in raid.legs if not other.alive)
        offset = MAX_SECTOR if leg.in_sync else leg.recovery_offset
        sectors = device.logical_block_sectors
        data = Superblock(len(raid.legs), leg.index, raid.events, failed, offset, raid.recovery_cp, raid.length,
                          raid.length).pack(sectors * 512)
        return Bio(Op.WRITE, device, 0, sectors, data, preflush=True, fua=True)


class UpdateSuperblocks(Frame):
    """``md_update_sb``: the bitmaps first, since one with fewer events than its array counts for nothing."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid

    def start(self, task: Task) -> Outcome:
        self.raid.superblocks_changed = False
        if not self.raid.metadata_legs():
            return DONE
        self.raid.events += 1
        return Enter(WriteBitmap(self.raid), "superblocks") if self.raid.has_bitmap else self.superblocks(task)

    def superblocks(self, task: Task) -> Outcome:
        del task
        return Enter(WriteSuperblocks(self.raid), "written")

    def written(self, task: Task) -> Outcome:
        """If a leg failed over this, the others have to know."""
        return self.start(task) if self.raid.superblocks_changed else DONE


class CleanBitmap(Frame):
    """Forget marks that are not needed, once the legs have on disk what was written there."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.regions: list[int] = []

    def start(self, task: Task) -> Outcome:
        del task
        self.regions = self.raid.intent.idle()
        if not self.regions:
            return DONE
        flushes = [Bio(Op.FLUSH, leg.data, 0, 0) for leg in self.raid.legs if leg.alive]
        return Enter(WaitForBios(flushes, f"a flush of the legs of {self.raid.table.md.name}"), "flushed")

    def flushed(self, task: Task) -> Outcome:
        del task
        intent = self.raid.intent
        if not any(self.result):
            for region in self.regions:
                if intent.quiet(region):
                    intent.shown.clear(region)
        return DONE


class RaiseEvent(Frame):
    """Raising an event has a work item of its own."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid

    def start(self, task: Task) -> Outcome:
        del task
        self.raid.table.event()
        return DONE


class DestroyRaid(Frame):
    """``raid_dtr``: the workers finish and are gone."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid

    def start(self, task: Task) -> Outcome:
        del task
        raid = self.raid
        raid.stopped = raid.interrupt = True
        works = (raid.sync, raid.fixer, raid.work, raid.event)
        for work in works:
            if work.busy:
                return Wait(work.idle, f"for {work.name} to finish")
        for work in works:
            work.end()
        return DONE
