"""The world of one run: the stack, what lies on it, who works on it, and what has happened.

All of it is plain data: :func:`copy.deepcopy` of a world gives one that goes on exactly as this one would.
What never changes (the plan, the target types) is shared by the copies, and a copy has no observer until
somebody gives it one.
"""

from __future__ import annotations

import copy
import errno
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from dmspec.runtime.block import BlockDevice, Disk
from dmspec.runtime.byte_io import WriteRanges, stream
from dmspec.runtime.control import Remove
from dmspec.runtime.errors import DmError
from dmspec.runtime.filesystem import Filesystem, Filesystems
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.process import ProcessTask
from dmspec.runtime.stack import Stack
from dmspec.runtime.task import Latch, Mutex, Task
from dmspec.runtime.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmspec.runtime.backing import SparseMemory
    from dmspec.runtime.plan import Plan
    from dmspec.runtime.task import Engine


# A copy follows every reference, so its recursion is as deep as the longest chain of them.
COPY_RECURSION: Final = 100_000


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that a check forbids, as it happened.  ``check`` is the check's name."""

    check: str
    process: str
    text: str
    step: int
    time_ns: int


@dataclass(slots=True)
class WriteRecord:
    """A write as the process saw it: when it began, when and how it ended.

    ``began`` and ``ended`` count the beginnings and ends of all writes, so they order them.  The bytes
    are those of :func:`~dmspec.runtime.byte_io.stream`, whose byte 0 lies at ``origin`` on the device;
    a discard has no label: it may leave anything.  ``durable``: a power cut cannot undo it.
    """

    device: str
    offset: int
    length: int
    label: str | None
    origin: int
    process: str
    began: int
    ended: int | None = None
    status: int | None = None
    fua: bool = False
    durable: bool = False

    @property
    def acknowledged(self) -> bool:
        """Whether the process was told that it has been done."""
        return self.status == 0

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.length

    def bytes(self, offset: int, length: int) -> bytes | None:
        """What it puts into a part of its range; ``None``: anything."""
        return None if self.label is None else stream(self.label, offset - self.origin, length)


