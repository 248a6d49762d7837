import errno

import pytest

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.errors import DmError
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.targets.snapshot_origin import snapshots_of

from .snapshot_machine import SNAP, Machine, machine, pattern

UNABLE = "err: device-mapper: snapshots: Invalidating snapshot: Unable to allocate exception."
FAILED = "err: device-mapper: snapshots: Invalidating snapshot: Error reading/writing."


# Tables


@pytest.mark.parametrize(("params", "error", "reason"), [
    ("", errno.EINVAL, "requires 4 or more arguments"),
    ("loop0 loop1 P", errno.EINVAL, "requires 4 or more arguments"),
    ("loop0 loop1 X 8", errno.EINVAL, "Couldn't create exception store"),
    ("loop0 loop1 P 7", errno.EINVAL, "Couldn't create exception store"),
    ("loop0 loop1 P x", errno.EINVAL, "Couldn't create exception store"),
    ("loop0 loop1 P -8", errno.EINVAL, "Couldn't create exception store"),
    ("loop0 loop1 N 12", errno.EINVAL, "Couldn't create exception store"),
    ("loop0 loop1 N 2147483648", errno.EINVAL, "Couldn't create exception store"),
    ("loop0 loop1 N 0", errno.EINVAL, "Chunk size not set"),
    ("nothing loop1 N 8", errno.ENODEV, "Cannot get origin device"),
    ("loop0 nothing N 8", errno.ENODEV, "Cannot get COW device"),
    ("loop0 loop0 N 8", errno.EINVAL, "COW device cannot be the same as origin device"),
    ("loop0 loop1 N 8 1", errno.EINVAL, "Invalid number of feature arguments"),
    ("loop0 loop1 N 8 3 a b c", errno.EINVAL, "Invalid number of feature arguments"),
    ("loop0 loop1 P 8 1 nonsense", errno.EINVAL, "Unrecognised feature requested"),
    ("loop0 loop1 P 8 1 discard_passdown_origin", errno.EINVAL,
     "discard_passdown_origin feature depends on discard_zeroes_cow"),
])
def test_tables_that_are_refused(params: str, error: int, reason: str) -> None:
    """The recordings f2-invalid-tables and d-snapshot (Linux 6.1)."""
    found = Machine()
    name = {errno.EINVAL: "EINVAL", errno.ENODEV: "ENODEV"}[error]
    assert found.create("d", f"0 1024 snapshot {params}") == -error
    assert found.kernel() == [f"err: device-mapper: table: 254:0: snapshot: {reason} (-{name})",
                              "err: device-mapper: ioctl: error adding target to table"]
    assert all(disk.open_count == 0 for disk in found.stack.disks.values())
    assert found.stack.shared.get("snapshot") is None or found.stack.shared["snapshot"].by_origin == []


@pytest.mark.parametrize(("params", "table", "status"), [
    ("P 8 0 1", "P 8", "16/2048 16"), ("p 8", "P 8", "16/2048 16"), ("po 8", "PO 8", "16/2048 16"),
    ("NO 8", "N 8", "0/2048 0"), ("N 1048576", "N 1048576", "0/2048 0"),
    ("P 8 1 discard_zeroes_cow", "P 8 1 discard_zeroes_cow", "16/2048 16"),
    ("P 8 2 DISCARD_zeroes_cow discard_passdown_origin", "P 8 2 discard_zeroes_cow discard_passdown_origin",
     "16/2048 16"),
])
def test_tables_that_load(params: str, table: str, status: str) -> None:
    found = Machine()
    assert found.create("d", f"0 1024 snapshot loop0 loop1 {params}") == 0
    assert found.table("d") == f"0 1024 snapshot 7:0 7:1 {table}"
    assert found.status("d") == f"0 1024 snapshot {status}"
    assert [device.name for device in control.dependencies(found.device("d"))] == ["loop1", "loop0"]


def test_an_option_of_the_store_that_does_not_exist_has_a_line_of_its_own() -> None:
    found = Machine()
    assert found.create("d", "0 1024 snapshot loop0 loop1 PX 8") == -errno.EINVAL
    assert found.kernel()[:2] == [
        "err: device-mapper: persistent snapshot: Unsupported persistent store option: X",
        "err: device-mapper: table: 254:0: snapshot: Couldn't create exception store (-EINVAL)"]


