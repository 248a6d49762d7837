import copy
import errno

import pytest

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.errors import DmError
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SeededChooser
from dmspec.runtime.task import Task

from .snapshot_machine import Machine, pattern

MS = 1_000_000


def machine(table: str = "", seed: int | None = None) -> Machine:
    made = Machine(None if seed is None else SeededChooser(seed))
    made.stack.target_types = dict(TARGETS)
    made.poke(0, 0, pattern("A", 64))
    if table:
        assert made.create("d", f"0 1024 delay {table}") == 0
    return made


def settle(found: Machine) -> None:
    """Run what can run without time."""
    while found.engine.runnable:
        found.engine.step()


def begin(found: Machine, *bios: Bio) -> Task:
    task = found.begin(WaitForBios(bios, "I/O"))
    settle(found)
    return task


def disk_notes(found: Machine) -> list[str]:
    return [line for line in found.notes.lines if line.startswith("loop")]


# Tables


@pytest.mark.parametrize(("params", "error", "reason"), [
    ("", errno.EINVAL, "Requires exactly 3, 6 or 9 arguments"),
    ("loop0 0", errno.EINVAL, "Requires exactly 3, 6 or 9 arguments"),
    ("loop0 0 10 loop1", errno.EINVAL, "Requires exactly 3, 6 or 9 arguments"),
    ("loop0 0 10 loop1 0 10 loop2 0 10 x", errno.EINVAL, "Requires exactly 3, 6 or 9 arguments"),
    ("loop0 x 10", errno.EINVAL, "Invalid device sector"),
    ("loop0 -1 10", errno.EINVAL, "Invalid device sector"),
    ("loop0 0 x", errno.EINVAL, "Invalid delay"),
    ("loop0 0 1.5", errno.EINVAL, "Invalid delay"),
    ("loop0 0 10 loop1 y 10", errno.EINVAL, "Invalid device sector"),
    ("loop0 0 10 loop1 0 y", errno.EINVAL, "Invalid delay"),
    ("loop0 0 10 loop1 0 10 loop2 0 z", errno.EINVAL, "Invalid delay"),
    ("nothing 0 10", errno.ENODEV, "Device lookup failed"),
    ("loop0 0 10 nothing 0 10", errno.ENODEV, "Device lookup failed"),
])
def test_tables_that_are_refused(params: str, error: int, reason: str) -> None:
    found = machine()
    assert found.create("d", f"0 1024 delay {params}") == -error
    assert found.kernel()[0] == f"err: device-mapper: table: 254:0: delay: {reason} (-{errno.errorcode[error]})"
    assert all(disk.open_count == 0 for disk in found.stack.disks.values())


@pytest.mark.parametrize(("params", "table"), [
    ("loop0 0 10", "7:0 0 10"),
    ("loop0 0 0", "7:0 0 0"),
    ("loop0 8 10 /dev/loop1 16 20", "7:0 8 10 7:1 16 20"),
    ("loop0 0 10 loop1 0 20 7:2 0 30", "7:0 0 10 7:1 0 20 7:2 0 30"),
    ("loop0 0 4294967297", "7:0 0 1"),
])
def test_tables_that_load(params: str, table: str) -> None:
    found = machine()
    assert found.create("d", f"0 1024 delay {params}") == 0
    assert found.table("d") == f"0 1024 delay {table}"
    assert found.status("d") == "0 1024 delay 0 0 0"
    assert found.remove("d") == 0


def test_a_write_device_that_is_too_small_is_refused() -> None:
    found = machine()
    assert found.create("d", "0 2048 delay loop0 0 10 loop1 1 10") == -errno.EINVAL
    assert "loop1 too small for target: start=1, len=2048" in found.kernel()[0]


@pytest.mark.parametrize(("args", "words"), [
    ({"all": 5 * MS}, "pv 0 5"),
    ({}, "pv 0 0"),
    ({"read": 5 * MS}, "pv 0 5 pv 0 0"),
    ({"read": 5 * MS, "write": 10 * MS}, "pv 0 5 pv 0 10"),
    ({"all": 5 * MS, "flush": 7 * MS}, "pv 0 5 pv 0 5 pv 0 7"),
    ({"write": 1, "write_to": ["q", 4096]}, "pv 0 0 q 8 1"),
    ({"flush_to": ["q", 512]}, "pv 0 0 pv 0 0 q 1 0"),
])
def test_the_short_form(args: dict[str, object], words: str) -> None:
    names = {param.key: param.default for param in TARGETS["delay"].signature}
    assert " ".join(TARGETS["delay"].params(names | {"device": ["pv", 0], "all": 0} | args)) == words
    sizes = {"pv": 100, "q": 60}
    length = 52 if "q 8" in words else 59 if "q" in words else 100
    assert TARGETS["delay"].natural_length(words.split(), sizes.get) == length


# Time


def test_each_class_has_its_own_time_and_device() -> None:
    found = machine("loop0 0 10 loop1 8 20 loop2 0 30")
    begin(found, found.reading("d", 5, 1), found.writing("d", 3, pattern("W", 1)),
          Bio(Op.DISCARD, found.named("d"), 8, 8), Bio(Op.FLUSH, found.named("d"), 0, 0))
    assert found.status("d") == "0 1024 delay 1 2 1"
    found.engine.run()
    assert found.status("d") == "0 1024 delay 0 0 0"
    assert disk_notes(found) == ["loop0: read loop0 5+1", "loop1: write loop1 11+1", "loop1: discard loop1 16+8",
                                 "loop2: flush loop2"]
    assert found.engine.now_ns == 30 * MS


