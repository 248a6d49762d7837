"""What must hold: ``always``, ``sometimes`` or ``finally``.

A check that runs is a :class:`Watch`: plain data, made for one run.  It is asked after every step (that has
to be cheap) and once more when all is at rest, and answers in words with what is wrong, or with ``None``.
``always`` is violated by any such answer, ``finally`` only by the last one; ``sometimes`` wants one ``None``.
No watch knows the class of a target: it asks for status words, as userspace does, or for what every target
has (:meth:`~dmspec.runtime.targets.base.Target.compare_areas`, ``held``).
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.byte_io import differing_sectors, sector_words
from dmspec.runtime.errors import DmError, errno_name
from dmspec.runtime.operations.base import EXPECTATION, NO_ERROR, NO_IO_ERROR
from dmspec.runtime.operations.conditions import in_sync, snapshot_is
from dmspec.runtime.signature import Kind, Signature, opt, pos, signature
from dmspec.runtime.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmspec.runtime.backing import SparseMemory
    from dmspec.runtime.contents import Peek
    from dmspec.runtime.mapped_device import MappedDevice
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.world import World, WriteRecord


class Watch:
    """One check of one run.  ``remark`` says what could not be judged.

    ``reads_devices``: it looks at what devices hold while the run goes on, through whatever is wrong with disks.
    """

    judges_steps = False
    reads_devices = False

    def __init__(self, args: dict[str, Any]) -> None:
        self.args = args
        self.remark = ""

    def attach(self, world: World) -> None:
        """The run begins."""
        del world

    def after_step(self, world: World) -> str | None:
        """Say what is wrong now.  It counts only where ``judges_steps``."""
        del world
        return None

    def at_rest(self, world: World) -> str | None:
        """Say what is wrong when nothing can move any more."""
        return self.after_step(world) if self.judges_steps else None


class NoDeadlock(Watch):
    """At rest every process has ended, or waits for an event and holds no lock, as a daemon does."""

    def at_rest(self, world: World) -> str | None:
        """Say who waits for what."""
        stuck = stuck_processes(world)
        if not stuck:
            return None
        verb = "has" if len(stuck) == 1 else "have"
        names = _and([one.name for one in stuck])
        return f"nothing can move, and {names} {verb} not ended: {'; '.join(wait_for(world))}"


def stuck_processes(world: World) -> list[ProcessTask]:
    """Who has not ended and is not merely idle."""
    return [process for process in world.processes.values() if not process.ended and not process.idle]


def wait_for(world: World) -> Iterator[str]:
    """Who waits for what, and what stands behind that: one clause each."""
    for process in world.all_processes():
        if process.ended or process.idle or any(not branch.ended for branch in process.branches):
            continue
        yield f"{process.name} waits {process.waiting.why}" if process.waiting is not None \
            else f"{process.name} could go on"
    for md in world.stack.devices.values():
        yield from _what_stands_in(world, md)


def _what_stands_in(world: World, md: MappedDevice) -> Iterator[str]:
    if md.live is not None:
        for kind, target in zip(md.live.types, md.live.targets, strict=True):
            for words in target.held():
                yield f"the {kind} of {md.name} has {words}"
    if md.deferred:
        count = len(md.deferred)
        by = f" by {world.suspenders[md.name]}" if md.name in world.suspenders else ""
        state = f"is suspended{by}" if md.block_io else "does not take bios"
        yield f"{md.name} {state}, and {count} bio{'s wait' if count > 1 else ' waits'} for it"


class NoError(Watch):
    """No operation of the kind fails where the spec does not expect it."""

    judges_steps = True
    kind: str = NO_ERROR

    def after_step(self, world: World) -> str | None:
        """Look for a recorded violation."""
        who = self.args.get("process") or []
        texts = [violation.text for violation in world.violations
                 if violation.check == self.kind and (not who or violation.process in who)]
        return "; ".join(texts) or None


class NoIoError(NoError):
    """The same for reads, writes and flushes."""

    kind = NO_IO_ERROR


class Expectation(NoError):
    """Every ``expect`` of the processes is met."""

    kind = EXPECTATION


class LegsAgree(Watch):
    """Areas that a target of the device declares equal are equal, whatever their disks answer.

    Where two writes were under way at once, each may have come last on another leg, as in the kernel.
    """

    def at_rest(self, world: World) -> str | None:
        """Compare them."""
        from dmspec.runtime.contents import Peek, differences

        md = world.stack.devices.get(self.args["device"])
        if md is None or md.live is None:
            self.remark = f"{self.args['device']} has no table"
            return None
        peek: Peek | None = None
        if any(device.name in world.stack.devices for group in _groups(md) for device, _start, _length in group):
            peek = Peek(world, healed=True)
            md = peek.world.stack.devices[md.name]
        compared = 0
        for areas in _groups(md):
            compared += 1
            for first, sector, one, second, other_sector, two in differences(areas, peek):
                if _overlapped(world, one, two):
                    continue
                return (f"{first} at sector {sector} holds {sector_words(one)}, "
                        f"{second} at sector {other_sector} {sector_words(two)}")
        if not compared:
            self.remark = f"no two areas of {md.name} have to be equal"
        return None


def _overlapped(world: World, one: bytes, two: bytes) -> bool:
    """Whether two writes that overlapped, in time and place, wrote these two sectors to the same place."""
    for first, second in itertools.permutations(world.writes, 2):
        if first.device != second.device or first.label is None or second.label is None:
            continue
        if (first.ended is not None and first.ended < second.began) or \
                (second.ended is not None and second.ended < first.began):
            continue
        begin = -(-max(first.offset, second.offset) // SECTOR_BYTES) * SECTOR_BYTES
        end = min(first.end, second.end)
        if any(first.bytes(at, SECTOR_BYTES) == one and second.bytes(at, SECTOR_BYTES) == two
               for at in range(begin, end - SECTOR_BYTES + 1, SECTOR_BYTES)):
            return True
    return False


def _groups(md: MappedDevice) -> list[list[Any]]:
    assert md.live is not None
    return [areas for target in md.live.targets for areas in target.compare_areas() if len(areas) > 1]


class Frozen(Watch):
    """What the device held when it came to life (or at a ``sha256 ... as=NAME``) is what it holds.

    What processes wrote to the device itself since then is left out.
    """

    reads_devices = True

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.md: MappedDevice | None = None
        self.before: SparseMemory | None = None
        self.order = 0
        self.boots = 1

    def after_step(self, world: World) -> str | None:
        """Keep the contents, as soon as it is time."""
        from dmspec.runtime.contents import whole

        name, since = self.args["device"], self.args["since"]
        md = world.stack.devices.get(name)
        if md is None or md is self.md or md.live is None or md.suspended:
            return None
        if self.before is not None and world.boots > self.boots:
            self.md, self.boots = md, world.boots
            return None
        if since != "create" and since not in world.digests:
            return None
        self.md = md
        contents = whole(world, name)
        self.before = None if isinstance(contents, int) else contents
        self.remark = f"{name} could not be read at first" if self.before is None else ""
        self.order = world.order
        self.boots = world.boots
        return None

    def at_rest(self, world: World) -> str | None:
        """Compare."""
        name = self.args["device"]
        if self.before is None:
            self.remark = self.remark or f"{name} never came to life"
            return None
        from dmspec.runtime.contents import Peek, of_memory, pieces

        peek = Peek(world)
        device = peek.device(name)
        if device is None or world.stack.devices.get(name) is not self.md:
            self.remark = f"{name} is gone"
            return None
        for offset, length in pieces(0, device.sectors * SECTOR_BYTES):
            now = peek.read(device, offset, length)
            if isinstance(now, int):
                self.remark = _unreadable(name, offset, now)
                return None
            before = of_memory(self.before, offset, length)
            for sector in differing_sectors(before, now) if before != now else ():
                at = sector * SECTOR_BYTES
                if not self._written(world, name, offset + at):
                    return (f"{name} at byte {offset + at} holds {sector_words(now[at:])}, "
                            f"but held {sector_words(before[at:])}")
        return None

    def _written(self, world: World, name: str, offset: int) -> bool:
        """Whether a process wrote to this sector of the device itself since then."""
        return any(record.device == name and record.offset < offset + SECTOR_BYTES and record.end > offset
                   and (record.ended is None or record.ended > self.order) for record in world.writes)


class NoLostWrite(Watch):
    """At rest, a byte that an acknowledged write was about is the last such write's.

    Writes that were under way at the same time, or failed, may have won.
    """

    def at_rest(self, world: World) -> str | None:
        """Read all of it back."""
        names = self.args["device"] or list(world.stack.devices)
        for name in names:
            text = self._judge(world, name)
            if text is not None:
                return text
        return None

    def _judge(self, world: World, name: str) -> str | None:
        from dmspec.runtime.contents import Peek

        try:
            place = world.place(name)
        except DmError:
            self.remark = f"{name} is gone"
            return None
        records = [record for record in world.writes if record.device == place.device.name]
        peek: Peek | None = None
        for begin, end in _intervals(records):
            possible = _possible(records, begin, end)
            if not possible or any(record.label is None for record in possible):
                continue
            peek = peek or Peek(world)
            device = peek.device(place.device.name)
            assert device is not None
            now = peek.read(device, begin, end - begin)
            if now == -errno.ETIMEDOUT:
                self.remark = _unreadable(name, begin, now)
                return None
            if isinstance(now, int):
                return _unreadable(name, begin, now) + ", where a write was acknowledged"
            if not any(record.bytes(begin, end - begin) == now for record in possible):
                return _lost(name, begin, now, possible)
        return None


def _intervals(records: list[WriteRecord]) -> Iterator[tuple[int, int]]:
    """The ranges between all beginnings and ends."""
    edges = sorted({record.offset for record in records} | {record.end for record in records})
    yield from itertools.pairwise(edges)


def _possible(records: list[WriteRecord], begin: int, end: int) -> list[WriteRecord]:
    """Whose bytes may be in a range; nobody's when no write there was acknowledged."""
    here = [record for record in records if record.offset <= begin and record.end >= end]
    done = [record for record in here if record.acknowledged]
    if not done:
        return []
    return [record for record in here
            if not any(record.ended is not None and later.began > record.ended for later in done)]