@pytest.mark.parametrize(("params", "error", "reason"), [
    ("", errno.EINVAL, "origin: incorrect number of arguments"),
    ("loop0 0", errno.EINVAL, "origin: incorrect number of arguments"),
    ("nothing", errno.ENODEV, "Cannot get target device"),
])
def test_origin_tables_that_are_refused(params: str, error: int, reason: str) -> None:
    found = Machine()
    assert found.create("d", f"0 1024 snapshot-origin {params}") == -error
    assert f"254:0: snapshot-origin: {reason} (-" in found.kernel()[0]


def test_the_length_that_is_left_out_is_that_of_the_origin() -> None:
    found = Machine()
    lines = control.resolve_lines(found.stack, ["* * snapshot loop0 loop1 P 8", "* * snapshot-origin loop2"])
    assert [(start, length) for start, length, _kind, _params in lines] == [(0, 2048), (2048, 2048)]


def test_read_only_devices_can_be_used() -> None:
    """Linux 6.1 does not ask (corpus, section read-only; recorded case f-control, section 9)."""
    found = Machine()
    found.disk(0).read_only = found.disk(2).read_only = True
    assert found.create("a", "0 2048 snapshot loop0 loop1 N 8") == 0
    assert found.create("b", "0 2048 snapshot loop1 loop2 N 8") == 0
    assert found.create("c", "0 2048 snapshot-origin loop0") == 0


def test_status_before_it_had_metadata() -> None:
    found = Machine(era="2.6.32")
    assert found.create("d", "0 1024 snapshot loop0 loop1 P 8") == 0
    assert found.status("d") == "0 1024 snapshot 16/2048"


# What a snapshot shows (case 1 of d-snapshot)


@pytest.mark.parametrize("chunk", [8, 16])
def test_the_life_of_a_persistent_snapshot(chunk: int) -> None:
    found = machine(f"P {chunk}")

    def usage(exceptions: int) -> str:
        return f"0 2048 snapshot {(2 + exceptions) * chunk}/512 {2 * chunk}"

    assert found.put("org", 100, "B", 1) == 0
    assert (found.first("org", 100), found.first("snap", 100)) == \
        ("B sector 00000000 ......", "A sector 00000100 ......")
    assert found.put("org", 101, "C", 1) == 0
    assert found.status("snap") == usage(1)
    assert found.put("snap", 205, "D", 1) == 0
    assert (found.first("org", 205), found.first("snap", 205)) == \
        ("A sector 00000205 ......", "D sector 00000000 ......")
    assert found.put("snap", 320, "E", chunk) == 0
    assert found.put("org", 512, "F", 3 * chunk) == 0
    assert found.status("snap") == usage(6)
    digest = {8: "feebb0e9e794ec160f07d6a5a40327c8a69ab000e28d8eaf9cf800c5da9bbfd0",
              16: "199b9ca2781a7edc752cfc01ea3b951017b6f3ccb50fd7717d10be1a3e87e8f1"}[chunk]
    assert found.sum("snap", 0, 2048) == digest
    found.remove("snap")
    assert found.create("snap", f"{SNAP} P {chunk}") == 0
    assert found.sum("snap", 0, 2048) == digest
    assert found.load("snap", f"{SNAP} P {chunk}") == 0
    assert found.status("snap", inactive=True) == "0 2048 snapshot 0/512 0"
    assert found.table("snap", inactive=True) == "0 2048 snapshot 7:0 254:0 P 0"
    assert found.resume("snap") == 0
    assert (found.status("snap"), found.sum("snap", 0, 2048)) == (usage(6), digest)
    assert found.kernel() == []
    assert found.put("org", 1024, "G", 768) == 0
    assert found.kernel() == [UNABLE]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.first("snap", 0) == "EIO"
    assert found.put("snap", 0, "Z", 1) == errno.EIO
    assert found.device("snap").event_nr == 1
    found.remove("snap")
    assert found.create("snap", f"{SNAP} P {chunk}") == 0
    assert found.kernel() == ["warning: device-mapper: snapshots: Snapshot is marked invalid."]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.table("snap") == f"0 2048 snapshot 7:0 254:0 P {chunk}"


def test_a_flush_goes_to_the_copies_and_a_write_keeps_its_fua() -> None:
    found = machine()
    assert found.io([Bio(Op.FLUSH, found.named("snap"), 0, 0)]) == [0]
    assert found.notes.lines[-1] == "loop1: flush loop1"
    assert found.io([Bio(Op.FLUSH, found.named("org"), 0, 0)]) == [0]
    assert found.notes.lines[-1] == "loop0: flush loop0"
    for sectors in (8, 1):
        bio = found.writing("snap", 0, pattern("B", sectors))
        bio.fua = True
        assert found.io([bio]) == [0]
        assert any(f"write+fua loop1 16+{sectors}" in line for line in found.notes.lines)


