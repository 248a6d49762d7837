"""Processes: every control instruction, and every operation, doing what it says and failing."""

from typing import Any

import pytest

from dmspec.runtime.plan import Device, Instr
from dmspec.runtime.registry import CONDITIONS, OPERATIONS
from dmspec.runtime.runner import run_scenario
from dmspec.runtime.units import NS_PER_MS, NS_PER_S

from .hand import (
    KIB,
    LINEAR,
    attempt,
    branch,
    check,
    end_attempt,
    lock,
    make,
    op,
    outcome,
    run,
    texts,
    unlock,
    until,
)

ERRORS = [check("always", "no-error"), check("always", "no-io-error")]
BAD = op("suspend", device=["nothing"])
ERROR = Device("bad", ["0 2048 error"])


def said(*code: Instr, **more: Any) -> list[str]:
    """Run one process; what it says."""
    return texts(run(("p", list(code)), **more), "p")


# Control instructions


def test_a_loop_runs_as_often_as_it_says() -> None:
    code = [Instr("loop", {"slot": 0, "times": 3, "to": 3}), op("write", target="d"), Instr("jump", {"to": 0})]
    assert said(*code, slots=1).count("write d size=4KiB") == 3


def test_a_loop_that_is_left_by_an_error_begins_anew() -> None:
    code = [
        Instr("loop", {"slot": 0, "times": 2, "to": 8}),
        attempt(7),
        Instr("loop", {"slot": 1, "times": 3, "to": 6}),
        op("sleep", time=1),
        BAD,
        Instr("jump", {"to": 2}),
        end_attempt(),
        Instr("jump", {"to": 0}),
    ]
    assert said(*code, slots=2).count("sleep 1ns") == 2


@pytest.mark.parametrize(("negate", "wanted"), [(False, 1), (True, 0)])
def test_a_branch(negate: bool, wanted: int) -> None:
    code = [branch("exists", 2, negate=negate, device="d"), op("sleep", time=1)]
    assert said(*code).count("sleep 1ns") == wanted


def test_choose_takes_what_the_schedule_picks() -> None:
    code = [Instr("choose", {"to": [1, 3]}), op("sleep", time=1), Instr("jump", {"to": 4}), op("sleep", time=2)]
    seen = {text for seed in range(30) for text in said(*code, seed=seed) if text.startswith("sleep")}
    assert seen == {"sleep 1ns", "sleep 2ns", "sleep: done"}
    assert "sleep 2ns" not in said(*code)


def test_a_fork_runs_its_branches_and_waits_for_all_of_them() -> None:
    code = [
        Instr("fork", {"starts": [1, 3], "to": 5}),
        op("sleep", time=5), Instr("end"),
        op("sleep", time=9), Instr("end"),
        op("write", target="d"),
    ]
    result = run(("p", code))
    events = [(event.lane, event.text) for event in result.trace.events]
    assert ("p.1", "sleep 5ns") in events
    assert ("p.2", "sleep 9ns") in events
    assert events.index(("p", "write d size=4KiB")) > events.index(("p.2", "ended"))


def test_an_error_in_a_branch_is_the_forks() -> None:
    code = [Instr("fork", {"starts": [1, 3], "to": 4}), BAD, Instr("end"), Instr("end")]
    result = run(("p", code), checks=ERRORS)
    assert outcome(result, "no-error") == (True, "`suspend nothing` of p.1 ended with ENXIO")
    assert "ended with ENXIO" in texts(result, "p")


def test_a_try_around_a_fork_takes_its_error() -> None:
    code = [attempt(5), Instr("fork", {"starts": [2], "to": 4}), BAD, Instr("end"), end_attempt(),
            op("write", target="d")]
    result = run(("p", code), checks=ERRORS)
    assert result.ok
    assert "write d size=4KiB" in texts(result, "p")


