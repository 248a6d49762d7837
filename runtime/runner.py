"""Running a scenario in simulation: faults, checks, and what they come to.

A fault with ``at=start``, ``at=step N`` or a time strikes then.  One with ``at=any`` strikes where the
schedule says; without one, at a step that the seed draws; without a seed once, when for the first time
nothing but I/O can move and some of it is on its way to the fault's disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dmspec.runtime import plan as plans
from dmspec.runtime import trace as traces
from dmspec.runtime.block import DiskIo
from dmspec.runtime.build import BuildError, DiskFactory, build
from dmspec.runtime.checks import Watch, stuck_processes, wait_for
from dmspec.runtime.control import status_lines
from dmspec.runtime.errors import DmError, DmspecError, PlanError, errno_name
from dmspec.runtime.operations.base import EXPECTATION, NO_ERROR, NO_IO_ERROR, complete
from dmspec.runtime.process import ProcessTask
from dmspec.runtime.registry import CHECKS, OPERATIONS, TARGETS
from dmspec.runtime.sim import Chooser, FirstChooser, Observer, ReplayChooser, SeededChooser, SimEngine
from dmspec.runtime.targets.base import TargetType
from dmspec.runtime.task import DONE, Frame, Latch, Outcome, Task, Wait
from dmspec.runtime.world import World

STEP_LIMIT: Final = 200_000
NO_DEADLOCK: Final = "no-deadlock"
MAIN: Final = "main"
_FAULT_SEED: Final = 0x5DEECE66D
_SPREADS: Final = (8, 32, 128, 512)


class Crash(DmspecError):
    """Our bug, met in a run: the exception is the cause, and the trace leads there again."""

    def __init__(self, text: str, trace: traces.Trace) -> None:
        super().__init__(text)
        self.trace = trace


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What a check came to.  ``expected``: the scenario expects a violation of it."""

    mode: str
    name: str
    words: str
    violated: bool
    expected: bool
    ok: bool
    text: str = ""
    remark: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device at the end, with names where the kernel has ``major:minor``."""

    name: str
    state: str
    event_nr: int
    status: list[str]
    table: list[str]


@dataclass(frozen=True, slots=True)
class Result:
    """A run and its verdict, ``ok`` or ``failed``.  ``remarks`` tell of what no check asked about."""

    scenario: str
    title: str
    verdict: str
    checks: list[CheckOutcome]
    remarks: list[str]
    steps: int
    setup_steps: int
    setup_events: int
    time_ns: int
    statuses: list[DeviceStatus]
    trace: traces.Trace

    @property
    def ok(self) -> bool:
        """Whether everything was as the scenario expects it."""
        return self.verdict == "ok"


@dataclass
class Armed:
    """A fault with ``at=any`` that may still strike."""

    index: int
    fault: plans.Fault
    left: int
    spread: int = 0
    draws: SeededChooser | None = None


@dataclass
class Watching:
    """A check of the scenario with what its watch has seen so far."""

    check: plans.Check
    watch: Watch
    text: str = ""
    reached: bool = False

    def forget(self) -> None:
        """What it has said so far."""
        self.text, self.reached, self.watch.remark = "", False, ""


class Strike(Frame):
    """A fault at a time."""

    def __init__(self, running: Running, fault: plans.Fault) -> None:
        self.running = running
        self.fault = fault
        self.latch = Latch("the time of a fault")
        self.time_ns: int = running.engine.now_ns + fault.at["time_ns"]

    def start(self, task: Task) -> Outcome:
        """Wait for the time, then strike."""
        if task.engine.now_ns < self.time_ns:
            task.engine.at(self.time_ns, self.latch)
            return Wait(self.latch, "for its time")
        self.running.strike(self.fault)
        return DONE


@dataclass
class Tee:
    """Tells a second observer as well."""

    recorder: traces.Recorder
    other: Observer | None

    def note(self, step: int, time_ns: int, lane: str, text: str) -> None:
        """Tell both."""
        self.recorder.note(step, time_ns, lane, text)
        if self.other is not None:
            self.other.note(step, time_ns, lane, text)


class Running:
    """A scenario under way.  :func:`copy.deepcopy` gives one that would go on in the same way."""

    def __init__(self, world: World, scenario: plans.Scenario, *, seed: int | None = None,
                 schedule: traces.Schedule | None = None) -> None:
        assert isinstance(world.engine, SimEngine)
        self.world = world
        self.engine = world.engine
        self.scenario = scenario
        self.first_step = self.engine.steps
        self.fired: list[tuple[int, int]] = []
        self.planned = list(schedule.faults) if schedule is not None else None
        self.engine.chooser = _chooser(seed, schedule, scenario)
        self.watching = [Watching(check, make_watch(check)) for check in all_checks(scenario)]
        for name in scenario.run:
            world.processes[name] = ProcessTask(world, world.plan.process(name))
        for one in self.watching:
            one.watch.attach(world)
        for process in world.processes.values():
            process.run()
        self.armed: list[Armed] = []
        self._arm(seed)
        self._look()

    @property
    def taken(self) -> int:
        """How many steps the scenario has taken."""
        return self.engine.steps - self.first_step

    def _arm(self, seed: int | None) -> None:
        for index, fault in enumerate(self.scenario.faults):
            if "start" in fault.at:
                self.strike(fault)
            elif "time_ns" in fault.at:
                Task(self.engine, "fault").start(Strike(self, fault))
            elif "step" in fault.at:
                self.armed.append(Armed(index, fault, 1))
            elif self.planned is None and fault.most > 0:
                draws = SeededChooser((seed ^ _FAULT_SEED) + index) if seed is not None else None
                spread = _SPREADS[draws.draw() % len(_SPREADS)] if draws is not None else 0
                self.armed.append(Armed(index, fault, fault.most if draws is not None else 1, spread, draws))

    def strike(self, fault: plans.Fault) -> None:
        """Let a fault happen now."""
        operation = OPERATIONS[fault.kind]
        args = complete(operation.signature, fault.args)
        self.engine.note("fault", operation.words(args))
        nobody = ProcessTask(self.world, plans.Process("fault", [plans.Instr("end")]))
        try:
            answer = operation.perform(nobody, args)
        except DmError as error:
            self.engine.note("fault", f"{fault.kind}: {errno_name(error.errno)}")
            return
        if isinstance(answer, Frame):
            Task(self.engine, "fault").start(answer)

    def strike_any(self, index: int) -> None:
        """Let a fault with ``at=any`` happen now, and keep when, for a replay."""
        self.fired.append((self.taken, index))
        self.strike(self.scenario.faults[index])

    def _faults(self) -> None:
        while self.planned and self.planned[0][0] <= self.taken:
            self.strike_any(self.planned.pop(0)[1])
        for armed in list(self.armed):
            if "step" in armed.fault.at:
                due = self.taken >= armed.fault.at["step"]
            elif armed.draws is not None:
                due = armed.draws.draw() % armed.spread == 0
            else:
                due = self._only_io_moves(armed.fault.args.get("disk"))
            if not due:
                continue
            armed.left -= 1
            if not armed.left:
                self.armed.remove(armed)
            if "step" in armed.fault.at:
                self.strike(armed.fault)
            else:
                self.strike_any(armed.index)

    def _only_io_moves(self, disk: str | None) -> bool:
        tasks = self.engine.runnable
        if not tasks or not all(isinstance(task, DiskIo) for task in tasks):
            return False
        return disk is None or any(task.name == disk for task in tasks)

    def step(self) -> bool:
        """Take one step; ``False``: all is at rest."""
        self._faults()
        self.world.settle()
        if not self.engine.step():
            return False
        self.world.settle()
        self._look()
        return True

    def _look(self) -> None:
        for one in self.watching:
            text = one.watch.after_step(self.world)
            if one.watch.judges_steps:
                self._found(one, text, last=False)

    def _found(self, one: Watching, text: str | None, *, last: bool) -> None:
        if text is None:
            one.reached = True
        elif not one.text and (one.check.mode == "always" or (last and one.check.mode == "finally")):
            one.text = text

    def come_to_rest(self, *, over: bool = False) -> None:
        """Ask every check once more, now that nothing moves; ``over``: the world is not needed afterwards."""
        self.world.over = over
        for one in self.watching:
            self._found(one, one.watch.at_rest(self.world), last=True)

    def outcomes(self, *, at_rest: bool) -> list[CheckOutcome]:
        """What every check has come to."""
        found = [self._outcome(one, at_rest) for one in self.watching]
        found = [one for one in found if one.name != EXPECTATION or one.violated or one.expected
                 or any(check.name == EXPECTATION for check in self.scenario.checks)]
        for index, one in enumerate(found):
            if one.expected and not any(other.violated for other in found if other.name == one.name):
                found[index] = CheckOutcome(one.mode, one.name, one.words, False, True, False,
                                            "a violation was expected, and there was none", one.remark, one.line)
        return found

    def _outcome(self, one: Watching, at_rest: bool) -> CheckOutcome:
        check, text, remark = one.check, one.text, one.watch.remark
        if check.mode == "sometimes" and not one.reached:
            text = "it never came to that"
        if not at_rest and not text and not one.watch.judges_steps:
            remark = "not judged: the run did not come to rest"
        expected = check.name in self.scenario.violations
        return CheckOutcome(check.mode, check.name, check_words(check), bool(text), expected,
                            not text or expected, text, remark, check.line)

    def remarks(self, *, at_rest: bool) -> list[str]:
        """What happened and no check of the scenario asks about."""
        asked = {check.name for check in all_checks(self.scenario)}
        said = [f"{violation.text}; no check asks about it" for violation in self.world.violations
                if violation.check in (NO_ERROR, NO_IO_ERROR) and violation.check not in asked]
        stuck = stuck_processes(self.world)
        if at_rest and stuck and NO_DEADLOCK not in asked:
            said.append(f"at rest, and not at the end: {'; '.join(wait_for(self.world))}")
        said += [f"fault {armed.fault.kind} (line {armed.fault.line}) never struck" for armed in self.armed
                 if armed.draws is None]
        return said

    def statuses(self) -> list[DeviceStatus]:
        """How every device stands."""
        world = self.world
        return [DeviceStatus(
            md.name, "SUSPENDED" if md.suspended else "ACTIVE", md.event_nr,
            [world.with_names(line) for line in status_lines(md)],
            [world.with_names(line) for line in status_lines(md, table=True)],
        ) for md in world.stack.devices.values()]

    def schedule(self) -> traces.Schedule:
        """What decided this run so far."""
        choices = list(self.engine.schedule)
        while choices and not choices[-1]:
            choices.pop()
        return traces.Schedule(choices, list(self.fired))


def _chooser(seed: int | None, schedule: traces.Schedule | None, scenario: plans.Scenario) -> Chooser:
    if schedule is not None:
        return ReplayChooser(list(schedule.choices))
    if seed is None and scenario.schedule:
        return ReplayChooser(scenario.schedule)
    return SeededChooser(seed) if seed is not None else FirstChooser()


def make_watch(check: plans.Check) -> Watch:
    """The watch of a check, with every argument."""
    kind = CHECKS[check.name]
    return kind.watch(complete(kind.signature, check.args))


def all_checks(scenario: plans.Scenario) -> list[plans.Check]:
    """Those that the scenario lists, those whose violation it expects, and ``expectation``."""
    checks = list(scenario.checks)
    for name in [*scenario.violations, EXPECTATION]:
        if not any(check.name == name for check in checks):
            checks.append(plans.Check("always", name, {}, scenario.line))
    return checks


def check_words(check: plans.Check) -> str:
    """``always no-io-error app``, as a spec says it."""
    words = [check.mode, check.name]
    kind = CHECKS[check.name]
    for param in kind.signature:
        value: Any = check.args.get(param.key, param.default)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if param.positional:
            words += [str(one) for one in values]
        elif value not in (param.default, None):
            words.append(f"{param.name}={value}")
    return " ".join(words)


def scenarios_of(plan: plans.Plan) -> list[plans.Scenario]:
    """The plan's scenarios; where it has none, one that runs every process."""
    if plan.scenarios:
        return plan.scenarios
    checks = [plans.Check("always", name) for name in (NO_DEADLOCK, NO_ERROR, NO_IO_ERROR)]
    return [plans.Scenario(MAIN, "", [process.name for process in plan.processes], [], checks)]


