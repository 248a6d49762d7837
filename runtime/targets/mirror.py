"""dm-mirror: the same data on every leg (kernel: drivers/md/dm-raid1.c).

A write is put on a list; the worker (``kmirrord``) passes over its lists in a fixed order, marks
the log, and writes to all legs.  With ``handle_errors`` a write that failed on a leg is *held*: it
is neither acknowledged nor failed until the mirror is suspended, and then ends with REQUEUE
(noflush) or EIO.  The rules are those of mirror.md; the recorded cases are b-mirror and
c-mirror-failure.  Where eras differ the flags of :mod:`dmspec.runtime.eras` are asked.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import REQUEUE, Bio, Op
from ..block import BlockDevice
from ..dirty_log import DirtyLog, create_log
from ..errors import DmError
from ..frames import WaitForWork
from ..kcopyd import Copier, CopyJob
from ..region_hash import Region, RegionHash, State, counts
from ..signature import Kind, flag, opt, pos, signature
from ..task import Frame, Work
from .base import INCOMPLETE, KILL, REMAPPED, SUBMITTED, Target, TargetType, parse_number, smallest
from .mirror_work import (
    DestroyMirror,
    FlushLegs,
    Kmirrord,
    Leg,
    LegError,
    Postsuspend,
    Presuspend,
    ResumeMirror,
    TriggerEvent,
)

MAX_LEGS: Final = 9


class Mirror(Target):
    """``suspending`` is set from presuspend to resume; ``holds`` are the writes that wait for one."""

    has_end_io = True
    in_background = True
    num_discard_bios = 1
    discard_zeroes = True

    def construct(self, argv: list[str]) -> Frame | None:
        """The worker runs once before the table can be live, so what it raises then is not seen."""
        words = list(argv)
        self.log = self._construct_log(words)
        count = words.pop(0) if words else ""
        if not count.isdigit() or not 2 <= int(count) <= MAX_LEGS:
            raise DmError(errno.EINVAL, "Invalid number of mirrors")
        if len(words) < 2 * int(count):
            raise DmError(errno.EINVAL, "Too few mirror arguments")
        self.legs: list[Leg] = []
        for _ in range(int(count)):
            path, offset_word = words.pop(0), words.pop(0)
            offset = parse_number(offset_word, "Invalid offset")
            self.legs.append(Leg(self.get_device(path, "Device lookup failure"), offset))
        self._construct_features(words)
        if words:
            raise DmError(errno.EINVAL, "Too many mirror arguments")
        self._construct_state()
        return WaitForWork(self.work)

    def _construct_log(self, words: list[str]) -> DirtyLog:
        if len(words) < 2:
            raise DmError(errno.EINVAL, "Insufficient mirror log arguments")
        kind, count = words.pop(0), words.pop(0)
        if not count.isascii() or not count.isdigit():
            raise DmError(errno.EINVAL, "Invalid mirror log argument count")
        if len(words) < int(count):
            raise DmError(errno.EINVAL, "Insufficient mirror log arguments")
        log_words = words[:int(count)]
        del words[:int(count)]
        try:
            return create_log(self, kind, log_words)
        except DmError:
            raise DmError(errno.EINVAL, "Error creating mirror dirty log") from None

    def _construct_features(self, words: list[str]) -> None:
        self.handle_errors = self.keep_log = False
        if not words:
            return
        count = words.pop(0)
        if not count.isascii() or not count.isdigit():
            raise DmError(errno.EINVAL, "Invalid number of features")
        if int(count) > len(words):
            raise DmError(errno.EINVAL, "Not enough arguments to support feature count")
        for _ in range(int(count)):
            word = words.pop(0)
            if word == "handle_errors":
                self.handle_errors = True
            elif word == "keep_log" and self.stack.era.keep_log:
                self.keep_log = True
            else:
                raise DmError(errno.EINVAL, "Unrecognised feature requested")
        if self.keep_log and not self.handle_errors:
            raise DmError(errno.EINVAL, "keep_log feature requires the handle_errors feature")

    def _construct_state(self) -> None:
        name = self.table.md.name
        engine = self.stack.engine
        self.max_io_sectors = self.log.region_sectors
        self.num_flush_bios = 1 if self.stack.era.flushes_reach_legs else 0
        self.default = 0
        self.in_sync = False
        self.log_failure = False
        self.leg_failure = False
        self.suspending = False
        self.reads: list[Bio] = []
        self.writes: list[Bio] = []
        self.failures: list[Bio] = []
        self.holds: list[Bio] = []
        self.regions = RegionHash(name, self.log, self.begin, self)
        self.copier = Copier(self.stack, f"of mirror {name}")
        self.work = Work(engine, f"kmirrord {name}", Kmirrord(self))
        self.trigger = Work(engine, f"mirror event {name}", TriggerEvent(self))
        self.wake()

    # What the core asks

    def map(self, bio: Bio) -> int:
        if bio.op is not Op.READ:
            bio.hook = self.regions.region_of(bio) if counts(bio) else None
            self.writes.append(bio)
            self.wake()
            return SUBMITTED
        if not self.log.in_sync(self.regions.region_of(bio)):
            if bio.readahead:
                return KILL
            self.reads.append(bio)
            self.wake()
            return SUBMITTED
        leg = self.choose_leg()
        if leg is None:
            return KILL
        bio.hook = leg
        self.aim(bio, leg)
        return REMAPPED

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...] | None:
        """A read of what is in sync, and a write to a region that is, and that the log has marked or can mark at once.

        Such a write does what the worker would do with it (``sort_writes``, ``write``).
        """
        if any(leg.error_count for leg in self.legs):
            return None
        if bio.op is Op.READ:
            return self.by_map(bio) if self.log.in_sync(self.regions.region_of(bio)) else None
        if self.suspending or self.log_failure or not self.regions.count_at_once(bio):
            return None
        bio.hook = self.regions.region_of(bio)
        distance = bio.first_sector - self.begin
        return tuple((leg.device, leg.offset + distance) for leg in self.legs)

    def end_io(self, bio: Bio, status: int) -> int:
        if bio.op is not Op.READ:
            if bio.hook is not None:
                self.regions.dec_pending(bio.hook)
            return status
        if not status or status == errno.EOPNOTSUPP or bio.readahead:
            return status
        leg = bio.hook
        if leg is None:
            self.log_text("err", "Mirror read failed.")
            return status
        self.log_text("err", f"Mirror read failed from {leg.device.number}. Trying alternative device.")
        self.fail_leg(leg, LegError.READ)
        if self.read_again(bio):
            return INCOMPLETE
        self.log_text("err", "All replicated volumes dead, failing I/O")
        return status

    def presuspend(self) -> Frame | None:
        return Presuspend(self)

    def postsuspend(self) -> Frame | None:
        return Postsuspend(self)

    def resume(self) -> Frame | None:
        return ResumeMirror(self)

    def destroy(self) -> Frame | None:
        return DestroyMirror(self)

    def info(self) -> str:
        devices = " ".join(leg.device.number for leg in self.legs)
        letters = "".join(leg.letter for leg in self.legs)
        return (f"{len(self.legs)} {devices} {self.log.sync_count}/{self.log.region_count} 1 {letters} "
                f"{self.log.info()}")

    def measurement(self) -> list[str]:
        words = [f"nr_mirrors={len(self.legs)}"]
        for index, leg in enumerate(self.legs):
            words += [f"mirror_device_{index}={leg.device.number}", f"mirror_device_{index}_status={leg.letter}"]
        flags = (("handle_errors", self.handle_errors), ("keep_log", self.keep_log))
        return [*words, *(f"{word}={'y' if on else 'n'}" for word, on in flags), "log_type_status="]

    def parameters(self) -> str:
        places = "".join(f" {leg.device.number} {leg.offset}" for leg in self.legs)
        features = [word for word, on in (("handle_errors", self.handle_errors), ("keep_log", self.keep_log)) if on]
        tail = f" {len(features)} {' '.join(features)}" if features else ""
        return f"{self.log.parameters()}{len(self.legs)}{places}{tail}"

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        for leg in self.legs:
            yield leg.device, leg.offset, self.length

    # Lists and legs

    def wake(self) -> None:
        self.work.queue()

    def give_back(self, bios: list[Bio]) -> None:
        """Writes that waited for their region's recovery."""
        if bios:
            self.writes.extend(bios)
            self.wake()

    def aim(self, bio: Bio, leg: Leg) -> None:
        bio.device = leg.device
        bio.sector = leg.offset + bio.first_sector - self.begin

    def choose_leg(self) -> Leg | None:
        """The default leg, or, walking down from it, the first without errors."""
        for step in range(len(self.legs)):
            leg = self.legs[(self.default - step) % len(self.legs)]
            if not leg.error_count:
                return leg
        return None

    def read_again(self, bio: Bio) -> bool:
        """Queue a failed read once more, if there is a leg to read it from."""
        region_ok = self.log.in_sync(self.regions.region_of(bio)) and self.choose_leg() is not None
        if self.legs[self.default].error_count and not region_ok:
            return False
        bio.hook = None
        bio.status = 0
        self.reads.append(bio)
        self.wake()
        return True

    def fail_leg(self, leg: Leg, error: LegError) -> None:
        """``fail_mirror``: count the error; of each kind of error of a leg only the first is told."""
        self.leg_failure = True
        leg.error_count += 1
        if error in leg.errors:
            return
        leg.errors |= error
        if not self.handle_errors:
            return
        if leg is self.legs[self.default]:
            self._move_default(leg)
        self.trigger.queue()

    def _move_default(self, leg: Leg) -> None:
        if not self.in_sync and not self.keep_log:
            self.log_text("err", f"Primary mirror ({leg.device.number}) failed while out-of-sync: Reads may fail.")
            return
        for index, other in enumerate(self.legs):
            if not other.error_count:
                self.default = index
                return
        self.log_text("warning", "All sides of mirror have failed.")

    def hold(self, bio: Bio) -> None:
        """Park a write until the mirror is suspended; while it is, end it."""
        noflush = self.table.md.noflush_suspending
        if not self.suspending or not (noflush or self.stack.era.flush_suspend_fails_held):
            self.stack.engine.note(self.table.md.name, f"{bio!r} is held: a leg or the log has failed")
            self.holds.append(bio)
        elif noflush:
            bio.complete(REQUEUE)
        else:
            bio.complete(errno.EIO)

    def held(self) -> Iterator[str]:
        """Held writes, and since when."""
        if self.holds:
            count = len(self.holds)
            broken = [leg.device.name for leg in self.legs if leg.error_count]
            why = f"since leg {' and '.join(broken)} failed" if broken else "since its log failed"
            yield f"{count} write{'s' if count > 1 else ''} held {why}"

    def compare_areas(self) -> Iterator[list[tuple[BlockDevice, int, int]]]:
        """What is equal on the legs: every region in sync without a write on its way."""
        size = self.log.region_sectors
        for key in range(self.log.region_count):
            if self.log.in_sync(key) and self.regions.state(key) is State.CLEAN:
                length = min(size, self.length - key * size)
                yield [(leg.device, leg.offset + key * size, length) for leg in self.legs]

    def flush_legs(self) -> Frame:
        return FlushLegs(self)

    def recover(self, region: Region) -> None:
        """Copy a region from the default leg to all others."""
        size = self.log.region_sectors
        first = region.key * size
        source = self.legs[self.default]
        others = [leg for leg in self.legs if leg is not source]
        self.copier.copy(CopyJob(
            (source.device, source.offset + first), [(leg.device, leg.offset + first) for leg in others],
            min(size, self.length - first), self, tag=(region, others),
            ignore_errors=not self.handle_errors))

    def copied(self, job: CopyJob) -> Frame | None:
        """``recovery_complete``."""
        assert isinstance(job.tag, tuple)
        region, others = job.tag
        if job.read_error:
            self.log_text("err", "Unable to read primary mirror during recovery")
            self.fail_leg(self.legs[self.default], LegError.SYNC)
        if job.write_errors:
            self.log_text("err", f"Write error during recovery (error = {job.write_errors:#x})")
            for index, leg in enumerate(others):
                if job.write_errors >> index & 1:
                    self.fail_leg(leg, LegError.SYNC)
        self.regions.end_recovery(region, not job.failed)
        return None

    def log_text(self, level: str, text: str) -> None:
        self.stack.log(level, f"device-mapper: raid1: {text}")