@pytest.mark.parametrize("wanted", [None, "ENXIO"])
def test_a_try_takes_its_error(wanted: str | None) -> None:
    result = run(("p", [attempt(3, wanted, must=True), BAD, end_attempt(wanted, must=True), op("sleep", time=1)]),
                 checks=ERRORS)
    assert result.ok
    assert "sleep 1ns" in texts(result, "p")


def test_a_try_leaves_another_error_alone() -> None:
    result = run(("p", [attempt(3, "EIO"), BAD, end_attempt("EIO"), op("sleep", time=1)]), checks=ERRORS)
    assert outcome(result, "no-error")[0]
    assert "sleep 1ns" not in texts(result, "p")


def test_an_expected_error_that_does_not_come_is_a_violation_and_the_process_goes_on() -> None:
    code = [attempt(3, "EIO", must=True), op("sleep", time=1), end_attempt("EIO", must=True), op("sleep", time=2)]
    result = run(("p", code))
    assert not result.ok
    assert "EIO was expected" in outcome(result, "expectation")[1]
    assert "sleep 2ns" in texts(result, "p")


def test_a_lock_is_waited_for() -> None:
    holder = [lock("a"), op("sleep", time=5), unlock("a")]
    result = run(("p", holder), ("q", [lock("a"), unlock("a")]))
    assert texts(result, "q") == ["waits for lock a, held by p", "takes lock a", "lets go of lock a", "ended"]


def test_a_lock_that_is_taken_twice_is_let_go_with_the_second_unlock() -> None:
    code = [lock("a"), lock("a"), unlock("a"), op("sleep", time=5), unlock("a")]
    result = run(("p", code), ("q", [lock("a"), unlock("a")]))
    events = [(event.lane, event.text) for event in result.trace.events]
    assert events.index(("q", "takes lock a")) > events.index(("p", "sleep: done"))


def test_a_process_that_dies_lets_go_of_its_locks() -> None:
    result = run(("p", [lock("a"), op("sleep", time=5), BAD]), ("q", [lock("a"), unlock("a")]))
    assert texts(result, "p")[-2:] == [
        "VIOLATION of no-error: `suspend nothing` of p ended with ENXIO", "ended with ENXIO"]
    assert texts(result, "q")[-1] == "ended"


def test_a_try_that_takes_an_error_lets_go_of_the_locks_that_were_taken_in_it() -> None:
    code = [lock("a"), attempt(5), lock("b"), BAD, end_attempt(), op("sleep", time=5), unlock("a")]
    result = run(("p", code), ("q", [lock("b"), unlock("b"), lock("a"), unlock("a")]), checks=ERRORS)
    events = [(event.lane, event.text) for event in result.trace.events]
    assert events.index(("q", "takes lock b")) < events.index(("p", "sleep: done"))
    assert result.ok


def test_others_may_run_before_each_operation() -> None:
    code = [op("create", name="x"), op("remove", device=["x"])]
    orders = {tuple(event.lane for event in run(("p", code), ("q", [op("create", name="y")]), seed=seed).trace.events
                    if event.text.startswith(("create ", "remove "))) for seed in range(40)}
    assert orders >= {("p", "p", "q"), ("p", "q", "p"), ("q", "p", "p")}


def test_a_loop_without_operations_does_not_stop_the_world() -> None:
    plan = make(("p", [Instr("jump", {"to": 0})]), ("q", [op("create", name="x")]))
    result = run_scenario(plan, "s", seed=1, step_limit=100)
    assert texts(result, "q")[-1] == "ended"
    [limit] = [one for one in result.checks if one.name == "step-limit"]
    assert "not at the end: p" in limit.text


# Await


def test_await_goes_on_when_the_condition_holds() -> None:
    result = run(("p", [until("exists", device="x")]), ("q", [op("create", name="x")]))
    assert texts(result, "p") == ["await exists(x)", "exists(x): yes", "ended"]


