"""Volatile disks, power cuts, and faults that lie."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

import pytest

from dmspec.compiler import compile_text
from dmspec.runtime.runner import Result, run_scenario
from dmspec.runtime.volatile import VolatileMemory
from dmspec.testing.crash_points import crash_points

A, B = b"A" * 512, b"B" * 512


def contents(memory: VolatileMemory, length: int = 4096) -> bytes:
    buffer = bytearray(length)
    memory.read(0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize(("keep", "left"), [("none", A), ("all", B)])
def test_a_cut_goes_back_to_the_last_flush(keep: str, left: bytes) -> None:
    memory = VolatileMemory()
    memory.write(0, memoryview(A))
    memory.flush()
    memory.write(0, memoryview(B))
    assert contents(memory, 512) == B
    memory.cut(keep, lambda count: 0)
    assert contents(memory, 512) == left


def test_a_cut_may_tear_a_page() -> None:
    memory = VolatileMemory()
    memory.write(0, memoryview(A * 8))
    answers = chain([3, 1, 0, 1], repeat(0))
    memory.cut("any", lambda count: next(answers))
    assert contents(memory) == A + bytes(512) + A + bytes(512 * 5)


def test_a_page_may_come_back_as_it_was_in_between() -> None:
    memory = VolatileMemory()
    for data in (A, B):
        memory.write(0, memoryview(data))
    memory.cut("pages", lambda count: 1)
    assert contents(memory, 512) == A


def test_fua_makes_its_own_range_durable() -> None:
    memory = VolatileMemory()
    memory.write(0, memoryview(A * 2))
    memory.harden(512, 512)
    memory.cut("none", lambda count: 0)
    assert contents(memory, 1024) == bytes(512) + A


def run(statements: str, stack: str = "device vol { linear pv1 }", checks: str = "always expectation") -> Result:
    text = (f"disk pv1 64KiB\ndisk pv2 64KiB\ndisk pv3 64KiB\n{stack}\nprocess app {{\n{statements}\n}}\n"
            f"scenario s {{ run app\n{checks}\n}}\n")
    compiled = compile_text(text)
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return run_scenario(compiled.plan, "s")


CASES = {
    "what is flushed stays": "write vol at=0 pattern=A\nflush vol\nwrite vol at=4KiB pattern=B\npower-cut keep=none\n"
                             "expect content vol at=0 size=4KiB pattern=A\nexpect content vol at=4KiB size=4KiB",
    "what is not may stay": "write vol at=0 pattern=A\npower-cut keep=all\nexpect content vol at=0 size=4KiB pattern=A",
    "a lost flush": "write vol at=0 pattern=A\nlose-flush pv1\nflush vol\npower-cut keep=none\n"
                    "expect content vol at=0 size=4KiB",
    "the flush after it": "write vol at=0 pattern=A\nlose-flush pv1\nflush vol\nflush vol\npower-cut keep=none\n"
                          "expect content vol at=0 size=4KiB pattern=A",
    "a torn write": "tear pv1 next-write keep=1KiB\nwrite vol at=0 pattern=A\n"
                    "expect content vol at=0 size=1KiB pattern=A\nexpect content vol at=1KiB size=3KiB",
    "a lost write": "lose-write pv1\nwrite vol at=0 pattern=A\nexpect content vol at=0 size=4KiB\n"
                    "write vol at=0 pattern=A\nexpect content vol at=0 size=4KiB pattern=A",
    "a misdirected write": "misdirect pv1 by=8KiB\nwrite vol at=0 pattern=A\nexpect content vol at=0 size=4KiB\n"
                           "expect content vol at=8KiB size=4KiB pattern=A",
    "a misdirected read": "write vol at=8KiB pattern=A\nmisdirect pv1 reads by=8KiB\n"
                          "expect content vol at=0 size=4KiB pattern=A\nexpect content vol at=0 size=4KiB",
    "corruption": "write vol at=0 pattern=A\nsha256 vol 0+4KiB as=before\ncorrupt pv1 at=100 bits=3\n"
                  "corrupt pv1 at=100 bits=3\nexpect sha256 vol 0+4KiB same-as=before",
    "after N": "fail pv1 writes after=2 times=1\nwrite vol at=0\nwrite vol at=0\nexpect error EIO { write vol at=0 }\n"
               "write vol at=0",
    "after a boot": "load vol { linear pv2 }\nsuspend vol\nresume vol\nwrite vol at=0 pattern=A\nflush vol\npower-cut\n"
                    'expect table vol "0 128 linear pv2 0"\nexpect content pv2 at=0 size=4KiB pattern=A',
}


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    result = run(CASES[name])
    assert result.ok, [one.text for one in result.checks if not one.ok]


def test_the_machine_boots_with_what_was_there() -> None:
    """Devices below come first, nobody claims that legs are in sync, and a snapshot is read from its disk."""
    result = run("write vol at=0 size=8KiB pattern=A\nflush vol\npower-cut\nawait insync(base)\n"
                 "expect content vol at=0 size=8KiB pattern=A\nexpect content snap at=0 size=8KiB\n"
                 'expect table base "0 128 mirror core 1 8 2 pv1 0 pv2 0 1 handle_errors"',
                 "device base { mirror pv1 pv2 log=core region=4KiB nosync handle_errors }\n"
                 "device snap { snapshot base pv3 chunk=4KiB }\ndevice vol { snapshot-origin base }",
                 "always expectation\nalways model-agrees vol snap\nalways frozen snap\nfinally legs-agree base")
    assert result.ok, [one.text for one in result.checks if not one.ok]


def test_others_end_with_the_machine() -> None:
    compiled = compile_text("disk d 64KiB\ndevice vol { linear d }\nprocess app { repeat 9 { write vol } }\n"
                            "process cutter { sleep 1ms   power-cut }\nprocess slow { sleep 1s }\n"
                            "scenario s { run app cutter slow\nalways no-deadlock\nalways no-lost-write vol }")
    assert compiled.plan is not None
    result = run_scenario(compiled.plan, "s")
    assert result.ok
    assert ("slow", "ended with the machine") in [(one.lane, one.text) for one in result.trace.events]


def test_a_cut_as_a_fault_of_a_scenario() -> None:
    compiled = compile_text("disk d 64KiB\ndevice vol { linear d }\nprocess app { write vol at=0 }\n"
                            "scenario s { run app\nfault power-cut at=any\nalways model-agrees vol }")
    assert compiled.plan is not None
    result = run_scenario(compiled.plan, "s")
    assert result.ok
    assert any(one.lane == "machine" for one in result.trace.events)


MIRROR = """
disk pv1 16KiB
disk pv2 16KiB
disk log 4KiB
device vol { mirror pv1 pv2 log=log region=4KiB nosync handle_errors }
process app { write vol at=0 size=8KiB   flush vol   write vol at=2KiB size=4KiB }
scenario main { run app
    finally legs-agree vol
    finally insync vol
}
"""


def test_every_crash_point_of_a_mirror_with_a_log(tmp_path: Path) -> None:
    plan = compile_text(MIRROR).plan
    assert plan is not None
    report = crash_points(plan, "main", folder=tmp_path)
    assert not report.bad
    assert report.points > 8
    assert report.images > report.points


def test_crash_points_find_what_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.museum.mirror_bugs import no_mark_before_the_write

    plan = compile_text(MIRROR).plan
    assert plan is not None
    no_mark_before_the_write(monkeypatch)
    report = crash_points(plan, "main", folder=tmp_path)
    assert report.bad
    assert report.bad[0].text.startswith("legs-agree")


@pytest.mark.requires("mkfs.ext4", "e2fsck")
def test_a_program_on_each_image(tmp_path: Path) -> None:
    """A real ext4 is merged back into its origin; wherever the power fails, e2fsck finds it clean."""
    import subprocess

    (tmp_path / "fs.img").write_bytes(bytes(1 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-N", "16", str(tmp_path / "fs.img")], check=True)
    spec = tmp_path / "merge.dms"
    spec.write_text('disk pv1 1MiB file="fs.img"\ndisk cow 64KiB\ndevice base { linear pv1 }\n'
                    "device snap { snapshot base cow P chunk=4KiB }\ndevice vol { snapshot-origin base }\n"
                    "process app { write snap at=900KiB size=8KiB   load vol { snapshot-merge base cow P chunk=4KiB }\n"
                    "load snap { 1MiB error }   suspend vol snap   resume vol snap }\n")
    from click.testing import CliRunner

    from dmspec.cli import main

    good = CliRunner().invoke(main, ["test", "--crash-points", str(spec), "--device", "vol",
                                     "--fsck", "e2fsck -fn {device}"])
    assert good.exit_code == 0, good.output
    bad = CliRunner().invoke(main, ["test", "--crash-points", str(spec), "--fsck", "false {device}"])
    assert bad.exit_code == 1
    assert "`false` ends with status 1" in bad.output
    for wrong, status in (("e2fsck", 2), ("nothing-such {device}", 3), ("e2fsck '{device}", 2)):
        assert CliRunner().invoke(main, ["test", "--crash-points", str(spec), "--fsck", wrong]).exit_code == status