def scenario_of(plan: plans.Plan, name: str) -> plans.Scenario:
    """One of them by name."""
    for scenario in scenarios_of(plan):
        if scenario.name == name:
            return scenario
    raise PlanError(f"no scenario {name!r} in the plan")


@dataclass
class _Run:
    plan: plans.Plan
    scenario: plans.Scenario
    seed: int | None
    step_limit: int
    recorder: traces.Recorder = field(default_factory=traces.Recorder)
    setup_events: int = 0

    def trace(self, schedule: traces.Schedule, verdict: str, summary: list[str]) -> traces.Trace:
        """Everything that is needed to run it again."""
        return traces.Trace(plans.to_bytes(self.plan), self.scenario.name, self.seed, self.step_limit, schedule,
                            self.recorder.events, verdict, summary)


def run_scenario(plan: plans.Plan, scenario_name: str, *, seed: int | None = None,
                 schedule: traces.Schedule | None = None, observer: Observer | None = None,
                 step_limit: int = STEP_LIMIT, disk_factory: DiskFactory | None = None,
                 target_types: Mapping[str, TargetType] = TARGETS) -> Result:
    """Run a scenario in a fresh world.

    Raises :class:`~dmspec.runtime.build.BuildError` when the plan's devices cannot be made, and
    :class:`Crash` for a mistake of ours.
    """
    run = _Run(plan, scenario_of(plan, scenario_name), seed, step_limit)
    engine = SimEngine(observer=Tee(run.recorder, observer))
    running: Running | None = None
    try:
        world = build(plan, engine, disk_factory=disk_factory, target_types=target_types,
                      kernel=run.scenario.kernel)
        run.setup_events = len(run.recorder.events)
        running = Running(world, run.scenario, seed=seed, schedule=schedule)
        at_rest = _drive(running, step_limit)
    except BuildError:
        raise
    except Exception as error:
        raise _crash(run, running, error) from error
    return _result(run, running, at_rest)


