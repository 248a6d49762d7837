"""A raid1 whose power fails at any step, and whose legs fail: what was acknowledged and flushed is there, once."""

import errno

from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.sim import SeededChooser
from dmspec.runtime.task import Task

from .snapshot_machine import pattern
from .test_raid import WHOLE, RaidMachine
from .test_snapshot_merge import Volatile

WRITES = st.lists(st.tuples(st.integers(0, 2040), st.integers(1, 200)), max_size=8)


def on_volatile_disks() -> RaidMachine:
    found = RaidMachine()
    for disk in found.stack.disks.values():
        disk.backing = Volatile()
    found.poke(0, 0, pattern("A", 2048))
    return found


def after_cut(found: RaidMachine, seed: int) -> RaidMachine:
    """Another machine with what is left of the disks; the array is in use and all that it does by itself is done."""
    after = RaidMachine(seed)
    for name, disk in found.stack.disks.items():
        backing = disk.backing
        assert isinstance(backing, Volatile)
        after.stack.disks[name].backing = backing.after_cut(seed * 7 + len(name) + disk.minor)
    after.notes.lines.clear()
    assert after.create("r", WHOLE) == 0
    after.engine.run()
    return after


class Shadow:
    """What each sector may hold: the last one that was flushed, or any that was written since.

    When the first leg fails before a new array is in sync, that may be what the second one had: as in md both count.
    """

    def __init__(self, *, any_leg: bool) -> None:
        other = [bytes(512)] if any_leg else []
        self.may: list[set[bytes]] = [{pattern("A", 1, sector), *other} for sector in range(2048)]

    def written(self, sector: int, data: bytes) -> None:
        for index in range(len(data) // 512):
            self.may[sector + index].add(data[index * 512:index * 512 + 512])

    def flushed(self, sector: int, data: bytes) -> None:
        for index in range(len(data) // 512):
            self.may[sector + index] = {data[index * 512:index * 512 + 512]}

    def check(self, data: bytes) -> None:
        for sector, allowed in enumerate(self.may):
            assert data[sector * 512:sector * 512 + 512] in allowed, sector


@settings(max_examples=40, deadline=None)
@given(writes=WRITES, seed=st.integers(0, 10_000), cut=st.integers(0, 250), leg=st.sampled_from([None, 0, 1]),
       resyncing=st.booleans())
def test_after_a_cut_the_legs_agree_and_nothing_that_was_flushed_is_lost(
        writes: list[tuple[int, int]], seed: int, cut: int, leg: int | None, resyncing: bool) -> None:
    found = on_volatile_disks()
    control.create(found.stack, "r")
    assert found.swap("r", WHOLE) == 0
    if not resyncing:
        found.engine.run()
    for disk in found.stack.disks.values():
        disk.backing.flush()
    found.engine.chooser = SeededChooser(seed)
    shadow = Shadow(any_leg=resyncing and leg == 0)
    end = found.engine.steps + cut
    for number, (sector, count) in enumerate(writes):
        if leg is not None and number == 2:
            found.fault(leg, Op.WRITE)
            found.disk(leg).backing.flush()
        data = pattern("BCDEFGHI"[number], min(count, 2048 - sector), sector)
        shadow.written(sector, data)
        task = found.begin(WaitForBios([found.writing("r", sector, data)], "a write"))
        if not _run_to(found, task, end):
            break
        assert task.value == [0]
        if number % 2:
            flush = found.begin(WaitForBios([Bio(Op.FLUSH, found.named("r"), 0, 0)], "a flush"))
            if not _run_to(found, flush, end):
                break
            shadow.flushed(sector, data)
    while found.engine.steps < end and found.engine.step():
        pass
    after = after_cut(found, seed)
    assert after.info().startswith("2 AA 2048/2048 idle")
    assert after.raw(0, 0, 2048) == after.raw(1, 0, 2048)
    shadow.check(after.raw(0, 0, 2048))
    assert (after.marks(0), after.superblock(0).failed, after.superblock(1).failed) == ([], 0, 0)


def _run_to(found: RaidMachine, task: Task, end: int) -> bool:
    """Whether the task has ended before the power failed."""
    while not task.ended:
        if found.engine.steps >= end:
            return False
        assert found.engine.step()
    return True


def test_only_regions_that_were_being_written_are_synchronised_after_a_cut() -> None:
    for seed in range(60):
        found = on_volatile_disks()
        assert found.create("r", WHOLE) == 0
        found.engine.run()
        found.engine.chooser = SeededChooser(seed)
        task = found.begin(WaitForBios([found.writing("r", 700, pattern("W", 4))], "a write"))
        for _ in range(seed % 20):
            if not task.ended:
                found.engine.step()
        after = after_cut(found, seed)
        copied = [line for line in after.notes.lines if line.startswith(("loop0: write", "loop1: write"))]
        assert copied in ([], ["loop1: write loop1 640+128"])
        assert after.raw(0, 0, 2048) == after.raw(1, 0, 2048)


def test_an_array_that_was_stopped_cleanly_synchronises_nothing() -> None:
    found = on_volatile_disks()
    assert found.create("r", WHOLE) == 0
    found.engine.run()
    for sector in range(0, 2048, 256):
        assert found.put("r", sector, "B", 8) == 0
    assert len(found.marks(0)) > 4
    assert found.suspend("r") == 0
    assert found.marks(0) == []
    after = after_cut(found, 1)
    assert not any("md: resync" in text for _level, text in after.stack.log_lines)
    assert after.raw(0, 0, 2048) == after.raw(1, 0, 2048) == found.raw(0, 0, 2048)


def test_marks_that_are_not_needed_do_not_pile_up() -> None:
    found = on_volatile_disks()
    for number in range(4):
        found.disk(number).sectors = 8192
    table = WHOLE.replace("0 2048 raid raid1 3 0", "0 8192 raid raid1 4 0 nosync")
    assert found.create("r", table) == 0
    for sector in range(0, 8192, 128):
        assert found.put("r", sector, "B", 8) == 0
        assert len(found.marks(0)) <= 10
    assert found.marks(0) == found.marks(1)


@settings(max_examples=40, deadline=None)
@given(writes=WRITES, seed=st.integers(0, 10_000), leg=st.sampled_from([0, 1]), at=st.integers(0, 7),
       kind=st.sampled_from(["write", "both", "late"]))
def test_a_failing_leg_never_gives_an_error_and_what_came_back_agrees(
        writes: list[tuple[int, int]], seed: int, leg: int, at: int, kind: str) -> None:
    found = RaidMachine()
    found.poke(0, 0, pattern("A", 2048))
    control.create(found.stack, "r")
    assert found.swap("r", WHOLE) == 0
    found.until(lambda: found.raid().completed >= 1024)
    found.engine.chooser = SeededChooser(seed)
    wanted = bytearray(pattern("A", 2048))
    tasks = []
    for number, (sector, count) in enumerate(writes):
        if number == at and (found.raid().legs[1 - leg].readable and (leg == 1 or found.raid().recovery_cp)):
            kinds = (Op.WRITE,) if kind == "write" else (Op.READ, Op.WRITE)
            found.disk(leg).faults.append(DiskFault(kinds, errno.EIO, delay_ns=500 if kind == "late" else 0))
        data = pattern("BCDEFGHI"[number], min(count, 2048 - sector), sector)
        wanted[sector * 512:sector * 512 + len(data)] = data
        tasks.append(found.begin(WaitForBios([found.writing("r", sector, data)], "a write"), f"writer {number}"))
        found.until(lambda: tasks[-1].ended)
    found.engine.run()
    assert all(task.value == [0] for task in tasks)
    if leg == 1 or not found.disk(leg).faults:
        assert found.read("r", 0, 2048) == bytes(wanted)
    found.disk(leg).faults.clear()
    assert (found.suspend("r"), found.resume("r")) == (0, 0)
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    found.legs_agree()
    assert len(list(found.target("r").compare_areas())) == 16
    assert found.raw(0, 0, 2048) == found.raw(1, 0, 2048)


def test_writers_and_a_resync_at_once() -> None:
    for seed in range(60):
        found = RaidMachine(seed)
        found.poke(0, 0, pattern("A", 2048))
        control.create(found.stack, "r")
        assert found.swap("r", WHOLE) == 0
        wanted = bytearray(pattern("A", 2048))
        tasks = []
        for number in range(6):
            sector = (seed * 37 + number * 333) % 1900
            data = pattern("BCDEFG"[number], 100, sector)
            wanted[sector * 512:sector * 512 + len(data)] = data
            tasks.append(found.begin(WaitForBios([found.writing("r", sector, data)], "a write"), f"writer {number}"))
        found.engine.run()
        assert all(task.value == [0] for task in tasks)
        assert found.info() == "2 AA 2048/2048 idle 0 0 -"
        assert found.raw(0, 0, 2048) == found.raw(1, 0, 2048)
        assert not found.raid().barriers
        assert not found.raid().waiting
        assert not found.raid().writing


def test_a_suspend_stops_a_resync_and_a_resume_takes_it_up_again() -> None:
    for seed in range(30):
        found = on_volatile_disks()
        control.create(found.stack, "r")
        assert found.swap("r", WHOLE) == 0
        found.engine.chooser = SeededChooser(seed)
        while found.raid().completed < 512:
            assert found.engine.step()
        assert found.suspend("r") == 0
        done = found.raid().completed
        assert found.info() == f"2 AA {done}/2048 frozen 0 0 -"
        assert found.kernel()[-1] == "info: md: mdX: resync interrupted."
        assert found.superblock(0).resync_offset == done
        assert found.marks(0) == list(range(done // 128, 16))
        after = after_cut(found, seed)
        assert after.raw(1, 0, 2048) == pattern("A", 2048)
        assert sum(line.startswith("loop1: write") for line in after.notes.lines) == 16 - done // 128
        assert found.resume("r") == 0
        found.engine.run()
        assert found.info() == "2 AA 2048/2048 idle 0 0 -"