def _params(args: dict[str, Any]) -> list[str]:
    """``log=core`` or ``log=DEVICE`` (a disk log); ``sync`` and ``nosync`` go to the log."""
    log_words = [] if args["log"] == "core" else [args["log"]]
    log_words.append(str(args["region"] // 512))
    log_words += [word for word in ("sync", "nosync") if args[word]]
    words = ["core" if args["log"] == "core" else "disk", str(len(log_words)), *log_words]
    words.append(str(len(args["legs"])))
    for name, offset_bytes in args["legs"]:
        words += [name, str(offset_bytes // 512)]
    features = [word for word in ("handle_errors", "keep_log") if args[word]]
    return words + ([str(len(features)), *features] if features else [])


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    first = 2 + int(argv[1])
    count = int(argv[first])
    places = [(argv[first + 1 + 2 * index], int(argv[first + 2 + 2 * index])) for index in range(count)]
    return smallest(places, size_of)


def _assembled(argv: list[str]) -> list[str]:
    """A log on disk says what is in sync; without one nothing is."""
    count = int(argv[1])
    log_words = [word for word in argv[2:2 + count] if word not in ("sync", "nosync")]
    return [argv[0], str(len(log_words)), *log_words, *argv[2 + count:]]


MIRROR: Final = TargetType(
    "mirror", (1, 14, 0),
    signature(
        pos("legs", Kind.DEVICE_AT, repeated=True), opt("log", Kind.DEVICE, "core"),
        opt("region", Kind.SIZE, 524288), flag("sync"), flag("nosync"),
        flag("handle_errors"), flag("keep_log"),
    ), _params, "The same data on every leg.", Mirror, _natural_length, assembled=_assembled)
