"""A recorded run as a pytest module: ``dmspec replay TRACE --to pytest`` writes it, and it needs nothing else.

The module has the run twice.  As data (the plan, and what decides the run), which is run again; and in words, one line
for each thing that happened, which have to come out the same.  So it fails as soon as a kernel's rule, a target or a
check is changed in a way that this run can feel, and shows what now happens otherwise.
"""

from __future__ import annotations

import base64
import re
import textwrap
import zlib
from dataclasses import dataclass

from dmspec.runtime import plan as plans
from dmspec.runtime.runner import STEP_LIMIT, CheckOutcome, run_scenario
from dmspec.runtime.trace import Event, Schedule, Trace

WIDTH = 110


@dataclass(frozen=True)
class Recorded:
    """A run: what it is of, and what decides it (see :class:`~dmspec.runtime.trace.Schedule`).

    ``plan`` is a compiled plan, zlib and base64, with white space wherever.
    """

    plan: str
    scenario: str
    choices: list[int]
    faults: list[tuple[int, int]]
    step_limit: int = STEP_LIMIT

    def again(self) -> Played:
        """Run it."""
        plan = plans.from_bytes(zlib.decompress(base64.b64decode(self.plan)))
        result = run_scenario(plan, self.scenario, schedule=Schedule(self.choices, self.faults),
                              step_limit=self.step_limit)
        return Played(_lines(result.trace.events), _violated(result.checks))


@dataclass(frozen=True)
class Played:
    """What came of it: ``happened`` in words, one line for each event, and by its words each check that is violated."""

    happened: str
    violated: dict[str, str]


def module_of(trace: Trace, name: str) -> str:
    """The pytest module of a trace; ``name`` is what its file is called.  A run that met a bug of ours raises that."""
    plan = plans.from_bytes(trace.plan)
    result = run_scenario(plan, trace.scenario, schedule=trace.schedule, step_limit=trace.step_limit)
    packed = base64.b64encode(zlib.compress(trace.plan, 9)).decode()
    choices = textwrap.fill(", ".join(map(str, trace.schedule.choices)), WIDTH - 8)
    limit = [f"    step_limit={trace.step_limit},"] if trace.step_limit != STEP_LIMIT else []
    violated = [f"    {words!r}:\n        {text!r}," for words, text in _violated(result.checks).items()]
    lines = [
        f'"""{_escaped(trace.scenario)} of {_escaped(plan.files[0])}, as it was recorded in {_escaped(name)}.', "",
        "Made by `dmspec replay --to pytest`.", '"""', "",
        "from dmspec.testing.recorded import Recorded", "",
        "RUN = Recorded(", f"    scenario={trace.scenario!r},",
        "    choices=[", *(f"        {line}" for line in choices.splitlines()), "    ],",
        f"    faults={trace.schedule.faults!r},", *limit,
        '    plan="""', *textwrap.wrap(packed, WIDTH), '    """,', ")", "",
        "# What happens: the step, who does it or to whom it happens, and what.",
        'HAPPENED = """\\', *_escaped(_lines(result.trace.events)).splitlines(), '"""', "",
        "VIOLATED = {", *violated, "}",
        "", "", f"def test_{re.sub(r'[^0-9a-z]+', '_', trace.scenario.lower()).strip('_')}() -> None:",
        "    played = RUN.again()",
        "    assert played.happened == HAPPENED",
        "    assert played.violated == VIOLATED", "",
    ]
    return "\n".join(lines)


def _lines(events: list[Event]) -> str:
    width = max((len(event.lane) for event in events), default=0)
    return "".join(f"{event.step:5}  {event.lane:{width}}  {event.text}".rstrip() + "\n" for event in events)


def _violated(checks: list[CheckOutcome]) -> dict[str, str]:
    return {one.words: one.text for one in checks if one.violated}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
