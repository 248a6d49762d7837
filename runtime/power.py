"""A power cut, and the boot after it (in simulation).

The machine forgets everything: processes end where they are, but for the one that pulls the plug, and with
them all I/O under way, every device, lock and mount.  Each disk keeps what :meth:`VolatileMemory.cut
<dmspec.runtime.volatile.VolatileMemory.cut>` leaves of its write cache; what is wrong with a disk stays wrong.

Then the devices that had a live table are assembled again, those below first, with that table as user
space would write it after a crash (:attr:`~dmspec.runtime.targets.base.TargetType.assembled`: nobody may
claim that the legs of a mirror are in sync), and what was mounted is mounted.  Who changes several tables
commits to that, as LVM does with its metadata, when all of them are loaded and their devices suspended: from then
on the new ones are assembled.  A device that cannot be, because its disk is gone, is left out, and those above it
with it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .control import parse_line, status_lines
from .errors import DmError, errno_name
from .mapped_device import MappedDevice
from .operations.control import CreateDevice
from .sim import SimEngine
from .task import DONE, Enter, Frame, Outcome, Task
from .volatile import VolatileMemory

if TYPE_CHECKING:
    from .plan import Plan
    from .stack import Stack
    from .world import World

POWER_CUT = "power-cut"
LOSE_FLUSH = "lose-flush"


def wants_volatile_disks(plan: Plan) -> bool:
    """Whether anything in a plan asks what a disk has flushed: only then do its disks keep track."""
    names = (POWER_CUT, LOSE_FLUSH)
    return any(instr.op in names for process in plan.processes for instr in process.code) \
        or any(fault.kind in names for scenario in plan.scenarios for fault in scenario.faults)


class PowerCut(Frame):
    """Cut the power at once; then boot.  ``keep`` is one of :data:`~dmspec.runtime.volatile.KEEPS`, or ``any``."""

    def __init__(self, world: World, keep: str) -> None:
        if not isinstance(world.engine, SimEngine):
            raise DmError(errno.EOPNOTSUPP)
        self.world = world
        self.keep = keep
        self.name = ""

    def start(self, task: Task) -> Outcome:
        """Everything is gone; what is left is to be assembled."""
        world, engine = self.world, self.world.engine
        assert isinstance(engine, SimEngine)
        self.todo = _assembly(world.stack)
        mounts = [(one.name, one.device.name) for one in world.filesystems.by_name.values()]
        for disk in world.stack.disks.values():
            if isinstance(disk.backing, VolatileMemory):
                engine.note(disk.name, f"power is lost: {disk.backing.cut(self.keep, engine.choose)}")
        _forget_tasks(engine)
        for watch in world.io_watches:
            watch.power_cut()
        world.power_lost(task)
        self.mounts = mounts
        engine.note("machine", "boots")
        return self.assemble(task)

    def assemble(self, task: Task) -> Outcome:
        """The next device, or the mounts."""
        del task
        self.at = "assemble"
        world = self.world
        if isinstance(self.result, int) and self.result < 0:
            world.engine.note("machine", f"{self.name} cannot be assembled: {errno_name(-self.result)}")
        self.result = 0
        if self.todo:
            self.name, uuid, read_only, lines = self.todo.pop(0)
            return Enter(CreateDevice(world.stack, self.name, lines, uuid=uuid, read_only=read_only), "assemble")
        for name, device in self.mounts:
            world.mount(name, device)
        return DONE


def _forget_tasks(engine: SimEngine) -> None:
    """No task of the old world runs any more; what strikes at a time still does."""
    engine.runnable.clear()
    engine.timers = [timer for timer in engine.timers if any(one.name == "fault" for one in timer[2].waiters)]


def _assembly(stack: Stack) -> list[tuple[str, str, bool, list[str]]]:
    """Name, uuid, read-only and table of each device with a live table, those below first."""
    names = {device.number: device.name for device in stack.everything()}
    order: list[MappedDevice] = []
    loaded = [md for md in stack.devices.values() if md.inactive is not None]
    committed = any(md.suspended for md in loaded) and all(md.suspended or md.live is None for md in loaded)

    def takes_new(md: MappedDevice) -> bool:
        return committed and md.inactive is not None

    def add(md: MappedDevice) -> None:
        table = md.inactive if takes_new(md) else md.live
        if md in order or table is None:
            return
        for below in table.devices:
            if isinstance(below, MappedDevice):
                add(below)
        order.append(md)

    def late(md: MappedDevice) -> bool:
        table = md.inactive if takes_new(md) else md.live
        return table is not None and any(stack.target_types[kind].assembled_late for kind in table.types)

    for md in sorted(stack.devices.values(), key=late):
        add(md)
    return [(md.name, md.uuid, md.read_only,
             [_again(stack, names, line) for line in status_lines(md, table=True, inactive=takes_new(md))])
            for md in order]


def _again(stack: Stack, names: dict[str, str], line: str) -> str:
    start, length, kind, params = parse_line(line)
    words = stack.target_types[kind].assembled([names.get(word, word) for word in params.split()])
    return " ".join([str(start), str(length), kind, *words])
