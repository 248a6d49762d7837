"""Drawn runs, for spaces too large to look at every state of: random walks, and probabilistic concurrency testing.

Each run is an ordinary one under a :class:`~dmspec.runtime.sim.Chooser` of its own, so what it finds is replayed by
:func:`~dmspec.runtime.runner.run_scenario`.  Nothing is proved: a check that no run has violated is "not seen".

``random`` picks each next step with the same chance for all that can be taken.  ``pct`` is the algorithm of Burckhardt,
Kothari, Musuvathi and Nagarakatte (ASPLOS 2010): tasks have drawn priorities, the highest one that can run does, and at
``depth`` - 1 drawn steps the running task falls below all others.  A bug that needs ``depth`` ordering constraints is
found by each run with a chance of at least 1/(n k^(depth-1)), for n tasks and k steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from .. import plan as plans
from ..build import build
from ..registry import TARGETS
from ..runner import Running, scenario_of
from ..sim import Chooser, SeededChooser, SimEngine
from ..task import Task
from ..trace import Schedule

RUN_STEP_LIMIT: Final = 10_000
_SALT: Final = 0x9E3779B97F4A7C15


class Strategy(Protocol):
    """Makes the chooser of a run; ``steps`` is how many the longest run so far has taken."""

    def chooser(self, engine: SimEngine, draws: SeededChooser, steps: int) -> Chooser:
        """For one run."""


class Uniform:
    """Any alternative with the same chance."""

    def __init__(self, draws: SeededChooser) -> None:
        self.draws = draws

    def choose(self, count: int) -> int:
        """Draw."""
        return self.draws.draw() % count


class RandomWalk:
    """See the module."""

    def chooser(self, engine: SimEngine, draws: SeededChooser, steps: int) -> Chooser:
        """For one run."""
        del engine, steps
        return Uniform(draws)


class ByPriority:
    """The task with the highest priority; within a step, any alternative.

    ``low`` counts the priorities that change points have given, which are below all drawn ones, each one above the
    one before: so the task that was lowered last runs before those lowered earlier.
    """

    def __init__(self, engine: SimEngine, draws: SeededChooser, changes: list[int]) -> None:
        self.engine = engine
        self.draws = draws
        self.changes = changes
        self.priorities: dict[str, int] = {}
        self.low = -len(changes)
        self.step = -1

    def choose(self, count: int) -> int:
        """The first choice of a step is that of the task."""
        if self.step == self.engine.steps or count != len(self.engine.runnable):
            return self.draws.draw() % count
        self.step = self.engine.steps
        picked = self._highest()
        if self.changes and self.step >= self.changes[0]:
            self.changes.pop(0)
            self.priorities[self.engine.runnable[picked].name] = self.low
            self.low += 1
            picked = self._highest()
        return picked

    def _highest(self) -> int:
        return max(range(len(self.engine.runnable)), key=lambda at: self._priority(self.engine.runnable[at]))

    def _priority(self, task: Task) -> int:
        if task.name not in self.priorities:
            self.priorities[task.name] = self.draws.draw() >> 1
        return self.priorities[task.name]


class Pct:
    """See the module."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def chooser(self, engine: SimEngine, draws: SeededChooser, steps: int) -> Chooser:
        """For one run."""
        changes = sorted(engine.steps + draws.draw() % max(steps, 1) for _ in range(self.depth - 1))
        return ByPriority(engine, draws, changes)


STRATEGIES: Final[dict[str, Callable[[int], Strategy]]] = {"random": lambda _depth: RandomWalk(), "pct": Pct}


@dataclass(frozen=True, slots=True)
class Seen:
    """The shortest run that violates a check: which run it was, its steps, and what decided it."""

    check: str
    text: str
    run: int
    steps: int
    schedule: Schedule


@dataclass
class Sampling:
    """What came of the runs.  ``stopped`` is empty when all were made."""

    scenario: str
    runs: int = 0
    steps: int = 0
    longest: int = 0
    different: int = 0
    cut: int = 0
    stopped: str = ""
    found: dict[str, Seen] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)


class Sampler:
    """Draws runs of one scenario; the same seed draws the same ones."""

    def __init__(self, plan: plans.Plan, scenario_name: str, strategy: Strategy, *, seed: int = 0) -> None:
        self.plan = plan
        self.scenario = scenario_of(plan, scenario_name)
        self.strategy = strategy
        self.seed = seed
        self.result = Sampling(self.scenario.name)
        self.known: set[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]] = set()

    def run(self, runs: int, keep_going: Callable[[Sampling], bool] = lambda _result: True) -> Sampling:
        """Make so many runs.  Ctrl-C, or a ``False`` of ``keep_going``, leaves what has been found by then."""
        try:
            for number in range(runs):
                self._once(number)
                if not keep_going(self.result):
                    self.result.stopped = "it was told to stop"
                    break
        except KeyboardInterrupt:
            self.result.stopped = "interrupted"
        return self.result

    def _once(self, number: int) -> None:
        result = self.result
        draws = SeededChooser((self.seed * _SALT + number) & 0xFFFFFFFFFFFFFFFF)
        engine = SimEngine()
        world = build(self.plan, engine, target_types=TARGETS, kernel=self.scenario.kernel)
        running = Running(world, self.scenario, schedule=Schedule([], self._faults(draws)))
        engine.schedule = []
        engine.chooser = self.strategy.chooser(engine, draws, result.longest or 1)
        at_rest = False
        while not at_rest and running.taken < RUN_STEP_LIMIT:
            at_rest = not running.step()
        if at_rest:
            running.come_to_rest()
        result.runs += 1
        result.steps += running.taken
        result.longest = max(result.longest, running.taken)
        result.cut += not at_rest
        schedule = running.schedule()
        self.known.add((tuple(schedule.choices), tuple(schedule.faults)))
        result.different = len(self.known)
        self._judge(running, number, schedule, at_rest=at_rest)

    def _faults(self, draws: SeededChooser) -> list[tuple[int, int]]:
        """Each fault with ``at=any`` strikes at drawn steps; one time in eight it does not."""
        steps = max(self.result.longest, 1)
        struck = [(draws.draw() % steps, index) for index, fault in enumerate(self.scenario.faults)
                  if "any" in fault.at for _ in range(fault.most) if draws.draw() % 8]
        return sorted(struck)

    def _judge(self, running: Running, number: int, schedule: Schedule, *, at_rest: bool) -> None:
        result = self.result
        for watching in running.watching:
            if watching.reached:
                result.reached.add(watching.check.name)
        for one in running.outcomes(at_rest=at_rest):
            if not one.violated or one.mode == "sometimes":
                continue
            result.violations[one.name] = result.violations.get(one.name, 0) + 1
            known = result.found.get(one.name)
            if known is None or running.taken < known.steps:
                result.found[one.name] = Seen(one.name, one.text, number, running.taken, schedule)
