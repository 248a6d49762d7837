"""What an exploration says of each check of its scenario."""

from __future__ import annotations

from dataclasses import dataclass

from .. import plan as plans
from ..runner import all_checks, check_words
from .search import Exploration


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word`` is holds, violated, as expected, reached, never, or unknown (the search was not complete).

    ``steps`` is the length of the way to the violation, ``shortest`` whether none is shorter.
    """

    mode: str
    name: str
    words: str
    word: str
    ok: bool
    violated: bool
    violation_expected: bool
    text: str
    steps: int | None
    shortest: bool
    line: int


def judge(scenario: plans.Scenario, exploration: Exploration) -> list[Verdict]:
    """One verdict for each check that the scenario lists or whose violation it expects."""
    return [_judge(check, scenario, exploration) for check in all_checks(scenario)
            if check.name != "expectation" or check in scenario.checks or "expectation" in exploration.findings]


def _judge(check: plans.Check, scenario: plans.Scenario, exploration: Exploration) -> Verdict:
    expected = check.name in scenario.violations
    finding = exploration.findings.get(check.name)
    text, steps = "", None
    if check.mode == "sometimes":
        reached = exploration.reached.get(check.name, False)
        word = "reached" if reached else "never" if exploration.complete else "unknown"
        ok = reached
        text = "" if reached else "no run comes to that" if exploration.complete else "not seen so far"
    elif finding is not None:
        word, ok = ("as expected", True) if expected else ("violated", False)
        text, steps = finding.text, len(finding.path)
    elif not exploration.complete:
        word, ok, text = "unknown", exploration.drawn and not expected, "no violation seen so far"
    elif expected:
        word, ok, text = "holds", False, "a violation was expected, and no run has one"
    else:
        word, ok = "holds", True
    return Verdict(check.mode, check.name, check_words(check), word, ok, finding is not None, expected, text, steps,
                   finding is not None and finding.shortest, check.line)
