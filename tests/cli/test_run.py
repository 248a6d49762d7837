"""`dmspec run` and `dmspec replay`: what they print, in columns and as JSON, and their exit statuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dmspec.cli import main
from dmspec.runtime import trace as traces
from dmspec.runtime.plan import Device, Disk, Plan, to_bytes
from dmspec.runtime.targets.linear import Linear

GOOD = """
disk pv1 1MiB
device d { linear pv1 }
process p { write d at=0 size=4KiB  suspend d  sleep 5ms  resume d }
process q { await suspended(d) }
scenario good "all is well" {
    run p q
    always no-error
    always no-deadlock
}
"""
BAD = """
disk pv1 1MiB
device d { linear pv1 }
process p { fail pv1  write d at=0 size=4KiB }
scenario bad {
    run p
    always no-io-error p
}
scenario planned {
    run p
    always no-io-error p
    expect violation of no-io-error
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return tmp_path / "spec.dms"


def run(path: Path, text: str, *arguments: str, columns: int = 100) -> Result:
    path.write_text(text)
    return invoke("run", str(path), *arguments, columns=columns)


def invoke(*arguments: str, columns: int = 100) -> Result:
    return CliRunner(env={"COLUMNS": str(columns), "NO_COLOR": "1"}).invoke(main, list(arguments))


def test_a_run_is_drawn_in_lanes(spec: Path) -> None:
    result = run(spec, GOOD)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:6] == [
        "scenario good: all is well",
        "setup: 2 steps",
        " step     time  p",
        "                │ q",
        "                │ │ d",
        "                │ │ │ pv1",
    ]
    assert "    1           ● │ │ │  p: write d at=0 size=4KiB" in lines
    assert any(line.endswith("│ ┊ │ ●  pv1: write pv1 0+8") for line in lines)
    assert any("5ms  ●   │ │  p: sleep: done" in line for line in lines)
    assert "  ok          always no-error  (line 8)" in lines
    assert "scenario good: ok, " in result.stdout


def test_lanes_of_what_has_ended_are_blank(spec: Path) -> None:
    lines = run(spec, GOOD).stdout.splitlines()
    [end] = [number for number, line in enumerate(lines) if line.endswith("q: ended")]
    after = [line for line in lines[end + 1:] if "●" in line]
    assert all(line[18] == " " for line in after), after


def test_a_narrow_terminal_gets_the_name_of_each_lane(spec: Path) -> None:
    result = run(spec, GOOD, columns=40)
    assert "    1 p   │ write d at=0 size=4KiB" in result.stdout.splitlines()
    assert "●" not in result.stdout


def test_a_check_that_fails_is_status_1_and_says_what_happened(spec: Path) -> None:
    result = run(spec, BAD)
    assert result.exit_code == 1
    assert "p: VIOLATION of no-io-error: `write d at=0 size=4KiB` of p (line 4) ended with EIO" in result.stdout
    assert "  FAILED      always no-io-error p  (line 7)" in result.stdout
    assert "scenario bad: failed, " in result.stdout
    assert "  as expected always no-io-error p  (line 11)" in result.stdout
    assert "scenario planned: ok, " in result.stdout


def test_one_scenario_can_be_named(spec: Path) -> None:
    result = run(spec, BAD, "--scenario", "planned")
    assert result.exit_code == 0
    assert "scenario bad" not in result.stdout
    result = run(spec, BAD, "--scenario", "nothing")
    assert result.exit_code == 2
    assert "no scenario 'nothing'; it has: bad, planned" in result.stderr


def test_quiet(spec: Path) -> None:
    assert run(spec, GOOD, "--quiet").stdout.startswith("scenario good: ok, ")
    assert len(run(spec, GOOD, "-q").stdout.splitlines()) == 1
    assert run(spec, BAD, "-q").stdout.splitlines()[0] == "  FAILED      always no-io-error p  (line 7)"


def test_json(spec: Path) -> None:
    result = run(spec, BAD, "--json", "--seed", "3")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert list(document) == ["dmspec_run", "file", "seed", "ok", "scenarios"]
    assert (document["dmspec_run"], document["seed"], document["ok"]) == (1, 3, False)
    bad, planned = document["scenarios"]
    assert (bad["name"], bad["verdict"], planned["verdict"]) == ("bad", "failed", "ok")
    assert bad["checks"] == [{
        "mode": "always", "name": "no-io-error", "words": "always no-io-error p", "ok": False, "violated": True,
        "violation_expected": False, "text": "`write d at=0 size=4KiB` of p (line 4) ended with EIO", "remark": "",
        "line": 7}]
    assert bad["devices"] == [{"name": "d", "state": "ACTIVE", "event_nr": 0, "status": ["0 2048 linear "],
                               "table": ["0 2048 linear pv1 0"]}]
    assert set(bad["schedule"]) == {"choices", "faults"}
    assert bad["events"][bad["setup_events"]]["text"] == "fail pv1"
    assert set(bad["events"][0]) == {"step", "time_ns", "lane", "text"}


