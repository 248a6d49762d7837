"""From drawn numbers to a scenario that the runtime runs like any other.

What Hypothesis draws is two lists of whole numbers: the steps, and where the schedule leaves the straight
path.  A step picks one of the property's operations, one of the places that it can be about, and a *lane*:
what is in one lane is done one after the other, lanes run at once.  Smaller numbers mean simpler things (lane
``a``, the first operation, the first whole block; no deviation), so what Hypothesis shrinks to is simple.

The steps become ordinary processes of an ordinary scenario, so a counterexample is a spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.build import build
from dmspec.runtime.contents import whole
from dmspec.runtime.control import parse_line
from dmspec.runtime.operations.base import NO_IO_ERROR, OperationType
from dmspec.runtime.plan import RUN, Check, Instr, Plan, Process, Property, Scenario
from dmspec.runtime.registry import OPERATIONS, TARGETS
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.units import SECTOR_BYTES
from dmspec.runtime.world import World

LANES: Final = 3
BLOCK: Final = 8
MOST_BLOCKS: Final = 16
ANY_LEG: Final = "any-leg"
POWER_CUT: Final = "power-cut"
SOMETIMES: Final = "sometimes"

# A deviation of the schedule is one number: how many choices go straight on before it, and which one it takes.
PICKS: Final = 4
MOST_STRAIGHT: Final = 40
DEVIATIONS: Final = MOST_STRAIGHT * PICKS


@dataclass(frozen=True, slots=True)
class Part:
    """One operation with all its arguments; ``name`` :data:`RUN`: a whole process."""

    name: str
    args: dict[str, Any]

    def words(self) -> str:
        """As a spec says it."""
        if self.name == RUN:
            return str(self.args["process"])
        return OPERATIONS[self.name].words(self.args)


@dataclass(frozen=True, slots=True)
class Drawable:
    """One line of a property's ``operations``: everything that it can come to, the simplest first."""

    name: str
    most: int | None
    alternatives: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What a lane does next."""

    lane: int
    drawable: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """An example: who does what, and where the schedule leaves the straight path."""

    steps: list[Step]
    deviations: list[int]


class DeviatingChooser:
    """Goes straight on (0) but where a deviation says otherwise."""

    def __init__(self, deviations: Sequence[int]) -> None:
        self.deviations = list(deviations)
        self.at = 0
        self.straight = self._next()

    def _next(self) -> int:
        return self.deviations[self.at] // PICKS if self.at < len(self.deviations) else -1

    def choose(self, count: int) -> int:
        """Answer a choice of the engine."""
        if self.straight:
            self.straight -= 1
            return 0
        picked = 1 + self.deviations[self.at] % PICKS
        self.at += 1
        self.straight = self._next()
        return picked % count


@dataclass
class Subject:
    """A property of a plan, made ready to be drawn from.  ``sizes`` are in sectors."""

    plan: Plan
    law: Property
    drawables: list[Drawable] = field(default_factory=list)
    lanes: list[str] = field(default_factory=list)
    at_first: dict[str, SparseMemory] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    legs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        plan = self.plan
        world = build(plan, SimEngine(), target_types=TARGETS, kernel=self.law.kernel)
        for name in world.stack.devices:
            contents = whole(world, name)
            if not isinstance(contents, int):
                self.at_first[name] = contents
        taken = {one.name for group in (plan.disks, plan.devices, plan.filesystems, plan.locks, plan.processes)
                 for one in group}
        self.lanes = [name if name not in taken else f"lane-{name}" for name in ("a", "b", "c")[:LANES]]
        self.sizes = device_sizes(world)
        self.legs = mirror_legs(plan)
        self.drawables = [_drawable(instr, self.sizes, self.legs) for instr in self.law.operations]
        self.strict = {NO_IO_ERROR, "no-error"} & {check.name for check in self.law.checks}

    # Numbers to steps

    @property
    def step_count(self) -> int:
        """How many numbers there are for who does what."""
        return len(self.drawables) * LANES

    @property
    def place_count(self) -> int:
        """How many numbers there are for where."""
        return max(len(one.alternatives) for one in self.drawables)

    def program(self, steps: Sequence[tuple[int, int]], deviations: Sequence[int]) -> Program:
        """What the drawn numbers mean.  What would be more often than its ``most`` is left out."""
        found: list[Step] = []
        counts = [0] * len(self.drawables)
        dead: int | None = None
        for number, place in steps:
            index, lane = divmod(number, LANES)
            drawable = self.drawables[index]
            if drawable.most is not None and counts[index] >= drawable.most:
                continue
            counts[index] += 1
            parts = drawable.alternatives[place % len(drawable.alternatives)]
            lane = lane if dead is None else dead
            found.append(Step(lane, index, parts))
            if any(part.name == POWER_CUT for part in parts):
                dead = lane  # everybody else ends with the machine
        return Program(found, list(deviations))

    # Steps to a scenario

    def scenario_plan(self, program: Program, schedule: Sequence[int] = ()) -> Plan:
        """The plan with the lanes as processes, and one scenario that runs them."""
        processes = []
        for lane, name in enumerate(self.lanes):
            steps = [step for step in program.steps if step.lane == lane]
            if steps:
                processes.append(self._process(name, steps))
        checks = [check for check in self.law.checks if check.mode != SOMETIMES]
        run = [*(one.name for one in processes), *self.law.run]
        scenario = Scenario(self.law.name, self.law.title, run, [], checks, kernel=self.law.kernel,
                            schedule=list(schedule))
        return replace(self.plan, processes=[*self.plan.processes, *processes], scenarios=[scenario], properties=[])

    def sometimes(self) -> list[Check]:
        """What has to be reached at least once."""
        return [check for check in self.law.checks if check.mode == SOMETIMES]

    def tolerates(self, part: Part) -> bool:
        """Whether the property allows it to fail: it does, unless a check forbids its errors."""
        return part.name == RUN or OPERATIONS[part.name].violates not in self.strict

    def _process(self, name: str, steps: list[Step]) -> Process:
        code: list[Instr] = []
        slots = 0
        for part in (part for step in steps for part in step.parts):
            if part.name == RUN:
                slots = _inline(self.plan.process(part.args["process"]), code, slots)
            elif self.tolerates(part):
                code.append(Instr("try", {"errno": None, "must": False, "to": len(code) + 3}))
                code.append(Instr(part.name, part.args))
                code.append(Instr("end-try", {"errno": None, "must": False}))
            else:
                code.append(Instr(part.name, part.args))
        code.append(Instr("end"))
        return Process(name, code, slots)


def _inline(process: Process, code: list[Instr], slots: int) -> int:
    """Append a process's code; the answer is how many loop counters there are then."""
    base = len(code)
    for instr in process.code[:-1]:
        args = dict(instr.args)
        for key in ("to", "starts"):
            if isinstance(args.get(key), list):
                args[key] = [to + base for to in args[key]]
            elif key in args:
                args[key] += base
        if "slot" in args:
            args["slot"] += slots
        code.append(Instr(instr.op, args, instr.file, instr.line))
    return slots + process.slots


