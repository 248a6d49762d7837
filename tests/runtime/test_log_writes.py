import copy
import errno
from dataclasses import dataclass

import pytest

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.errors import DmError
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SeededChooser
from dmspec.runtime.targets.log_writes import (
    ENTRY,
    FLAG_DISCARD,
    FLAG_FLUSH,
    FLAG_FUA,
    FLAG_MARK,
    MAGIC,
    SUPER,
    VERSION,
)

from .snapshot_machine import Machine, pattern

END = "dm-log-writes-end"
MS = 1_000_000


@dataclass
class Logged:
    """One entry, as ``replay-log`` reads it."""

    sector: int
    sectors: int
    flags: int
    mark: str
    data: bytes


def parse(log: bytes, count: int | None = None) -> list[Logged]:
    """The entries of a log; how many the super block says, or ``count``."""
    magic, version, entries, unit = SUPER.unpack_from(log)
    assert (magic, version, unit) == (MAGIC, VERSION, 512)
    assert not any(log[SUPER.size:512])
    found = []
    place = unit
    for _ in range(entries if count is None else count):
        sector, sectors, flags, length = ENTRY.unpack_from(log, place)
        head_end = place + ENTRY.size + length
        mark = log[place + ENTRY.size:head_end].decode()
        assert not any(log[head_end:place + unit])
        assert not length or flags & FLAG_MARK
        place += unit
        data = b"" if flags & FLAG_DISCARD else log[place:place + sectors * unit]
        place += len(data)
        found.append(Logged(sector, sectors, flags, mark, data))
    return found


def replay(entries: list[Logged], size: int, until: str) -> bytes:
    """What a disk of zeros holds when the log has been replayed up to a mark."""
    disk = bytearray(size)
    for entry in entries:
        if entry.mark == until:
            return bytes(disk)
        data = bytes(entry.sectors * 512) if entry.flags & FLAG_DISCARD else entry.data
        disk[entry.sector * 512:entry.sector * 512 + len(data)] = data
    raise AssertionError(f"no mark {until}")


def machine(table: str = "0 1024 log-writes loop0 loop1", seed: int | None = None) -> Machine:
    made = Machine(None if seed is None else SeededChooser(seed))
    made.stack.target_types = dict(TARGETS)
    if table:
        assert made.create("d", table) == 0
    return made


def say(found: Machine, text: str) -> str:
    return control.message(found.device("d"), 0, text)


def flush(found: Machine) -> Bio:
    return Bio(Op.FLUSH, found.named("d"), 0, 0)


def fua(found: Machine, sector: int, seed: str) -> Bio:
    bio = found.writing("d", sector, pattern(seed, 1))
    bio.fua = True
    return bio


def log(found: Machine) -> list[Logged]:
    """The log when the device has been removed."""
    assert found.remove("d") == 0
    return parse(found.raw(1, 0, 2048))


def short(entries: list[Logged]) -> list[str]:
    """``w`` and ``d`` with their sectors, ``flush``, ``fua``, or the text of a mark."""
    names = {0: "w{}", FLAG_FLUSH: "flush", FLAG_FUA: "fua{}", FLAG_DISCARD: "d{}", FLAG_MARK: "{mark}"}
    return [names[entry.flags].format(entry.sector, mark=entry.mark) for entry in entries]


# Tables and messages


@pytest.mark.parametrize(("params", "error", "reason"), [
    ("", errno.EINVAL, "Invalid argument count"),
    ("loop0", errno.EINVAL, "Invalid argument count"),
    ("nothing loop1", errno.ENODEV, "Device lookup failed"),
    ("loop0 nothing", errno.ENODEV, "Log device lookup failed"),
])
def test_tables_that_are_refused(params: str, error: int, reason: str) -> None:
    found = machine("")
    assert found.create("d", f"0 1024 log-writes {params}") == -error
    assert found.kernel()[0] == f"err: device-mapper: table: 254:0: log-writes: {reason} (-{errno.errorcode[error]})"
    assert found.disk(0).open_count == 0


@pytest.mark.parametrize("more", ["", " ignored"])
def test_tables_that_load(more: str) -> None:
    found = machine(f"0 1024 log-writes /dev/loop0 7:1{more}")
    assert found.table("d") == "0 1024 log-writes 7:0 7:1"
    assert found.status("d") == "0 1024 log-writes 0 0"
    assert [device.name for device in control.dependencies(found.device("d"))] == ["loop1", "loop0"]


def test_the_short_form() -> None:
    kind = TARGETS["log-writes"]
    assert kind.params({"device": "pv", "log": "log"}) == ["pv", "log"]
    assert kind.natural_length(["pv", "log"], {"pv": 100}.get) == 100


@pytest.mark.parametrize(("text", "logged"), [
    ("nonsense", "Invalid log-writes message arguments, expect 2 arguments, got 1"),
    ("mark a b", "Invalid log-writes message arguments, expect 2 arguments, got 3"),
    ("remark a", "Unrecognised log writes target message received: remark"),
])
def test_messages_that_are_refused(text: str, logged: str) -> None:
    found = machine()
    with pytest.raises(DmError) as raised:
        say(found, text)
    assert raised.value.errno == errno.EINVAL
    assert found.kernel() == [f"warning: device-mapper: log-writes: {logged}"]