def test_await_that_takes_too_long_is_etime() -> None:
    result = run(("p", [until("exists", NS_PER_S, device="x")]), checks=ERRORS)
    assert outcome(result, "no-error") == (True, "`await exists(x) within=1s` of p ended with ETIME")
    assert result.time_ns == NS_PER_S


def test_await_within_that_is_met_in_time() -> None:
    result = run(("p", [until("exists", NS_PER_S, device="x")]),
                 ("q", [op("sleep", time=NS_PER_MS), op("create", name="x")]), checks=ERRORS)
    assert result.ok


def test_an_event_is_awaited_from_the_last_one_that_was_seen() -> None:
    devices = [Device("s", ["0 2048 striped 1 128 pv1 0"])]
    code = [until("event", device="s"), until("event", device="s"), op("expect-events", device="s", count=2)]
    fails = [attempt(2), op("write", target="s"), attempt(4), op("write", target="s")]
    result = run(("p", code), ("q", [op("fail", disk="pv1"), *fails]), devices=devices,
                 checks=[check("always", "no-deadlock"), check("always", "expectation")])
    assert texts(result, "p")[-1] == "ended"
    assert result.ok


@pytest.mark.parametrize(("past", "heard"), [(False, False), (True, True)])
def test_dmeventd_hears_of_what_comes_after_the_registration(past: bool, heard: bool) -> None:
    rename = [op("rename", device="d", new_name="e"), op("rename", device="e", new_name="d")]
    watch = [op("register", device="d", past=past), until("event", device="d", registered=True)]
    result = run(("p", [*rename, *watch]), devices=[LINEAR])
    assert (texts(result, "p")[-1] == "ended") is heard
    result = run(("p", watch), ("q", [op("sleep", time=1), op("unregister", device="d"), *rename]), devices=[LINEAR])
    assert (texts(result, "p")[-1] == "ended") is False


def test_an_event_of_a_device_that_comes_later_counts_from_zero() -> None:
    code = [until("event", device="s")]
    result = run(("p", code), ("q", [
        op("create", name="s", table=["0 2048 striped 1 128 pv1 0"]), op("fail", disk="pv1"), op("write", target="s"),
    ]))
    assert texts(result, "p")[-1] == "ended"


# Conditions

