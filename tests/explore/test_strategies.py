"""Drawn runs: they find what is there, can be replayed, depend on the seed alone, and say that they prove nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmspec.cli import main
from dmspec.compiler import compile_file, compile_text
from dmspec.runtime.explore.strategies import STRATEGIES, Sampler, Sampling
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import run_scenario

MAIL = Path(__file__).parents[2] / "specs" / "mail"


def plan_of(path: Path) -> Plan:
    plan = compile_file(path).plan
    assert plan is not None
    return plan


def drawn(plan: Plan, name: str, strategy: str, runs: int, *, seed: int = 0, depth: int = 3) -> Sampling:
    return Sampler(plan, name, STRATEGIES[strategy](depth), seed=seed).run(runs)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("spec", "name", "check"), [
    ("locked", "locked", "no-deadlock"), ("flush_error", "flush_error@now", "no-io-error"),
    ("second_snapshot", "second_snapshot@now", "no-deadlock"), ("independent", "independent", "no-race"),
])
def test_the_mails_failures_are_met_and_can_be_replayed(strategy: str, spec: str, name: str, check: str) -> None:
    plan = plan_of(MAIL / f"{spec}.dms")
    found = drawn(plan, name, strategy, 120)
    assert found.runs == 120
    seen = found.found[check]
    again = run_scenario(plan, name, schedule=seen.schedule)
    assert {one.name: one.text for one in again.checks}[check] == seen.text
    assert again.steps == seen.steps


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_draws_the_same_runs(strategy: str) -> None:
    plan = plan_of(MAIL / "independent.dms")
    first, again, other = (drawn(plan, "independent", strategy, 25, seed=seed) for seed in (4, 4, 5))
    assert first == again
    assert first != other


# Each has to take its first lock before the other one takes its second: two ordering constraints.
LOCKS = """
lock a
lock b
process one { with a { with b { } } }
process two { with b { with a { } } }
scenario main {
    run one two
    always no-deadlock
}
"""
BETWEEN = """
disk d 4KiB
process p { write d at=0 size=512 pattern=one  expect content d at=0 size=512 pattern=one }
process q { write d at=0 size=512 pattern=other }
scenario main {
    run p q
    always expectation
    expect violation of expectation
}
"""


def test_pct_keeps_its_promise() -> None:
    """A bug of depth 2 is found with a chance of at least 1/(n k), and never with one constraint less."""
    plan = compile_text(LOCKS).plan
    assert plan is not None
    found = drawn(plan, "main", "pct", 400, depth=2)
    assert found.violations["no-deadlock"] / found.runs >= 1 / (2 * found.longest)
    assert not drawn(plan, "main", "pct", 400, depth=1).violations


def test_a_run_that_does_not_end_is_cut() -> None:
    plan = compile_text("process p { repeat forever { sleep 1ms } }\nscenario main { run p }").plan
    assert plan is not None
    found = drawn(plan, "main", "random", 2)
    assert (found.runs, found.cut) == (2, 2)


def test_what_the_command_says() -> None:
    spec = str(MAIL / "passthrough.dms")
    done = CliRunner().invoke(main, ["explore", spec, "--strategy", "pct", "--runs", "20"])
    assert done.exit_code == 0, done.output
    assert "not seen    always no-deadlock" in done.stdout
    assert "a SAMPLE (pct, depth 3, seed 0): 20 runs" in " ".join(done.stdout.split())
    assert "holds" not in done.stdout


def test_an_expected_violation_that_was_not_seen_is_no_success(tmp_path: Path) -> None:
    spec = tmp_path / "spec.dms"
    spec.write_text(BETWEEN.replace("pattern=other", "pattern=one"))
    done = CliRunner().invoke(main, ["explore", str(spec), "--strategy", "random", "--runs", "5", "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    [scenario] = document["scenarios"]
    assert (scenario["runs"], scenario["checks"][0]["word"], scenario["checks"][0]["ok"]) == (5, "not seen", False)


def test_a_drawn_run_is_kept_for_replay(tmp_path: Path) -> None:
    spec, trace = str(MAIL / "locked.dms"), str(tmp_path / "trace")
    done = CliRunner().invoke(main, ["explore", spec, "--strategy", "random", "--runs", "40", "--trace", trace])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(main, ["replay", trace])
    assert "nothing can move" in again.output
    done = CliRunner().invoke(main, ["explore", spec, "--strategy", "random", "--report", str(tmp_path / "x.html")])
    assert done.exit_code == 2
    assert "--report and --mermaid are for the exhaustive search" in done.output