# Failures


def test_overflow_by_the_snapshot_leaves_what_there_is() -> None:
    """Case 2 of d-snapshot."""
    found = machine("PO 8", 64)
    assert found.put("snap", 0, "B", 48) == 0
    assert found.put("snap", 48, "B", 8) == errno.EIO
    assert found.kernel() == ["err: device-mapper: snapshots: Snapshot overflowed: Unable to allocate exception."]
    assert found.status("snap") == "0 2048 snapshot Overflow"
    assert found.device("snap").event_nr == 0
    assert found.first("snap", 0) == "B sector 00000000 ......"
    assert found.first("snap", 300) == "A sector 00000300 ......"
    assert found.put("snap", 0, "C", 1) == errno.EIO
    assert found.raw(1, 0, 1)[4] == 1
    found.remove("snap")
    assert found.create("snap", f"{SNAP} PO 8") == 0
    assert found.status("snap") == "0 2048 snapshot 64/64 16"
    assert found.put("snap", 56, "C", 1) == errno.EIO
    found.kernel()
    assert found.put("org", 800, "C", 1) == 0
    assert found.kernel() == [UNABLE]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.device("snap").event_nr == 1
    assert found.raw(1, 0, 1)[4] == 0


@pytest.mark.parametrize("store", ["P", "PO"])
def test_overflow_by_the_origin_loses_the_snapshot(store: str) -> None:
    for seed in range(30):
        found = machine(f"{store} 8", 64, seed=seed)
        assert found.io([found.writing("org", 0, pattern("B", 64))]) == [0]
        assert found.kernel() == [UNABLE]
        assert found.status("snap") == "0 2048 snapshot Invalid"
        assert found.device("snap").event_nr == 1
        assert found.raw(0, 0, 64) == pattern("B", 64)


def test_overflow_of_p_by_the_snapshot_loses_it() -> None:
    for seed in range(30):
        found = machine("P 8", 64, seed=seed)
        assert found.put("snap", 0, "B", 48) == 0
        assert found.io([found.writing("snap", 48, pattern("B", 1)), found.reading("snap", 0, 1),
                         found.writing("org", 80, pattern("C", 8))])[::2] == [errno.EIO, 0]
        assert found.kernel() == [UNABLE]
        assert found.first("snap", 0) == "EIO"
        assert found.raw(1, 0, 1)[4] == 0


def test_the_header_is_invalid_before_the_origin_loses_what_was_needed() -> None:
    for seed in range(100):
        found = machine("P 8", 64, seed=seed)
        assert found.put("org", 0, "B", 48) == 0
        found.notes.lines.clear()
        assert found.io([found.writing("org", 800, pattern("C", 8)),
                         found.writing("org", 900, pattern("D", 1))]) == [0, 0]
        header = found.notes.place("loop1: write loop1 0+8")
        assert header < found.notes.place("loop0: write loop0 800+8")
        assert header < found.notes.place("loop0: write loop0 900+1")


def test_copies_that_fail() -> None:
    """Case 7 of d-snapshot."""
    found = machine("P 8", 256)
    assert found.put("snap", 0, "B", 8) == 0
    assert found.load("cow", "0 256 error") == 0
    assert found.resume("cow") == 0
    assert found.first("snap", 0) == "EIO"
    assert found.status("snap") == "0 2048 snapshot 24/256 16"
    assert found.first("snap", 64) == "A sector 00000064 ......"
    assert found.put("org", 64, "C", 8) == 0
    assert found.kernel() == [FAILED, "warning: device-mapper: persistent snapshot: write header failed"]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.device("snap").event_nr == 1
    assert (found.first("org", 64), found.first("snap", 64)) == ("C sector 00000000 ......", "EIO")
    found.remove("snap")
    assert found.create("snap", f"{SNAP} P 8") == -errno.EIO


def test_an_origin_that_fails() -> None:
    """Case 8 of d-snapshot: a whole chunk needs no read of the origin, a sector does."""
    found = Machine()
    found.fresh(256)
    assert found.create("base", "0 2048 linear /dev/loop0 0") == 0
    assert found.create("org", "0 2048 snapshot-origin /dev/mapper/base") == 0
    assert found.create("snap", "0 2048 snapshot /dev/mapper/base /dev/mapper/cow P 8") == 0
    assert found.load("base", "0 2048 error") == 0
    assert found.resume("base") == 0
    assert found.first("snap", 0) == "EIO"
    assert found.put("snap", 0, "B", 8) == 0
    assert found.put("snap", 65, "B", 1) == errno.EIO
    assert found.kernel() == [FAILED]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.put("org", 128, "B", 8) == errno.EIO


