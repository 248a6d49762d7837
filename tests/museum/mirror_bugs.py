"""Bugs of dm-mirror, its region hash, its logs, and of suspend and requeue beneath it."""

from __future__ import annotations

import errno
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from tests.museum.bug import Bug

from dmspec.runtime import mapped_device, process, region_hash
from dmspec.runtime.bio import REQUEUE, Bio, Op
from dmspec.runtime.dirty_log import DirtyLog, DiskFlush
from dmspec.runtime.kcopyd import CopyJob
from dmspec.runtime.mapped_device import MappedIo
from dmspec.runtime.process import Run
from dmspec.runtime.region_hash import RegionHash, State
from dmspec.runtime.suspend import Suspend
from dmspec.runtime.targets import mirror_work
from dmspec.runtime.targets.mirror import Mirror
from dmspec.runtime.targets.mirror_work import AllLegsWrite, FlushLegs, Kmirrord, Presuspend, TriggerEvent
from dmspec.runtime.task import DONE, Outcome, Task


def acknowledged_after_one_leg(patch: pytest.MonkeyPatch) -> None:
    """A write is acknowledged when the first leg has it."""
    def bio_done(self: AllLegsWrite, clone: Bio) -> None:
        self.pending -= 1
        if self.pending == len(self.mirror.legs) - 1:
            self.failed = 1 << clone.tag if clone.status else 0
            self._over()

    patch.setattr(AllLegsWrite, "bio_done", bio_done)


def failed_leg_ignored(patch: pytest.MonkeyPatch) -> None:
    """A write that failed on some legs only counts as done, and nobody is told."""
    def over(self: AllLegsWrite) -> None:
        self.bio.complete(errno.EIO if self.failed == (1 << len(self.mirror.legs)) - 1 else 0)

    patch.setattr(AllLegsWrite, "_over", over)


def no_mark_before_the_write(patch: pytest.MonkeyPatch) -> None:
    """The log is not marked when a clean region is written to."""
    patch.setattr(DirtyLog, "mark_region", lambda self, region: None)


def write_does_not_wait_for_the_log(patch: pytest.MonkeyPatch) -> None:
    """The mark is set, but the write goes out before the log has been written."""
    original = Kmirrord.sort_writes

    def sort_writes(self: Kmirrord, task: Task) -> Outcome:
        log = self.mirror.log
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(log, "flush", lambda: None)
            return original(self, task)

    patch.setattr(Kmirrord, "sort_writes", sort_writes)


def clean_while_writes_are_pending(patch: pytest.MonkeyPatch) -> None:
    """A region's dirty bit is cleared before its writes are done."""
    original = RegionHash.update_states

    def update_states(self: RegionHash, errors_handled: bool) -> None:
        original(self, errors_handled)
        for region in self.regions.values():
            if region.state is State.DIRTY:
                self.log.clear_region(region.key)

    patch.setattr(RegionHash, "update_states", update_states)


def log_device_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """Marks stay in the write cache of the log device."""
    def written(self: DiskFlush, task: Task) -> Outcome:
        del task
        if not self.result[0]:
            self.log.touched_cleaned = self.log.touched_dirtied = False
        return DONE

    patch.setattr(DiskFlush, "written", written)


def legs_not_flushed_before_clean(patch: pytest.MonkeyPatch) -> None:
    """A region is called clean on disk while its data is in the legs' write caches."""
    patch.setattr(DiskFlush, "start", DiskFlush.write)


def only_first_leg_flushed(patch: pytest.MonkeyPatch) -> None:
    """Of the legs only the first one is flushed before the log calls a region clean."""
    def start(self: FlushLegs, task: Task) -> Outcome:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.mirror, "legs", self.mirror.legs[:1])
            return original(self, task)

    original = FlushLegs.start
    patch.setattr(FlushLegs, "start", start)
    patch.setattr(FlushLegs, "flushed", lambda self, task: DONE)


def recovery_does_not_wait_for_writes(patch: pytest.MonkeyPatch) -> None:
    """A region is copied while writes to its first leg are under way."""
    original = RegionHash.prepare_recovery

    def prepare_recovery(self: RegionHash) -> None:
        pending = {key: region.pending for key, region in self.regions.items()}
        for region in self.regions.values():
            region.pending = 0
        original(self)
        for key, count in pending.items():
            self.regions[key].pending += count

    patch.setattr(RegionHash, "prepare_recovery", prepare_recovery)


def delayed_writes_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Writes that waited for a region's recovery are not given back."""
    patch.setattr(Mirror, "give_back", lambda self, bios: None)


def recovering_taken_for_clean(patch: pytest.MonkeyPatch) -> None:
    """A write to a region that is being copied is not delayed."""
    original = RegionHash.state

    def state(self: RegionHash, key: int) -> State:
        found = original(self, key)
        return State.DIRTY if found is State.RECOVERING else found

    patch.setattr(RegionHash, "state", state)


