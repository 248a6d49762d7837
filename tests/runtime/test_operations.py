"""Operations: what each does to the stack, and what the expectations find."""

from typing import Any

import pytest

from dmspec.runtime.plan import Device, Instr
from dmspec.runtime.runner import Result
from dmspec.runtime.units import NS_PER_MS

from .hand import KIB, LINEAR, attempt, check, end_attempt, fails, fault, flat, op, outcome, run, texts, until

ERRORS = [check("always", "no-error"), check("always", "no-io-error"), check("always", "expectation")]
OTHER = Device("e", ["0 2048 linear pv2 0"])


def good(*code: Instr | list[Instr], **more: Any) -> Result:
    """Run one process in which nothing goes wrong."""
    result = run(("p", flat(code)), checks=ERRORS, **more)
    assert result.ok, [one.text for one in result.checks]
    return result


def unmet(*code: Instr, **more: Any) -> str:
    """Run one process in which an expectation is not met; what is said of it."""
    violated, text = outcome(run(("p", list(code)), **more), "expectation")
    assert violated
    return text


# Control


def test_create_with_a_table_loads_and_resumes() -> None:
    good(op("create", name="x", table=["0 8 zero", "* * linear pv2 0"], uuid="U"),
         op("expect-state", device="x", state="ACTIVE"),
         op("expect-table", device="x", text="0 8 zero\n8 2048 linear pv2 0"))


@pytest.mark.parametrize("table", [["0 8 nothing"], ["0 2049 linear pv1 0"], ["what"], {"table_of": "nothing"}])
def test_a_create_that_fails_leaves_no_device(table: Any) -> None:
    good(attempt(3), op("create", name="x", table=table), end_attempt(),
         op("expect-state", device="x", state="ABSENT"))


def test_a_create_whose_resume_fails_leaves_no_device() -> None:
    table = ["0 2048 snapshot d pv2 P 8"]
    good(op("create", name="x", table=table), fails("EINVAL", op("create", name="y", table=table)),
         op("expect-state", device="y", state="ABSENT"), op("expect-state", device="x", state="ACTIVE"))


def test_table_of_is_the_live_table_or_the_inactive_one() -> None:
    good(op("create", name="x", table={"table_of": "d"}), op("expect-table", device="x", text="0 2048 linear pv1 0"),
         op("create", name="y"), op("load", device="y", table=["0 8 zero"]), op("create", name="z"),
         op("load", device="z", table={"table_of": "y"}), op("resume", device=["z"]),
         op("expect-table", device="z", text="0 8 zero"))


def test_clear_suspend_resume() -> None:
    good(op("load", device="d", table=["0 8 zero"]), op("clear", device="d"), op("suspend", device=["d"]),
         op("expect-state", device="d", state="SUSPENDED"), op("suspend", device=["d"]), op("resume", device=["d"]),
         op("expect-state", device="d", state="ACTIVE"), op("expect-table", device="d", text="0 2048 linear pv1 0"))


def test_a_resume_swaps_the_table_in() -> None:
    good(op("load", device="d", table=["0 8 zero"], read_only=True), op("resume", device=["d"], noflush=True),
         op("expect-table", device="d", text="0 8 zero"))


def test_remove() -> None:
    good(op("remove", device=["d"]), op("expect-state", device="d", state="ABSENT"))
    good(op("create", name="x", table=["0 8 linear d 0"]), fails("EBUSY", op("remove", device=["d"])),
         op("remove", device=["d"], deferred=True), op("expect-state", device="d", state="ACTIVE"),
         op("sleep", time=1), op("remove", device=["x"]), op("sleep", time=1),
         op("expect-state", device="d", state="ABSENT"))


def test_remove_at_once() -> None:
    good(op("create", name="x", table=["0 8 zero"]), op("remove", device=["x"]))


def test_remove_force_puts_an_error_table_in_its_place_first() -> None:
    result = good(op("create", name="x", table=["0 8 linear d 0"]),
                  fails("EBUSY", op("remove", device=["d"], force=True)),
                  op("expect-table", device="d", text="0 2048 error"), op("create", name="empty"),
                  op("remove", device=["empty"], force=True), op("expect-state", device="empty", state="ABSENT"))
    assert "table swapped in: error" in texts(result, "d")


def test_rename_and_uuid() -> None:
    good(op("rename", device="d", new_name="n"), op("expect-events", device="n", count=1),
         op("expect-state", device="d", state="ABSENT"), op("rename", device="n", uuid="U"),
         fails("EINVAL", op("rename", device="n", uuid="V")))


def test_a_message_to_the_core() -> None:
    good(op("message", device="d", text="@cancel_deferred_remove"))


# I/O


