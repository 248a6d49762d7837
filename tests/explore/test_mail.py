"""The verdicts of the mail: what each design comes to, found by exploring it.

A quick look shows the broken designs.  That the others hold, and which way is the shortest, takes every state: those
explorations are the slow profile (``make mail``).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.explore.mail_table import known_rows, row, scenarios

from dmspec.compiler import compile_file
from dmspec.runtime.explore import Explorer, trace_of
from dmspec.runtime.explore.explain import explain
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import run_scenario, scenario_of, scenarios_of

MAIL = Path(__file__).parents[2] / "specs" / "mail"
ALL = sorted(path.stem for path in MAIL.glob("*.dms"))

def load(name: str) -> Plan:
    compiled = compile_file(MAIL / f"{name}.dms")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


BROKEN = [(name, scenario.name) for name in ALL for scenario in scenarios_of(load(name)) if scenario.violations]


@pytest.mark.parametrize(("name", "scenario"), BROKEN)
def test_a_quick_look_shows_what_is_broken_and_nothing_else(name: str, scenario: str) -> None:
    plan = load(name)
    found = Explorer(plan, scenario).look_quickly()
    assert set(found.findings) == set(scenario_of(plan, scenario).violations)
    for check, finding in found.findings.items():
        result = run_scenario(plan, scenario, schedule=trace_of(plan, scenario, finding.path))
        assert check in {one.name for one in result.checks if one.violated}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("plan", "scenario"), scenarios(), ids=[name for _plan, name in scenarios()])
def test_every_verdict_is_as_the_spec_says(plan: Plan, scenario: str) -> None:
    """To the end of the space, also of a broken design: what else is asked of it holds."""
    line = row(plan, scenario)
    print(line)
    assert line is not None


def test_the_document_has_what_the_search_says() -> None:
    """All rows; and of the small spaces every figure but the seconds."""
    rows = known_rows()
    assert list(rows) == [name for _plan, name in scenarios()]
    for plan, name in scenarios():
        if name.startswith(("idle_disk", "passthrough_no_dmeventd", "passthrough_metadata")):
            line = row(plan, name)
            assert line is not None
            assert line.rsplit("|", 2)[0] == rows[name].rsplit("|", 2)[0]


def test_a_freeze_stands_in_the_graph_of_who_waits_for_whom() -> None:
    """The journal that a suspend has the filesystem write goes through the device that is suspended."""
    plan = load("idle_disk")
    name = "idle_disk_repaired@without-eio-rule"
    found = Explorer(plan, name).look_quickly().findings["no-deadlock"]
    example = explain(plan, name, found.check, found.text, found.path)
    assert sorted(example.cycle) == ["bios of vol", "lock vg", "process dmeventd", "process lvcreate_reverts"]
