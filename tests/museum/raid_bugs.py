"""Bugs of raid1, most of which show only where a disk has lied: that is not noticed until a repair is asked for."""

from __future__ import annotations

import pytest
from tests.museum.bug import Bug

from dmspec.runtime.targets.raid_sync import SyncPass
from dmspec.runtime.task import Outcome, Task


def first_sectors_compared(patch: pytest.MonkeyPatch) -> None:
    """A repair compares the beginnings of two blocks."""
    def compared(self: SyncPass, task: Task) -> Outcome:
        data = [bytes(bio.buf) for bio in self.bios]
        differing = [leg for leg, one in zip(self.legs, data, strict=True) if one[:512] != data[0][:512]]
        return self._write(task, differing, data[0])

    patch.setattr(SyncPass, "compared", compared)


def repair_only_counts(patch: pytest.MonkeyPatch) -> None:
    """A repair is a check."""
    original = SyncPass.compared

    def compared(self: SyncPass, task: Task) -> Outcome:
        action, self.raid.action = self.raid.action, "check"
        outcome = original(self, task)
        self.raid.action = action
        return outcome

    patch.setattr(SyncPass, "compared", compared)


def repair_ends_at_the_first_difference(patch: pytest.MonkeyPatch) -> None:
    """When one block has been repaired the repair is over."""
    original = SyncPass.written

    def written(self: SyncPass, task: Task) -> Outcome:
        outcome = original(self, task)
        self.raid.interrupt = self.raid.action == "repair"
        return outcome

    patch.setattr(SyncPass, "written", written)


def repair_skips_what_is_empty(patch: pytest.MonkeyPatch) -> None:
    """A block that is all zeros on the first leg is not compared: nobody has written there."""
    original = SyncPass.compared

    def compared(self: SyncPass, task: Task) -> Outcome:
        return original(self, task) if any(self.bios[0].view()) else self._window_done(task)

    patch.setattr(SyncPass, "compared", compared)


def repair_from_the_last_leg(patch: pytest.MonkeyPatch) -> None:
    """What the last leg answers is written to the others."""
    def compared(self: SyncPass, task: Task) -> Outcome:
        data = [bytes(bio.buf) for bio in self.bios]
        differing = [leg for leg, one in zip(self.legs, data, strict=True) if one != data[-1]]
        return self._write(task, differing, data[-1])

    patch.setattr(SyncPass, "compared", compared)


def repair_asks_the_bitmap(patch: pytest.MonkeyPatch) -> None:
    """A repair goes only where the bitmap says that something is to do."""
    def wanted(self: SyncPass, sector: int) -> bool:
        return self.raid.intent.needed.test(sector // self.raid.intent.region_sectors)

    patch.setattr(SyncPass, "_wanted", wanted)


def taken_back_without_recovery(patch: pytest.MonkeyPatch) -> None:
    """A leg that comes back is in sync at once."""
    original = SyncPass._wanted
    patch.setattr(SyncPass, "_wanted",
                  lambda self, sector: self.raid.action != "recover" and original(self, sector))


def no_resync_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    """What the bitmap says after a crash is forgotten, so the legs are not made equal."""
    original = SyncPass._wanted
    patch.setattr(SyncPass, "_wanted",
                  lambda self, sector: self.raid.action != "resync" and original(self, sector))


RAID_BUGS = (
    Bug("a leg taken back without recovery", "raid1", "survives", taken_back_without_recovery),
    Bug("no resync after a crash", "raid1", "crashes", no_resync_after_a_crash),
    Bug("a repair compares first sectors", "raid1-scrub", "tears", first_sectors_compared, fault="tear"),
    Bug("a repair only counts", "raid1-scrub", "loses", repair_only_counts, fault="lose-write"),
    Bug("a repair ends at a difference", "raid1-scrub", "strays", repair_ends_at_the_first_difference,
        fault="misdirect"),
    Bug("a repair skips what is empty", "raid1-scrub", "decays", repair_skips_what_is_empty, fault="corrupt"),
    Bug("a repair from the last leg", "raid1-scrub", "misreads", repair_from_the_last_leg, fault="misdirect"),
    Bug("a repair asks the bitmap", "raid1-scrub", "forgets", repair_asks_the_bitmap, fault="lose-flush"),
)