def test_no_time_is_at_once() -> None:
    found = machine("loop0 0 0 loop1 0 10")
    assert found.first("d", 5) == "A sector 00000005 ......"
    assert found.engine.now_ns == 0


def test_a_shorter_time_overtakes_and_equal_ones_keep_their_order() -> None:
    found = machine("loop0 0 8 loop0 0 10")
    begin(found, found.writing("d", 0, pattern("W", 1)))
    found.engine.time_ns = 2 * MS
    begin(found, found.reading("d", 100, 1))
    found.engine.time_ns = 4 * MS
    begin(found, found.writing("d", 1, pattern("W", 1)))
    found.engine.run()
    assert disk_notes(found) == ["loop0: write loop0 0+1", "loop0: read loop0 100+1", "loop0: write loop0 1+1"]
    assert found.engine.now_ns == 14 * MS
    found.notes.lines.clear()
    begin(found, found.writing("d", 0, pattern("W", 1)))
    begin(found, found.reading("d", 100, 1))
    found.engine.run()
    assert disk_notes(found) == ["loop0: read loop0 100+1", "loop0: write loop0 0+1"]


@pytest.mark.parametrize("seed", range(8))
def test_nothing_comes_before_its_time_and_nothing_is_lost(seed: int) -> None:
    found = machine("loop0 0 3 loop0 0 7 loop0 0 5", seed)
    tasks = []
    for number in range(20):
        kind = (seed + number) % 3
        bio = (found.reading("d", number, 1), found.writing("d", 64 + number, pattern("W", 1)),
               Bio(Op.FLUSH, found.named("d"), 0, 0))[kind]
        tasks.append((found.begin(WaitForBios([bio], "I/O")), found.engine.now_ns + (3, 7, 5)[kind] * MS))
        for _ in range(number % 4):
            found.engine.step()
    ended: dict[int, int] = {}
    while found.engine.step():
        for number, (task, _due_ns) in enumerate(tasks):
            if task.ended:
                ended.setdefault(number, found.engine.now_ns)
    assert all(ended[number] >= due_ns for number, (_task, due_ns) in enumerate(tasks))
    assert all(task.value == [0] for task, _due_ns in tasks)
    assert found.status("d") == "0 1024 delay 0 0 0"


# Suspend


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("noflush", [False, True])
def test_a_suspend_sends_out_what_is_held(seed: int | None, noflush: bool) -> None:
    found = machine("loop0 0 1500", seed)
    task = begin(found, found.reading("d", 0, 1), found.writing("d", 8, pattern("C", 8)))
    found.engine.time_ns = 800 * MS
    assert found.status("d") == "0 1024 delay 1 1 0"
    suspend = found.begin(control.DoSuspend(found.device("d"), noflush=noflush))
    settle(found)
    assert (suspend.ended, suspend.value, task.ended, task.value) == (True, 0, True, [0, 0])
    assert found.engine.now_ns == 800 * MS
    assert found.status("d") == "0 1024 delay 0 0 0"
    assert found.raw(0, 8, 8) == pattern("C", 8)
    assert found.resume("d") == 0
    before_ns = found.engine.now_ns
    begin(found, found.reading("d", 0, 1))
    assert found.status("d") == "0 1024 delay 1 0 0"
    found.engine.run()
    assert found.engine.now_ns == before_ns + 1500 * MS


def test_between_presuspend_and_resume_nothing_is_delayed() -> None:
    found = machine("loop0 0 1500")
    target = found.target("d")
    target.presuspend()
    assert found.first("d", 1) == "A sector 00000001 ......"
    assert found.engine.now_ns == 0
    target.presuspend_undo()                    # 6.1 has none
    assert found.first("d", 1) == "A sector 00000001 ......"
    assert found.engine.now_ns == 0
    target.resume()
    assert found.first("d", 1) == "A sector 00000001 ......"
    assert found.engine.now_ns == 1500 * MS


def test_a_removal_does_not_wait_and_another_table_is_used_at_once() -> None:
    found = machine("loop0 0 60000")
    task = begin(found, found.reading("d", 0, 1))
    assert found.load("d", "0 1024 linear loop0 0") == 0
    resume = found.begin(control.DoResume(found.device("d")))
    settle(found)
    assert (resume.ended, task.value) == (True, [0])
    assert found.create("e", "0 2048 delay loop1 0 60000") == 0
    task = begin(found, found.reading("e", 0, 1))
    removal = found.begin(control.Remove(found.device("e")))
    settle(found)
    assert (removal.ended, removal.value, task.value) == (True, 0, [0])


def test_messages_are_refused() -> None:
    found = machine("loop0 0 10")
    with pytest.raises(DmError) as raised:
        control.message(found.device("d"), 0, "hello")
    assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize("seed", [None, 5])
def test_a_copy_at_any_step_goes_on_as_the_original_does(seed: int | None) -> None:
    found = machine("loop0 0 3 loop1 0 7", seed)
    found.begin(WaitForBios([found.reading("d", 1, 1), found.writing("d", 2, pattern("W", 2))], "I/O"))
    copies = [copy.deepcopy(found)]
    while found.engine.step():
        copies.append(copy.deepcopy(found))
    for one in copies:
        one.engine.run()
        assert one.notes.lines == found.notes.lines
        assert one.engine.now_ns == found.engine.now_ns
        assert one.raw(1, 2, 2) == pattern("W", 2)