def test_marks() -> None:
    """A text that is too long for its unit is cut, one byte short of its end."""
    found = machine()
    assert say(found, "MARK " + "x" * 600) == ""
    assert say(found, r"mark two\ words") == ""
    found.engine.run()
    assert found.status("d") == "0 1024 log-writes 2 2"
    assert [entry.mark for entry in log(found)] == ["x" * 479, "two words", END]


# The log


def test_the_bytes_of_the_log() -> None:
    found = machine()
    found.put("d", 3, "B", 2)
    found.io([flush(found)])
    found.remove("d")
    head = bytes.fromhex("72687377 66736a00 01000000 00000000 03000000 00000000 00020000")
    assert found.raw(1, 0, 1) == head.ljust(512, b"\0")
    assert found.raw(1, 1, 1) == bytes([3, *bytes(7), 2]).ljust(512, b"\0")
    assert found.raw(1, 2, 2) == pattern("B", 2)
    assert found.raw(1, 4, 1) == bytes([*bytes(16), 1]).ljust(512, b"\0")
    mark = bytes([*bytes(16), 8, *bytes(7), len(END), *bytes(7)]) + END.encode()
    assert found.raw(1, 5, 1) == mark.ljust(512, b"\0")
    assert found.raw(0, 3, 2) == pattern("B", 2)


def test_what_waits_for_a_flush_and_what_does_not() -> None:
    found = machine()
    found.put("d", 0, "A", 1)
    assert found.status("d") == "0 1024 log-writes 0 0"
    found.io([fua(found, 8, "F")])
    assert found.status("d") == "0 1024 log-writes 1 2"
    say(found, "mark one")
    found.io([Bio(Op.DISCARD, found.named("d"), 16, 8)])
    found.put("d", 1, "A", 1)
    found.io([flush(found)])
    assert found.status("d") == "0 1024 log-writes 6 9"
    found.put("d", 2, "A", 1)
    assert short(log(found)) == ["fua8", "one", "w0", "d16", "w1", "flush", "w2", END]


def test_reads_are_not_logged() -> None:
    found = machine()
    found.poke(0, 0, pattern("A", 8))
    assert found.first("d", 5) == "A sector 00000005 ......"
    assert short(log(found)) == [END]


def test_the_super_block_is_written_only_for_fua_and_marks() -> None:
    found = machine()
    found.put("d", 0, "A", 1)
    found.io([flush(found)])
    assert found.raw(1, 0, 1) == bytes(512)
    assert short(parse(SUPER.pack(MAGIC, VERSION, 2, 512).ljust(512, b"\0") + found.raw(1, 1, 3))) == ["w0", "flush"]
    found.io([fua(found, 8, "F")])
    assert short(parse(found.raw(1, 0, 64))) == ["w0", "flush", "fua8"]


def test_the_order_is_that_of_completion() -> None:
    """Wa Wb Wc, Cc Ca, a flush comes, Cb, the flush ends: b is logged with the next one."""
    found = machine()
    for sector, ms in ((0, 2), (1, 10), (2, 1)):
        found.disk(0).faults.append(DiskFault((Op.WRITE,), 0, ms * MS, sector, sector))
    found.disk(0).faults.append(DiskFault((Op.FLUSH,), 0, 20 * MS))
    found.begin(WaitForBios([found.writing("d", sector, pattern("abc"[sector], 1)) for sector in range(3)], "writes"))
    while found.engine.now_ns < 2 * MS or found.engine.runnable:
        found.engine.step()
    found.begin(WaitForBios([flush(found)], "a flush"))
    found.engine.run()
    assert found.status("d") == "0 1024 log-writes 3 5"
    found.io([flush(found)])
    assert short(log(found)) == ["w2", "w0", "flush", "w1", "flush", END]


def test_a_write_with_a_preflush_is_a_flush_and_a_write() -> None:
    found = machine()
    found.put("d", 0, "A", 1)
    bio = fua(found, 8, "F")
    bio.preflush = True
    assert found.io([bio]) == [0]
    assert short(log(found)) == ["w0", "flush", "fua8", END]


def test_what_failed_is_logged_too() -> None:
    found = machine()
    found.disk(0).faults.append(DiskFault((Op.WRITE,), errno.EIO))
    assert found.put("d", 0, "A", 1) == errno.EIO
    assert short(log(found)) == ["w0", END]


def test_the_writers_buffer_may_change_after_the_write() -> None:
    found = machine()
    data = bytearray(pattern("A", 1))
    bio = found.writing("d", 0, bytes(data))
    bio.buf = data
    assert found.io([bio]) == [0]
    data[:] = bytes(512)
    assert log(found)[0].data == pattern("A", 1)