def test_writes_go_on_behind_each_other_and_have_contents_of_their_own() -> None:
    good(op("write", target="d", times=2), op("write", target="d", at=0x20000, size=512),
         op("write", target="d", size=KIB),
         op("expect-content", target="d", at=0, pattern="p#1"),
         op("expect-content", target="d", at=4096, pattern="p#2"),
         op("expect-content", target="d", at=0x20000, pattern="p#3"),
         op("expect-content", target="pv1", at=8192, size=KIB, pattern="p#4"),
         op("expect-content", target="d", at=16384, size=4096))


def test_writes_without_a_place_begin_again_at_the_end() -> None:
    half = 512 * KIB
    good(op("write", target="d", size=half, times=3), op("expect-content", target="d", pattern="p#3"),
         op("expect-content", target="d", at=half, pattern="p#2"))


def test_a_pattern_counts_from_the_operations_start() -> None:
    good(op("write", target="d", at=8192, times=2, pattern="A"),
         op("expect-content", target="d", at=8192, size=8192, pattern="A"),
         op("expect-content", target="d", at=12288, size=4096, pattern="A"),
         op("write", target="d", at=100, size=1000, pattern="B"),
         op("expect-content", target="d", at=100, size=1000, pattern="B"),
         op("expect-content", target="d", at=0, size=100))


def test_no_room_is_enospc() -> None:
    whole = 1024 * KIB
    good(fails("ENOSPC", op("write", target="d", at=whole - 512, size=KIB)),
         op("expect-content", target="d", at=whole - 512),
         fails("ENOSPC", op("write", target="d", size=whole + 1)))


def test_others_may_run_between_the_writes_of_one_operation() -> None:
    orders = {tuple(text for text in texts(run(("p", [op("write", target="d", times=2)]),
                                               ("q", [op("create", name="x")]), seed=seed))
                    if text in ("write d: 4KiB done, 1 more", "create x", "write: done")) for seed in range(40)}
    assert ("write d: 4KiB done, 1 more", "create x", "write: done") in orders


def test_reads_flushes_discards_and_fua() -> None:
    result = good(op("write", target="d", at=0, fua=True, pattern="A"), op("read", target="d", at=0, size=100),
                  op("read", target="d", times=2), op("flush", target="d"), op("discard", target="d"),
                  op("expect-content", target="d", size=4096))
    assert texts(result, "pv1") == ["write+fua pv1 0+8", "read pv1 0+1", "read pv1 0+8", "read pv1 8+8", "flush pv1",
                                    "discard pv1 0+8", "read pv1 0+8"]


def test_a_filesystem_has_its_data_behind_its_journal() -> None:
    good(op("write", target="fs", pattern="A"), op("expect-content", target="d", at=4096, size=4096, pattern="A"),
         op("expect-content", target="d", size=4096), op("flush", target="fs"),
         op("expect-content", target="d", at=0, size=KIB, pattern="fs journal 1"), filesystem="d")


def test_a_frozen_filesystem_makes_writers_wait() -> None:
    result = run(("p", [op("freeze", filesystem="fs"), op("read", target="fs"), op("flush", target="fs"),
                        op("sleep", time=NS_PER_MS), op("thaw", filesystem="fs")]),
                 ("q", [until("done", process="r"), op("write", target="fs")]), ("r", [op("sleep", time=1)]),
                 filesystem="d", checks=[*ERRORS, check("always", "no-deadlock")])
    assert result.ok
    assert "waits: fs is frozen" in texts(result, "q")
    assert result.time_ns == NS_PER_MS


def test_a_filesystem_cannot_be_frozen_twice_and_its_device_cannot_be_removed() -> None:
    good(op("freeze", filesystem="fs"), fails("EBUSY", op("freeze", filesystem="fs")),
         op("suspend", device=["d"]), op("resume", device=["d"]), op("thaw", filesystem="fs"),
         fails("EBUSY", op("remove", device=["d"])), op("write", target="fs"), filesystem="d")


def test_suspend_freezes_what_lies_on_the_device() -> None:
    result = good(op("suspend", device=["d"]), op("resume", device=["d"]), op("write", target="fs"), filesystem="d")
    assert texts(result, "fs") == ["freezing: new writes wait", "journal written through d", "frozen", "thawed"]
    for words in ({"noflush": True}, {"nolockfs": True}):
        result = good(op("suspend", device=["d"], **words), op("resume", device=["d"]), filesystem="d")
        assert texts(result, "fs") == []


def test_a_freeze_that_cannot_write_its_journal_fails_the_suspend() -> None:
    result = good(op("fail", disk="pv1", what="writes"), fails("EIO", op("suspend", device=["d"])),
                  op("heal", disk="pv1"), op("expect-state", device="d", state="ACTIVE"),
                  op("write", target="fs"), filesystem="d")
    assert texts(result, "fs")[-2:] == ["freeze failed: EIO", "thawed"]


def test_a_freeze_waits_for_writes_in_flight() -> None:
    for seed in range(30):
        result = run(("p", [op("write", target="fs", times=3)]),
                     ("q", [op("suspend", device=["d"]), op("resume", device=["d"])]), filesystem="d", seed=seed,
                     checks=[*ERRORS, check("always", "no-deadlock"), check("always", "no-lost-write")])
        assert result.ok, [one.text for one in result.checks]