def _drive(running: Running, step_limit: int) -> bool:
    """Run to rest and ask the checks; ``False`` when the limit came first."""
    while running.taken < step_limit:
        if not running.step():
            running.come_to_rest()
            return True
    return False


def _crash(run: _Run, running: Running | None, error: Exception) -> Crash:
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    schedule = running.schedule() if running is not None else traces.Schedule()
    return Crash(text, run.trace(schedule, "crashed", [text]))


def _result(run: _Run, running: Running, at_rest: bool) -> Result:
    checks = running.outcomes(at_rest=at_rest)
    if not at_rest:
        moving = sorted({task.name for task in running.engine.runnable})
        ended = [name for name, process in running.world.processes.items() if not process.ended]
        checks.append(CheckOutcome(
            "always", "step-limit", "comes to rest", True, False, False,
            f"no rest after {run.step_limit} steps; still moving: {', '.join(moving) or 'timers'}; "
            f"not at the end: {', '.join(ended) or 'nobody'}; a loop that never ends, or raise the limit"))
    verdict = "ok" if all(one.ok for one in checks) else "failed"
    summary = [f"{one.words}: {_word(one)}" + (f": {one.text}" if one.text else "") for one in checks]
    return Result(
        run.scenario.name, run.scenario.title, verdict, checks, running.remarks(at_rest=at_rest), running.taken,
        running.first_step, run.setup_events, running.engine.time_ns, running.statuses(),
        run.trace(running.schedule(), verdict, summary))


def _word(one: CheckOutcome) -> str:
    if one.violated:
        return "violated, as expected" if one.expected else "violated"
    return "holds" if one.ok else "not violated"


def replay(trace: traces.Trace, *, observer: Observer | None = None,
           target_types: Mapping[str, TargetType] = TARGETS) -> tuple[Result | Crash, str | None]:
    """Run a trace again; what came of it, and in words where it differs from the trace, if it does."""
    try:
        plan = plans.from_bytes(trace.plan)
    except PlanError as error:
        raise traces.TraceError(f"the plan inside of the trace: {error}") from None
    again: Result | Crash
    try:
        again = run_scenario(plan, trace.scenario, schedule=trace.schedule, observer=observer,
                             step_limit=trace.step_limit, target_types=target_types)
    except Crash as crash:
        again = crash
    differs = traces.difference(trace.events, again.trace.events)
    if differs is None and (trace.verdict, trace.summary) != (again.trace.verdict, again.trace.summary):
        differs = f"the verdict differs: recorded {trace.verdict}, now {again.trace.verdict}"
    return again, differs