def test_an_origin_write_goes_on_when_its_copy_fails() -> None:
    for seed in range(20):
        found = machine(seed=seed)
        found.disk(0).faults.append(DiskFault((Op.READ,), errno.EIO, first_sector=0, last_sector=7))
        assert found.put("org", 0, "B", 8) == 0
        assert found.kernel() == [FAILED]
        assert found.raw(0, 0, 8) == pattern("B", 8)


# Discards


def discard(found: Machine, sector: int, sectors: int) -> int:
    return found.io([Bio(Op.DISCARD, found.named("snap"), sector, sectors)])[0]


def test_discards_need_the_feature() -> None:
    found = machine()
    assert discard(found, 0, 8) == errno.EOPNOTSUPP
    assert found.io([Bio(Op.DISCARD, found.named("org"), 0, 8)]) == [errno.EOPNOTSUPP]


def test_a_discard_zeroes_what_was_copied_and_leaves_the_rest() -> None:
    found = machine("P 8 1 discard_zeroes_cow")
    assert found.put("snap", 8, "B", 16) == 0
    assert discard(found, 0, 20) == 0
    assert found.read("snap", 0, 24) == pattern("A", 8) + bytes(12 * 512) + pattern("B", 4, 12)
    assert found.raw(0, 0, 24) == pattern("A", 24)
    assert "loop1: write loop1 16+8" in found.notes.lines
    assert "loop1: discard loop1 24+4" in found.notes.lines
    assert found.snapshot("snap").copies == 0
    assert found.status("snap") == "0 2048 snapshot 32/512 16"


def test_a_zeroing_that_fails_fails_the_discard() -> None:
    found = machine("N 8 1 discard_zeroes_cow")
    assert found.put("snap", 0, "B", 8) == 0
    found.disk(1).faults.append(DiskFault((Op.WRITE,), errno.ENOSPC))
    assert discard(found, 0, 8) == errno.EIO
    assert found.status("snap") == "0 2048 snapshot 8/512 0"


def test_a_discard_that_is_passed_down_goes_behind_the_snapshots_back() -> None:
    found = machine("P 8 2 discard_zeroes_cow discard_passdown_origin")
    assert found.put("snap", 0, "B", 8) == 0
    assert discard(found, 0, 16) == 0
    assert found.raw(0, 0, 24) == bytes(16 * 512) + pattern("A", 8, 16)
    assert found.read("snap", 0, 16) == bytes(16 * 512)
    assert found.status("snap") == "0 2048 snapshot 24/512 16"


# The origin


def test_an_origin_notices_smaller_chunks_when_it_is_resumed() -> None:
    """Case 0 of d-snapshot."""
    found = Machine()
    found.fresh(512)
    assert found.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
    assert found.create("snap", f"{SNAP} P 8") == 0
    assert found.put("org", 512, "F", 24) == 0
    assert found.status("snap") == "0 2048 snapshot 24/512 16"
    assert [found.first("snap", sector)[:17] for sector in (512, 519, 520, 535)] == \
        ["A sector 00000512", "A sector 00000519", "F sector 00000008", "F sector 00000023"]
    assert found.suspend("org") == 0
    assert found.stack.shared["snapshot"].mapped_origin(found.disk(0)) is None
    assert found.resume("org") == 0
    assert found.put("org", 800, "F", 24) == 0
    assert found.status("snap") == "0 2048 snapshot 48/512 16"
    assert found.read("snap", 800, 24) == pattern("A", 24, 800)


def test_nothing_is_left_behind() -> None:
    found = machine()
    assert found.put("org", 0, "B", 64) == 0
    for name in ("snap", "org", "cow"):
        assert found.remove(name) == 0
    assert found.stack.shared["snapshot"].by_origin == []
    assert found.stack.shared["snapshot"].origins == []
    assert all(disk.open_count == 0 for disk in found.stack.disks.values())


def test_a_device_does_not_end_before_its_copies() -> None:
    found = machine()
    found.disk(1).faults.append(DiskFault((Op.WRITE,), delay_ns=5000))
    write = found.begin(WaitForBios([found.writing("org", 0, pattern("B", 8))], "the write"), "writer")
    while not found.snapshot("snap").pending:
        assert found.engine.step()
    remove = found.begin(control.Remove(found.device("snap")))
    while found.engine.step():
        assert not (remove.ended and found.raw(1, 16, 8) != pattern("A", 8))
    assert (write.value, remove.value) == ([0], 0)
    with pytest.raises(DmError):
        found.device("snap")
    assert found.raw(1, 16, 8) == pattern("A", 8)