def recovery_forgets_the_last_sector(patch: pytest.MonkeyPatch) -> None:
    """A region is copied but for its last sector."""
    original = CopyJob.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if len(self.destinations) and isinstance(self.owner, Mirror):
            self.sectors -= 1

    patch.setattr(CopyJob, "__init__", init)


def recovery_from_another_leg(patch: pytest.MonkeyPatch) -> None:
    """Regions are copied from the last leg, not from the default one."""
    original = Mirror.recover

    def recover(self: Mirror, region: region_hash.Region) -> None:
        default, self.default = self.default, len(self.legs) - 1
        original(self, region)
        self.default = default

    patch.setattr(Mirror, "recover", recover)


def held_writes_forgotten_at_suspend(patch: pytest.MonkeyPatch) -> None:
    """presuspend leaves held writes where they are."""
    patch.setattr(Presuspend, "_end_holds", lambda self: None)


def held_writes_fail_at_noflush(patch: pytest.MonkeyPatch) -> None:
    """A held write ends with an error although the suspend is noflush."""
    original = Mirror.hold

    def hold(self: Mirror, bio: Bio) -> None:
        if self.suspending:
            bio.complete(errno.EIO)
        else:
            original(self, bio)

    patch.setattr(Mirror, "hold", hold)


def requeue_taken_for_success(patch: pytest.MonkeyPatch) -> None:
    """A bio that was pushed back counts as done."""
    original = mapped_device.MappedIo.piece_over

    def piece_over(self: mapped_device.MappedIo, clone: Bio, status: int) -> None:
        original(self, clone, 0 if status == REQUEUE else status)

    patch.setattr(mapped_device.MappedIo, "piece_over", piece_over)


def requeue_outside_of_noflush(patch: pytest.MonkeyPatch) -> None:
    """The device is told that its suspend is noflush only when its targets have been."""
    original = Suspend.start

    def start(self: Suspend, task: Task) -> Outcome:
        noflush, self.noflush = self.noflush, False
        outcome = original(self, task)
        self.noflush = noflush
        return outcome

    patch.setattr(Suspend, "start", start)


def deferred_bios_not_resubmitted(patch: pytest.MonkeyPatch) -> None:
    """A resume does not start the worker that resubmits what waited."""
    patch.setattr(mapped_device.MappedDevice, "kick", lambda self: None)


