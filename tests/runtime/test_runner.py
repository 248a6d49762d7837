"""Running scenarios: faults, verdicts, limits; and that a run is decided by its plan and schedule alone."""

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmspec.runtime import plan as plans
from dmspec.runtime import trace as traces
from dmspec.runtime.build import BuildError, build
from dmspec.runtime.errors import PlanError
from dmspec.runtime.plan import Device, Plan, Scenario
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.runner import Crash, Running, replay, run_scenario, scenario_of, scenarios_of
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.targets.linear import LINEAR as LINEAR_TARGET
from dmspec.runtime.targets.linear import Linear
from dmspec.runtime.units import NS_PER_MS

from .hand import ANY, KIB, LINEAR, START, check, fault, lock, make, op, outcome, run, texts, unlock, until

MIRROR = ["0 2048 mirror core 1 512 2 pv1 0 pv2 0 1 handle_errors"]


def busy(seed_devices: list[Device] | None = None) -> Plan:
    """A mirror and a snapshot of it, written, suspended, failing, repaired, checked: a bit of everything."""
    devices = seed_devices or [Device("m", MIRROR), Device("top", ["0 2048 snapshot-origin m"])]
    return make(
        ("app", [op("write", target="fs", times=6, size=3000), op("flush", target="fs"),
                 op("sleep", time=NS_PER_MS), op("read", target="fs")]),
        ("taker", [lock("a"), op("create", name="snap"),
                   op("load", device="snap", table=["0 2048 snapshot m pv3 P 8"]),
                   op("suspend", device=["top"]), op("resume", device=["snap", "top"]), unlock("a"),
                   op("write", target="snap", at=100, size=KIB)]),
        ("daemon", [until("event", device="m"), lock("a"), op("load", device="m", table=["0 2048 linear pv2 0"]),
                    op("suspend", device=["m"], noflush=True), op("resume", device=["m"]), unlock("a")]),
        devices=devices, filesystem="top", faults=[fault("fail", ANY, disk="pv1")],
        checks=[check("always", name) for name in ("no-deadlock", "no-io-error", "no-lost-write", "resumed-at-end")]
        + [check("always", "frozen", device="snap")])


# Faults


def faults_of(at: dict[str, Any], seed: int | None = None) -> tuple[list[str], int]:
    """What a process that writes three times sees of a fault, and the fault's step."""
    result = run(("p", [op("write", target="d", times=3)]), faults=[fault("fail", at, disk="pv1")], seed=seed)
    steps = [event.step for event in result.trace.events if event.lane == "fault"]
    return texts(result, "p"), steps[0] - result.setup_steps if steps else -1


def test_a_fault_at_the_start() -> None:
    assert faults_of(START) == (
        ["write d size=4KiB times=3", "write d size=4KiB times=3: EIO",
         "VIOLATION of no-io-error: `write d size=4KiB times=3` of p ended with EIO", "ended with EIO"], 0)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_fault_at_a_step(step: int) -> None:
    assert faults_of({"step": step})[1] == step


def test_a_fault_at_a_step_that_never_comes() -> None:
    result = run(("p", []), faults=[fault("fail", {"step": 1000}, disk="pv1")])
    assert result.remarks == ["fault fail (line 0) never struck"]