class IoWatch(Protocol):
    """Who hears of all I/O of processes, as it happens: the model.

    What ``..._begins`` answers is given back when it ends; a status is 0 or an errno.
    """

    def write_begins(self, record: WriteRecord) -> None: ...
    def write_ends(self, record: WriteRecord) -> None: ...
    def read_begins(self, device: BlockDevice, offset: int, length: int) -> Any: ...
    def read_ends(self, read: Any, data: bytes | None, status: int) -> None: ...
    def flush_begins(self, device: BlockDevice) -> Any: ...
    def flush_ends(self, flush: Any, status: int) -> None: ...
    def disk_lied(self, disk: Disk, what: str) -> None: ...
    def power_cut(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where I/O to a named thing goes: a device, and the bytes of it that are its own."""

    device: BlockDevice
    base: int
    size: int
    filesystem: Filesystem | None = None


class World:
    """See the module.  ``processes`` are those that the scenario runs, in its order.

    ``faulty``: something has gone wrong with a disk.  ``at_first``: what devices hold before anybody does
    anything, where that is known; it is not changed.
    ``registered`` has the devices that dmeventd watches, and the event number that it has seen last of each.
    """

    def __init__(self, plan: Plan, engine: Engine, stack: Stack) -> None:
        self.plan = plan
        self.engine = engine
        self.stack = stack
        self.filesystems = Filesystems()
        self._adopt(stack)
        self.locks = {lock.name: Mutex(f"lock {lock.name}") for lock in plan.locks}
        self.processes: dict[str, ProcessTask] = {}
        self.awaiting: list[ProcessTask] = []
        self.violations: list[Violation] = []
        self.writes: list[WriteRecord] = []
        self.order = 0
        self.ranges = WriteRanges()
        self.digests: dict[str, str] = {}
        self.suspenders: dict[str, str] = {}
        self.inside: dict[str, str] = {}
        self.loaders: dict[str, str] = {}
        self.registered: dict[str, int] = {}
        self.races: list[str] = []
        self.halted = False
        self.halt = Latch("the end of the pause")
        self.setup: Task | None = None
        self.io_watches: list[IoWatch] = []
        self.faulty = False
        self.boots = 1
        self.over = False
        self.at_first: dict[str, SparseMemory] = {}

    def _adopt(self, stack: Stack) -> None:
        self.stack = stack
        stack.freezer = self.filesystems
        stack.on_removed = self.remove_deferred

    @property
    def steps(self) -> int:
        """How many steps have been taken; 0 on an engine that does not count them."""
        return int(getattr(self.engine, "steps", 0))

    def settle(self) -> None:
        """Wake those whose awaited condition holds now.  To be called after every step."""
        for process in list(self.awaiting):
            if process.awaited_holds():
                self.awaiting.remove(process)
                process.awaited.release()

    def place(self, name: str) -> Place:
        """What a process does I/O to; ``ENXIO`` when there is nothing of that name."""
        filesystem = self.filesystems.by_name.get(name)
        if filesystem is not None:
            return Place(filesystem.device, filesystem.base, filesystem.size, filesystem)
        found = self.stack.disks.get(name) or self.stack.devices.get(name)
        if found is None:
            raise DmError(errno.ENXIO)
        return Place(found, 0, found.sectors * SECTOR_BYTES)

    def remove_deferred(self, md: MappedDevice) -> None:
        """A device whose removal was deferred has been closed for the last time."""
        Task(self.engine, f"remove {md.name}").start(Remove(md))

    def violated(self, check: str, process: str, text: str) -> None:
        """Keep a violation, and say so in the trace."""
        self.violations.append(Violation(check, process, text, self.steps, self.engine.now_ns))
        self.engine.note(process, f"VIOLATION of {check}: {text}")

    def mount(self, name: str, device_name: str) -> None:
        """Mount a filesystem from a device, which it holds open; without the device it is not there."""
        device = self.stack.disks.get(device_name) or self.stack.devices.get(device_name)
        if device is None:
            return
        self.stack.hold(device)
        self.filesystems.by_name[name] = Filesystem(self.engine, name, device)
        self.engine.note(name, f"mounted from {device_name}")

    # What processes do to devices

    def write_begins(self, process: str, place: Place, offset: int, length: int, label: str | None,
                     origin: int, *, fua: bool = False) -> WriteRecord:
        """Record that a process hands a write (or a discard) down; offsets are the device's."""
        self.order += 1
        record = WriteRecord(place.device.name, offset, length, label, origin, process, self.order, fua=fua)
        self.writes.append(record)
        for watch in self.io_watches:
            watch.write_begins(record)
        return record

    def write_ends(self, record: WriteRecord, status: int) -> None:
        """Record what the process is told."""
        self.order += 1
        record.ended = self.order
        record.status = status
        record.durable = record.fua and not status
        for watch in self.io_watches:
            watch.write_ends(record)

    def read_begins(self, device: BlockDevice, offset: int, length: int) -> list[Any]:
        """A process hands a read down; the answer is for :meth:`read_ends`."""
        return [watch.read_begins(device, offset, length) for watch in self.io_watches]

    def read_ends(self, tokens: list[Any], value: bytes | int) -> None:
        """A read has ended with data, or with a negative errno."""
        for watch, token in zip(self.io_watches, tokens, strict=True):
            if isinstance(value, int):
                watch.read_ends(token, None, -value)
            else:
                watch.read_ends(token, value, 0)

    def flush_begins(self, device: BlockDevice) -> tuple[int, list[Any]]:
        """A process hands a flush down; the answer is for :meth:`flush_ends`."""
        return self.order, [watch.flush_begins(device) for watch in self.io_watches]

    def flush_ends(self, device: BlockDevice, began: tuple[int, list[Any]], status: int) -> None:
        """A flush has ended: what had been acknowledged when it began is durable, if it succeeded."""
        order, tokens = began
        for record in self.writes:
            if record.device == device.name and record.acknowledged and record.ended is not None \
                    and record.ended <= order and not status:
                record.durable = True
        for watch, token in zip(self.io_watches, tokens, strict=True):
            watch.flush_ends(token, status)

    def disk_lied(self, disk: Disk, what: str) -> None:
        """A disk does, or will do, something else than it says; ``what`` is the fault."""
        self.faulty = True
        for watch in self.io_watches:
            watch.disk_lied(disk, what)

    def power_lost(self, survivor: Task) -> None:
        """Begin anew with nothing but the disks; processes end, except for the one that has cut the power."""
        kept: list[Task] = [survivor]
        while isinstance(kept[-1], ProcessTask) and kept[-1].parent is not None:
            kept.append(kept[-1].parent)
        for process in self.all_processes():
            if not process.ended and not any(process is one for one in kept):
                process.end()
                self.engine.note(process.name, "ended with the machine")
            process.locks.clear()
            process.seen_events.clear()
        old = self.stack
        stack = Stack(self.engine, old.era, old.target_types)
        stack.log_lines = old.log_lines
        for disk in old.disks.values():
            disk.open_count = 0
            stack.disks[disk.name] = disk
        self.filesystems = Filesystems()
        self._adopt(stack)
        self.locks = {lock.name: Mutex(f"lock {lock.name}") for lock in self.plan.locks}
        self.awaiting = [process for process in self.awaiting if not process.ended]
        self.ranges = WriteRanges()
        for state in (self.suspenders, self.inside, self.loaders, self.registered):
            state.clear()
        for record in self.writes:
            if not record.durable:
                record.status = errno.EIO
                record.ended = record.ended or self.order
        self.boots += 1

    def all_processes(self) -> Iterator[ProcessTask]:
        """Every process with its branches, in a fixed order."""
        todo = list(self.processes.values())
        while todo:
            process = todo.pop(0)
            yield process
            todo[:0] = process.branches

    def with_names(self, line: str) -> str:
        """A status or table line with names where the kernel has ``major:minor``."""
        return with_names(line, self.names())

    def names(self) -> dict[str, str]:
        """Every device's name by its ``major:minor``."""
        return {device.number: device.name for device in self.stack.everything()}

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        shared: list[Any] = [self.plan, self.at_first, self.stack.target_types, self.stack.era]
        for process in self.plan.processes:
            shared += [process, process.code]
        for one in shared:
            memo[id(one)] = one
        observer = getattr(self.engine, "observer", None)
        if observer is not None:
            memo[id(observer)] = None
        copied = object.__new__(World)
        memo[id(self)] = copied
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, COPY_RECURSION))
        try:
            for name, value in self.__dict__.items():
                setattr(copied, name, copy.deepcopy(value, memo))
        finally:
            sys.setrecursionlimit(limit)
        return copied


def with_names(line: str, names: dict[str, str]) -> str:
    """See :meth:`World.with_names`; for many lines at once."""
    return " ".join(names.get(word, word) for word in line.split(" "))
