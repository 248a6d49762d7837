"""The region hash of a mirror (kernel: drivers/md/dm-region-hash.c).

=============  ==================================  ==================================================
state          meaning                             leaves by
=============  ==================================  ==================================================
CLEAN          in sync, no write pending           a write -> DIRTY (its log bit is cleared first)
DIRTY          in sync, writes pending             last write done -> CLEAN; a failed one -> NOSYNC
NOSYNC         the legs may differ                 recovery picks it -> RECOVERING
RECOVERING     waits for its writes, then copied   success -> in sync; failure -> not in sync
=============  ==================================  ==================================================

A region without an entry is CLEAN when the log says in sync, else NOSYNC.
"""

from __future__ import annotations

import enum
from typing import Protocol

from .bio import Bio, Op
from .dirty_log import DirtyLog
from .task import Latch


class State(enum.IntEnum):
    """See the module."""

    CLEAN = 1
    DIRTY = 2
    NOSYNC = 4
    RECOVERING = 8


class Region:
    """An entry: writes pending in the region, and writes that wait for its recovery."""

    __slots__ = ("delayed", "key", "pending", "state")

    def __init__(self, key: int, state: State) -> None:
        self.key = key
        self.state = state
        self.pending = 0
        self.delayed: list[Bio] = []


class RegionOwner(Protocol):
    """The mirror."""

    def give_back(self, bios: list[Bio]) -> None:
        """Writes that waited for their region's recovery."""

    def wake(self) -> None:
        """There is work for the worker."""


class RegionHash:
    """``recovery_slots`` is the semaphore of recovery: one region at a time is recovered (MAX_RECOVERY is 1).

    It is 0 until the mirror is resumed, so a table that is loaded and not resumed copies nothing.  Who waits for
    it gets it first, as with the kernel's (``stop_wanted``: a suspend does), so no region more is begun meanwhile.
    """

    def __init__(self, name: str, log: DirtyLog, begin: int, owner: RegionOwner) -> None:
        self.log = log
        self.begin = begin
        self.owner = owner
        self.regions: dict[int, Region] = {}
        self.clean: dict[int, Region] = {}
        self.quiesced: list[Region] = []
        self.recovered: list[Region] = []
        self.failed_recovered: list[Region] = []
        self.recovery_slots = 0
        self.stop_wanted = False
        self.slot_free = Latch(f"the recovery slot of {name}")
        self.flush_failure = False

    def region_of(self, bio: Bio) -> int:
        return (bio.first_sector - self.begin) // self.log.region_sectors

    def find(self, key: int) -> Region:
        region = self.regions.get(key)
        if region is None:
            region = Region(key, State.CLEAN if self.log.in_sync(key) else State.NOSYNC)
            self.regions[key] = region
            if region.state is State.CLEAN:
                self.clean[key] = region
        return region

    def state(self, key: int) -> State:
        region = self.regions.get(key)
        if region is not None:
            return region.state
        return State.CLEAN if self.log.in_sync(key) else State.NOSYNC

    def inc_pending(self, bios: list[Bio]) -> None:
        """Writes are about to be issued; flushes and discards are not counted."""
        for bio in bios:
            if not counts(bio):
                continue
            region = self.find(self.region_of(bio))
            region.pending += 1
            if region.state is State.CLEAN:
                region.state = State.DIRTY
                self.clean.pop(region.key, None)
                self.log.mark_region(region.key)

    def count_at_once(self, bio: Bio) -> bool:
        """Count a write to a region in sync, unless the log would have to be written before it is issued."""
        key = self.region_of(bio)
        if self.state(key) not in (State.CLEAN, State.DIRTY) or not self.log.is_marked(key):
            return False
        region = self.find(key)
        region.pending += 1
        if region.state is State.CLEAN:
            region.state = State.DIRTY
            del self.clean[key]
            if self.log.is_clean(key):
                self.log.mark_region(key)
        return True

    def dec_pending(self, key: int) -> None:
        """A write has ended."""
        region = self.regions[key]
        region.pending -= 1
        assert region.pending >= 0, f"region {key} has fewer than no writes"
        if region.pending:
            return
        if self.flush_failure:
            region.state = State.NOSYNC
        elif region.state is State.RECOVERING:
            self.quiesced.append(region)
        elif region.state is State.DIRTY:
            region.state = State.CLEAN
            self.clean[key] = region
        self.owner.wake()

    def delay(self, bio: Bio) -> None:
        """A write to a region that is being recovered waits for the end of that."""
        self.find(self.region_of(bio)).delayed.append(bio)

    def mark_nosync(self, bio: Bio) -> None:
        """A write has failed on a leg."""
        if bio.op is Op.FLUSH or bio.preflush:
            self.flush_failure = True
            return
        if bio.op is Op.DISCARD:
            return
        key = self.region_of(bio)
        self.log.set_region_sync(key, False)
        region = self.regions[key]
        recovering = region.state is State.RECOVERING
        region.state = State.NOSYNC
        if recovering:
            self._complete_resync(region, False)

    def update_states(self, errors_handled: bool) -> None:
        """What the worker does first; a log flush follows."""
        clean, self.clean = self.clean, {}
        recovered, self.recovered = self.recovered, []
        failed, self.failed_recovered = self.failed_recovered, []
        for region in (*recovered, *failed, *clean.values()):
            del self.regions[region.key]
        for region in recovered:
            self.log.clear_region(region.key)
            self._complete_resync(region, True)
        for region in failed:
            self._complete_resync(region, not errors_handled)
        for region in clean.values():
            self.log.clear_region(region.key)

    def _complete_resync(self, region: Region, success: bool) -> None:
        """Delayed writes are given back before anybody hears that recovery is over."""
        self.log.set_region_sync(region.key, success)
        delayed, region.delayed = region.delayed, []
        self.owner.give_back(delayed)
        self.free_slot()

    def free_slot(self) -> None:
        self.recovery_slots += 1
        self.slot_free.release()

    def start_recovery(self) -> None:
        """The mirror is resumed."""
        self.free_slot()
        self.owner.wake()

    def prepare_recovery(self) -> None:
        """Pick regions for recovery while slots are free."""
        while self.recovery_slots and not self.stop_wanted:
            key = self.log.get_resync_work()
            if key is None:
                return
            self.recovery_slots -= 1
            region = self.find(key)
            self.clean.pop(key, None)
            region.state = State.RECOVERING
            if not region.pending:
                self.quiesced.append(region)

    def next_quiesced(self) -> Region | None:
        return self.quiesced.pop(0) if self.quiesced else None

    def end_recovery(self, region: Region, success: bool) -> None:
        (self.recovered if success else self.failed_recovered).append(region)
        self.owner.wake()


def counts(bio: Bio) -> bool:
    """Whether region accounting knows this write."""
    return bio.op is Op.WRITE and not bio.preflush
