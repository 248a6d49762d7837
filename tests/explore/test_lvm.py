"""The LVM library's procedures under other schedules than a run's: all of them where those are few, drawn ones else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmspec.compiler import compile_file
from dmspec.runtime.explore import Explorer
from dmspec.runtime.explore.judge import judge
from dmspec.runtime.explore.strategies import STRATEGIES, Sampler
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import scenario_of, scenarios_of

LVM = Path(__file__).parents[2] / "specs" / "lvm"

# So few states that all can be looked at here.
SMALL = [
    ("repair", "remove"), ("repair-log", "core"), ("monitoring", "left_behind"), ("snapshot-of-linear", "remove_last"),
    ("snapshot-of-mirror", "remove_last"),
]


def load(name: str) -> Plan:
    compiled = compile_file(LVM / f"{name}.dms")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


LARGE = [(path.stem, one.name) for path in sorted(LVM.glob("*.dms")) for one in scenarios_of(load(path.stem))
         if (path.stem, one.name) not in SMALL]


@pytest.mark.parametrize(("name", "scenario"), SMALL)
def test_every_schedule(name: str, scenario: str) -> None:
    plan = load(name)
    found = Explorer(plan, scenario).run()
    assert found.complete
    bad = [one for one in judge(scenario_of(plan, scenario), found) if not one.ok]
    assert not bad


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("name", "scenario"), LARGE)
def test_drawn_schedules(name: str, scenario: str, strategy: str) -> None:
    plan = load(name)
    found = Sampler(plan, scenario, STRATEGIES[strategy](3), seed=1).run(8)
    assert set(found.found) <= set(scenario_of(plan, scenario).violations), found.found
    assert not found.cut
