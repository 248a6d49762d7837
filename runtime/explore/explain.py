"""A counterexample in words: what happened at each step, how everything stood, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import plan as plans
from ..control import status_lines
from ..mapped_device import MappedDevice
from ..process import ProcessTask
from ..registry import OPERATIONS
from ..world import World
from .moves import ExploredRun, Move, make, mover
from .search import Explorer


@dataclass(frozen=True, slots=True)
class Edge:
    """``waiter`` waits for ``holder``; each is ``process NAME``, ``lock NAME`` or ``bios of NAME``."""

    waiter: str
    holder: str
    why: str


@dataclass(frozen=True, slots=True)
class Step:
    """One move: who made it, what was noted (lane and text), and how everything stood afterwards."""

    number: int
    mover: str
    kind: str
    events: list[tuple[str, str]]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A violation with the moves that lead to it."""

    scenario: str
    check: str
    text: str
    steps: list[Step]
    edges: list[Edge]
    cycle: list[str]
    lanes: list[str]


@dataclass
class _Notes:
    events: list[tuple[str, str]] = field(default_factory=list)

    def note(self, step: int, time_ns: int, lane: str, text: str) -> None:
        """Keep what was noted."""
        del step, time_ns
        self.events.append((lane, text))


def explain(plan: plans.Plan, scenario_name: str, check: str, text: str, path: list[Move]) -> Counterexample:
    """Take the path once more, and look at everything after each move."""
    run = Explorer(plan, scenario_name).begin()
    notes = _Notes()
    run.engine.observer = notes
    steps = [Step(0, "setup", "setup", [], snapshot(run))]
    for number, move in enumerate(path, 1):
        who = mover(run, move)
        notes.events = []
        make(run, move)
        steps.append(Step(number, who, move.kind, notes.events, snapshot(run)))
    edges = list(wait_edges(run.world))
    world = run.world
    lanes = [*world.processes, *(["fault"] if run.scenario.faults else []), *world.stack.devices, *world.stack.disks]
    return Counterexample(scenario_name, check, text, steps, edges, find_cycle(edges), lanes)


def snapshot(run: ExploredRun) -> dict[str, Any]:
    """How processes, locks, devices, bios and disks stand: plain data, for a page or a test."""
    world = run.world
    return {
        "processes": [_process(process) for process in world.all_processes()],
        "locks": [{"name": name, "owner": mutex.owner.name if mutex.owner else None,
                   "waiters": [task.name for task in mutex.latch.waiters]} for name, mutex in world.locks.items()],
        "devices": [_device(world, md) for md in world.stack.devices.values()],
        "disks": [{"name": disk.name, "failed": bool(disk.faults) or disk.detached}
                  for disk in world.stack.disks.values()],
        "ready": [f"{task.name}: {task.bio!r}" if hasattr(task, "bio") else task.name
                  for task in run.engine.runnable],
    }


def _process(process: ProcessTask) -> dict[str, Any]:
    instr = process.code[process.pc]
    operation = OPERATIONS.get(instr.op)
    doing = operation.words(instr.args) if operation is not None else instr.op
    return {"name": process.name, "ended": process.ended, "at": "" if process.ended else doing, "line": instr.line,
            "waits": process.waiting.why if process.waiting is not None else "", "locks": list(process.locks),
            "failed": bool(process.failure)}


def _device(world: World, md: MappedDevice) -> dict[str, Any]:
    held = [words for target in (md.live.targets if md.live else []) for words in target.held()]
    return {
        "name": md.name, "suspended": md.suspended, "suspending": md.block_io and not md.suspended,
        "noflush": md.noflush_suspending, "in_flight": md.in_flight, "deferred": [repr(bio) for bio in md.deferred],
        "held": held, "events": md.event_nr,
        "live": [world.with_names(line) for line in status_lines(md)],
        "inactive": list(md.inactive.types) if md.inactive is not None else [],
    }


def wait_edges(world: World) -> Iterator[Edge]:
    """Who waits for whom, now."""
    for process in world.all_processes():
        if process.ended or process.waiting is None:
            continue
        yield from _of_process(world, process)
    for md in world.stack.devices.values():
        yield from _of_bios(world, md)


def _of_process(world: World, process: ProcessTask) -> Iterator[Edge]:
    assert process.waiting is not None
    me, latch, why = f"process {process.name}", process.waiting.latch, process.waiting.why
    for name, mutex in world.locks.items():
        if latch is mutex.latch and mutex.owner is not None:
            yield Edge(me, f"lock {name}", why)
            yield Edge(f"lock {name}", f"process {mutex.owner.name}", f"held by {mutex.owner.name}")
            return
    for md in world.stack.devices.values():
        if latch is md.drained:
            yield Edge(me, f"bios of {md.name}", why)
            return
        if latch is md.suspend_lock.latch and md.suspend_lock.owner is not None:
            yield Edge(me, f"process {md.suspend_lock.owner.name}", why)
            return
    instr = process.code[process.pc]
    if instr.op in ("suspend", "resume"):      # a freeze writes through what is suspended
        for name in instr.args["device"]:
            if name in world.stack.devices and world.stack.devices[name].in_flight:
                yield Edge(me, f"bios of {name}", why)
                return
    place = instr.args.get("target")
    if isinstance(place, str):
        filesystem = world.filesystems.by_name.get(place)
        place = filesystem.device.name if filesystem is not None else place
        if place in world.stack.devices:
            yield Edge(me, f"bios of {place}", why)


def _of_bios(world: World, md: MappedDevice) -> Iterator[Edge]:
    """Bios wait below, for the one who would release what a target holds, or for a resume."""
    me = f"bios of {md.name}"
    if md.live is not None and md.in_flight:
        for below in md.live.devices:
            if isinstance(below, MappedDevice) and (below.in_flight or below.deferred):
                yield Edge(me, f"bios of {below.name}", f"they are in {below.name}")
        for target in md.live.targets:
            for words in target.held():
                for process in who_would(world, "suspend", md.name):
                    yield Edge(me, f"process {process.name}", f"{words}; only a suspend of {md.name} ends that, "
                                                              f"and {process.name} is on its way to one")
    if md.deferred:
        for process in who_would(world, "resume", md.name):
            yield Edge(me, f"process {process.name}", f"{md.name} is suspended until {process.name} resumes it")


def who_would(world: World, op: str, device: str) -> Iterator[ProcessTask]:
    """The processes that still have such an operation on a device before them."""
    for process in world.all_processes():
        if process.ended:
            continue
        later = process.code[process.pc + (process.code[process.pc].op == op):]
        if any(instr.op == op and device in instr.args.get("device", []) for instr in later):
            yield process


def find_cycle(edges: list[Edge]) -> list[str]:
    """A cycle of the graph, from its first member in the order of the edges; empty when there is none."""
    after: dict[str, list[str]] = {}
    for edge in edges:
        after.setdefault(edge.waiter, []).append(edge.holder)
    for start, holders in after.items():
        trail = [(start, iter(holders))]
        on_trail = [start]
        while trail:
            step = next(trail[-1][1], None)
            if step is None:
                trail.pop()
                on_trail.pop()
            elif step == start:
                return on_trail
            elif step not in on_trail:
                trail.append((step, iter(after.get(step, []))))
                on_trail.append(step)
    return []
