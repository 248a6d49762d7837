"""Bugs of the past: each is found by exploring the spec that has it, and is not there in the one that has the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmspec.compiler import compile_file
from dmspec.runtime.explore import Explorer
from dmspec.runtime.explore.judge import judge
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import scenario_of, scenarios_of

HISTORY = Path(__file__).parents[2] / "specs" / "history"


def load(name: str) -> Plan:
    compiled = compile_file(HISTORY / f"{name}.dms")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


ALL = [(path.stem, one.name) for path in sorted(HISTORY.glob("*.dms")) for one in scenarios_of(load(path.stem))]


@pytest.mark.parametrize(("name", "scenario"), ALL)
def test_a_bug_is_found_and_its_fix_holds(name: str, scenario: str) -> None:
    """To the end of the space where it holds; where it does not, to the first violations that are expected."""
    plan = load(name)
    expected = scenario_of(plan, scenario).violations
    found = Explorer(plan, scenario, stop_when_all_found=bool(expected)).run()
    assert found.complete or expected, found.stopped
    assert set(expected) == set(found.findings), found.progress
    assert all(one.ok or (expected and one.word == "unknown") for one in judge(scenario_of(plan, scenario), found))


def test_every_bug_has_a_scenario_without_it() -> None:
    for path in HISTORY.glob("*.dms"):
        outcomes = {bool(one.violations) for one in scenarios_of(load(path.stem))}
        assert outcomes == {True, False}, path.stem