# ---- what can be drawn


def device_sizes(world: World) -> dict[str, int]:
    """The sizes in sectors of everything that can be written to."""
    sizes = {device.name: device.sectors for device in world.stack.everything()}
    sizes |= {name: one.size // SECTOR_BYTES for name, one in world.filesystems.by_name.items()}
    return sizes


def mirror_legs(plan: Plan) -> list[str]:
    """The disks that mirrors and raids lie on, without their logs; all disks where there is no mirror."""
    disks = [disk.name for disk in plan.disks]
    tables = {device.name: device.table for device in plan.devices}
    found: list[str] = []
    for device in plan.devices:
        for line in device.table:
            _start, _length, kind, params = parse_line(line)
            words = params.split()
            if kind in ("mirror", "raid"):
                todo = words[2 + int(words[1]):]
                while todo:
                    word = todo.pop(0)
                    if word in disks and word not in found:
                        found.append(word)
                    todo += [one for below in tables.get(word, []) for one in parse_line(below)[3].split()]
    return [name for name in disks if name in found] or disks


def places(sectors: int) -> list[tuple[int, int]]:
    """Places (offset and length in bytes) on a device, the simplest first: blocks, then what crosses them."""
    blocks = list(range(0, sectors, BLOCK))
    if len(blocks) > MOST_BLOCKS:
        blocks = [*blocks[:MOST_BLOCKS - 4], *blocks[-4:]]
    found = [(at, min(BLOCK, sectors - at)) for at in blocks]
    found += [(at, 1) for at in blocks]
    found += [(at + BLOCK - 1, 2) for at in blocks]
    found += [(at, 2 * BLOCK) for at in blocks]
    found += [(at + 3, 2) for at in blocks[:2]]
    found.append((0, sectors))
    fitting = [(at * SECTOR_BYTES, size * SECTOR_BYTES) for at, size in dict.fromkeys(found) if at + size <= sectors]
    if sectors > BLOCK:
        fitting += [(100, 700), (BLOCK * SECTOR_BYTES - 300, 600)]
    return fitting


def _drawable(instr: Instr, sizes: dict[str, int], legs: list[str]) -> Drawable:
    choices: list[list[Part]] = []
    for part in instr.args["parts"]:
        if part["operation"] == RUN:
            choices.append([Part(RUN, dict(part["args"]))])
        else:
            choices.append(_parts(OPERATIONS[part["operation"]], part, sizes, legs))
    count = max(len(one) for one in choices)
    return Drawable(instr.op, instr.args["most"],
                    tuple(tuple(one[at % len(one)] for one in choices) for at in range(count)))


def _parts(operation: OperationType, part: dict[str, Any], sizes: dict[str, int], legs: list[str]) -> list[Part]:
    """Every way to fill in what the spec left open."""
    args, drawn = part["args"], part["drawn"]
    filled = [args]
    if "at" in drawn:
        target = args.get("target") or args.get("disk") or ""
        found = places(sizes.get(target, BLOCK))
        if "size" not in args:
            filled = [args | {"at": at} for at, _size in found]
        elif "size" in drawn:
            filled = [args | {"at": at, "size": size} for at, size in found]
        else:
            room = sizes.get(target, BLOCK) * SECTOR_BYTES
            offsets = dict.fromkeys(at for at, _size in found if at + args["size"] <= room)
            filled = [args | {"at": at} for at in offsets] or [args | {"at": 0}]
    if args.get("disk") == ANY_LEG:
        filled = [one | {"disk": leg} for one in filled for leg in legs]
    return [Part(operation.name, one) for one in filled]
