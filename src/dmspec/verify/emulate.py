"""The emulator's side: each step is done until nothing moves any more, and then everything is looked at.

What is seen is written as the real ``dmsetup`` in the guest will print it (:mod:`~dmspec.verify.script` says with
which commands), with the numbers that the guest's devices have.  An opened device counts: while a read or write
has not ended, its device is held open, as the guest's ``dd`` does.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final

from dmspec.runtime import plan as plans
from dmspec.runtime.bio import Bio
from dmspec.runtime.block import BlockDevice, Disk
from dmspec.runtime.build import furnish, memory_disk
from dmspec.runtime.byte_io import ReadBytes
from dmspec.runtime.control import status_lines
from dmspec.runtime.errors import DmError, errno_name
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.operations.control import table_lines
from dmspec.runtime.process import ProcessTask
from dmspec.runtime.registry import OPERATIONS, TARGETS
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.task import Frame, Task
from dmspec.runtime.units import MIB, SECTOR_BYTES
from dmspec.verify.layers import Layer
from dmspec.verify.steps import FAULTS, Case, DiskSpec, Outcome, Played, Seen, Step

STEP_LIMIT: Final = 2_000_000
NO_DEVICES: Final = "No devices found"


class LayeredEngine(SimEngine):
    """An I/O that fails does so at once, as on the layers that the guest's disks are; the others take their time.

    It decides how many events there are: two for which nobody waits are one, when the second comes soon enough.
    """

    def submit(self, disk: Disk, bio: Bio) -> None:
        status, _mishap = disk.strike(bio)
        if status:
            bio.complete(status)
        else:
            super().submit(disk, bio)


class NoRest(Exception):
    """The emulator does not come to rest after a step: there is nothing to compare with."""


class Emulated:
    """A world of disks and devices on which steps are done."""

    def __init__(self, disks: Sequence[DiskSpec]) -> None:
        plan = plans.Plan(["case"], "", disks=[plans.Disk(one.name, one.sectors) for one in disks],
                          processes=[plans.Process("steps", [plans.Instr("end")])])
        self.engine = LayeredEngine()
        self.world = furnish(plan, self.engine, disk_factory=memory_disk, target_types=TARGETS)
        self.process = ProcessTask(self.world, plan.processes[0])
        self.layers = [Layer(one, index, 0) for index, one in enumerate(disks)]
        self.disks = tuple(disks)
        self.steps: list[Step] = []
        self.seen: list[Seen] = []
        self.tables: dict[int, list[str]] = {}
        self.pending: dict[int, tuple[Task, list[BlockDevice]]] = {}
        self.last_tables: tuple[list[str], list[str]] | None = None
        for one in disks:
            self.world.stack.disks[one.name].backing.write(0, memoryview(one.contents))

    def do(self, step: Step, process: ProcessTask | None = None) -> Outcome:
        """Do a step, let everything come to rest, and look."""
        number = len(self.steps)
        outcome = Outcome()
        self.steps.append(step)
        held = self._opened(step)
        try:
            self._resolve(number, step)
            answer = self._perform(step, process or self.process)
        except DmError as error:
            outcome.error = errno_name(error.errno)
        else:
            task = Task(self.engine, f"step {number}")
            if isinstance(answer, Frame):
                task.start(answer)
                self.pending[number] = (task, held)
                held = []
            elif answer < 0:
                outcome.error = errno_name(-answer)
        for device in held:
            self.world.stack.release(device)
        self.seen.append(Seen(outcome, []))
        self._rest()
        tables = self._listed("table"), self._listed("inactive")
        self.seen[-1].view = self.view(tables=step.op == "look" or tables != self.last_tables)
        self.last_tables = tables
        return outcome

    def _opened(self, step: Step) -> list[BlockDevice]:
        """Whom a step holds open that is not one of the runtime's own operations, which do that themselves."""
        if step.op != "read":
            return []
        stack = self.world.stack
        name = step.args["target"]
        device = stack.disks.get(name) or stack.devices.get(name)
        if device is None:
            return []
        stack.hold(device)
        return [device]

    def _perform(self, step: Step, process: ProcessTask) -> Frame | int:
        if step.op == "look":
            return 0
        if step.op == "read":
            place = self.world.place(step.args["target"])
            return ReadBytes(place.device, step.args["at"], step.args["size"])
        if step.op == "discard":
            self._ask_for_discard(self.world.place(step.args["target"]).device)
        if step.op in FAULTS:
            layer = next(one for one in self.layers if one.disk.name == step.args["disk"])
            layer.strike(step)
        perform = OPERATIONS[step.op].perform
        return perform(process, step.args)

    def _ask_for_discard(self, device: BlockDevice) -> None:
        """What is said before any bio is made: blkdiscard(8) opens a device for itself alone, which no table may use
        then, and the BLKDISCARD ioctl wants one that takes discards.

        This, and that the ioctl takes a bio's EOPNOTSUPP for a success, are the block layer's ways and not
        device-mapper's, so they are here and not in the emulator's own ``discard``.
        """
        if any(used is device for md in self.world.stack.devices.values() for used, _mode in md.table_devices):
            raise DmError(errno.EBUSY)
        if not device.supports_discard:
            raise DmError(errno.EOPNOTSUPP)

    def _resolve(self, number: int, step: Step) -> None:
        """Keep a step's table as the guest needs it: every length a number, and numbers for the names of devices.

        A path would not do: ``/dev/mapper/NAME`` is there only once the device has been resumed.
        """
        table = step.args.get("table")
        if step.op not in ("create", "load") or table is None:
            return
        stack = self.world.stack
        md = stack.devices.get(step.args["device"]) if step.op == "load" else None
        numbers = {one.name: one.number for one in stack.everything()}
        kept = self.tables[number] = []
        for start, length, kind, params in table_lines(stack, table, md):  # type: ignore[arg-type]
            words = " ".join(numbers.get(word, word) for word in params.split(" "))
            kept.append(f"{start} {length} {kind} {self.guest_numbers(words)}".rstrip())

    def _rest(self) -> None:
        while True:
            if not self.engine.run(self.engine.steps + STEP_LIMIT):
                raise NoRest(f"no rest after `{self.steps[-1]}`")
            if not self._collect():
                return

    def _collect(self) -> bool:
        """Note which steps have ended; ``True``: that has set something in motion."""
        moved = False
        for number, (task, held) in list(self.pending.items()):
            outcome = self.seen[number].outcome
            outcome.blocked = not task.ended
            if not task.ended:
                continue
            del self.pending[number]
            value: Any = task.value
            if isinstance(value, int) and value < 0:
                forgiven = self.steps[number].op == "discard" and value == -errno.EOPNOTSUPP
                outcome.error = "" if forgiven else errno_name(-value)
            elif isinstance(value, bytes):
                outcome.data = value
            for device in held:
                self.world.stack.release(device)
                moved = True
        return moved

    def view(self, *, tables: bool) -> list[str]:
        """All that the guest's ``dmsetup`` should print now; tables are looked at where they change."""
        lines = ["status", *self._listed("status"), "info", *self._listed("info")]
        if tables:
            lines += ["table", *self._listed("table"), "inactive", *self._listed("inactive")]
        lines += ["steps", *(f"{number}:-" for number in sorted(self.pending))]
        return lines

    def _listed(self, what: str) -> list[str]:
        shown: dict[str, list[str]] = {}
        for layer in self.layers:
            disk = self.world.stack.disks[layer.disk.name]
            if what == "info":
                shown |= {name: [line] for name, line in layer.info_lines(disk.open_count).items()}
            elif what == "inactive":
                shown |= {name: [] for name in layer.status_lines()}
            else:
                shown |= layer.status_lines() if what == "status" else layer.table_lines()
        for md in self.world.stack.devices.values():
            if what == "info":
                shown[md.name] = [_info(md)]
            else:
                lines = status_lines(md, table=what != "status", inactive=what == "inactive")
                shown[md.name] = [self.guest_numbers(line) for line in lines]
        if not shown:
            return [NO_DEVICES]
        ordered = sorted(shown, key=lambda name: name.encode())
        if what == "info":
            return [shown[name][0] for name in ordered]
        return [f"{name}: {line}" for name in ordered for line in shown[name] or [""]]

    def guest_numbers(self, line: str) -> str:
        """A line with the numbers that the guest's disks have."""
        numbers = {self.world.stack.disks[one.disk.name].number: one.number for one in self.layers}
        return " ".join(numbers.get(word, word) for word in line.split(" "))

    def contents(self) -> dict[str, tuple[bytes, str]]:
        """What every disk and every device that can be read holds, and the error that ended the reading."""
        held: dict[str, tuple[bytes, str]] = {}
        stack = self.world.stack
        for disk in stack.disks.values():
            buffer = bytearray(disk.sectors * SECTOR_BYTES)
            disk.backing.read(0, memoryview(buffer))
            held[disk.name] = (bytes(buffer), "")
        for name in self.readable():
            held[name] = self._read(stack.devices[name])
        return held

    def readable(self) -> list[str]:
        """The devices that answer a read: those with a live table that is not suspended, nor one below it."""
        return sorted(md.name for md in self.world.stack.devices.values() if _answers(md))

    def _read(self, device: BlockDevice) -> tuple[bytes, str]:
        data = b""
        size = device.sectors * SECTOR_BYTES
        while len(data) < size:
            task = Task(self.engine, "contents")
            task.start(ReadBytes(device, len(data), min(MIB, size - len(data))))
            self._rest()
            if not task.ended:
                return data, "blocked"
            value: Any = task.value
            if isinstance(value, int):
                return data, errno_name(-value)
            data += value
        return data, ""

    def played(self, name: str) -> Played:
        """The case as it went."""
        case = Case(name, self.disks, tuple(self.steps))
        sizes = {one.name: one.sectors * SECTOR_BYTES for one in self.world.stack.everything()}
        last = self.view(tables=True)
        return Played(case, self.steps, self.seen, last, self.tables, self.contents(), sizes, bool(self.pending))


def play(case: Case) -> Played:
    """Do all the steps of a case.  Raises :class:`NoRest`."""
    emulated = Emulated(case.disks)
    for step in case.steps:
        emulated.do(step)
    return emulated.played(case.name)


def _info(md: MappedDevice) -> str:
    attr = "".join(letter if there else "-" for letter, there in (
        ("L", md.live is not None), ("I", md.inactive is not None), ("s", md.suspended)))
    segments = len(md.live.targets) if md.live is not None else 0
    attr += "r" if md.read_only else "w"
    return f"{md.name}:{md.uuid}:{md.minor}:{md.open_count}:{segments}:{md.event_nr}:{attr}"


def _answers(device: BlockDevice) -> bool:
    """Whether neither it nor anything below it is suspended."""
    if isinstance(device, Disk):
        return True
    assert isinstance(device, MappedDevice)
    return device.live is not None and not device.suspended and all(map(_answers, device.live.devices))