def test_the_last_chunk_of_an_origin_may_be_a_short_one() -> None:
    found = Machine()
    found.fresh(512)
    assert found.create("base", "0 2044 linear loop0 0") == 0
    assert found.create("snap", "0 2044 snapshot base cow P 8") == 0
    assert found.put("snap", 2041, "B", 1) == 0
    assert "loop1: write loop1 16+4" in found.notes.lines
    assert found.read("snap", 2040, 4) == pattern("A", 1, 2040) + pattern("B", 1) + pattern("A", 2, 2042)


def test_a_copy_from_behind_the_end_of_an_origin_that_has_shrunk_fails() -> None:
    found = Machine()
    found.fresh(512)
    assert found.create("base", "0 2048 linear loop0 0") == 0
    assert found.create("snap", "0 2048 snapshot base cow P 8") == 0
    assert found.load("base", "0 1024 linear loop0 0") == 0
    assert found.resume("base") == 0
    assert found.put("snap", 1025, "B", 1) == errno.EIO
    assert found.kernel() == [FAILED]


@pytest.mark.parametrize(("features", "zeroed", "passed"), [
    ("1 discard_zeroes_cow", 1, 0), ("2 discard_zeroes_cow discard_passdown_origin", 1, 1)])
def test_a_discard_zeroes_the_copy_once_and_goes_to_the_origin_where_that_is_wanted(
        features: str, zeroed: int, passed: int) -> None:
    found = machine(f"P 8 {features}")
    assert found.put("org", 64, "O", 8) == 0
    found.notes.lines.clear()
    assert found.io([Bio(Op.DISCARD, found.device("snap"), 64, 8)]) == [0]
    lines = [line for line in found.notes.lines if line.startswith("loop")]
    assert sum("loop1: write" in line for line in lines) == zeroed
    assert sum("loop0: discard" in line for line in lines) == passed
    assert found.read("snap", 64, 8) == bytes(8 * 512)


def test_the_larger_chunks_come_first_and_equal_ones_as_they_came() -> None:
    """So it is the smallest chunk for which a write to the origin waits last."""
    found = Machine()
    sizes = {"a": 8, "b": 16, "c": 8, "d": 32, "e": 4, "f": 16}
    for at, (name, sectors) in enumerate(sizes.items()):
        assert found.create(f"cow-{name}", f"0 256 linear /dev/loop1 {256 * at}") == 0
        assert found.create(name, f"0 2048 snapshot /dev/loop0 /dev/mapper/cow-{name} N {sectors}") == 0
    order = [one.table.md.name for one in snapshots_of(found.stack).of(found.named("/dev/loop0"))]
    assert order == ["d", "b", "f", "a", "c", "e"]
    assert snapshots_of(found.stack).smallest_chunk(found.named("/dev/loop0")) == 4


@pytest.mark.parametrize("first", ["has its copy", "is invalid", "is not resumed"])
def test_every_snapshot_is_asked(first: str) -> None:
    """Whatever there is with the one that is asked before it."""
    found = Machine()
    found.poke(0, 0, pattern("A", 2048))
    for number, sectors in enumerate((16, 8)):
        assert found.create(f"cow{number}", f"0 512 linear /dev/loop1 {512 * number}") == 0
        control.create(found.stack, f"snap{number}")
        assert found.load(f"snap{number}", f"0 2048 snapshot /dev/loop0 /dev/mapper/cow{number} P {sectors}") == 0
    assert found.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
    if first != "is not resumed":
        assert found.resume("snap0") == 0
    if first == "is invalid":
        found.snapshot("snap0").valid = False
    if first == "has its copy":
        assert found.write("org", 0, pattern("B", 1)) == 0
    before = found.raw(0, 0, 8)
    assert found.resume("snap1") == 0
    assert found.write("org", 0, pattern("C", 1)) == 0
    assert found.read("snap1", 0, 8) == before


def test_a_write_of_a_whole_chunk_that_fails_costs_the_snapshot() -> None:
    """Nothing is copied for it, so it is the write itself that the store hears of."""
    found = machine()
    found.disk(1).faults.append(DiskFault((Op.WRITE,), errno.EIO, times=1))
    found.write("snap", 64, pattern("S", 8))
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert FAILED in found.kernel()
