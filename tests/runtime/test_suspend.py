"""Suspends that wait, fail or are interrupted, and those that a snapshot does to its origin inside."""

from __future__ import annotations

import errno

import pytest
from tests.runtime.snapshot_machine import SNAP, Machine, pattern

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.exception_store import Answer
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.suspend import ResumeDevice, Suspend, Swap
from dmspec.runtime.task import Frame, Task

DATA = pattern("D", 1)
LATER_NS = 1_000_000


class Command(Task):
    """A task that can get a signal."""

    def interrupt(self) -> None:
        assert self.frames[-1].interruptible
        self.killed = True
        self.engine.ready(self)


class Freezer:
    """A filesystem that cannot be frozen, or can; ``frozen`` counts."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.frozen = 0

    def freeze(self, device: MappedDevice, task: Task) -> Frame:
        self.frozen += not self.answer
        return Answer(self.answer)

    def thaw(self, device: MappedDevice) -> Frame | None:
        if not self.frozen:
            return None
        self.frozen -= 1
        return Answer(0)


def linear() -> Machine:
    found = Machine()
    assert found.create("vol", "0 64 linear /dev/loop0 0") == 0
    return found


def slow(found: Machine, times: int = 1) -> None:
    found.disk(0).faults.append(DiskFault((Op.WRITE,), delay_ns=LATER_NS, times=times))


def write(found: Machine, name: str, sector: int = 0) -> Task:
    task = found.begin(WaitForBios([found.writing(name, sector, DATA)], "the test's own write"))
    while not task.waiting:
        found.engine.step()
    return task


def end(found: Machine, *tasks: Task) -> None:
    found.engine.run(found.engine.steps + 100_000)
    assert all(task.ended for task in tasks), [task.waiting for task in tasks]


def suspending(found: Machine, name: str = "vol", *, noflush: bool = False) -> Command:
    """A suspend that waits for bios."""
    task = Command(found.engine, "suspend")
    task.start(control.DoSuspend(found.device(name), noflush=noflush))
    while not (task.waiting and found.device(name).block_io):
        found.engine.step()
    return task


def why(task: Task) -> str:
    assert task.waiting is not None
    return task.waiting.why


@pytest.mark.parametrize("noflush", [False, True])
def test_an_interrupted_suspend_is_undone(noflush: bool) -> None:
    """What it held back meanwhile goes on."""
    found = linear()
    found.stack.freezer = freezer = Freezer(0)
    device = found.device("vol")
    slow(found)
    first = write(found, "vol")
    suspend = suspending(found, noflush=noflush)
    assert (why(suspend), freezer.frozen) == ("for 1 bio in vol", 0 if noflush else 1)
    second = write(found, "vol", 1)
    assert len(device.deferred) == 1
    suspend.interrupt()
    end(found, suspend, first, second)
    assert suspend.value == -errno.EINTR
    assert (device.suspended, device.block_io, device.noflush_suspending) == (False, False, False)
    assert freezer.frozen == 0
    assert found.read("vol", 1, 1) == DATA
    assert found.suspend("vol") == 0


def test_a_suspend_waits_for_all_bios() -> None:
    found = linear()
    slow(found, 2)
    writes = [write(found, "vol"), write(found, "vol", 1)]
    suspend = suspending(found)
    assert why(suspend) == "for 2 bios in vol"
    end(found, suspend, *writes)
    assert found.device("vol").suspended


def test_a_filesystem_that_cannot_be_frozen_stops_the_suspend() -> None:
    found = linear()
    found.stack.freezer = Freezer(-errno.EBUSY)
    assert found.suspend("vol") == -errno.EBUSY
    assert not found.device("vol").suspended
    assert found.write("vol", 0, DATA) == 0


def test_a_swap_is_for_suspended_devices() -> None:
    found = linear()
    device = found.device("vol")
    assert found.suspend("vol") == 0
    assert found.load("vol", "0 32 linear /dev/loop1 0") == 0
    old, table, device.inactive = device.live, device.inactive, None
    assert old is not None
    assert table is not None
    assert found.call(Swap(device, table)) is old
    assert (device.sectors, table.live, old.live) == (32, True, False)
    assert found.resume("vol") == 0
    assert found.call(Swap(device, old)) == -errno.EINVAL
    assert device.live is table


def test_a_suspend_and_a_resume_are_refused_where_they_change_nothing() -> None:
    found = linear()
    device = found.device("vol")
    assert found.call(ResumeDevice(device)) == -errno.EINVAL
    assert found.suspend("vol") == 0
    assert found.call(Suspend(device, noflush=False, lockfs=True)) == -errno.EINVAL
    assert found.resume("vol") == 0
    assert found.suspend("vol") == 0


def origin() -> Machine:
    found = Machine()
    assert found.create("cow", "0 512 linear /dev/loop1 0") == 0
    assert found.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
    control.create(found.stack, "snap")
    assert found.load("snap", f"{SNAP} P 8") == 0
    return found


def test_a_new_snapshot_waits_for_writes_to_its_origin() -> None:
    """Those that come meanwhile wait, and are in the origin only."""
    found = origin()
    slow(found)
    first = write(found, "org")
    resume = found.begin(control.DoResume(found.device("snap")), "resume")
    while not (resume.waiting and found.device("org").block_io):
        found.engine.step()
    assert why(resume) == "for bios in org, to suspend it internally"
    second = write(found, "org", 8)
    end(found, resume, first, second)
    assert (found.read("snap", 0, 1), found.read("snap", 8, 1)) == (DATA, bytes(512))
    assert found.read("org", 8, 1) == DATA
    assert not found.device("org").block_io


def test_a_suspended_origin_stays_suspended() -> None:
    found = origin()
    assert found.suspend("org") == 0
    assert found.resume("snap") == 0
    assert (found.device("org").suspended, found.device("org").block_io) == (True, True)
    bio = found.writing("org", 0, DATA)
    task = found.begin(WaitForBios([bio], "the test's own write"))
    found.engine.run(found.engine.steps + 10_000)
    assert not task.ended
    assert found.resume("org") == 0
    end(found, task)
    assert found.read("snap", 0, 1) == bytes(512)


def test_two_commands_take_turns() -> None:
    """A resume of a snapshot waits while its origin is being suspended."""
    found = origin()
    slow(found)
    first = write(found, "org")
    suspend = suspending(found, "org")
    resume = found.begin(control.DoResume(found.device("snap")), "resume")
    while not resume.waiting:
        found.engine.step()
    assert "suspend lock of org" in why(resume)
    end(found, suspend, resume, first)
    assert found.device("org").suspended


def test_what_only_reads_ahead_does_not_wait() -> None:
    found = linear()
    assert found.suspend("vol") == 0
    ahead = Bio(Op.READ, found.device("vol"), 0, 1, bytearray(512))
    ahead.readahead = True
    assert found.io([ahead]) == [errno.EIO]


@pytest.mark.parametrize(("noflush", "lockfs", "said"), [
    (False, True, ""), (False, False, ", nolockfs"), (True, False, ", noflush, nolockfs"),
    (True, True, ", noflush, nolockfs")])
def test_what_a_trace_says_of_a_suspend(noflush: bool, lockfs: bool, said: str) -> None:
    """With noflush no filesystem is locked, whatever was asked for."""
    found = linear()
    found.stack.freezer = freezer = Freezer(0)
    found.notes.lines.clear()
    assert found.call(control.DoSuspend(found.device("vol"), noflush=noflush, lockfs=lockfs)) == 0
    assert freezer.frozen == (lockfs and not noflush)
    assert found.resume("vol") == 0
    assert found.notes.lines == [f"vol: suspend begins{said}", "vol: new bios wait", "vol: suspended", "vol: resumed"]


# Bios that are pushed back

HELD = "16 48 mirror core 2 16 nosync 2 /dev/loop0 16 /dev/loop1 16 1 handle_errors"


def held() -> Machine:
    """Writes to a volume whose second segment is a mirror that holds what its second leg cannot take."""
    found = Machine()
    assert found.create("vol", "0 16 linear /dev/loop0 0", HELD) == 0
    found.disk(1).faults.append(DiskFault((Op.WRITE, Op.FLUSH), errno.EIO))
    return found


def swap(found: Machine, *lines: str) -> None:
    """A noflush suspend pushes back what is held; the next table gets it."""
    device = found.device("vol")
    assert found.load("vol", *lines) == 0
    assert found.call(control.DoSuspend(device, noflush=True)) == 0
    assert device.in_flight == 0
    assert found.resume("vol") == 0


@pytest.mark.parametrize(("sector", "sectors", "pushed"), [
    (20, 4, "write vol 20+4"), (12, 10, "write vol 16+6"), (28, 8, "write vol 32+4")])
def test_only_the_piece_that_was_held_is_done_again(sector: int, sectors: int, pushed: str) -> None:
    """A bio that is one piece is pushed back itself; of a longer one each held piece."""
    found = held()
    data = pattern("P", sectors)
    task = found.begin(WaitForBios([found.writing("vol", sector, data)], "the test's own write"))
    found.engine.run(found.engine.steps + 10_000)
    assert not task.ended
    swap(found, "0 64 linear /dev/loop2 0")
    end(found, task)
    assert task.value == [0]
    back = [line for line in found.notes.lines if "is pushed back" in line]
    assert f"vol: {pushed} is pushed back" in back
    at, count = (int(one) for one in pushed.split()[2].split("+"))
    assert found.raw(2, at, count) == data[(at - sector) * 512:(at - sector + count) * 512]
    assert found.raw(2, 0, 16) == bytes(16 * 512)


def test_a_piece_that_fails_the_second_time_fails_the_bio() -> None:
    found = held()
    task = found.begin(WaitForBios([found.writing("vol", 12, pattern("P", 10))], "the test's own write"))
    found.engine.run(found.engine.steps + 10_000)
    swap(found, "0 64 error")
    end(found, task)
    assert task.value == [errno.EIO]


def test_a_flush_that_was_held_is_sent_to_the_next_table() -> None:
    found = held()
    task = found.begin(WaitForBios([Bio(Op.FLUSH, found.device("vol"), 0, 0)], "the test's own flush"))
    found.engine.run(found.engine.steps + 10_000)
    assert not task.ended
    found.notes.lines.clear()
    swap(found, "0 64 linear /dev/loop2 0")
    end(found, task)
    assert task.value == [0]
    assert [line for line in found.notes.lines if line.startswith("loop")] == ["loop2: flush loop2"]


def test_held_writes_fail_where_the_suspend_flushes() -> None:
    found = held()
    task = found.begin(WaitForBios([found.writing("vol", 20, pattern("P", 4))], "the test's own write"))
    found.engine.run(found.engine.steps + 10_000)
    assert not task.ended
    assert found.suspend("vol") == 0
    end(found, task)
    assert task.value == [errno.EIO]


def test_a_write_behind_the_end_fails_unless_an_empty_device_waits_for_its_table() -> None:
    for era, fails in (("now", True), ("6.3", False)):
        found = Machine(era=era)
        control.create(found.stack, "vol")
        task = found.begin(WaitForBios([found.writing("vol", 0, DATA)], "the test's own write"))
        found.engine.run(found.engine.steps + 1000)
        assert task.ended is fails
        assert found.load("vol", "0 8 linear /dev/loop0 0") == 0
        assert found.resume("vol") == 0
        end(found, task)
        assert task.value == [errno.EIO if fails else 0]
        assert found.write("vol", 8, DATA) == errno.EIO