def no_event_for_a_failed_leg(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told that a leg has failed."""
    patch.setattr(TriggerEvent, "start", lambda self, task: DONE)


def event_lost_between_status_and_wait(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits for an event looks at the event number only when the wait begins."""
    original = Run.await_condition

    def await_condition(self: Run, task: Any, instr: Any) -> Outcome:
        for name, md in task.world.stack.devices.items():
            task.root.seen_events[name] = md.event_nr
        return original(self, task, instr)

    patch.setitem(process._VISIBLE, "await", await_condition)


def read_errors_not_retried(patch: pytest.MonkeyPatch) -> None:
    """A read that fails on one leg fails."""
    patch.setattr(Mirror, "read_again", lambda self, bio: False)


def failed_leg_still_read(patch: pytest.MonkeyPatch) -> None:
    """The default leg stays the one that has failed."""
    patch.setattr(Mirror, "_move_default", lambda self, leg: None)
    patch.setattr(Mirror, "choose_leg", lambda self: self.legs[self.default])


def region_stays_in_sync_after_a_failed_write(patch: pytest.MonkeyPatch) -> None:
    """After a write has failed on one leg the region still counts as in sync."""
    patch.setattr(RegionHash, "mark_nosync", lambda self, bio: None)


def nosync_reads_from_any_leg(patch: pytest.MonkeyPatch) -> None:
    """A region that is not in sync is read from whichever leg."""
    def map_(self: Mirror, bio: Bio) -> int:
        if bio.op is Op.READ:
            bio.hook = self.legs[-1]
            self.aim(bio, self.legs[-1])
            return 1
        return original(self, bio)

    original = Mirror.map
    patch.setattr(Mirror, "map", map_)


def fua_not_passed_to_the_legs(patch: pytest.MonkeyPatch) -> None:
    """A write with FUA is an ordinary one on the legs."""
    original = AllLegsWrite.submit

    def submit(self: AllLegsWrite) -> None:
        self.bio.fua = False
        original(self)

    patch.setattr(AllLegsWrite, "submit", submit)


def flush_does_not_reach_the_first_leg(patch: pytest.MonkeyPatch) -> None:
    """An empty flush goes to the last leg only."""
    original = mirror_work.AllLegsWrite.submit

    def submit(self: AllLegsWrite) -> None:
        if self.bio.op is not Op.FLUSH:
            original(self)
            return
        self.pending = 1
        clone = self.bio.clone(self)
        clone.tag = 0
        clone.device = self.mirror.legs[-1].device
        clone.submit()

    patch.setattr(AllLegsWrite, "submit", submit)


def errors_of_later_writes_ignored(patch: pytest.MonkeyPatch) -> None:
    """A leg that has taken two writes is trusted for good."""
    original = AllLegsWrite._over
    taken: WeakKeyDictionary[Mirror, int] = WeakKeyDictionary()

    def over(self: AllLegsWrite) -> None:
        if not self.failed:
            taken[self.mirror] = taken.get(self.mirror, 0) + 1
        elif taken.get(self.mirror, 0) >= 2:
            self.failed = 0
        original(self)

    patch.setattr(AllLegsWrite, "_over", over)


def only_eio_is_an_error(patch: pytest.MonkeyPatch) -> None:
    """A leg that answers ENXIO, as a disk that is gone does, is taken to have the write."""
    original = AllLegsWrite.bio_done

    def bio_done(self: AllLegsWrite, clone: Bio) -> None:
        clone.status = errno.EIO if clone.status == errno.EIO else 0
        original(self, clone)

    patch.setattr(AllLegsWrite, "bio_done", bio_done)


def acknowledged_without_a_log(patch: pytest.MonkeyPatch) -> None:
    """What waits for another log is called done, and is nowhere."""
    original = Kmirrord._fail_now

    def fail_now(self: Kmirrord, bio: Bio) -> None:
        if self.mirror.log_failure:
            bio.complete(0)
        else:
            original(self, bio)

    patch.setattr(Kmirrord, "_fail_now", fail_now)


def errors_of_pieces_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A bio ends as the last of its pieces did."""
    original = MappedIo.over

    def over(self: MappedIo, status: int = 0) -> None:
        if self.clones > 1:
            status = 0
        original(self, status)

    patch.setattr(MappedIo, "over", over)


MIRROR_BUGS = (
    Bug("acknowledged after one leg", "mirror", "survives", acknowledged_after_one_leg),
    Bug("a failed leg is ignored", "mirror", "survives", failed_leg_ignored),
    Bug("no mark before the write", "mirror-disk-log", "crashes", no_mark_before_the_write),
    Bug("the write does not wait for the log", "mirror-disk-log", "crashes", write_does_not_wait_for_the_log),
    Bug("clean while writes are pending", "mirror-disk-log", "crashes", clean_while_writes_are_pending,
        fault="power-cut"),
    Bug("the log device is not flushed", "mirror-disk-log", "crashes", log_device_not_flushed),
    Bug("legs not flushed before clean", "mirror-disk-log", "crashes", legs_not_flushed_before_clean),
    Bug("only the first leg flushed before clean", "mirror-disk-log", "crashes", only_first_leg_flushed),
    Bug("recovery does not wait for writes", "mirror", "crashes", recovery_does_not_wait_for_writes, fault="delay"),
    Bug("delayed writes forgotten", "mirror", "crashes", delayed_writes_forgotten),
    Bug("recovering taken for clean", "mirror", "crashes", recovering_taken_for_clean),
    Bug("recovery forgets the last sector", "mirror", "crashes", recovery_forgets_the_last_sector),
    Bug("recovery from another leg", "mirror-unhandled", "survives", recovery_from_another_leg),
    Bug("held writes forgotten at suspend", "mirror", "watched", held_writes_forgotten_at_suspend),
    Bug("held writes fail at noflush", "mirror", "watched", held_writes_fail_at_noflush),
    Bug("requeue taken for success", "mirror", "watched", requeue_taken_for_success),
    Bug("noflush said too late", "mirror", "watched", requeue_outside_of_noflush),
    Bug("deferred bios not resubmitted", "mirror", "watched", deferred_bios_not_resubmitted),
    Bug("no event for a failed leg", "mirror", "watched", no_event_for_a_failed_leg, fault="fail writes"),
    Bug("event lost between status and wait", "mirror", "watched", event_lost_between_status_and_wait),
    Bug("read errors not retried", "mirror", "reads", read_errors_not_retried, fault="fail reads"),
    Bug("a failed leg is still read", "mirror", "reads", failed_leg_still_read),
    Bug("in sync after a failed write", "mirror", "survives", region_stays_in_sync_after_a_failed_write),
    Bug("not in sync, read from any leg", "mirror", "crashes", nosync_reads_from_any_leg),
    Bug("FUA not passed to the legs", "mirror", "crashes", fua_not_passed_to_the_legs),
    Bug("flush does not reach the first leg", "mirror", "crashes", flush_does_not_reach_the_first_leg),
    Bug("errors of later writes ignored", "mirror", "wears", errors_of_later_writes_ignored, fault="fail after"),
    Bug("only EIO is an error", "mirror", "detached", only_eio_is_an_error, fault="detach"),
    Bug("acknowledged without a log", "mirror-disk-log", "survives", acknowledged_without_a_log, fault="fail log"),
    Bug("errors of pieces forgotten", "linear", "scratched", errors_of_pieces_forgotten, fault="fail range"),
    Bug("2.6.32: legs and log are not flushed", "mirror-disk-log", "crashes", kernel="2.6.32"),
)
