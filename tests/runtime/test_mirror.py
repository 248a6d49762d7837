"""dm-mirror and its logs where something fails, waits or is old; each case is a spec that expects what it says."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest
from tests.runtime.hand import texts
from tests.runtime.snapshot_machine import Machine

from dmspec.compiler import compile_text
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.runner import Result, run_scenario
from dmspec.runtime.targets.mirror import MIRROR

DISKS = "".join(f"disk {name} {size}\n" for name, size in
                (("pv1", "64KiB"), ("pv2", "64KiB"), ("pv3", "64KiB"), ("log", "8KiB")))
CORE = "device vol { mirror pv1 pv2  log=core region=16KiB nosync handle_errors }"
UNHANDLED = "device vol { mirror pv1 pv2  log=core region=16KiB nosync }"
DISK = "device vol { mirror pv1 pv2  log=log region=16KiB nosync handle_errors }"
THREE = "device vol { mirror pv1 pv2 pv3  log=core region=16KiB nosync handle_errors }"
KEEP = "device vol { mirror pv1 pv2  log=log region=16KiB nosync handle_errors keep_log }"
SHIFTED = "device vol {\n8KiB linear pv3\n20KiB mirror pv1 @4KiB pv2 @12KiB log=core region=8KiB nosync\n}"
CREATE_CORE = 'create legs { "0 64 mirror core 1 16 2 pv1 0 pv2 0" }'
CREATE_DISK = 'create legs { "0 64 mirror disk 2 log 32 2 pv1 0 pv2 0" }'


@dataclass
class Case:
    stack: str
    app: str
    logged: tuple[str, ...] = ()
    kernel: str = "now"


def run(case: Case, check: str = "always expectation\nalways no-io-error") -> Result:
    text = (f"{DISKS}{case.stack}\nprocess app {{\n{case.app}\n}}\n"
            f"scenario s {{ kernel {case.kernel}\nrun app\n{check}\n}}\n")
    compiled = compile_text(text)
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return run_scenario(compiled.plan, "s")


DEAD = "err: device-mapper: raid1: All replicated volumes dead, failing I/O"
READ = "err: device-mapper: raid1: Mirror read failed from {}. Trying alternative device."
ALL_FAILED = "warning: device-mapper: raid1: All sides of mirror have failed."
WORKER = "{}: device-mapper: raid1: Read failure on mirror device {}.  {}."

CASES = {
    "each leg is tried": Case(
        THREE, "write vol at=0 size=4KiB pattern=A   fail pv1 reads   fail pv2 reads\n"
        "read vol at=0 size=4KiB   expect content vol at=0 size=4KiB pattern=A\n"
        'expect status vol "0 128 mirror 3 pv1 pv2 pv3 4/4 1 RRA 1 core"',
        (READ.format("7:0"), WORKER.format("warning", "7:1", "Trying alternative device"))),
    "a read that no leg answers": Case(
        CORE, "fail pv1 reads   fail pv2 reads   expect error EIO { read vol at=0 size=4KiB }\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 RR 1 core"',
        (READ.format("7:0"), ALL_FAILED, WORKER.format("err", "7:1", "Failing I/O"))),
    "the last leg that was left": Case(
        CORE, "fail pv1 reads   read vol at=0 size=4KiB   fail pv2 reads\n"
        "expect error EIO { read vol at=0 size=4KiB }",
        (READ.format("7:0"), READ.format("7:1"), ALL_FAILED, DEAD)),
    "a discard that a leg refuses is not supported, and no leg's failure": Case(
        CORE, "fail pv2 writes   expect error EOPNOTSUPP { discard vol at=0 size=16KiB }\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AA 1 core"'),
    "2.6.32: unhandled, one leg is enough": Case(
        UNHANDLED, 'fail pv2 writes   write vol at=0 size=4KiB\n'
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AD 1 core"', kernel="2.6.32"),
    "2.6.32: a write that no leg takes": Case(
        UNHANDLED, "fail pv1 writes   fail pv2 writes   expect error EIO { write vol at=0 size=4KiB }",
        kernel="2.6.32"),
    "2.6.32: handled, a write that one leg takes is done, and its region not in sync": Case(
        CORE, 'fail pv2 writes   write vol at=0 size=4KiB\n'
        'expect status vol "0 128 mirror 2 pv1 pv2 3/4 1 AD 1 core"', kernel="2.6.32"),
    "before b80aa7a0c268 writes fail with the log": Case(
        DISK, "fail log writes   expect error EIO { write vol at=0 size=4KiB }\n"
        "read vol at=0 size=4KiB", kernel="before-b80aa7a0c268"),
    "unhandled, a log that fails stops nothing": Case(
        DISK.replace(" handle_errors", ""), "fail log writes   write vol at=0 size=4KiB pattern=A\n"
        "expect content pv2 at=0 size=4KiB pattern=A\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AA 3 disk log D"'),
    "keep_log: with the log the write fails": Case(
        KEEP, "fail log writes   expect error EIO { write vol at=0 size=4KiB }\n"
        'expect table vol "0 128 mirror disk 3 log 32 nosync 2 pv1 0 pv2 0 2 handle_errors keep_log"'),
    "a write across two regions puts both out of sync": Case(
        KEEP, "fail pv2 writes   write vol at=12KiB size=8KiB\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 2/4 1 AD 3 disk log A"'),
    "a discard goes to all legs, in sync or not": Case(
        KEEP, "write vol at=4KiB size=4KiB pattern=A   fail pv2 writes times=1   write vol at=0 size=4KiB\n"
        "discard vol at=0 size=16KiB   expect content pv2 at=0 size=16KiB   expect content pv1 at=0 size=16KiB"),
    "2.6.32: what a failed log holds goes on with the next table": Case(
        DISK, "fail log writes   parallel { write vol at=0 size=4KiB pattern=A } {\n"
        "sleep 1ms   load vol { linear pv3 }   suspend vol noflush nolockfs   resume vol }\n"
        "expect content pv3 at=0 size=4KiB pattern=A", kernel="2.6.32"),
    "unhandled, the first leg stays the default one, and the last one is tried next": Case(
        THREE.replace(" handle_errors", ""), "fail pv1 reads   read vol at=0 size=4KiB\n"
        'expect status vol "0 128 mirror 3 pv1 pv2 pv3 4/4 1 RAA 1 core"   fail pv2 reads   read vol at=0 size=4KiB\n'
        'expect status vol "0 128 mirror 3 pv1 pv2 pv3 4/4 1 RAA 1 core"'),
    "keep_log: a leg alone is enough": Case(
        KEEP, "fail pv2 writes   write vol at=0 size=4KiB pattern=A\n"
        "expect content pv1 at=0 size=4KiB pattern=A\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 3/4 1 AD 3 disk log A"'),
    "the flush of the log device fails": Case(
        DISK, "fail log writes after=1 times=1   parallel { write vol at=0 size=4KiB pattern=A } {\n"
        'sleep 1ms   expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AA 3 disk log F"\n'
        "expect content pv1 at=0 size=4KiB   suspend vol noflush nolockfs\n"
        'load vol { linear pv1 }   resume vol }'),
    "a leg that does not flush": Case(
        DISK, "write vol at=0 size=4KiB   sleep 1ms   fail pv2 writes after=1 times=1\n"
        "write vol at=16KiB size=4KiB\nsleep 1ms\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AF 3 disk log A"\n'
        "expect content log at=1KiB size=512    # no region counts as clean from here on\n"
        "write vol at=32KiB size=4KiB   sleep 1ms   suspend vol   expect content log at=1KiB size=512"),
    "the header of a log that cannot be read": Case(
        DISK, "suspend vol   fail log reads times=1   resume vol   sleep 1ms\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AA 3 disk log D"'),
    "the header of a log that cannot be written": Case(
        DISK, "suspend vol   fail log writes times=1   resume vol\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AA 3 disk log D"',
        ("warning: device-mapper: raid1: log resume failed",)),
    "the header of a log that cannot be flushed": Case(
        DISK, "suspend vol   fail log writes after=1 times=1   resume vol\n"
        'expect status vol "0 128 mirror 2 pv1 pv2 4/4 1 AA 3 disk log F"',
        ("warning: device-mapper: raid1: log resume failed",)),
    "a log that cannot be written when its mirror is suspended": Case(
        DISK, "write vol at=0 size=4KiB   fail log writes   suspend vol",
        ("warning: device-mapper: raid1: log postsuspend failed",)),
    "legs at offsets, in a table that begins with something else": Case(
        SHIFTED, "write vol at=8KiB size=20KiB pattern=A   flush vol\n"
        "expect content pv1 at=4KiB size=20KiB pattern=A   expect content pv2 at=12KiB size=20KiB pattern=A\n"
        "read vol at=8KiB size=20KiB   expect content vol at=8KiB size=20KiB pattern=A\n"
        "fail pv1 reads   expect content vol at=8KiB size=20KiB pattern=A"),
    "nine legs are not too many": Case(
        'device vol { linear pv1 }',
        'create nine { "0 8 mirror core 1 8 9 ' + " ".join(f"pv{1 + at % 3} {8 * at}" for at in range(9)) + '" }\n'
        'expect error EINVAL { create ten { "0 8 mirror core 1 8 10 '
        + " ".join(f"pv{1 + at % 3} {8 * at}" for at in range(10)) + '" } }'),
    "recovery reaches every other leg, at its offset, to the last sector": Case(
        "device vol { linear pv1 }",
        "write pv1 at=4KiB size=24KiB pattern=A\n"
        'create legs { "0 42 mirror core 1 16 3 pv1 8 pv2 16 pv3 0" }   await insync legs\n'
        "expect content pv2 at=8KiB size=21KiB pattern=A   expect content pv3 at=0 size=21KiB pattern=A\n"
        "expect content pv3 at=21KiB size=1KiB\n"
        'expect table legs "0 42 mirror core 1 16 3 pv1 8 pv2 16 pv3 0"'),
    "a leg that recovery cannot write": Case(
        "device vol { linear pv1 }",
        "fail pv3 writes\n"
        'create legs { "0 32 mirror core 1 16 3 pv1 0 pv2 0 pv3 0 1 handle_errors" }   sleep 1ms\n'
        'expect status legs "0 32 mirror 3 pv1 pv2 pv3 0/2 1 AAS 1 core"',
        ("err: device-mapper: raid1: Write error during recovery (error = 0x2)",)),
    "a leg that recovery cannot read": Case(
        "device vol { linear pv1 }",
        "fail pv1 reads\n"
        'create legs { "0 32 mirror core 1 16 2 pv1 0 pv2 0 1 handle_errors" }   sleep 1ms\n'
        'expect status legs "0 32 mirror 2 pv1 pv2 0/2 1 SA 1 core"',
        ("err: device-mapper: raid1: Unable to read primary mirror during recovery",
         "err: device-mapper: raid1: Primary mirror (7:0) failed while out-of-sync: Reads may fail.")),
}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_of_it(name: str) -> None:
    case = CASES[name]
    result = run(case)
    assert result.ok, result.checks
    logged = [text for text in texts(result, "kernel") if "raid1" in text]
    assert logged[:len(case.logged)] == list(case.logged)


@pytest.mark.parametrize(("stack", "app", "said"), [
    (CORE, "fail pv1 writes   write vol at=0 size=4KiB", "1 write held since leg pv1 failed"),
    (CORE, "fail pv1 writes   parallel { write vol at=0 size=4KiB } { write vol at=16KiB size=4KiB }",
     "2 writes held since leg pv1 failed"),
    (THREE, "fail pv1 writes   fail pv3 writes   write vol at=0 size=4KiB",
     "1 write held since leg pv1 and pv3 failed"),
    (DISK, "fail log writes   write vol at=0 size=4KiB", "1 write held since its log failed"),
])
def test_who_waits_hears_why_his_write_is_held(stack: str, app: str, said: str) -> None:
    [check] = [one for one in run(Case(stack, app), "always no-deadlock").checks if one.name == "no-deadlock"]
    assert said in check.text


@pytest.mark.parametrize(("app", "waits"), [
    (f"{CREATE_CORE}   sleep 500us   suspend legs", "for recovery of legs, to stop it"),
    (f"{CREATE_DISK}   await insync legs   write legs at=0 size=4KiB   suspend legs", "for kmirrord legs"),
    (CREATE_DISK, "the log of legs, which reads log"),
    (CREATE_DISK, "the log of legs, which writes log"),
    (CREATE_DISK, "a flush of the log device log"),
])
def test_what_a_command_waits_for(app: str, waits: str) -> None:
    result = run(Case("device vol { linear pv3 }", f"delay pv2 1ms   {app}"))
    assert result.ok, result.checks
    assert any(waits in text for text in texts(result, "app")), texts(result, "app")


def test_a_suspend_stops_recovery_at_the_next_region_and_a_resume_goes_on_with_it() -> None:
    result = run(Case("device vol { linear pv3 }", "delay pv2 1ms writes\n"
                      f"{CREATE_CORE}   sleep 500us   suspend legs   sleep 10ms\n"
                      'expect status legs "0 64 mirror 2 pv1 pv2 1/4 1 AA 1 core"   resume legs   await insync legs'))
    assert result.ok, result.checks


@pytest.mark.parametrize("at", range(0, 64, 8))
def test_legs_agree_looks_at_every_region_in_sync(at: int) -> None:
    lost = f"lose-write pv2   write vol at={at}KiB size=4KiB pattern=A"
    assert run(Case(CORE, lost), "finally legs-agree vol").checks[0].violated
    assert not run(Case(KEEP, f"fail pv2 writes   write vol at={at}KiB size=4KiB pattern=A"),
                   "finally legs-agree vol").checks[0].violated


@pytest.mark.parametrize("word", ["sync", "nosync"])
def test_after_a_crash_nobody_claims_that_the_legs_are_in_sync(word: str) -> None:
    """Nor that they are not: that is what the log is for."""
    tail = ["2", "pv1", "0", "pv2", "0"]
    assert MIRROR.assembled(["disk", "3", "log", "8", word, *tail]) == ["disk", "2", "log", "8", *tail]
    assert MIRROR.assembled(["core", "2", "8", word, *tail]) == ["core", "1", "8", *tail]


def test_what_only_reads_ahead_is_not_tried_again() -> None:
    found = Machine()
    assert found.create("vol", "0 64 mirror core 2 16 nosync 2 /dev/loop0 0 /dev/loop1 0") == 0
    found.disk(0).faults.append(DiskFault((Op.READ,), errno.EIO))
    ahead = Bio(Op.READ, found.device("vol"), 0, 1, bytearray(512))
    ahead.readahead = True
    assert found.io([ahead]) == [errno.EIO]
    assert found.status("vol") == "0 64 mirror 2 7:0 7:1 4/4 1 AA 1 core"


@pytest.mark.parametrize(("words", "reason"), [
    ("core", "Insufficient mirror log arguments"),
    ("core 0", "Error creating mirror dirty log"),
    ("core 1 16 0", "Invalid number of mirrors"),
    ("core 1 16", "Invalid number of mirrors"),
    ("core 1 16 2 /dev/loop0 0 /dev/loop1", "Too few mirror arguments"),
    ("core 1 16 2 /dev/loop0 0 /dev/loop1 0 2 handle_errors", "Not enough arguments to support feature count"),
    ("core 1 16 2 /dev/loop0 0 /dev/loop1 0 \u00b2 handle_errors", "Invalid number of features"),
])
def test_a_table_that_ends_too_early(words: str, reason: str) -> None:
    found = Machine()
    assert found.create("vol", f"0 64 mirror {words}") == -errno.EINVAL
    assert reason in "".join(found.kernel())


def test_a_flush_goes_to_each_leg_once() -> None:
    def flushes(kernel: str) -> int:
        result = run(Case(CORE, "flush vol", kernel=kernel))
        return sum("flush pv" in text for text in texts(result) if not text.startswith("app"))

    assert (flushes("now"), flushes("2.6.32")) == (2, 0)
