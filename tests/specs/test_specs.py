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

# These ask for no-race, which `dmspec explore` brings; until then they parse and check.
ONLY_CHECKED = ["mail/independent.dms", "mail/locked.dms", "mail/passthrough_metadata.dms",
                "mail/self_sufficient_no_lock.dms"]
RUN = [name for name in ALL if name not in ONLY_CHECKED and not name.startswith(("lib/", "demo/"))]


@pytest.mark.parametrize("name", ALL)
def test_it_checks(name: str) -> None:
    result = CliRunner().invoke(main, ["check", str(SPECS / name)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", RUN)
def test_it_comes_to_what_it_says(name: str) -> None:
    plan = compile_file(SPECS / name).plan
    assert plan is not None
    for scenario in scenarios_of(plan):
        result = run_scenario(plan, scenario.name)
        assert result.ok, [check for check in result.checks if not check.ok]
        assert not result.remarks, result.remarks


@pytest.mark.parametrize("name", ONLY_CHECKED)
def test_it_only_checks_for_now(name: str) -> None:
    compiled = compile_file(SPECS / name)
    assert compiled.plan is None
    assert {one.code for one in compiled.diagnostics if one.is_error} == {"DM901"}


# An expected violation need not come under every schedule.
STEADY = [name for name in RUN if name.startswith("tour/") and "expect violation" not in (SPECS / name).read_text()]


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("seed", range(5))
def test_the_tour_holds_under_other_schedules(name: str, seed: int) -> None:
    plan = compile_file(SPECS / name).plan
    assert plan is not None
    for scenario in scenarios_of(plan):
        result = run_scenario(plan, scenario.name, seed=seed)
        assert result.ok, (seed, [check for check in result.checks if not check.ok])


def test_every_target_has_a_spec() -> None:
    assert {f"targets/{name}.dms" for name in TARGETS} <= set(ALL)