# Faults


@pytest.mark.parametrize(("what", "failing", "fine"), [
    ("reads", op("read", target="pv1"), op("write", target="pv1")),
    ("writes", op("write", target="pv1"), op("read", target="pv1")),
    ("writes", op("flush", target="pv1"), op("read", target="pv1")),
    ("all", op("read", target="pv1"), op("read", target="pv2")),
])
def test_fail_and_heal(what: str, failing: Instr, fine: Instr) -> None:
    good(op("fail", disk="pv1", what=what, error="EREMOTEIO"), fine, fails("EREMOTEIO", failing),
         op("heal", disk="pv1"), failing)


def test_a_bad_spot_does_not_fail_elsewhere() -> None:
    good(op("fail", disk="pv1", range=[4096, 512]), op("read", target="pv1", at=0), op("flush", target="pv1"),
         op("read", target="pv1", at=4608), fails("EIO", op("read", target="pv1", at=4100, size=1)))


def test_delay_and_detach() -> None:
    result = good(op("delay", disk="pv1", time=NS_PER_MS), op("write", target="d"), op("heal", disk="pv1"),
                  op("detach", disk="pv1"), fails("ENXIO", op("read", target="d")),
                  fails("ENXIO", op("create", name="x", table=["0 8 linear pv1 0"])),
                  op("expect-state", device="x", state="ABSENT"))
    assert result.time_ns == NS_PER_MS


def test_faults_of_a_scenario_take_the_same_arguments() -> None:
    result = run(("p", [op("write", target="d")]), faults=[fault("fail", {"start": True}, disk="pv1", error="ENODATA")],
                 checks=ERRORS)
    assert "ended with ENODATA" in outcome(result, "no-io-error")[1]


# Expectations


def test_hashes_are_remembered_and_compared() -> None:
    empty = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"  # 1 MiB of zeros
    good(op("expect-sha256", target="d", value=empty), op("sha256", target="d", **{"as": "before"}),
         op("sha256", target="pv2"), op("write", target="pv2", at=0),
         op("expect-sha256", target="d", same_as="before"))
    assert "differs from before" in unmet(op("sha256", target="d", **{"as": "before"}), op("write", target="d"),
                                          op("expect-sha256", target="d", same_as="before"))
    assert "nothing was remembered" in unmet(op("expect-sha256", target="d", same_as="never"))
    assert f"is {empty}, not 00" in unmet(op("expect-sha256", target="d", value="00"))
    good(op("sha256", target="d", range=[8192, 512], **{"as": "b"}), op("write", target="d", at=0),
         op("expect-sha256", target="d", range=[8192, 512], same_as="b"))


def test_same() -> None:
    devices = [LINEAR, OTHER]
    good(op("write", target="d", at=0, pattern="A"), op("write", target="pv2", at=0, pattern="A"),
         op("expect-same", first="d", second="e"), devices=devices)
    text = unmet(op("write", target="d", at=9000, pattern="A"), op("expect-same", first="d", second="e"),
                 devices=devices)
    assert text == "line 0: d and e differ at byte 8704: 0x" + "00" * 16 + "… and zeros"
    good(op("write", target="d", at=0), op("expect-same", first="d", second="e", range=[8192, 4096]), devices=devices)
    assert "sectors" in unmet(op("create", name="x", table=["0 8 zero"]), op("expect-same", first="d", second="x"))


def test_content() -> None:
    good(op("expect-content", target="d", size=4096))
    assert unmet(op("write", target="d", pattern="A"), op("expect-content", target="d", at=512)) == \
        "line 0: d at byte 512 holds 'A sector 00000001', not zeros"
    assert "not 'B sector 00000000'" in unmet(op("expect-content", target="d", pattern="B"))
    assert "at byte 1024" in unmet(
        op("write", target="d", at=0, size=KIB, pattern="A"), op("expect-content", target="d", size=2048, pattern="A"))


def test_status_table_state_and_events() -> None:
    good(op("expect-status", device="d", text=" 0 2048  linear "),
         op("expect-table", device="d", text="0 2048 linear pv1 0"),
         op("create", name="x"), op("expect-table", device="x", text=""), op("expect-events", device="x", count=0))
    assert unmet(op("expect-table", device="d", text="0 2048 linear pv2 0")) == \
        "line 0: the table of d is `0 2048 linear pv1 0`, not `0 2048 linear pv2 0`"
    assert "the status of d is `0 2048 linear `" in unmet(op("expect-status", device="d", text="0 1 zero"))
    assert "no device x" in unmet(op("expect-status", device="x", text=""))
    assert "d is ACTIVE, not SUSPENDED" in unmet(op("expect-state", device="d", state="SUSPENDED"))
    assert "event number of d is 0, not 3" in unmet(op("expect-events", device="d", count=3))
    assert "no device x" in unmet(op("expect-events", device="x", count=0))
