"""What happens inside a mirror: its worker, I/O to its legs, suspend and resume."""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING

from ..bio import Bio, Op
from ..block import BlockDevice
from ..frames import WaitForBios
from ..region_hash import State, counts
from ..task import DONE, Enter, Frame, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .mirror import Mirror


class LegError(enum.IntFlag):
    """What kinds of error a leg has had; each is told only once."""

    WRITE = 1
    SYNC = 2
    READ = 4
    FLUSH = 8


class Leg:
    """One side of a mirror; ``error_count`` excludes it from reads, not from writes."""

    __slots__ = ("device", "error_count", "errors", "offset")

    def __init__(self, device: BlockDevice, offset: int) -> None:
        self.device = device
        self.offset = offset
        self.error_count = 0
        self.errors = LegError(0)

    @property
    def letter(self) -> str:
        if not self.error_count:
            return "A"
        for error, letter in ((LegError.FLUSH, "F"), (LegError.WRITE, "D"), (LegError.SYNC, "S"),
                              (LegError.READ, "R")):
            if error in self.errors:
                return letter
        return "U"


class Kmirrord(Frame):
    """``do_mirror``: states, recovery, reads, writes, failures, always in this order."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        mirror = self.mirror
        self.reads, mirror.reads = mirror.reads, []
        self.writes, mirror.writes = mirror.writes, []
        self.failures, mirror.failures = mirror.failures, []
        mirror.regions.update_states(mirror.handle_errors)
        frame = mirror.log.flush()
        return Enter(frame, "recover") if frame is not None else self.recover(task)

    def recover(self, task: Task) -> Outcome:
        mirror = self.mirror
        mirror.regions.prepare_recovery()
        while (region := mirror.regions.next_quiesced()) is not None:
            mirror.recover(region)
        if not mirror.in_sync and mirror.log.sync_count == mirror.log.region_count:
            mirror.table.event()
            mirror.in_sync = True
            mirror.leg_failure = False
            for leg in mirror.legs:
                leg.error_count = 0
                leg.errors = LegError(0)
        self.read()
        return self.sort_writes(task)

    def read(self) -> None:
        """Only a region in sync may be read from another leg than the default one."""
        mirror = self.mirror
        for bio in self.reads:
            if mirror.regions.state(mirror.regions.region_of(bio)) in (State.CLEAN, State.DIRTY):
                leg = mirror.choose_leg()
            else:
                leg = mirror.legs[mirror.default]
                leg = None if leg.error_count else leg
            if leg is None:
                bio.complete(errno.EIO)
            else:
                LegRead(mirror, leg, bio).submit()
        self.reads = []

    def sort_writes(self, task: Task) -> Outcome:
        """Mark the log for what is about to be written; nothing is written before that is done."""
        mirror = self.mirror
        self.to_all: list[Bio] = []
        self.to_default: list[Bio] = []
        self.after_recovery: list[Bio] = []
        if not self.writes:
            return self.fail(task)
        for bio in self.writes:
            state = mirror.regions.state(mirror.regions.region_of(bio)) if counts(bio) else State.CLEAN
            if state is State.NOSYNC:
                self.to_default.append(bio)
            elif state is State.RECOVERING:
                self.after_recovery.append(bio)
            else:
                self.to_all.append(bio)
        self.writes = []
        mirror.regions.inc_pending(self.to_all)
        mirror.regions.inc_pending(self.to_default)
        frame = mirror.log.flush()
        self.result = 0
        return Enter(frame, "write") if frame is not None else self.write(task)

    def write(self, task: Task) -> Outcome:
        mirror = self.mirror
        era = mirror.stack.era
        if self.result < 0:
            mirror.log_failure = True
        if mirror.log_failure and (mirror.handle_errors or not era.log_failure_blocks_only_handled):
            if era.log_failure_fails_writes:
                self._fail_all()
            mirror.failures.extend(self.to_all)
            if self.to_all:
                mirror.wake()
        else:
            for bio in self.to_all:
                AllLegsWrite(mirror, bio).submit()
        for bio in self.after_recovery:
            mirror.regions.delay(bio)
        for bio in self.to_default:
            if mirror.leg_failure and mirror.handle_errors and not mirror.keep_log and \
                    era.nosync_writes_join_failures:
                mirror.failures.append(bio)
                mirror.wake()
            else:
                mirror.aim(bio, mirror.legs[mirror.default])
                bio.submit()
        self.to_all, self.to_default, self.after_recovery = [], [], []
        return self.fail(task)

    def _fail_all(self) -> None:
        """Before b80aa7a0c268 nobody waited for another log."""
        bios, self.to_all = self.to_all, []
        for bio in bios:
            bio.complete(errno.EIO)

    def fail(self, task: Task) -> Outcome:
        """``do_failures``."""
        del task
        mirror = self.mirror
        failures, self.failures = self.failures, []
        for bio in failures:
            if mirror.stack.era.holds_failed_writes:
                self._fail_now(bio)
            else:
                self._fail_before_holds(bio)
        return DONE

    def _fail_now(self, bio: Bio) -> None:
        mirror = self.mirror
        if not mirror.log_failure:
            mirror.in_sync = False
            mirror.regions.mark_nosync(bio)
        if all(leg.error_count for leg in mirror.legs) or (mirror.keep_log and mirror.log_failure):
            bio.complete(errno.EIO)
        elif mirror.handle_errors and not mirror.keep_log:
            mirror.hold(bio)
        else:
            bio.complete(0)

    def _fail_before_holds(self, bio: Bio) -> None:
        """Before 2.6.33 a failed leg never kept a write waiting, a failed log did.

        That kernel looked at such a write again every 200 ms; here it waits for what it looked for.
        """
        mirror = self.mirror
        if mirror.log_failure:
            mirror.hold(bio)
            return
        mirror.in_sync = False
        mirror.regions.mark_nosync(bio)
        bio.complete(0)


class AllLegsWrite:
    """A write, flush or discard on its way to every leg."""

    __slots__ = ("bio", "failed", "mirror", "pending")

    def __init__(self, mirror: Mirror, bio: Bio) -> None:
        self.mirror = mirror
        self.bio = bio
        self.pending = len(mirror.legs)
        self.failed = 0

    def submit(self) -> None:
        for index, leg in enumerate(self.mirror.legs):
            clone = self.bio.clone(self)
            clone.tag = index
            clone.device = leg.device
            if self.bio.op is not Op.FLUSH:
                clone.sector = leg.offset + self.bio.first_sector - self.mirror.begin
            clone.submit()

    def bio_done(self, clone: Bio) -> None:
        if clone.status:
            self.failed |= 1 << clone.tag
        self.pending -= 1
        if not self.pending:
            self._over()

    def _over(self) -> None:
        """``write_callback``."""
        mirror, bio = self.mirror, self.bio
        if not self.failed:
            bio.complete(0)
            return
        if bio.op is Op.DISCARD:
            bio.complete(errno.EOPNOTSUPP)
            return
        for index, leg in enumerate(mirror.legs):
            if self.failed >> index & 1:
                mirror.fail_leg(leg, LegError.WRITE)
        if not mirror.stack.era.holds_failed_writes:
            if self.failed == (1 << len(mirror.legs)) - 1:
                bio.complete(errno.EIO)
                return
            if not mirror.handle_errors:
                bio.complete(0)
                return
        mirror.failures.append(bio)
        mirror.wake()


class LegRead:
    """A read that the worker sent to one leg."""

    __slots__ = ("bio", "leg", "mirror")

    def __init__(self, mirror: Mirror, leg: Leg, bio: Bio) -> None:
        self.mirror = mirror
        self.leg = leg
        self.bio = bio

    def submit(self) -> None:
        clone = self.bio.clone(self)
        clone.device = self.leg.device
        clone.sector = self.leg.offset + self.bio.first_sector - self.mirror.begin
        clone.submit()

    def bio_done(self, clone: Bio) -> None:
        """``read_callback``."""
        mirror, bio = self.mirror, self.bio
        if not clone.status:
            bio.complete(0)
            return
        mirror.fail_leg(self.leg, LegError.READ)
        name = self.leg.device.number
        if mirror.read_again(bio):
            mirror.log_text("warning", f"Read failure on mirror device {name}.  Trying alternative device.")
        else:
            mirror.log_text("err", f"Read failure on mirror device {name}.  Failing I/O.")
            bio.complete(errno.EIO)


class FlushLegs(Frame):
    """``mirror_flush``: the log wants the legs to hold what is to be called clean."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        del task
        bios = [Bio(Op.FLUSH, leg.device, 0, 0) for leg in self.mirror.legs]
        return Enter(WaitForBios(bios, f"a flush of the legs of {self.mirror.table.md.name}"), "flushed")

    def flushed(self, task: Task) -> Outcome:
        del task
        failed = [leg for leg, status in zip(self.mirror.legs, self.result, strict=True) if status]
        for leg in failed:
            self.mirror.fail_leg(leg, LegError.FLUSH)
        return Return(-errno.EIO if failed else 0)


