"""What an exhibit is: a bug, planted at run time, and the stock spec that has to find it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dmspec.compiler import compile_file
from dmspec.runtime.plan import Instr, Plan
from dmspec.testing.program import Subject
from dmspec.testing.session import Counterexample, Options, check_property

PROPERTIES = Path(__file__).parents[2] / "specs" / "properties"
MOST_EXAMPLES = 100_000
MOST_SECONDS = 60.0
MOST_OPERATIONS = 8

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Bug:
    """``spec`` is a file of specs/properties without its ending, ``law`` a property in it.

    ``kernel`` plants the behaviour of an old kernel instead of a patch.  ``fault`` is what the property would not
    find it without (see :func:`is_fault`).
    """

    name: str
    spec: str
    law: str
    plant: Plant | None = None
    kernel: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Hunt:
    """What came of looking for a bug."""

    bug: Bug
    found: Counterexample | None
    examples: int
    seconds: float

    @property
    def operations(self) -> int:
        """How large the counterexample is."""
        return sum(len(step.parts) for step in self.found.program.steps) if self.found is not None else 0

    @property
    def good(self) -> bool:
        """Found in time, and shrunk to something that a person reads at a glance."""
        return self.found is not None and self.seconds <= MOST_SECONDS and self.operations <= MOST_OPERATIONS


@cache
def plan_of(spec: str) -> Plan:
    compiled = compile_file(PROPERTIES / f"{spec}.dms")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


def subject_of(bug: Bug, *, faultless: bool = False) -> Subject:
    plan = without(plan_of(bug.spec), bug.fault) if faultless else plan_of(bug.spec)
    law = next(one for one in plan.properties if one.name == bug.law)
    return Subject(plan, replace(law, kernel=bug.kernel) if bug.kernel else law)


def without(plan: Plan, fault: str) -> Plan:
    """The same plan, in which no process injects such a fault, and none is drawn."""
    nothing = Instr("sleep", {"time": 0})
    return replace(
        plan,
        processes=[replace(one, code=[nothing if is_fault(instr.op, instr.args, fault) else instr
                                      for instr in one.code]) for one in plan.processes],
        properties=[replace(law, operations=[one for one in law.operations if not any(
            is_fault(part["operation"], part["args"], fault) for part in one.args["parts"])])
            for law in plan.properties])


def is_fault(operation: str, args: Mapping[str, Any], fault: str) -> bool:
    """``fault`` is an operation and perhaps what it strikes: "fail reads", "fail log", "fail range"."""
    kind, _space, which = fault.partition(" ")
    return operation == kind and (not which or which in (args["what"], args["disk"]) or bool(args.get(which)))


def hunt(bug: Bug, *, seed: int = 1, seconds: float = MOST_SECONDS, examples: int = MOST_EXAMPLES,
         faultless: bool = False) -> Hunt:
    """Plant the bug and look for it.  The time is that to the first find, shrinking not counted, on one core."""
    with pytest.MonkeyPatch.context() as patch:
        if bug.plant is not None:
            bug.plant(patch)
        subject = subject_of(bug, faultless=faultless)
        options = Options(examples, seed, database=None, seconds=seconds)
        report = check_property(subject, options, clock=time.process_time)
    return Hunt(bug, report.found, report.found_after, report.found_seconds or report.seconds)
