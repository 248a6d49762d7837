"""From a plan to a world: disks, devices, filesystems, locks; the processes come with a scenario.

:func:`prepare` is for any engine: it makes what is there at once and starts a task, ``world.setup``, that
creates the devices as ``dmsetup create`` does and then mounts the filesystems; its value is 0, or the
device that could not be made.  :func:`build` is for the simulation: it also runs that task, and all that
the devices do by themselves (a mirror's first resynchronisation), to the end, picking 0 wherever there is
a choice; that is the ``setup`` phase of a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dmspec.runtime import plan as plans
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.block import Backing
from dmspec.runtime.eras import ERAS
from dmspec.runtime.errors import DmspecError, errno_name
from dmspec.runtime.operations.control import CreateDevice
from dmspec.runtime.power import wants_volatile_disks
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.stack import Stack
from dmspec.runtime.targets.base import TargetType
from dmspec.runtime.task import Engine, Enter, Frame, Outcome, Return, Task
from dmspec.runtime.volatile import VolatileMemory
from dmspec.runtime.world import World

SETUP: Final = "setup"
SETUP_STEP_LIMIT: Final = 5_000_000

DiskFactory = Callable[[plans.Disk], Backing]


class BuildError(DmspecError):
    """A device or filesystem of the plan cannot be made; the text has the kernel's words."""


def memory_disk(disk: plans.Disk) -> Backing:
    """A disk in memory, for simulation."""
    del disk
    return SparseMemory()


def volatile_disk(disk: plans.Disk) -> Backing:
    """The same with a write cache that a power cut empties."""
    del disk
    return VolatileMemory()


class SetUp(Frame):
    """Create the plan's devices in order, then mount its filesystems."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.todo = list(world.plan.devices)
        self.device: plans.Device | None = None

    def start(self, task: Task) -> Outcome:
        """Create the next device; the value is an error's text, or nothing."""
        del task
        stack = self.world.stack
        if isinstance(self.result, int) and self.result < 0:
            assert self.device is not None
            said = "".join(f"\n{level}: {text}" for level, text in stack.log_lines[-4:])
            return Return(f"device {self.device.name} (line {self.device.line}) cannot be made: "
                          f"{errno_name(-self.result)}{said}")
        if not self.todo:
            self._mount()
            return Return("")
        self.device = self.todo.pop(0)
        return Enter(CreateDevice(stack, self.device.name, self.device.table, uuid=self.device.uuid,
                                  read_only=self.device.read_only), "start")

    def _mount(self) -> None:
        for declared in self.world.plan.filesystems:
            self.world.mount(declared.name, declared.device)


def prepare(plan: plans.Plan, engine: Engine, *, disk_factory: DiskFactory,
            target_types: Mapping[str, TargetType], kernel: str = "") -> World:
    """Make a world on any engine; its devices are there once ``world.setup`` has ended."""
    world = furnish(plan, engine, disk_factory=disk_factory, target_types=target_types, kernel=kernel)
    world.setup = Task(engine, SETUP)
    world.setup.start(SetUp(world))
    return world


def furnish(plan: plans.Plan, engine: Engine, *, disk_factory: DiskFactory,
            target_types: Mapping[str, TargetType], kernel: str = "") -> World:
    """Make a world with its disks and locks; :class:`SetUp` makes the rest."""
    stack = Stack(engine, ERAS[kernel or plan.kernel], target_types)
    for disk in plan.disks:
        stack.add_disk(disk.name, disk.sectors, disk_factory(disk))
    return World(plan, engine, stack)


def build(plan: plans.Plan, engine: SimEngine, *, disk_factory: DiskFactory | None = None,
          target_types: Mapping[str, TargetType], kernel: str = "") -> World:
    """Make a world and let it come to rest, all that is on its disks durable.  Raises :class:`BuildError`."""
    if disk_factory is None:
        disk_factory = volatile_disk if wants_volatile_disks(plan) else memory_disk
    engine.note(SETUP, f"{len(plan.disks)} disks, {len(plan.devices)} devices")
    world = prepare(plan, engine, disk_factory=disk_factory, target_types=target_types, kernel=kernel)
    at_rest = engine.run(SETUP_STEP_LIMIT)
    assert world.setup is not None
    if world.setup.ended and world.setup.value:
        raise BuildError(str(world.setup.value))
    if not world.setup.ended:
        waiting = world.setup.waiting
        why = f"it waits {waiting.why}" if waiting is not None else f"no end after {SETUP_STEP_LIMIT} steps"
        raise BuildError(f"the devices cannot be made: {why}")
    if not at_rest:
        raise BuildError(f"the devices do not come to rest within {SETUP_STEP_LIMIT} steps")
    for disk in world.stack.disks.values():
        disk.backing.flush()
    engine.note(SETUP, f"ready after {engine.steps} steps")
    engine.schedule = []
    return world
