"""The verdicts of the mail: what each design comes to, found by exploring it.

The broken designs are shown here with a bound on the states, since each of their failures is near.  That
the others hold takes every state: those explorations are the slow profile (``make mail``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dmspec.compiler import compile_file
from dmspec.runtime.explore import Explorer, trace_of
from dmspec.runtime.explore.explain import explain
from dmspec.runtime.explore.judge import judge
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import run_scenario, scenario_of, scenarios_of

MAIL = Path(__file__).parents[2] / "specs" / "mail"
ALL = sorted(path.stem for path in MAIL.glob("*.dms"))

# What is found within so many states; the rest of a spec's expected violations lies deeper.
NEAR = {
    ("idle_disk", "idle_disk@now"): (1_000, {"no-error"}),
    ("idle_disk", "idle_disk@without-eio-rule"): (1_000, {"no-deadlock"}),
    ("idle_disk", "idle_disk_repaired@now"): (1_000, {"no-deadlock"}),
    ("passthrough_metadata", "passthrough_metadata"): (1_000, {"expectation"}),
    ("passthrough_one_lock", "passthrough_one_lock@now"): (2_500, {"no-deadlock"}),
    ("passthrough_scan", "passthrough_scan@now"): (3_500, {"no-deadlock"}),
}


def load(name: str) -> Plan:
    compiled = compile_file(MAIL / f"{name}.dms")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


@pytest.mark.parametrize(("name", "scenario"), NEAR)
def test_a_broken_design_is_shown(name: str, scenario: str) -> None:
    most, wanted = NEAR[name, scenario]
    plan = load(name)
    found = Explorer(plan, scenario, most_states=most, stop_when_all_found=True).run()
    assert wanted <= set(found.findings), (set(found.findings), found.progress)
    assert wanted <= set(scenario_of(plan, scenario).violations)
    for check in wanted:
        schedule = trace_of(plan, scenario, found.findings[check].path)
        result = run_scenario(plan, scenario, schedule=schedule)
        assert check in {one.name for one in result.checks if one.violated}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ALL)
def test_every_verdict_is_as_the_spec_says(name: str) -> None:
    plan = load(name)
    for scenario in scenarios_of(plan):
        found = Explorer(plan, scenario.name, stop_when_all_found=bool(scenario.violations)).run()
        verdicts = judge(scenario, found)
        told = {one.words: (one.word, one.text) for one in verdicts
                if not one.ok and not (scenario.violations and one.word == "unknown")}
        print(f"{scenario.name}: {found.progress}")
        assert not told, told


def test_a_freeze_stands_in_the_graph_of_who_waits_for_whom() -> None:
    """The journal that a suspend has the filesystem write goes through the device that is suspended."""
    plan = load("idle_disk")
    name = "idle_disk_repaired@without-eio-rule"
    found = Explorer(plan, name, stop_when_all_found=True).run().findings["no-deadlock"]
    example = explain(plan, name, found.check, found.text, found.path)
    assert sorted(example.cycle) == ["bios of vol", "lock vg", "process dmeventd", "process lvcreate_reverts"]
