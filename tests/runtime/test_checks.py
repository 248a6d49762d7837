"""Checks: each has a run in which it holds and one in which it is violated, with what it says then."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dmspec.runtime.bio import Bio
from dmspec.runtime.block import BlockDevice
from dmspec.runtime.plan import Device, Instr
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.runner import Result, run_scenario
from dmspec.runtime.targets.linear import LINEAR as LINEAR_TARGET
from dmspec.runtime.targets.linear import Linear

from .hand import (
    KIB,
    LINEAR,
    SMALL,
    attempt,
    check,
    end_attempt,
    fails,
    flat,
    lock,
    make,
    op,
    outcome,
    run,
    unlock,
    until,
)

OTHER = Device("e", ["0 2048 linear pv2 0"])
MIRROR = ["0 2048 mirror core 2 512 nosync 2 pv1 0 pv2 0 1 handle_errors"]
RAW = op("write", target="pv1", at=4096, pattern="RAW")
Process = tuple[str, list[Instr]]


def judge(name: str, *processes: Process, mode: str = "always", seed: int | None = None, more: Any = None,
          **args: Any) -> tuple[bool, str]:
    """Run with this check alone; whether it is violated, and what it says."""
    result = run(*processes, checks=[check(mode, name, **args)], seed=seed, **(more or {}))
    return outcome(result, name)


def remark(result: Result, name: str) -> str:
    [found] = [one for one in result.checks if one.name == name]
    return found.remark


# no-deadlock

CROSS = [("p", [lock("a"), op("sleep", time=5), lock("b")]), ("q", [lock("b"), op("sleep", time=5), lock("a")])]


def test_no_deadlock_says_who_waits_for_whom() -> None:
    assert judge("no-deadlock", *CROSS) == (
        True, ("nothing can move, and p and q have not ended: p waits for lock b, held by q; "
               "q waits for lock a, held by p"))


def test_no_deadlock_names_the_suspended_device_and_its_bios() -> None:
    violated, text = judge("no-deadlock", ("p", [op("suspend", device=["d"])]), ("q", [op("write", target="d")]))
    assert violated
    assert text == ("nothing can move, and q has not ended: q waits for a write to d (4KiB at 0); "
                    "d is suspended by p, and 1 bio waits for it")


def test_no_deadlock_names_the_branch_that_hangs() -> None:
    code = [Instr("fork", {"starts": [1, 3], "to": 4}), until("exists", device="x"), Instr("end"), Instr("end")]
    assert judge("no-deadlock", ("p", code)) == (
        True, "nothing can move, and p has not ended: p.1 waits for exists(x)")


def test_a_daemon_that_waits_for_an_event_is_no_deadlock_unless_it_holds_a_lock() -> None:
    event = until("event", device="d")
    assert judge("no-deadlock", ("p", [event])) == (False, "")
    assert judge("no-deadlock", ("p", [until("exists", device="x")]))[0]
    assert judge("no-deadlock", ("p", [lock("a"), event, unlock("a")]))[0]


def test_a_repair_that_cannot_have_the_lock_is_found() -> None:
    """The second case of the mail: the suspend waits for a held write, the repair for the lock."""
    write = op("write", target="vol")
    create = [lock("a"), until("event", device="vol"), op("suspend", device=["top"]), unlock("a")]
    repair = [until("event", device="vol"), lock("a"), op("load", device="vol", table=["0 2048 linear pv2 0"]),
              op("suspend", device=["vol"], noflush=True), op("resume", device=["vol"]), unlock("a")]
    devices = [Device("vol", MIRROR), Device("top", ["0 2048 linear vol 0"])]
    processes = [("app", [op("fail", disk="pv1"), replace(write, args=write.args | {"target": "top"})]),
                 ("lvcreate", create), ("dmeventd", repair)]
    violated, text = judge("no-deadlock", *processes, more={"devices": devices})
    assert violated
    assert "dmeventd waits for lock a, held by lvcreate" in text
    assert "lvcreate waits for 1 bio in top" in text
    assert "app waits for a write to top (4KiB at 0)" in text
    unlocked = [one for one in create if one.op not in ("lock", "unlock")]
    assert judge("no-deadlock", processes[0], ("lvcreate", unlocked), processes[2],
                 more={"devices": devices}) == (False, "")


# no-error, no-io-error, expectation


def test_no_error_and_no_io_error_each_mind_their_own() -> None:
    control = ("p", [op("clear", device="x")])
    io = ("p", [op("fail", disk="pv1"), op("write", target="d")])
    assert judge("no-error", control) == (True, "`clear x` of p ended with ENXIO")
    assert judge("no-error", io) == (False, "")
    assert judge("no-io-error", control) == (False, "")
    assert judge("no-io-error", io) == (True, "`write d size=4KiB` of p ended with EIO")


def test_no_io_error_can_be_about_some_processes_only() -> None:
    bad = [op("read", target="x")]
    assert judge("no-io-error", ("p", bad), ("q", []), process=["q"]) == (False, "")
    assert judge("no-io-error", ("p", bad), ("q", []), process=["q", "p"])[0]


def test_an_error_that_was_expected_is_none() -> None:
    assert judge("no-error", ("p", flat([fails("ENXIO", op("clear", device="x"))]))) == (False, "")
    code = [attempt(3), op("clear", device="x"), end_attempt()]
    assert judge("no-error", ("p", code)) == (False, "")


def test_every_run_asks_about_expectations() -> None:
    result = run(("p", [op("expect-events", device="d", count=1)]))
    assert not result.ok
    assert outcome(result, "expectation")[0]
    assert judge("expectation", ("p", [])) == (False, "")


# legs-agree


class Twin(Linear):
    """Maps to one disk and claims that the other one is equal."""

    def construct(self, argv: list[str]) -> None:
        super().construct(argv[:2])
        self.twin = self.get_device(argv[2], "no twin")

    def compare_areas(self) -> Iterator[list[tuple[BlockDevice, int, int]]]:
        yield [(self.device, self.offset, self.length), (self.twin, 0, self.length)]

    def held(self) -> Iterator[str]:
        yield "2 writes held since leg pv1 failed"


class Keeper(Twin):
    """Keeps every write."""

    def map(self, bio: Bio) -> int:
        del bio
        return 0


TWINS = dict(TARGETS) | {"twin": replace(LINEAR_TARGET, name="twin", create=Twin),
                         "keeper": replace(LINEAR_TARGET, name="keeper", create=Keeper)}


def twins(*code: Instr, legs: str = "pv1 0 pv2", kind: str = "twin", name: str = "legs-agree", **args: Any) -> Result:
    devices = [Device("l", ["0 2048 linear pv2 0"]), Device("t", [f"0 1024 {kind} {legs}"])]
    plan = make(("p", list(code)), devices=devices, checks=[check("always", name, **args)])
    return run_scenario(plan, "s", target_types=TWINS)


@pytest.mark.parametrize("legs", ["pv1 0 pv2", "pv1 0 l"])
def test_legs_agree(legs: str) -> None:
    same = [op("write", target=name, at=8192, pattern="A") for name in ("pv1", "pv2")]
    assert outcome(twins(*same, legs=legs, device="t"), "legs-agree") == (False, "")
    other = legs.rsplit(maxsplit=1)[-1]
    assert outcome(twins(*same, RAW, legs=legs, device="t"), "legs-agree") == (
        True, f"pv1 at sector 8 holds 'RAW sector 00000000', {other} at sector 8 zeros")


@pytest.mark.parametrize("legs", ["pv1 0 pv2", "pv1 0 l"])
def test_legs_are_compared_beneath_what_is_wrong_with_their_disks(legs: str) -> None:
    code = [RAW, op("fail", disk="pv1"), op("detach", disk="pv2")]
    assert outcome(twins(*code, legs=legs, device="t"), "legs-agree")[0]


def test_legs_agree_says_when_there_is_nothing_to_compare() -> None:
    result = run(("p", []), checks=[check("always", "legs-agree", device="d")])
    assert result.ok
    assert remark(result, "legs-agree") == "no two areas of d have to be equal"
    result = run(("p", [op("remove", device=["d"])]), checks=[check("always", "legs-agree", device="d")])
    assert remark(result, "legs-agree") == "d has no table"


def test_what_a_target_holds_is_part_of_the_story() -> None:
    result = twins(op("write", target="t"), kind="keeper", name="no-deadlock")
    assert outcome(result, "no-deadlock")[1].endswith("; the keeper of t has 2 writes held since leg pv1 failed")


# frozen


def test_frozen() -> None:
    assert judge("frozen", ("p", [op("read", target="d")]), device="d") == (False, "")
    assert judge("frozen", ("p", [RAW]), device="d") == (
        True, "d at byte 4096 holds 'RAW sector 00000000', but held zeros")


def test_frozen_leaves_out_what_was_written_to_the_device_itself() -> None:
    own = op("write", target="d", at=4096 + 512, size=KIB)
    assert judge("frozen", ("p", [own]), device="d") == (False, "")
    assert judge("frozen", ("p", [RAW, own]), device="d")[0], "its first sector was not written"


def test_frozen_counts_from_when_the_device_came_to_life() -> None:
    create = [op("create", name="x"), op("load", device="x", table=["0 2048 linear pv1 0"])]
    assert judge("frozen", ("p", [*create, RAW, op("resume", device=["x"])]), device="x") == (False, "")
    assert judge("frozen", ("p", [*create, op("resume", device=["x"]), RAW]), device="x")[0]


def test_frozen_since_a_hash() -> None:
    remember = op("sha256", target="pv2", **{"as": "now"})
    assert judge("frozen", ("p", [RAW, remember]), device="d", since="now") == (False, "")
    assert judge("frozen", ("p", [remember, RAW]), device="d", since="now")[0]


def test_frozen_does_not_judge_what_it_cannot_read() -> None:
    for code, wanted in (
        ([op("fail", disk="pv1")], "d cannot be read at byte 0: EIO"),
        ([op("suspend", device=["d"])], "d cannot be read at byte 0: the read never ends"),
        ([op("remove", device=["d"])], "d is gone"),
    ):
        result = run(("p", code), checks=[check("always", "frozen", device="d")])
        assert result.ok
        assert remark(result, "frozen") == wanted
    result = run(("p", []), checks=[check("always", "frozen", device="x")])
    assert remark(result, "frozen") == "x never came to life"


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_is_frozen_while_its_origin_is_written(seed: int) -> None:
    devices = [LINEAR, Device("o", ["0 2048 snapshot-origin d"])]
    writer = ("w", [op("write", target="o", times=6, size=8 * KIB)])
    taker = ("t", [op("create", name="snap"), op("load", device="snap", table=["0 2048 snapshot d pv2 P 8"]),
                   op("suspend", device=["o"]), op("resume", device=["snap", "o"]), op("write", target="snap")])
    assert judge("frozen", writer, taker, device="snap", seed=seed, more={"devices": devices}) == (False, "")
    around = ("a", [until("active", device="snap"), op("write", target="d", at=65536 * 2, pattern="AROUND")])
    assert judge("frozen", writer, taker, around, device="snap", seed=seed, more={"devices": devices})[0]


# no-lost-write


def test_no_lost_write() -> None:
    write = op("write", target="d", at=4096, pattern="A")
    assert judge("no-lost-write", ("p", [write])) == (False, "")
    assert judge("no-lost-write", ("p", [write, RAW])) == (
        True, "d at byte 4096 holds 'RAW sector 00000000', though 'A sector 00000000' was acknowledged")


def test_what_was_acknowledged_must_be_readable() -> None:
    code = [op("write", target="d"), op("fail", disk="pv1")]
    assert judge("no-lost-write", ("p", code), device=["d"]) == (
        True, "d cannot be read at byte 0: EIO, where a write was acknowledged")


def test_a_write_that_failed_or_was_overwritten_or_discarded_may_be_gone() -> None:
    failed = [op("fail", disk="pv1"), attempt(4), op("write", target="d"), end_attempt(), op("heal", disk="pv1")]
    assert judge("no-lost-write", ("p", failed)) == (False, "")
    twice = [op("write", target="d", at=0), op("write", target="d", at=1024, size=100), op("read", target="d")]
    assert judge("no-lost-write", ("p", twice)) == (False, "")
    gone = [op("write", target="d", at=0, size=8192), op("discard", target="d", at=0)]
    assert judge("no-lost-write", ("p", gone)) == (False, "")


def test_an_older_write_that_comes_back_is_a_lost_write() -> None:
    code = [op("write", target="d", at=0, pattern="OLD"), op("write", target="d", at=0, pattern="NEW"),
            op("write", target="pv1", at=0, pattern="OLD")]
    assert judge("no-lost-write", ("p", code), device=["d"])[1] == \
        "d at byte 0 holds 'OLD sector 00000000', though 'NEW sector 00000000' was acknowledged"


@pytest.mark.parametrize("seed", range(20))
def test_of_two_writes_at_once_either_may_win(seed: int) -> None:
    writers = [(name, [op("write", target="d", at=100, size=3000, pattern=name)]) for name in "pq"]
    assert judge("no-lost-write", *writers, seed=seed) == (False, "")


def test_no_lost_write_is_about_a_filesystem_and_what_can_be_read() -> None:
    write = op("write", target="fs", pattern="A")
    assert judge("no-lost-write", ("p", [write]), device=["fs"], more={"filesystem": "d"}) == (False, "")
    assert judge("no-lost-write", ("p", [write, RAW]), device=["fs"], more={"filesystem": "d"})[0]
    result = run(("p", [op("write", target="d"), op("suspend", device=["d"])]),
                 checks=[check("always", "no-lost-write")])
    assert (result.ok, remark(result, "no-lost-write")) == (True, "d cannot be read at byte 0: the read never ends")
    result = run(("p", [op("write", target="d"), op("remove", device=["d"])]),
                 checks=[check("always", "no-lost-write", device=["d"])])
    assert (result.ok, remark(result, "no-lost-write")) == (True, "d is gone")


# resumed-at-end, and the conditions as checks


def test_resumed_at_end() -> None:
    assert judge("resumed-at-end", ("p", [op("suspend", device=["d"]), op("resume", device=["d"])])) == (False, "")
    assert judge("resumed-at-end", ("p", [op("suspend", device=["d"])])) == (True, "d is left suspended")
    assert judge("resumed-at-end", ("p", [op("suspend", device=["d", "e"])]), more={"devices": [LINEAR, OTHER]}) == (
        True, "d and e are left suspended")


def test_insync() -> None:
    code = [op("write", target="m"), op("fail", disk="pv1"), op("write", target="m", at=0),
            op("suspend", device=["m"], noflush=True)]
    devices = {"devices": [Device("m", [MIRROR[0].replace("1 handle_errors", "").strip()])]}
    assert judge("insync", ("p", code[:1]), device="m", more=devices) == (False, "")
    assert judge("insync", ("p", code), device="m", more=devices) == (True, "m is not in sync")
    assert judge("insync", ("p", code), mode="sometimes", device="m", more=devices) == (False, "")
    assert judge("insync", ("p", code), mode="finally", device="m", more=devices)[0]
    assert judge("insync", ("p", []), device="gone") == (False, "")


SNAPSHOT = {"devices": [LINEAR, Device("small", [f"0 {5 * 8} linear pv2 0"]),
                        Device("snap", [f"0 {SMALL} snapshot d small PO 8"])]}


@pytest.mark.parametrize(("name", "code"), [
    ("overflow", [op("write", target="snap", size=64 * KIB)]),
    ("invalid", [op("fail", disk="pv2"), op("write", target="snap")]),
])
def test_overflow_and_invalid(name: str, code: list[Instr]) -> None:
    quiet = ("p", [op("read", target="snap")])
    assert judge(name, ("p", code), mode="sometimes", device="snap", more=SNAPSHOT) == (False, "")
    assert judge(name, ("p", code), mode="finally", device="snap", more=SNAPSHOT) == (False, "")
    assert judge(name, quiet, mode="sometimes", device="snap", more=SNAPSHOT) == (True, "it never came to that")
    assert judge(name, quiet, mode="finally", device="snap", more=SNAPSHOT) == (
        True, f"the status of snap does not say {name.capitalize()}")


def test_a_check_changes_nothing() -> None:
    checks = [check("always", "legs-agree", device="d"), check("always", "frozen", device="d"),
              check("always", "no-lost-write"), check("always", "no-deadlock")]
    processes = [("p", [op("write", target="d", times=3)]), ("q", [op("suspend", device=["d"])])]
    for seed in range(5):
        with_checks, without = run(*processes, checks=checks, seed=seed), run(*processes, seed=seed)
        assert with_checks.trace.events == without.trace.events
        assert with_checks.steps == without.steps
