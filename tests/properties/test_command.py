"""`dmspec test`, the generated modules and the pytest plugin, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dmspec.cli import main
from dmspec.compiler import compile_file, compile_text
from dmspec.runtime.runner import run_scenario
from dmspec.testing.program import DeviatingChooser, Subject, places

PROPERTIES = Path(__file__).parents[2] / "specs" / "properties"

# The origin is resumed before its snapshot, so its writes are not cut at chunks: a mistake of the spec's author.
WRONG = """disk pv1 32KiB
disk pv2 32KiB
device base { linear pv1 }
device vol { snapshot-origin base }
device snap { snapshot base pv2 chunk=4KiB }
process twice { write vol at=0 size=512   write vol at=0 size=512 }

property frozen "a snapshot does not change" {
    operations 1..6 of { read vol   write vol   twice   fail pv2 most=1   suspend+resume snap }
    always frozen snap
    sometimes invalid snap
}
"""


def dmspec(*args: str) -> Result:
    return CliRunner().invoke(main, ["test", "--database", "none", *args])


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    (tmp_path / "wrong.dms").write_text(WRONG, encoding="utf-8")
    return str(tmp_path / "wrong.dms")


def test_a_counterexample_is_a_spec_that_runs(wrong: str, tmp_path: Path) -> None:
    result = dmspec(wrong, "--seed", "1", "-o", str(tmp_path / "found.dms"))
    assert result.exit_code == 1
    assert "broken      always frozen snap" in result.output
    text = (tmp_path / "found.dms").read_text(encoding="utf-8")
    assert text.strip() in result.output
    assert "process a { write vol at=3584 size=1KiB }" in text
    run = CliRunner().invoke(main, ["run", "-q", str(tmp_path / "found.dms")])
    assert run.exit_code == 1
    assert "always frozen snap" in run.output


def test_json(wrong: str) -> None:
    document = json.loads(dmspec(wrong, "--seed", "1", "--json").output)
    assert document["dmspec_test"] == 1
    [law] = document["properties"]
    assert (law["ok"], law["counterexample"]["check"], law["counterexample"]["operations"]) == (False, "frozen", 1)


def test_an_unreached_sometimes_fails(tmp_path: Path) -> None:
    spec = tmp_path / "never.dms"
    spec.write_text("disk d 32KiB\ndisk c 64KiB\ndevice b { linear d }\ndevice snap { snapshot b c }\n"
                    "property p { operations 1..3 of { read snap }\nsometimes invalid snap }\n")
    result = dmspec(str(spec), "--examples", "20")
    assert result.exit_code == 1
    assert "unreached   sometimes invalid snap: no example came to that" in result.output


def test_what_is_found_is_tried_first_the_next_time(wrong: str, tmp_path: Path) -> None:
    def found() -> int:
        output = CliRunner().invoke(main, ["test", wrong, "--json", "--database", str(tmp_path / "db")]).output
        return int(json.loads(output)["properties"][0]["counterexample"]["found_after"])

    found()
    assert found() == 1


@pytest.mark.parametrize(("args", "said"), [
    (["--property", "frzen"], "has no property 'frzen'; it has: frozen"),
    (["--fsck", "true {device}"], "--crash-points"),
    (["--examples", "0"], "0 is not in the range"),
])
def test_wrong_usage(wrong: str, args: list[str], said: str) -> None:
    result = dmspec(wrong, *args)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("spec", sorted(PROPERTIES.glob("*.dms")), ids=lambda path: path.stem)
def test_stock_properties_hold(spec: Path) -> None:
    result = dmspec(str(spec), "--profile", "ci", "--examples", "100")
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("spec", sorted(PROPERTIES.glob("*.dms")), ids=lambda path: path.stem)
def test_stock_properties_hold_all_night(spec: Path) -> None:
    result = dmspec(str(spec), "--profile", "nightly")
    assert result.exit_code == 0, result.output


def test_an_example_is_the_scenario_that_it_says() -> None:
    """The same program as a plan with a schedule: the same run."""
    plan = compile_file(PROPERTIES / "mirror.dms").plan
    assert plan is not None
    law = next(one for one in plan.properties if one.name == "crashes")
    subject = Subject(plan, law)
    program = subject.program([(0, 0), (1, 3), (3, 1)], [9, 30])
    from dmspec.testing.example import run_program

    outcome = run_program(subject, program)
    made = subject.scenario_plan(program, outcome.schedule)
    assert run_scenario(made, law.name).steps == outcome.steps
    assert outcome.broken is None


def test_deviations() -> None:
    chooser = DeviatingChooser([4 * 2 + 1, 0])
    assert [chooser.choose(3) for _ in range(6)] == [0, 0, 2, 1, 0, 0]


def test_places_fit_and_begin_with_blocks() -> None:
    found = places(20)
    assert found[:3] == [(0, 4096), (4096, 4096), (8192, 2048)]
    assert all(at + size <= 20 * 512 for at, size in found)


def test_most_and_power_cuts_in_a_program() -> None:
    plan = compile_text("disk d 32KiB\ndevice v { linear d }\nproperty p {\n"
                        "operations 1..9 of { write v   power-cut most=1 }\n}\n").plan
    assert plan is not None
    subject = Subject(plan, plan.properties[0])
    program = subject.program([(3 + 1, 0), (3, 0), (2, 0)], [])
    assert [(step.lane, step.parts[0].name) for step in program.steps] == [(1, "power-cut"), (1, "write")]


def pytest_run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *args], cwd=folder,
                          capture_output=True, text=True, check=False)


def test_generated_modules_run_and_fail_under_plain_pytest(tmp_path: Path, wrong: str) -> None:
    for spec in (PROPERTIES / "mirror-unhandled.dms", PROPERTIES / "snapshot-merge.dms", Path(wrong)):
        out = tmp_path / f"test_{spec.stem.replace('-', '_')}.py"
        made = CliRunner().invoke(main, ["compile", str(spec), "--to", "pytest", "-o", str(out)])
        assert made.exit_code == 0, made.output
        source = out.read_text(encoding="utf-8").replace("= SETTINGS", "= SETTINGS_QUICK")
        quick = (f"max_examples={100 if spec == Path(wrong) else 15}, derandomize=True, database=None, "
                 "phases=[Phase.generate]")
        out.write_text(f"{source}\n".replace("SPEC = ", "from hypothesis import Phase, settings as _settings\n"
                                             f"SETTINGS_QUICK = _settings(SETTINGS, {quick})\n"
                                             "SPEC = ", 1), encoding="utf-8")
    good = pytest_run(tmp_path, "test_mirror_unhandled.py", "test_snapshot_merge.py")
    assert good.returncode == 0, good.stdout
    assert "2 passed" in good.stdout
    bad = pytest_run(tmp_path, "test_wrong.py")
    assert bad.returncode == 1, bad.stdout
    assert "always frozen" in bad.stdout


def test_a_generated_module_is_clean(tmp_path: Path) -> None:
    out = tmp_path / "test_it.py"
    for spec in ("mirror", "snapshot", "raid1"):
        CliRunner().invoke(main, ["compile", str(PROPERTIES / f"{spec}.dms"), "--to", "pytest", "-o", str(out)])
        done = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120",
                               "--select", "E,F,W,N,UP,B", str(out)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_python_program_runs(tmp_path: Path) -> None:
    tour = PROPERTIES.parent / "tour"
    for spec, status in (("06-repair", 0), ("01-first", 0)):
        out = tmp_path / "program.py"
        CliRunner().invoke(main, ["compile", str(tour / f"{spec}.dms"), "--to", "python", "-o", str(out)])
        done = subprocess.run([sys.executable, str(out)], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert ": ok, " in done.stdout


def test_the_plugin_collects_specs(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "good.dms").write_text((PROPERTIES / "linear.dms").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "broken.dms").write_text("disk d 8MB\n", encoding="utf-8")
    done = pytest_run(tmp_path, "--dms-seed", "1", "--dms-examples", "100", "--junitxml", "out.xml", "good.dms", wrong)
    assert done.returncode == 1
    assert "process a { write vol at=3584 size=1KiB }" in done.stdout
    assert "Traceback" not in done.stdout
    assert 'name="keeps"' in (tmp_path / "out.xml").read_text(encoding="utf-8")
    error = pytest_run(tmp_path, "broken.dms")
    assert "DM208" in error.stdout
    assert "Traceback" not in error.stdout
