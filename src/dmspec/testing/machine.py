"""What generated test modules stand on: a Hypothesis state machine over a simulated stack.

A rule *submits* statements of the language, which begin at once as a process of their own; so operations of
several rules overlap.  ``go_on`` lets the stack take steps along a drawn schedule: one number for each step,
0 for going straight on.  At the end everything comes to rest.  Checks are asked after every rule and at rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from typing import Any, ClassVar, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from dmspec.compiler import compile_statements, compile_text
from dmspec.compiler.render import render
from dmspec.runtime.build import build, volatile_disk
from dmspec.runtime.operations.base import NO_ERROR, NO_IO_ERROR
from dmspec.runtime.plan import Instr, Plan, Process, Scenario
from dmspec.runtime.process import ProcessTask
from dmspec.runtime.registry import OPERATIONS, TARGETS
from dmspec.runtime.runner import Running
from dmspec.runtime.sim import FirstChooser, ReplayChooser, SimEngine
from dmspec.testing import program

STEP_LIMIT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how much, in bytes."""

    at: int
    size: int


def places(size: int) -> st.SearchStrategy[Place]:
    """Places on a device of so many bytes: whole 4 KiB blocks first, then what crosses them."""
    found = [Place(at, length) for at, length in program.places(size // 512)]
    return st.sampled_from(found)


# How the stack goes on: one number for each step.
schedules: Final = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def most(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A rule that applies so many times at most: ``@rule(...)``, then ``@most(1)``."""
    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__

        @wraps(function)
        def counted(self: StackMachine, **arguments: Any) -> None:
            self.done[name] += 1
            function(self, **arguments)

        return precondition(lambda self: self.done[name] < count)(counted)

    return decorate


@lru_cache(maxsize=64)
def _plan(spec: str, checks: tuple[str, ...], run: tuple[str, ...]) -> Plan:
    lines = [*([f"run {' '.join(run)}"] if run else ["run nothing-beside"]), *checks]
    beside = "" if run else "process nothing-beside { }\n"
    compiled = compile_text(f"{spec}\n{beside}scenario machine {{\n" + "\n".join(lines) + "\n}\n", "the machine's spec")
    if compiled.plan is None:
        raise ValueError(render(compiled.diagnostics))
    return compiled.plan


@lru_cache(maxsize=4096)
def _code(spec: str, checks: tuple[str, ...], run: tuple[str, ...], text: str) -> Process:
    plan = _plan(spec, checks, run)
    compiled = compile_statements(text, plan)
    if compiled.plan is None:
        raise ValueError(render(compiled.diagnostics))
    return _forgiving(compiled.plan.processes[0], plan.scenarios[0])


def _forgiving(process: Process, scenario: Scenario) -> Process:
    """What no check forbids may fail: the next statement follows all the same."""
    strict = {NO_ERROR, NO_IO_ERROR} & {check.name for check in scenario.checks}
    straight = all(instr.op in OPERATIONS for instr in process.code[:-1])
    code: list[Instr] = []
    for instr in process.code:
        if straight and instr.op in OPERATIONS and OPERATIONS[instr.op].violates not in strict:
            code += [Instr("try", {"errno": None, "must": False, "to": len(code) + 3}), instr,
                     Instr("end-try", {"errno": None, "must": False})]
        else:
            code.append(instr)
    return replace(process, code=code)


class StackMachine(RuleBasedStateMachine):
    """See the module.  A power cut that is submitted happens at once.

    ``spec`` declares the stack; ``beside`` names processes of it that run all the time.
    """

    spec: ClassVar[str]
    checks: ClassVar[tuple[str, ...]] = ()
    beside: ClassVar[tuple[str, ...]] = ()
    kernel: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        plan = _plan(self.spec, self.checks, self.beside)
        self.submitted = 0
        self.done: Counter[str] = Counter()
        self.engine = SimEngine()
        # A power cut may be submitted at any time, so the disks remember what they have not flushed.
        self.world = build(plan, self.engine, disk_factory=volatile_disk, target_types=TARGETS, kernel=self.kernel)
        self.running = Running(self.world, plan.scenarios[0])

    def submit(self, *statements: str) -> None:
        """Begin to do this, as a process of its own."""
        text = "\n".join(statements)
        self.submitted += 1
        code = _code(self.spec, self.checks, self.beside, text)
        name = f"p{self.submitted}"
        process = ProcessTask(self.world, replace(code, name=name))
        self.world.processes[name] = process
        process.run()
        if any(instr.op == program.POWER_CUT for instr in code.code):
            self._boot(process)

    def _boot(self, process: ProcessTask) -> None:
        """The power goes at once, and nothing else happens until the machine is up again."""
        self.engine.chooser = FirstChooser()
        self.engine.runnable.rotate(1)
        while not process.ended and self.running.step():
            pass

    @rule(schedule=schedules)
    def go_on(self, schedule: list[int]) -> None:
        """Let the stack take a step for each number."""
        self.engine.chooser = ReplayChooser(schedule)
        for _ in schedule:
            if not self.running.step():
                break
        self._ask()

    def teardown(self) -> None:
        """Let everything come to rest, and ask the checks once more."""
        self.engine.chooser = FirstChooser()
        limit = self.engine.steps + STEP_LIMIT
        while self.running.step():
            assert self.engine.steps < limit, "the stack does not come to rest"
        self.running.come_to_rest(over=True)
        self._ask()

    def _ask(self) -> None:
        for one in self.running.watching:
            assert not one.text, f"{one.check.mode} {one.check.name}: {one.text}"


# Drawing is cheap and a step of the stack is not: the health checks of Hypothesis measure the wrong thing here.
SETTINGS: Final = settings(max_examples=100, stateful_step_count=20, deadline=None,
                           suppress_health_check=list(HealthCheck))
