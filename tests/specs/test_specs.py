"""Every spec that we ship says what it comes to, and comes to that."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dmspec.cli import main
from dmspec.compiler import compile_file
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.runner import run_scenario, scenarios_of

SPECS = Path(__file__).parents[2] / "specs"
ALL = sorted(path.relative_to(SPECS).as_posix() for path in SPECS.glob("*/*.dms"))

# These are explored (tests/explore): what they come to need not come in one run.
RUN = [name for name in ALL if not name.startswith(("lib/", "demo/", "mail/", "history/"))]


@pytest.mark.parametrize("name", ALL)
def test_it_checks(name: str) -> None:
    result = CliRunner().invoke(main, ["check", str(SPECS / name)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", RUN)
def test_it_comes_to_what_it_says(name: str) -> None:
    plan = compile_file(SPECS / name).plan
    assert plan is not None
    if plan.properties and not plan.scenarios:
        return  # its processes are drawn: tests/properties
    for scenario in scenarios_of(plan):
        result = run_scenario(plan, scenario.name)
        assert result.ok, [check for check in result.checks if not check.ok]
        assert not result.remarks, result.remarks


# An expected violation need not come under every schedule.
STEADY = [name for name in RUN if name.startswith(("tour/", "lvm/"))
          and "expect violation" not in (SPECS / name).read_text()]


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("seed", range(5))
def test_it_holds_under_other_schedules(name: str, seed: int) -> None:
    plan = compile_file(SPECS / name).plan
    assert plan is not None
    for scenario in scenarios_of(plan):
        result = run_scenario(plan, scenario.name, seed=seed)
        assert result.ok, (seed, [check for check in result.checks if not check.ok])


def test_every_target_has_a_spec() -> None:
    assert {f"targets/{name}.dms" for name in TARGETS} <= set(ALL)