def test_a_spec_without_scenarios(spec: Path) -> None:
    result = run(spec, GOOD.split("scenario", maxsplit=1)[0], "-q")
    assert result.exit_code == 0
    assert result.stdout.startswith("scenario main: ok, ")


@pytest.mark.parametrize(("text", "said"), [
    ("device d { linear nothing }\n", "nothing"),
    ("this is no spec", "error["),
])
def test_a_wrong_spec_is_status_2(spec: Path, text: str, said: str) -> None:
    result = run(spec, text)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [
    ["run"], ["run", "no-such-file"], ["run", "x", "--seed", "-1"], ["run", "x", "--seed", "many"], ["replay"],
    ["replay", "no-such-file"],
])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_compiled_plan_runs_as_its_spec_does(spec: Path, tmp_path: Path) -> None:
    from dmspec.compiler import compile_file

    wanted = run(spec, GOOD).stdout
    plan = compile_file(spec).plan
    assert plan is not None
    compiled = tmp_path / "spec.plan"
    compiled.write_bytes(to_bytes(plan))
    assert invoke("run", str(compiled)).stdout == wanted
    compiled.write_bytes(to_bytes(plan)[:-9])
    assert invoke("run", str(compiled)).exit_code == 2


def test_a_device_that_cannot_be_made_is_status_2(tmp_path: Path) -> None:
    plan = Plan(["x.dms"], "", disks=[Disk("pv1", 2048)], devices=[Device("d", ["0 4096 linear pv1 0"], line=2)])
    compiled = tmp_path / "bad.plan"
    compiled.write_bytes(to_bytes(plan))
    result = invoke("run", str(compiled))
    assert result.exit_code == 2
    said = f"dmspec: {compiled}: device d (line 2) cannot be made: EINVAL\nerr: device-mapper: "
    assert result.stderr.startswith(said)


def test_a_trace_is_kept_and_replayed(spec: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.trace"
    ran = run(spec, BAD, "--scenario", "bad", "--seed", "9", "--trace", str(kept))
    assert ran.exit_code == 1
    replayed = invoke("replay", str(kept))
    assert replayed.exit_code == 0
    assert replayed.stdout.startswith(ran.stdout)
    assert replayed.stdout.endswith("events, the same run, byte for byte\n")
    quiet = invoke("replay", "-q", str(kept))
    assert len(quiet.stdout.splitlines()) == 1
    document = json.loads(invoke("replay", "--json", str(kept)).stdout)
    assert (document["dmspec_replay"], document["same"], document["difference"]) == (1, True, None)
    assert (document["verdict"], document["scenario"]["name"]) == ("failed", "bad")


def test_a_trace_that_is_not_what_happens_now(spec: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.trace"
    run(spec, GOOD, "--trace", str(kept))
    trace = traces.from_bytes(kept.read_bytes())
    kept.write_bytes(traces.to_bytes(traces.Trace(
        trace.plan, trace.scenario, trace.seed, trace.step_limit, trace.schedule, trace.events[:-1], trace.verdict,
        trace.summary)))
    result = invoke("replay", "-q", str(kept))
    assert result.exit_code == 1
    assert "not the same run: after " in result.stdout


def test_a_damaged_trace_is_status_2(spec: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.trace"
    run(spec, GOOD, "--trace", str(kept))
    kept.write_bytes(kept.read_bytes()[:-1])
    result = invoke("replay", str(kept))
    assert result.exit_code == 2
    assert f"dmspec: {kept}: not a trace" in result.stderr


def test_a_trace_of_several_scenarios_or_to_nowhere_is_refused(spec: Path, tmp_path: Path) -> None:
    result = run(spec, BAD, "--trace", str(tmp_path / "kept"))
    assert result.exit_code == 2
    assert "name one with --scenario" in result.stderr
    result = run(spec, GOOD, "--trace", str(tmp_path / "no" / "kept"))
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr


def test_a_bug_of_ours_leaves_a_trace_and_the_command_that_repeats_it(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_arguments: Any) -> int:
        raise AssertionError("planted")

    monkeypatch.setattr(Linear, "map", planted)
    for arguments in ([], ["--trace", str(tmp_path / "kept")]):
        result = run(spec, GOOD, *arguments)
        assert result.exit_code == 70
        first, second = result.stderr.splitlines()
        command = first.removeprefix("dmspec: the run met a bug of ours; to meet it again: dmspec replay ")
        assert second.startswith("dmspec: internal error: Crash: AssertionError: planted")
        again = invoke("replay", command)
        assert again.exit_code == 70
        assert "the same run, byte for byte" in again.stdout or "AssertionError: planted" in again.stderr
        Path(command).unlink()
        for report in (result.stderr, again.stderr):
            Path(report.rsplit(" is in ", 1)[1].strip()).unlink()


def test_output_that_is_no_unicode_gets_ascii_lanes(spec: Path) -> None:
    spec.write_text(GOOD)
    made = subprocess.run([sys.executable, "-m", "dmspec", "run", str(spec)], check=True, capture_output=True,
                          env={"PYTHONIOENCODING": "ascii", "COLUMNS": "100", "PATH": ""})
    assert b"    1           * | | |  p: write d" in made.stdout
