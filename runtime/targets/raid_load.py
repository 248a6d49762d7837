"""The beginning and the end of a raid1: its superblocks are judged, it is resumed, it is stopped.

Kernel: drivers/md/dm-raid.c, with md_run, raid1_run and md_bitmap_load; reference: targets.md, section 6.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..frames import WaitForBios
from ..task import DONE, Enter, Frame, Outcome, Return, Task, Wait
from .raid_superblock import BITMAP_SECTOR, MAX_SECTOR, SUPPORTS_V190, StoredBitmap, Superblock
from .raid_work import CleanBitmap, UpdateSuperblocks

if TYPE_CHECKING:
    from .raid import Raid, RaidLeg

Found = list[tuple["RaidLeg", Superblock | None]]


class ReadBlocks(Frame):
    """Read the same part of some metadata devices; the value is a list: the data, or ``None`` where that failed."""

    def __init__(self, raid: Raid, devices: list[BlockDevice], sector: int, sectors: int, what: str) -> None:
        self.bios = [Bio(Op.READ, device, sector, sectors or device.logical_block_sectors,
                         bytearray((sectors or device.logical_block_sectors) * 512)) for device in devices]
        self.why = f"{what} of {raid.table.md.name}"

    def start(self, task: Task) -> Outcome:
        del task
        return Enter(WaitForBios(self.bios, self.why), "read")

    def read(self, task: Task) -> Outcome:
        del task
        return Return([None if status else bio.buf for bio, status in zip(self.bios, self.result, strict=True)])


class Assemble(Frame):
    """``analyse_superblocks`` and ``md_run``; the value is 0 or the :class:`DmError` of the failure.

    ``again``: at the first resume, where only a superblock that has changed meanwhile means anything.
    """

    def __init__(self, raid: Raid, *, again: bool = False) -> None:
        self.raid = raid
        self.again = again
        self.legs: list[RaidLeg] = []

    def start(self, task: Task) -> Outcome:
        raid = self.raid
        places = [(leg, leg.meta) for leg in raid.legs if leg.meta is not None and leg.alive]
        if not places or raid.params.sync:
            return self._run(task) if not self.again else Return(0)
        self.legs = [leg for leg, _device in places]
        return Enter(ReadBlocks(raid, [device for _leg, device in places], 0, 0, "the superblocks"), "read")

    def read(self, task: Task) -> Outcome:
        raid = self.raid
        found: Found = []
        for leg, block in zip(self.legs, self.result, strict=True):
            if block is None:
                raid.log_raid("err", f"Failed to read superblock of device at position {leg.index}")
                leg.faulty = True
                leg.in_sync = False
            else:
                found.append((leg, Superblock.unpack(block)))
        if self.again and max((sb.events for _leg, sb in found if sb is not None), default=0) <= raid.events:
            return Return(0)
        try:
            if found:
                Judgement(raid, found, quiet=self.again).judge()
            return self._run(task)
        except DmError as error:
            return Return(error)

    def _run(self, task: Task) -> Outcome:
        """``raid1_run``: with but one leg that can be used there is nothing to synchronise."""
        del task
        raid = self.raid
        for leg in raid.legs:
            if leg.index in raid.params.rebuild:
                leg.in_sync = False
                leg.recovery_offset = 0
        usable = sum(leg.readable for leg in raid.legs)
        if not usable:
            raid.stack.log("warning", "md: pers->run() failed ...")
            return Return(DmError(errno.EINVAL, "Failed to run raid array"))
        if usable == 1:
            raid.recovery_cp = MAX_SECTOR
        if not self.again:
            if raid.recovery_cp != MAX_SECTOR:
                raid.log_md("info", "not clean -- starting background reconstruction")
            raid.log_md("info", f"active with {usable} out of {len(raid.legs)} mirrors")
        return Return(0)


class Judgement:
    """What the superblocks that could be read say of the array (``super_load``, ``super_validate``)."""

    def __init__(self, raid: Raid, found: Found, *, quiet: bool) -> None:
        self.raid = raid
        self.found = found
        self.quiet = quiet

    def judge(self) -> None:
        """Set up the array and its legs, or raise with the reason."""
        raid = self.raid
        for leg, sb in self.found:
            leg.fresh = sb is None or leg.index in raid.params.rebuild
        known = [(leg, sb) for leg, sb in self.found if sb is not None and not leg.fresh]
        self._count_new()
        if not known:
            raid.events = 1
            raid.first_use = raid.update_superblocks = True
            raid.recovery_cp = MAX_SECTOR if raid.params.nosync else 0
            return
        freshest = max(known, key=lambda pair: pair[1].events)[1]
        if freshest.compat not in (0, SUPPORTS_V190):
            raise _invalid("Unknown flag(s) in compatible feature flags")
        if freshest.incompat:
            raise _invalid("No incompatible feature flags supported yet")
        raid.events = freshest.events or 1
        raid.recovery_cp = MAX_SECTOR if raid.params.nosync or raid.params.rebuild else freshest.resync_offset
        raid.stored_sectors = freshest.array_sectors
        raid.update_superblocks = bool(raid.params.rebuild) or freshest.array_sectors not in (0, raid.length)
        for leg, sb in known:
            self._take(leg, sb, returned=bool(freshest.failed >> leg.index & 1))
        self._check_redundancy()

    def _count_new(self) -> None:
        """Which mixtures of new and known devices can be meant."""
        raid = self.raid
        new = sum(leg.fresh for leg, _sb in self.found)
        rebuilds = len(raid.params.rebuild)
        for index in sorted(raid.params.rebuild):
            self._say("info", f"Device {index} specified for rebuild; clearing superblock")
        if new == len(raid.legs):
            self._say("info", "Superblocks created for new raid set")
        elif not rebuilds and new:
            raid.log_raid("err", "New device injected into existing raid set without 'delta_disks' or 'rebuild' "
                                 "parameter specified")
            raise _invalid("Invalid superblocks")
        elif rebuilds and new != rebuilds:
            raid.log_raid("err", f"{rebuilds} 'rebuild' devices cannot be injected into a raid set with {new} "
                                 "other first-time devices")
            raise _invalid("Invalid superblocks")

    def _say(self, level: str, text: str) -> None:
        if not self.quiet:
            self.raid.log_raid(level, text)

    def _take(self, leg: RaidLeg, sb: Superblock, *, returned: bool) -> None:
        """A leg that was recorded as failed lacks what the bitmap says, if it was whole when it failed."""
        if sb.position != leg.index:
            raise DmError(errno.EINVAL, "Cannot change device positions in raid set")
        leg.recovery_offset = sb.recovery_offset
        leg.in_sync = sb.recovery_offset == MAX_SECTOR
        if returned:
            leg.partial = leg.in_sync
            leg.in_sync = False
            leg.recovery_offset = 0
            self.raid.update_superblocks = True

    def _check_redundancy(self) -> None:
        """A device without a superblock counts as one that cannot be relied on."""
        bad = [leg for leg in self.raid.legs
               if leg.meta is None or (not leg.fresh and not leg.in_sync) or leg.index in self.raid.params.rebuild]
        if len(bad) >= len(self.raid.legs):
            raise DmError(errno.EINVAL, "Insufficient redundancy to activate array")


def _invalid(text: str) -> DmError:
    return DmError(errno.EINVAL, f"Unable to assemble array: {text}")


class Preresume(Frame):
    """``raid_preresume``, the first time: look at the superblocks again, load the bitmap, write superblocks."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.legs: list[RaidLeg] = []
        self.new_bitmap = False

    def start(self, task: Task) -> Outcome:
        del task
        if self.raid.prepared:
            return Return(0)
        return Enter(Assemble(self.raid, again=True), "assembled")

    def assembled(self, task: Task) -> Outcome:
        raid = self.raid
        if isinstance(self.result, DmError):
            raid.log_raid("err", self.result.reason)
            return Return(-self.result.errno)
        if not raid.has_bitmap or raid.first_use:
            self.new_bitmap = raid.has_bitmap
            if raid.recovery_cp != MAX_SECTOR:
                raid.intent.mark_all()
            return self._prepared(task)
        places = raid.metadata_legs()
        places.sort(key=lambda place: not place[0].in_sync)
        self.legs = [leg for leg, _device in places if not leg.fresh]
        devices = [device for leg, device in places if not leg.fresh]
        return Enter(ReadBlocks(raid, devices, BITMAP_SECTOR, raid.intent.disk_sectors, "the write-intent bitmap"),
                     "bitmap")

    def _out_of_date(self) -> None:
        self.raid.stack.log("warning", "mdX: bitmap file is out of date, doing full recovery")

    def bitmap(self, task: Task) -> Outcome:
        """The first one that can be read, of a leg in sync if possible."""
        raid = self.raid
        result: list[Any] = self.result
        data = next((block for block in result if block is not None), None)
        if data is None:
            raid.log_raid("err", "Failed to load bitmap")
            return Return(-errno.EIO)
        stored = StoredBitmap.unpack(data)
        if stored is None or stored.stale or stored.events < raid.events:
            self._out_of_date()
            raid.intent.mark_all()
        else:
            raid.intent.load(stored)
        self._grow()
        if any(raid.intent.needed.raw()) and sum(leg.readable for leg in raid.legs) > 1:
            raid.recovery_cp = 0
        return self._prepared(task)

    def _grow(self) -> None:
        """What lies behind the old end was never synchronised."""
        raid = self.raid
        old = raid.stored_sectors
        if not old or old >= raid.length or raid.params.nosync:
            return
        for region in raid.intent.regions(old, raid.length - old):
            for bits in (raid.intent.needed, raid.intent.stale, raid.intent.shown):
                bits.set(region)

    def _prepared(self, task: Task) -> Outcome:
        raid = self.raid
        raid.prepared = True
        if raid.update_superblocks:
            raid.update_superblocks = False
            return Enter(UpdateSuperblocks(raid), "written")
        return self.written(task)

    def written(self, task: Task) -> Outcome:
        """The superblocks of a new array are written before anybody looks for its bitmap."""
        del task
        if self.new_bitmap:
            self._out_of_date()
        return Return(0)