def test_a_fault_at_a_time() -> None:
    code = [op("sleep", time=NS_PER_MS), op("write", target="d"), op("sleep", time=NS_PER_MS), op("write", target="d")]
    result = run(("p", code), faults=[fault("fail", {"time_ns": 3 * NS_PER_MS // 2}, disk="pv1")])
    assert texts(result, "p")[-1] == "ended with EIO"
    assert [event.time_ns for event in result.trace.events if event.lane == "fault"] == [3 * NS_PER_MS // 2]


def test_a_fault_at_any_point_strikes_while_io_is_on_its_way() -> None:
    said, step = faults_of(ANY)
    assert step == 1
    assert said[-1] == "ended with EIO"
    result = run(("p", [op("write", target="d"), op("write", target="pv2")]), faults=[fault("fail", ANY, disk="pv2")])
    assert texts(result, "p").count("write: done") == 1, "it waits for I/O on its own disk"
    result = run(("p", []), faults=[fault("fail", ANY, disk="pv2")])
    assert result.remarks == ["fault fail (line 0) never struck"]


def test_a_seed_draws_the_point() -> None:
    steps = {faults_of(ANY, seed)[1] for seed in range(120)}
    assert steps >= {-1, 0, 1, 2, 3, 4, 5}


def test_a_schedule_says_when_a_fault_strikes() -> None:
    plan = make(("p", [op("write", target="d", times=3)]), faults=[fault("fail", ANY, disk="pv1")])
    for step in range(4):
        result = run_scenario(plan, "s", schedule=traces.Schedule([], [(step, 0)]))
        assert [event.step - result.setup_steps for event in result.trace.events if event.lane == "fault"] == [step]
    result = run_scenario(plan, "s", schedule=traces.Schedule())
    assert texts(result, "p")[-1] == "ended"


def test_no_fault_may_strike_more_often_than_most() -> None:
    for seed in range(30):
        result = run(("p", [op("write", target="d", times=6)]), seed=seed,
                     faults=[fault("delay", ANY, 2, disk="pv1", time=1), fault("fail", ANY, 0, disk="pv1")])
        assert texts(result, "fault").count("delay pv1 1ns") <= 2
        assert "fail pv1" not in texts(result, "fault")


# Verdicts


def test_a_violation_that_is_expected() -> None:
    bad = ("p", [op("clear", device="x")])
    checks = [check("always", "no-error"), check("always", "resumed-at-end")]
    result = run(bad, checks=checks, violations=["no-error"])
    assert result.ok
    assert [(one.violated, one.expected, one.ok) for one in result.checks] == [(True, True, True), (False, False, True)]
    result = run(("p", []), checks=checks, violations=["no-error"])
    assert not result.ok
    assert outcome(result, "no-error") == (False, "a violation was expected, and there was none")


def test_what_no_check_asks_about_is_a_remark() -> None:
    result = run(("p", [op("clear", device="x")]), ("q", [until("exists", device="x")]))
    assert result.ok
    assert result.remarks == ["`clear x` of p ended with ENXIO; no check asks about it",
                              "at rest, and not at the end: q waits for exists(x)"]


def test_always_sometimes_and_finally() -> None:
    code = [op("suspend", device=["d"]), op("resume", device=["d"])]
    result = run(("p", code), checks=[check("finally", "resumed-at-end"), check("sometimes", "resumed-at-end")])
    assert result.ok
    result = run(("p", code[:1]), checks=[check("finally", "resumed-at-end"), check("sometimes", "resumed-at-end")])
    assert [one.violated for one in result.checks] == [True, True]


def test_a_plan_without_scenarios_runs_all_its_processes() -> None:
    plan = replace(make(("p", [op("clear", device="x")]), ("q", [])), scenarios=[])
    [scenario] = scenarios_of(plan)
    assert (scenario.name, scenario.run) == ("main", ["p", "q"])
    result = run_scenario(plan, "main")
    assert [one.words for one in result.checks] == ["always no-deadlock", "always no-error", "always no-io-error"]
    assert not result.ok
    with pytest.raises(PlanError, match="no scenario 'x'"):
        run_scenario(plan, "x")


def test_a_run_that_never_rests_ends_at_the_limit_with_a_clear_message() -> None:
    code = [op("sleep", time=1), plans.Instr("jump", {"to": 0})]
    plan = make(("p", code), checks=[check("always", "no-deadlock"), check("finally", "resumed-at-end")])
    result = run_scenario(plan, "s", step_limit=100)
    assert (result.verdict, result.steps) == ("failed", 100)
    violated, text = outcome(result, "step-limit")
    assert violated
    assert text.startswith("no rest after 100 steps; still moving: ")
    assert "not at the end: p" in text
    assert {one.remark for one in result.checks[:2]} == {"not judged: the run did not come to rest"}


def test_the_result_says_how_the_devices_are() -> None:
    result = run(("p", [op("suspend", device=["d"])]))
    [status] = result.statuses
    assert (status.name, status.state, status.event_nr) == ("d", "SUSPENDED", 0)
    assert (status.status, status.table) == (["0 2048 linear "], ["0 2048 linear pv1 0"])


def test_each_run_has_a_world_of_its_own() -> None:
    plan = make(("p", [op("create", name="x")]), checks=[check("always", "no-error")])
    assert [run_scenario(plan, "s").ok for _ in range(2)] == [True, True]


def test_a_scenario_can_name_its_kernel() -> None:
    code = [op("create", name="m", table=["0 2048 mirror core 1 512 2 pv1 0 pv2 0 2 handle_errors keep_log"])]
    checks = [check("always", "no-error")]
    assert run(("p", code), checks=checks).ok
    assert not run(("p", code), checks=checks, kernel="2.6.32").ok


# Building


def test_a_device_that_cannot_be_made_says_so_in_the_kernels_words() -> None:
    with pytest.raises(BuildError, match=r"device d \(line 0\) cannot be made: EINVAL\n.*too small for target"):
        run(("p", []), devices=[Device("d", ["0 4096 linear pv1 0"])])


def test_the_setup_comes_to_rest_and_is_no_part_of_the_schedule() -> None:
    plan = make(("p", [op("expect-status", device="m", text="0 2048 mirror 2 pv1 pv2 4/4 1 AA 1 core")]),
                devices=[Device("m", MIRROR)])
    first, second = run_scenario(plan, "s", seed=1), run_scenario(plan, "s", seed=2)
    assert first.ok
    assert first.setup_steps == second.setup_steps > 10
    assert first.trace.events[:first.setup_events] == second.trace.events[:second.setup_events]
    assert len(first.trace.schedule.choices) <= first.steps


def test_filesystems_are_mounted_before_the_scenario() -> None:
    result = run(("p", [op("write", target="fs")]), filesystem="d", checks=[check("always", "no-io-error")])
    assert result.ok
    assert ("fs", "mounted from d") in [(event.lane, event.text) for event in result.trace.events]


# Our own bugs


class Broken(Linear):
    """Has a bug."""

    def map(self, bio: Any) -> int:
        raise AssertionError(f"planted for {bio!r}")


def test_a_bug_of_ours_keeps_the_trace_that_leads_to_it_again() -> None:
    types = dict(TARGETS) | {"broken": replace(LINEAR_TARGET, name="broken", create=Broken)}
    plan = make(("p", [op("create", name="x"), op("read", target="d")]), devices=[Device("d", ["0 8 broken pv1 0"])])
    with pytest.raises(Crash, match="AssertionError: planted for read d 0\\+8") as crash:
        run_scenario(plan, "s", seed=4, target_types=types)
    assert isinstance(crash.value.__cause__, AssertionError)
    kept = traces.from_bytes(traces.to_bytes(crash.value.trace))
    assert kept.verdict == "crashed"
    again, differs = replay(kept, target_types=types)
    assert isinstance(again, Crash)
    assert differs is None


# Determinism


def test_the_same_seed_gives_the_same_trace_and_others_give_others() -> None:
    runs = [traces.to_bytes(run_scenario(busy(), "s", seed=seed).trace) for seed in (5, 5, 6, 7)]
    assert runs[0] == runs[1]
    assert len(set(runs)) == 3


@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
def test_a_replay_is_the_same_run(seed: int | None) -> None:
    result = run_scenario(busy(), "s", seed=seed)
    again, differs = replay(traces.from_bytes(traces.to_bytes(result.trace)))
    assert differs is None
    assert not isinstance(again, Crash)
    assert (again.verdict, again.checks, again.statuses) == (result.verdict, result.checks, result.statuses)


def test_the_trace_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(plans.to_bytes(busy()))
    code = """
import sys
from dmspec.runtime import plan, runner, trace
run = runner.run_scenario(plan.from_bytes(open(sys.argv[1], "rb").read()), "s", seed=11)
sys.stdout.buffer.write(trace.to_bytes(run.trace))
"""
    made = {subprocess.run([sys.executable, "-c", code, str(tmp_path / "plan")], check=True, capture_output=True,
                           env=os.environ | {"PYTHONHASHSEED": str(number)}).stdout for number in (0, 1, 4242)}
    assert made == {traces.to_bytes(run_scenario(busy(), "s", seed=11).trace)}


def begin(plan: Plan, seed: int) -> tuple[Running, traces.Recorder]:
    recorder = traces.Recorder()
    engine = SimEngine(observer=recorder)
    world = build(plan, engine, target_types=TARGETS)
    return Running(world, scenario_of(plan, "s"), seed=seed), recorder


def finish(running: Running) -> tuple[Any, ...]:
    while running.step():
        pass
    running.come_to_rest()
    return running.outcomes(at_rest=True), running.statuses(), running.remarks(at_rest=True), running.schedule()


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_made_at_any_step_goes_on_identically(seed: int) -> None:
    plan = busy()
    whole, recorder = begin(plan, seed)
    copies = []
    while whole.step():
        if whole.taken % 2:
            copied = copy.deepcopy(whole)
            copied.engine.observer = traces.Recorder()
            copies.append((copied, len(recorder.events)))
    whole.come_to_rest()
    wanted = (whole.outcomes(at_rest=True), whole.statuses(), whole.remarks(at_rest=True), whole.schedule())
    assert len(copies) > 8, whole.taken
    for copied, before in copies:
        assert finish(copied) == wanted
        assert isinstance(copied.engine.observer, traces.Recorder)
        assert copied.engine.observer.events == recorder.events[before:]


def test_a_copy_shares_the_plan_and_has_no_observer() -> None:
    running, _recorder = begin(busy(), 1)
    copied = copy.deepcopy(running)
    assert copied.world.plan is running.world.plan
    assert copied.world.stack.target_types is running.world.stack.target_types
    assert copied.engine is copied.world.engine is not running.engine
    assert copied.engine.observer is None
    assert running.engine.observer is not None


def test_a_large_world_can_be_copied() -> None:
    devices = [LINEAR, *(Device(f"d{number}", [f"0 2048 linear d{number - 1} 0"]) for number in range(1, 100))]
    devices[1] = Device("d1", ["0 2048 linear d 0"])
    code = [lock("a"), op("write", target="d99"), unlock("a"), op("suspend", device=["d99"])]
    running, _recorder = begin(make(*((f"p{number}", code) for number in range(100)), devices=devices), 1)
    for _ in range(150):
        assert running.step()
    assert finish(copy.deepcopy(running)) == finish(running)


def test_the_race_that_a_seed_finds_can_be_run_from_its_schedule_alone() -> None:
    """An unlocked swap of a table under a writer: some interleavings lose writes, and each can be repeated."""
    plan = make(("w", [op("write", target="d", times=2)]), ("r", [op("write", target="pv1", at=0, pattern="X")]),
                checks=[check("always", "no-lost-write", device=["d"])], devices=[LINEAR])
    results = [run_scenario(plan, "s", seed=seed) for seed in range(30)]
    assert {result.verdict for result in results} == {"ok", "failed"}
    for result in results:
        assert run_scenario(plan, "s", schedule=result.trace.schedule).verdict == result.verdict


def test_scenarios_are_found_by_name() -> None:
    plan = make(("p", []))
    other = Scenario("t", "", ["p"])
    assert scenario_of(replace(plan, scenarios=[*plan.scenarios, other]), "t") == other