def _lost(name: str, begin: int, now: bytes, possible: list[WriteRecord]) -> str:
    wanted = [record.bytes(begin, len(now)) or b"" for record in possible]
    sector = min((next(differing_sectors(one, now)) for one in wanted), default=0)
    at = sector * SECTOR_BYTES
    shown = " or ".join(sector_words(one[at:]) for one in wanted)
    return f"{name} at byte {begin + at} holds {sector_words(now[at:])}, though {shown} was acknowledged"


def _unreadable(name: str, offset: int, error: int) -> str:
    why = "the read never ends" if error == -errno.ETIMEDOUT else errno_name(-error)
    return f"{name} cannot be read at byte {offset}: {why}"


class ResumedAtEnd(Watch):
    """No device is left suspended."""

    def at_rest(self, world: World) -> str | None:
        """Name those that are."""
        names = [md.name for md in world.stack.devices.values() if md.suspended]
        if not names:
            return None
        return f"{_and(names)} {'is' if len(names) == 1 else 'are'} left suspended"


class NoRace(Watch):
    """Control operations of two processes do not meet on one device (see ``operations.control.Section``)."""

    judges_steps = True

    def after_step(self, world: World) -> str | None:
        """Say what met."""
        return "; ".join(world.races) or None


class InSync(Watch):
    """The condition ``insync``; a device that is not there is not judged."""

    judges_steps = True

    def after_step(self, world: World) -> str | None:
        """Ask the mirrors."""
        name = self.args["device"]
        if name not in world.stack.devices:
            return None
        return None if in_sync(world.stack, name) else f"{name} is not in sync"