class ResumeRaid(Frame):
    """``raid_resume``: at any but the first one legs that failed and answer again are taken back."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.legs: list[RaidLeg] = []

    def start(self, task: Task) -> Outcome:
        raid = self.raid
        places = [(leg, leg.meta) for leg in raid.legs if leg.faulty and leg.meta is not None]
        if not raid.started or not places:
            return self.go(task)
        self.legs = [leg for leg, _device in places]
        return Enter(ReadBlocks(raid, [device for _leg, device in places], 0, 0, "the superblocks of failed legs"),
                     "revive")

    def revive(self, task: Task) -> Outcome:
        raid = self.raid
        for leg, block in zip(self.legs, self.result, strict=True):
            if block is not None:
                raid.log_raid("info", f"Faulty raid1 device #{leg.index} has readable super block.  "
                                      "Attempting to revive it.")
                leg.faulty = False
                leg.recovery_offset = 0
                raid.superblocks_changed = True
        return self.go(task)

    def go(self, task: Task) -> Outcome:
        del task
        raid = self.raid
        raid.started = True
        raid.stopped = raid.frozen = raid.interrupt = raid.gave_up = False
        raid.start_sync()
        if raid.superblocks_changed:
            raid.work.queue()
        return DONE


class Postsuspend(Frame):
    """``raid_postsuspend``: stop the sync thread, then leave a bitmap and superblocks that say how it stands."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid

    def start(self, task: Task) -> Outcome:
        if self.raid.stopped:
            return DONE
        self.raid.stopped = True
        return self.settle(task)

    def settle(self, task: Task) -> Outcome:
        del task
        self.at = "settle"
        raid = self.raid
        for work in (raid.sync, raid.fixer, raid.work):
            if work.busy:
                return Wait(work.idle, f"for {work.name} to stop")
        return Enter(CleanBitmap(raid), "cleaned")

    def cleaned(self, task: Task) -> Outcome:
        del task
        return Enter(UpdateSuperblocks(self.raid), "written")

    def written(self, task: Task) -> Outcome:
        del task
        return DONE