MERGING = [op("create", name="top", table=["0 2048 snapshot-merge d pv2 P 8"])]
STATES: dict[str, tuple[list[Instr], dict[str, Any]]] = {
    "event": ([op("rename", device="d", new_name="e"), op("rename", device="e", new_name="d")], {"device": "d"}),
    "insync": ([op("create", name="m", table=["0 2048 linear pv1 0"])], {"device": "m"}),
    "suspended": ([op("suspend", device=["d"])], {"device": "d"}),
    "active": ([op("create", name="m", table=["0 2048 linear pv1 0"])], {"device": "m"}),
    "exists": ([op("create", name="m")], {"device": "m"}),
    "failed": ([op("fail", disk="pv1")], {"disk": "pv1"}),
    "invalid": ([
        op("create", name="snap", table=["0 2048 snapshot d pv2 N 8"]),
        op("create", name="o", table=["0 2048 snapshot-origin d"]),
        op("fail", disk="pv2"), op("write", target="o", at=0)], {"device": "snap"}),
    "overflow": ([
        op("create", name="small", table=["0 40 linear pv2 0"]),
        op("create", name="snap", table=["0 2048 snapshot d small PO 8"]),
        op("write", target="snap", at=0, size=64 * KIB)], {"device": "snap"}),
    "done": ([], {"process": "q"}),
    "registered": ([op("register", device="d")], {"device": "d"}),
    "letter": ([
        op("create", name="m", table=["0 2048 mirror core 2 128 nosync 2 pv1 0 pv2 0 1 handle_errors"]),
        op("fail", disk="pv2"), op("write", target="m")], {"device": "m", "letters": ["D", "F"], "leg": 1}),
    "merged": (MERGING, {"device": "top"}),
    "merge-over": (MERGING, {"device": "top"}),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_becomes_true(name: str) -> None:
    code, args = STATES[name]
    asked = [branch(name, 2, **args), op("sleep", time=7), until(name, **args)]
    result = run(("p", asked), ("q", [op("sleep", time=1), *code]))
    assert "sleep 7ns" not in texts(result, "p"), "it holds at the beginning"
    assert texts(result, "p")[-1] == "ended", texts(result)


# Operations: what they do is tested below, that each can fail here

FAILS: dict[str, tuple[Instr, str]] = {
    "create": (op("create", name="d"), "EBUSY"),
    "load": (op("load", device="d", table=["0 8 nothing"]), "EINVAL"),
    "clear": (op("clear", device="x"), "ENXIO"),
    "suspend": (op("suspend", device=["d", "x"]), "ENXIO"),
    "resume": (op("resume", device=["x"]), "ENXIO"),
    "remove": (op("remove", device=["x"]), "ENXIO"),
    "rename": (op("rename", device="d", new_name="bad"), "EBUSY"),
    "message": (op("message", device="d", text="hello"), "EINVAL"),
    "write": (op("write", target="bad"), "EIO"),
    "read": (op("read", target="bad"), "EIO"),
    "flush": (op("flush", target="x"), "ENXIO"),
    "discard": (op("discard", target="bad", size=4096), "EOPNOTSUPP"),
    "wipe": (op("wipe", target="d", at=1 << 40, size=512), "ENOSPC"),
    "register": (op("register", device="x"), "ENXIO"),
    "freeze": (op("freeze", filesystem="x"), "ENXIO"),
    "thaw": (op("thaw", filesystem="fs"), "EINVAL"),
    "sha256": (op("sha256", target="bad", **{"as": "x"}), "EIO"),
    "expect-sha256": (op("expect-sha256", target="bad", value="00"), "EIO"),
    "expect-same": (op("expect-same", first="d", second="bad"), "EIO"),
    "expect-content": (op("expect-content", target="bad"), "EIO"),
    "fail": (op("fail", disk="x"), "ENXIO"),
    "heal": (op("heal", disk="x"), "ENXIO"),
    "delay": (op("delay", disk="x", time=1), "ENXIO"),
    "detach": (op("detach", disk="x"), "ENXIO"),
    "corrupt": (op("corrupt", disk="pv1", bits=0), "EINVAL"),
    "tear": (op("tear", disk="x"), "ENXIO"),
    "lose-write": (op("lose-write", disk="x"), "ENXIO"),
    "lose-flush": (op("lose-flush", disk="x"), "ENXIO"),
    "misdirect": (op("misdirect", disk="x"), "ENXIO"),
    "lvm-repair": (op("lvm-repair", device="d"), "EINVAL"),
}
CANNOT_FAIL = {"sleep", "unregister", "expect-status", "expect-table", "expect-state", "expect-events", "power-cut"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_can_fail(name: str) -> None:
    operation = OPERATIONS[name]
    if name in CANNOT_FAIL:
        return
    instr, error = FAILS[name]
    devices = [LINEAR, ERROR]
    result = run(("p", [instr]), devices=devices, filesystem="d", checks=ERRORS)
    violated, text = outcome(result, operation.violates)
    assert violated
    assert text.endswith(f"of p ended with {error}")
    assert texts(result, "p")[-1] == f"ended with {error}"
    caught = run(("p", [attempt(3, error, must=True), instr, end_attempt(error, must=True)]), devices=devices,
                 filesystem="d", checks=ERRORS)
    assert caught.ok


def test_the_plan_of_these_tests_is_one_that_the_runtime_takes() -> None:
    from dmspec.runtime.plan import from_bytes, to_bytes

    plan = make(("p", [FAILS["create"][0]]), filesystem="d")
    assert from_bytes(to_bytes(plan)) == plan