def test_discards_of_a_device_that_knows_none_are_logged_and_succeed() -> None:
    found = machine("")
    assert found.create("base", "0 1024 snapshot-origin loop0") == 0
    assert found.create("d", "0 1024 log-writes base loop1") == 0
    assert found.io([Bio(Op.DISCARD, found.named("d"), 16, 8)]) == [0]
    assert short(log(found)) == ["d16", END]


def test_a_segment_that_does_not_begin_at_0_is_not_shifted() -> None:
    found = machine("")
    assert found.create("d", "0 64 zero", "64 64 log-writes loop0 loop1") == 0
    found.put("d", 66, "A", 1)
    assert found.raw(0, 66, 1) == pattern("A", 1)
    assert short(log(found)) == ["w66", END]


def test_a_table_that_was_never_used_leaves_its_mark() -> None:
    found = machine()
    assert found.load("d", "0 1024 log-writes loop0 loop2") == 0
    assert found.call(control.Clear(found.device("d"))) == 0
    assert short(parse(found.raw(2, 0, 8))) == [END]


# Failures


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_a_log_that_is_full(seed: int | None) -> None:
    """The room of the entry that did not fit is counted; I/O goes on."""
    found = machine("", seed)
    assert found.create("log", "0 8 linear loop1 0") == 0
    assert found.create("d", "0 1024 log-writes loop0 log") == 0
    found.put("d", 0, "A", 4)
    found.put("d", 4, "A", 4)
    found.io([flush(found)])
    found.engine.run()
    assert found.status("d") == "0 1024 log-writes 1 10 logging_disabled"
    assert found.kernel() == ["err: device-mapper: log-writes: Ran out of space on the logdev"]
    assert found.put("d", 8, "B", 4) == 0
    say(found, "mark late")
    found.engine.run()
    assert found.remove("d") == 0
    assert found.kernel() == []
    assert found.raw(0, 0, 12) == pattern("A", 4) + pattern("A", 4) + pattern("B", 4)
    assert found.raw(1, 0, 1) == bytes(512)


@pytest.mark.parametrize(("error", "printed"), [(errno.EIO, 10), (errno.ENOSPC, 3), (errno.EOPNOTSUPP, 1)])
def test_a_log_that_fails(error: int, printed: int) -> None:
    found = machine()
    found.put("d", 0, "A", 1)
    found.disk(1).faults.append(DiskFault((Op.WRITE,), error))
    found.io([flush(found)])
    found.engine.run()
    assert set(found.kernel()) == {f"err: device-mapper: log-writes: Error writing log block, error={printed}"}
    assert found.status("d").endswith(" logging_disabled")
    assert found.put("d", 0, "B", 1) == 0
    assert found.first("d", 0) == "B sector 00000000 ......"
    assert found.remove("d") == 0


def test_a_super_block_that_fails() -> None:
    found = machine()
    found.disk(1).faults.append(DiskFault((Op.WRITE,), errno.EIO, 0, 0, 0))
    say(found, "mark one")
    found.engine.run()
    assert found.status("d") == "0 1024 log-writes 1 1 logging_disabled"
    assert found.remove("d") == 0


# Replay


@pytest.mark.parametrize("seed", range(12))
def test_a_replay_gives_what_the_device_held_at_every_mark(seed: int) -> None:
    """Writes with FUA have an area of their own: one overtakes plain writes that no flush has covered yet."""
    found = machine(seed=seed)
    draw = SeededChooser(seed + 1000, switch_percent=100)
    contents = {}
    for number in range(6):
        bios = []
        for index in range(1 + draw.choose(6)):
            sector, kind = draw.choose(56), draw.choose(8)
            if kind == 0:
                bios.append(Bio(Op.DISCARD, found.named("d"), sector, 1 + draw.choose(8)))
            elif kind == 1:
                bios.append(fua(found, 64 + draw.choose(8), f"F{number}{index}"))
            elif kind == 2:
                bios.append(flush(found))
            else:
                bios.append(found.writing("d", sector, pattern(f"W{number}{index}", 1 + draw.choose(8))))
        assert not any(found.io(bios))
        assert found.io([flush(found)]) == [0]
        say(found, f"mark m{number}")
        contents[f"m{number}"] = found.raw(0, 0, 1024)
    assert found.put("d", 500, "L", 3) == 0
    contents[END] = found.raw(0, 0, 1024)
    entries = log(found)
    assert list(contents) == [entry.mark for entry in entries if entry.mark]
    for mark, data in contents.items():
        assert replay(entries, 1024 * 512, mark) == data, mark


@pytest.mark.parametrize("seed", [None, 7])
def test_a_copy_at_any_step_goes_on_as_the_original_does(seed: int | None) -> None:
    found = machine(seed=seed)
    found.begin(WaitForBios([found.writing("d", 0, pattern("A", 2)), fua(found, 8, "F")], "writes"))
    found.begin(WaitForBios([flush(found)], "a flush"))
    copies = [copy.deepcopy(found)]
    while found.engine.step():
        copies.append(copy.deepcopy(found))
    for one in copies:
        one.engine.run()
        assert one.notes.lines == found.notes.lines
        assert one.raw(1, 0, 32) == found.raw(1, 0, 32)
        assert short(log(one))[-1] == END
