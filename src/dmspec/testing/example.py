"""One example: a program run to rest, and what the checks say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dmspec.runtime.build import BuildError, build
from dmspec.runtime.plan import RUN, Scenario
from dmspec.runtime.registry import OPERATIONS, TARGETS
from dmspec.runtime.runner import Running, check_words
from dmspec.runtime.sim import SimEngine
from dmspec.testing.program import SOMETIMES, DeviatingChooser, Program, Subject

STEP_LIMIT = 20_000
CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Broken:
    """A check that was violated, or a mistake of ours (:data:`CRASHED`)."""

    check: str
    words: str
    text: str


@dataclass(slots=True)
class Outcome:
    """What an example came to.  ``schedule`` is what was picked at every choice, ``reached`` in words."""

    broken: Broken | None
    schedule: list[int]
    steps: int
    reached: list[str] = field(default_factory=list)


def run_program(subject: Subject, program: Program) -> Outcome:
    """Run it.  Raises :class:`BuildError` when the spec's devices cannot be made."""
    plan = subject.scenario_plan(program)
    scenario = plan.scenarios[0]
    engine = SimEngine()
    world = build(plan, engine, target_types=TARGETS, kernel=scenario.kernel)
    watched = Scenario(scenario.name, scenario.title, scenario.run, [], [*scenario.checks, *subject.sometimes()],
                       kernel=scenario.kernel)
    world.at_first = subject.at_first
    try:
        running = Running(world, watched)
        engine.chooser = DeviatingChooser(program.deviations)
        broken, steps = _drive(running)
    except BuildError:
        raise
    except Exception as error:  # noqa: BLE001 - it is the finding
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        return Outcome(Broken(CRASHED, "a mistake of dmspec", text), _trimmed(engine.schedule), engine.steps)
    reached = [check_words(one.check) for one in running.watching if one.check.mode == SOMETIMES and one.reached]
    return Outcome(broken, _trimmed(engine.schedule), steps, reached)


def _drive(running: Running) -> tuple[Broken | None, int]:
    """Run to rest, or to the first violation; what is broken, and after how many steps."""
    while running.taken < STEP_LIMIT:
        if not running.step():
            steps = running.taken
            running.come_to_rest(over=True)
            return _broken(running), steps
        if any(one.text for one in running.watching):
            return _broken(running), running.taken
    return Broken("step-limit", "always comes to rest", f"no rest after {STEP_LIMIT} steps"), STEP_LIMIT


def _broken(running: Running) -> Broken | None:
    for one in running.watching:
        if one.text and one.check.mode != SOMETIMES:
            return Broken(one.check.name, check_words(one.check), one.text)
    return None


def _trimmed(schedule: list[int]) -> list[int]:
    end = len(schedule)
    while end and not schedule[end - 1]:
        end -= 1
    return schedule[:end]


@dataclass
class Statistics:
    """How often what was reached, over all examples."""

    examples: int = 0
    steps: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)

    def add(self, program: Program, outcome: Outcome) -> None:
        """Count one example."""
        self.examples += 1
        self.steps += outcome.steps
        for part in (part for step in program.steps for part in step.parts):
            if part.name == RUN:
                self.operations[str(part.args["process"])] += 1
            else:
                (self.faults if OPERATIONS[part.name].is_fault else self.operations)[part.name] += 1
        self.reached.update(outcome.reached)