class TriggerEvent(Frame):
    """Raising an event has a work item of its own."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        del task
        self.mirror.table.event()
        return DONE


class Presuspend(Frame):
    """``mirror_presuspend``: end held writes, stop recovery, let the worker finish."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        self.mirror.suspending = True
        if self.mirror.stack.era.holds_before_recovery_stop:
            self._end_holds()
        return self.stop_recovery(task)

    def _end_holds(self) -> None:
        holds, self.mirror.holds = self.mirror.holds, []
        for bio in holds:
            self.mirror.hold(bio)

    def stop_recovery(self, task: Task) -> Outcome:
        self.at = "stop_recovery"
        regions = self.mirror.regions
        regions.stop_wanted = not regions.recovery_slots
        if regions.stop_wanted:
            return Wait(regions.slot_free, f"for recovery of {self.mirror.table.md.name}, to stop it")
        regions.recovery_slots -= 1
        return self.flush_worker(task)

    def flush_worker(self, task: Task) -> Outcome:
        del task
        self.at = "flush_worker"
        if self.mirror.work.busy:
            return Wait(self.mirror.work.idle, f"for {self.mirror.work.name}")
        if not self.mirror.stack.era.holds_before_recovery_stop:
            self._end_holds()
        return DONE


class Postsuspend(Frame):
    """``mirror_postsuspend``: the log writes down what it knows.

    The kernel does not wait for a worker that the last writes have woken, and is right as long as that one is quick: if
    another table were resumed over the same log meanwhile, it would write what is no longer true over that table's log.
    A live mount's workers can be slow, so there it is waited for.
    """

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        del task
        mirror = self.mirror
        if mirror.stack.waits_for_workers and mirror.work.busy:
            return Wait(mirror.work.idle, f"for {mirror.work.name}")
        frame = mirror.log.postsuspend()
        return Enter(frame, "logged") if frame is not None else DONE

    def logged(self, task: Task) -> Outcome:
        del task
        if self.result < 0:
            self.mirror.log_text("warning", "log postsuspend failed")
        return DONE


class ResumeMirror(Frame):
    """``mirror_resume``: the log is read, then recovery may begin."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        self.mirror.suspending = False
        frame = self.mirror.log.resume()
        self.result = 0
        return Enter(frame, "go") if frame is not None else self.go(task)

    def go(self, task: Task) -> Outcome:
        del task
        if self.result < 0:
            self.mirror.log_text("warning", "log resume failed")
        self.mirror.regions.start_recovery()
        return DONE


class DestroyMirror(Frame):
    """``mirror_dtr``: the workers finish and are gone."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        del task
        mirror = self.mirror
        for work in (mirror.work, mirror.trigger, mirror.copier.work):
            if work.busy:
                return Wait(work.idle, f"for {work.name} to finish")
        for work in (mirror.work, mirror.trigger, mirror.copier.work):
            work.end()
        return DONE
