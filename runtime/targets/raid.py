"""raid, level raid1: a mirror that helps itself (kernel: drivers/md/dm-raid.c, raid1.c, md.c, md-bitmap.c).

Facts: the reference (targets.md, section 6) and the recording h-others (Linux 6.1).

A leg that fails a write is marked faulty by the array itself; the superblocks of the other legs say so before the
write is acknowledged, and an event is raised.  Nothing waits for user space, so nothing is ever held.

Emulated: all of raid1's table parameters (rates, ``daemon_sleep`` and ``max_write_behind`` are kept and printed, they
change nothing), superblocks, the write-intent bitmap (see :mod:`.raid_superblock`), resync, recover, check and repair
with their progress and log lines, degraded operation, rebuild, revival of legs at a later resume, read errors that are
repaired from another leg, messages, growing.

Not emulated: other levels, reshapes (``delta_disks``, ``data_offset``), bad-block lists, write-behind, the throttle of
a resync, and md's safe mode, which writes the superblocks each time the array was idle for a while: so the ``events``
in them are fewer than a kernel's.

Different on purpose, always on the safe side: a mark of the bitmap is removed from disk only after a flush of the
legs, and not by a timer but when the bitmap is written anyway, after a resync and at a suspend; marks that are found
at a load are synchronised again whatever the superblocks say; the first resume reads the superblocks once more, so
a table may be loaded while another one of the same legs is in use; a leg that failed while it was being rebuilt is
copied whole.  Reads are spread over the legs by their address, and come from the first leg during a resync.
As in md, all legs of a new array count as in sync while it is synchronised: if the first one fails then, what it
held before the array was made is gone.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..signature import Kind, flag, opt, pos, signature
from ..task import Frame, Latch, Work
from .base import INCOMPLETE, KILL, REMAPPED, SUBMITTED, Target, TargetType, smallest
from .raid_fix import FixReads
from .raid_load import Assemble, Postsuspend, Preresume, ResumeRaid
from .raid_superblock import MAX_SECTOR, WriteIntent
from .raid_sync import SyncPass
from .raid_table import RaidTable
from .raid_work import DestroyRaid, Raid1d, RaidFlush, RaidWrite, RaiseEvent

if TYPE_CHECKING:
    from ..table import Table

READ_SPREAD_SECTORS: Final = 2048


class RaidLeg:
    """``recovery_offset``: how far it has been rebuilt; ``partial``: it lacks only what the bitmap says.

    ``fresh``: it had no superblock, or is to be rebuilt as if it had none.
    """

    __slots__ = ("data", "faulty", "fresh", "in_sync", "index", "meta", "partial", "recovery_offset", "write_mostly")

    def __init__(self, index: int, meta: BlockDevice | None, data: BlockDevice | None) -> None:
        self.index = index
        self.meta = meta
        self.data = data
        self.faulty = False
        self.in_sync = True
        self.fresh = False
        self.partial = False
        self.write_mostly = False
        self.recovery_offset = MAX_SECTOR

    @property
    def alive(self) -> bool:
        return self.data is not None and not self.faulty

    @property
    def readable(self) -> bool:
        return self.alive and self.in_sync


class Raid(Target):
    """``recovery_cp``: how far the array is in sync; ``completed``: how far the present action has come.

    ``stopped`` is set from the suspend to the resume and before the first one, ``frozen`` by a message.
    ``wanted`` is an action that somebody asked for; ``gave_up``: no leg could be read, so no resync is begun.
    Writes are in ``writes`` until the worker takes them, in ``waiting`` while a barrier is over their range,
    in ``writing`` while they are under way, and in ``ended`` when a leg has failed them.
    """

    has_end_io = True
    discard_zeroes = True

    def __init__(self, table: Table, begin: int, length: int) -> None:
        super().__init__(table, begin, length)
        name = table.md.name
        engine = self.stack.engine
        self.legs: list[RaidLeg] = []
        self.events = 0
        self.recovery_cp = MAX_SECTOR
        self.stored_sectors = 0
        self.first_use = self.update_superblocks = False
        self.prepared = self.started = False
        self.stopped = True
        self.frozen = self.interrupt = self.gave_up = False
        self.action = self.wanted = self.last_action = ""
        self.completed = 0
        self.mismatches = 0
        self.superblocks_changed = self.clean_wanted = False
        self.writes: list[Bio] = []
        self.waiting: list[Bio] = []
        self.writing: list[RaidWrite] = []
        self.ended: list[RaidWrite] = []
        self.barriers: list[range] = []
        self.quiet = Latch(f"writes of {name}")
        self.bad_reads: list[Bio] = []
        self.work = Work(engine, f"raid1d {name}", Raid1d(self))
        self.sync = Work(engine, f"md sync {name}", SyncPass(self))
        self.fixer = Work(engine, f"md read repair {name}", FixReads(self))
        self.event = Work(engine, f"md event {name}", RaiseEvent(self))

    # The table's side

    def construct(self, argv: list[str]) -> Frame | None:
        """A kernel before 2.6.38 has no such target."""
        if not self.stack.era.raid:
            self.stack.log("err", f"device-mapper: table: {self.table.md.number}: raid: unknown target type")
            raise DmError(errno.EINVAL)
        self.params = RaidTable(self.length, self.log_raid)
        self.params.parse(argv)
        self.max_io_sectors = self.params.numbers.get("region_size", 0)
        self.intent = WriteIntent(self.length, self.params.region_sectors)
        for index, pair in enumerate(self.params.pairs):
            self._open(index, *pair)
        for leg in self.legs:
            if leg.data is not None and leg.data.sectors < self.length:
                raise DmError(errno.EINVAL, "Component device(s) too small")
        if all(leg.data is None for leg in self.legs):
            raise DmError(errno.EINVAL, "Invalid rdev size")
        can_discard = all(leg.data is not None and leg.data.supports_discard for leg in self.legs)
        self.num_discard_bios = 1 if can_discard else 0
        return Assemble(self)

    def _open(self, index: int, meta: str, data: str) -> None:
        rebuild = index in self.params.rebuild
        leg = RaidLeg(index, None, None)
        if not meta:
            raise DmError(errno.EINVAL, "Unknown error")
        if meta != "-":
            leg.meta = self.get_device(meta, "RAID metadata device lookup failure")
        if not data:
            raise DmError(errno.EINVAL, "Unknown error")
        if data != "-":
            leg.data = self.get_device(data, "RAID device lookup failure")
        elif rebuild:
            raise DmError(errno.EINVAL, "Drive designated for rebuild not specified")
        elif leg.meta is not None:
            raise DmError(errno.EINVAL, "No data device supplied with metadata device")
        for other in self.legs:
            if leg.data is not None and other.data is leg.data:
                name = leg.data.name
                self.stack.log("warning", f"mdX: WARNING: {name} appears to be on the same physical disk as {name}.")
                self.stack.log("warning", "True protection against single-disk failure might be compromised.")
        leg.write_mostly = index in self.params.write_mostly
        self.legs.append(leg)

    def preresume(self) -> Frame | None:
        return Preresume(self)

    def resume(self) -> Frame | None:
        return ResumeRaid(self)

    def postsuspend(self) -> Frame | None:
        return Postsuspend(self)

    def destroy(self) -> Frame | None:
        return DestroyRaid(self)

    def measurement(self) -> list[str]:
        state = self.state()
        resyncing = self.resyncing(state)
        return ["raid_type=raid1", f"raid_disks={len(self.legs)}", f"raid_state={state}",
                *(f"raid_device_{index}_status={self._letter(leg, state, resyncing=resyncing)}"
                  for index, leg in enumerate(self.legs))]

    def info(self) -> str:
        state = self.state()
        resyncing = self.resyncing(state)
        letters = "".join(self._letter(leg, state, resyncing=resyncing) for leg in self.legs)
        done = self.recovery_cp if state == "idle" else self.completed
        mismatches = self.mismatches if self.last_action == "check" else 0
        return (f"raid1 {len(self.legs)} {letters} {min(done, self.length)}/{self.length} {state} "
                f"{mismatches} 0 -")

    def state(self) -> str:
        """``decipher_sync_action``."""
        if self.frozen or self.stopped:
            return "frozen"
        return self.action or self.next_action() or "idle"

    def resyncing(self, state: str) -> bool:
        """Whether no leg counts as in sync: during a resync, and as long as the array was never resumed."""
        return state == "resync" or (state == "frozen" and not self.started)

    def _letter(self, leg: RaidLeg, state: str, *, resyncing: bool) -> str:
        if leg.data is None:
            return "-"
        if leg.faulty:
            return "D"
        return "a" if resyncing or (not leg.in_sync and state not in ("check", "repair")) else "A"

    def parameters(self) -> str:
        names = [device.number if device is not None else "-" for leg in self.legs for device in (leg.meta, leg.data)]
        return f"{self.params.parameters()} {len(self.legs)} {' '.join(names)}"

    def message(self, argv: list[str]) -> str:
        """Anything but ``frozen`` ends a freeze, even what is then refused.

        A suspended array is busy, as it is since Linux 6.8; before, a message then ended the freeze of the suspend.
        """
        if self.stopped:
            raise DmError(errno.EBUSY)
        word = argv[0].lower()
        self.frozen = word == "frozen"
        if word in ("frozen", "idle"):
            self.interrupt = bool(self.action)
            self.wanted = ""
        elif self.state() != "idle":
            raise DmError(errno.EBUSY)
        elif word in ("check", "repair"):
            self.wanted = word
        elif word not in ("resync", "recover"):
            raise DmError(errno.EINVAL)
        if word != "frozen":
            self.gave_up = False
            self.start_sync()
        return ""

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        """The data devices only, as in the kernel."""
        for leg in self.legs:
            if leg.data is not None:
                yield leg.data, 0, self.length

    def write_areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        yield from self.areas()
        for leg in self.legs:
            if leg.meta is not None:
                yield leg.meta, 0, leg.meta.sectors

    def compare_areas(self) -> Iterator[list[tuple[BlockDevice, int, int]]]:
        """Every region that is in sync, without a write on its way."""
        size = self.intent.region_sectors
        legs = [leg.data for leg in self.legs if leg.readable and leg.data is not None]
        for region in range(self.intent.count):
            if self.intent.quiet(region) and not self.writes and not self.waiting:
                first = region * size
                yield [(device, first, min(size, self.length - first)) for device in legs]

    # I/O

    def map(self, bio: Bio) -> int:
        bio.sector -= self.begin
        if bio.op is Op.READ:
            leg = self.choose(bio.sector)
            if leg is None or leg.data is None:
                return KILL
            bio.hook = leg
            bio.device = leg.data
            return REMAPPED
        if bio.op is Op.FLUSH:
            RaidFlush(self, bio).submit()
        else:
            self.writes.append(bio)
            self.work.queue()
        return SUBMITTED

    def end_io(self, bio: Bio, status: int) -> int:
        """A read that failed is given up only when there is no other leg to read."""
        leg, bio.hook = bio.hook, None
        if not status or leg is None or bio.readahead or not any(o.readable for o in self.legs if o is not leg):
            return status
        bio.hook = leg
        self.bad_reads.append(bio)
        self.fixer.queue()
        return INCOMPLETE

    def choose(self, sector: int) -> RaidLeg | None:
        """The leg to read from: one that is in sync, a write-mostly one only if there is no other."""
        legs = self.sources()
        usable = [leg for leg in legs if not leg.write_mostly] or legs
        if not usable:
            return None
        spread = 0 if self.recovery_cp != MAX_SECTOR else sector // READ_SPREAD_SECTORS
        return usable[spread % len(usable)]

    def sources(self) -> list[RaidLeg]:
        """What a resync reads from, the best first."""
        return sorted((leg for leg in self.legs if leg.readable), key=lambda leg: leg.write_mostly)

    # What the workers share

    @property
    def degraded(self) -> bool:
        return not all(leg.readable for leg in self.legs)

    @property
    def has_metadata(self) -> bool:
        return any(leg.meta is not None for leg in self.legs)

    @property
    def has_bitmap(self) -> bool:
        """With ``sync`` in the table nothing is read from the metadata devices, not even where the bitmap would be."""
        return self.has_metadata and not self.params.sync

    def metadata_legs(self) -> list[tuple[RaidLeg, BlockDevice]]:
        """Those whose superblocks are written."""
        return [(leg, leg.meta) for leg in self.legs if leg.alive and leg.meta is not None]

    def blocked(self, first: int, sectors: int) -> bool:
        """Whether a barrier is over a range."""
        return any(first < barrier.stop and barrier.start < first + sectors for barrier in self.barriers)

    def busy(self, area: range) -> bool:
        """Whether a write to the area is under way."""
        return any(write.first < area.stop and area.start < write.first + write.sectors for write in self.writing)

    def lower(self, barrier: range) -> None:
        """The barrier is gone; what waited for it is taken up again."""
        self.barriers.remove(barrier)
        if self.waiting:
            self.writes = self.waiting + self.writes
            self.waiting = []
            self.work.queue()

    def next_action(self) -> str:
        """What the sync thread is to do next, if anything."""
        if self.stopped or self.frozen or not self.sources():
            return ""
        if self.rebuilding() and not self.gave_up:
            return "recover"
        if self.wanted:
            return self.wanted
        return "resync" if self.recovery_cp != MAX_SECTOR and not self.gave_up else ""

    def rebuilding(self) -> list[RaidLeg]:
        """The legs that are alive and lack something."""
        return [leg for leg in self.legs if leg.alive and not leg.in_sync]

    def start_sync(self) -> None:
        """Let the sync thread look whether there is something to do."""
        if self.next_action():
            self.sync.queue()

    def fail_leg(self, leg: RaidLeg) -> None:
        """``raid1_error``: mark it faulty, unless it is the last one that is in sync."""
        if not leg.alive or (leg.in_sync and not any(other.readable for other in self.legs if other is not leg)):
            return
        leg.partial = leg.in_sync or leg.partial
        leg.faulty = True
        leg.in_sync = False
        self.superblocks_changed = True
        if self.action:
            self.interrupt = True
        left = sum(other.readable for other in self.legs)
        assert leg.data is not None
        self.log_md("crit", f"Disk failure on {self.stack.kernel_name(leg.data)}, disabling device.")
        self.log_md("crit", f"Operation continuing on {left} devices.")
        self.event.queue()
        self.work.queue()

    def log_raid(self, level: str, text: str) -> None:
        self.stack.log(level, f"device-mapper: raid: {text}")

    def log_md(self, level: str, text: str) -> None:
        self.stack.log(level, f"md/raid1:mdX: {text}")


def _params(args: dict[str, Any]) -> list[str]:
    words = [word for word in ("sync", "nosync") if args[word]]
    for name, key in (("rebuild", "rebuild"), ("write_mostly", "write_mostly")):
        if args[key] is not None:
            words += [name, str(args[key])]
    if args["region"] is not None:
        words += ["region_size", str(args["region"] // 512)]
    legs = args["legs"]
    pairs = list(legs) if args["metadata"] else [word for leg in legs for word in ("-", leg)]
    return ["raid1", str(1 + len(words)), "0", *words, str(len(pairs) // 2), *pairs]


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    first = 2 + int(argv[1])
    names = [argv[first + 2 + 2 * index] for index in range(int(argv[first]))]
    return smallest([(name, 0) for name in names if name != "-"], size_of)


def _assembled(argv: list[str]) -> list[str]:
    """The superblocks say what is in sync; without metadata the array is as new."""
    count = int(argv[1])
    words = [word for word in argv[2:2 + count] if word not in ("sync", "nosync")]
    return [argv[0], str(len(words)), *words, *argv[2 + count:]]


RAID: Final = TargetType(
    "raid", (1, 15, 1),
    signature(
        pos("legs", Kind.DEVICE, repeated=True), opt("region", Kind.SIZE), flag("sync"), flag("nosync"),
        opt("rebuild", Kind.COUNT), opt("write-mostly", Kind.COUNT),
        flag("metadata", doc="the devices are pairs: one for metadata, one for data"),
    ), _params, "A mirror that drops a failed leg by itself (raid1).", Raid, _natural_length,
    assembled=_assembled)