class SnapshotSays(Watch):
    """The conditions ``overflow`` and ``invalid``: the word that the status has."""

    judges_steps = True
    word = ""

    def after_step(self, world: World) -> str | None:
        """Ask the snapshot."""
        name = self.args["device"]
        if snapshot_is(world.stack, name, self.word):
            return None
        return f"the status of {name} does not say {self.word}"


class Overflow(SnapshotSays):
    """See :class:`SnapshotSays`."""

    word = "Overflow"


class Invalid(SnapshotSays):
    """See :class:`SnapshotSays`."""

    word = "Invalid"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _model_agrees(args: dict[str, Any]) -> Watch:
    from dmspec.runtime.model_agrees import ModelAgrees

    return ModelAgrees(args)


@dataclass(frozen=True, slots=True)
class CheckType:
    """One check."""

    name: str
    signature: Signature
    doc: str
    watch: Callable[[dict[str, Any]], Watch]


CHECK_TYPES: Final = (
    CheckType("no-deadlock", signature(), "Every process can go on or has ended.", NoDeadlock),
    CheckType("no-error", signature(), "No control operation fails, outside `expect error`.", NoError),
    CheckType("no-io-error", signature(pos("process", Kind.PROCESS, repeated=True, default=())),
              "No read, write or flush of these processes (none named: of any) fails.", NoIoError),
    CheckType("legs-agree", signature(pos("device", Kind.DEVICE)),
              "At rest, the legs of a mirror are equal in every region that is in sync.", LegsAgree),
    CheckType("frozen", signature(pos("device", Kind.DEVICE), opt("since", Kind.WORD, "create")),
              "A device's contents do not change by themselves.", Frozen),
    CheckType("resumed-at-end", signature(), "No device is left suspended.", ResumedAtEnd),
    CheckType("no-lost-write", signature(pos("device", Kind.TARGETABLE, repeated=True, default=())),
              "What was acknowledged can be read afterwards.", NoLostWrite),
    CheckType("no-race", signature(), "No two processes are inside suspend and resume of one device, nobody swaps in "
              "another's table, no two live tables write to one place.", NoRace),
    CheckType("model-agrees", signature(pos("device", Kind.DEVICE, repeated=True, default=())),
              "Every read is one that the model of legal contents allows, and no error is unexplained.",
              _model_agrees),
    CheckType("expectation", signature(), "Every `expect` of a process is met; asked of every run.", Expectation),
    CheckType("insync", signature(pos("device", Kind.DEVICE)), "The condition of that name.", InSync),
    CheckType("overflow", signature(pos("device", Kind.DEVICE)), "The condition of that name.", Overflow),
    CheckType("invalid", signature(pos("device", Kind.DEVICE)), "The condition of that name.", Invalid),
)
