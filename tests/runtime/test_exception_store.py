import errno
import struct

import pytest

from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.bio import Op
from dmspec.runtime.block import Disk, DiskFault
from dmspec.runtime.errors import DmError
from dmspec.runtime.exception_store import PersistentStore
from dmspec.runtime.sim import SeededChooser

from .snapshot_machine import SNAP, Machine, pattern

HEADER_8 = bytes.fromhex("53 6e 41 70 01 00 00 00 01 00 00 00 08 00 00 00")


def bare_machine(cow_sectors: int = 512, *, seed: int | None = None, era: str = "now") -> Machine:
    found = Machine(SeededChooser(seed) if seed is not None else None, era)
    found.fresh(cow_sectors)
    return found


def entries(found: Machine, sector: int, count: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = list(struct.iter_unpack("<QQ", found.raw(1, sector, 1)))
    return pairs[:count]


# Section 12 of the reference


def test_a_new_store_is_on_disk_when_the_table_is_loaded() -> None:
    found = Machine()
    found.stack.add_disk("big", 8192, SparseMemory({1: b"\xff" * 4096}))
    found.create("probe", "0 8192 linear big 0")
    assert found.load("probe", "0 2048 snapshot loop0 big P 8") == 0
    assert found.status("probe", inactive=True) == "0 2048 snapshot 16/8192 16"
    data = found.read("big", 0, 16)
    assert data is not None
    assert data[:16] == HEADER_8
    assert not any(data[16:])


def test_the_first_entry() -> None:
    found = bare_machine()
    found.with_origin(f"{SNAP} P 8")
    found.put("org", 40, "B", 8)
    assert found.raw(1, 16, 8) == pattern("A", 8, 40)
    assert found.raw(1, 8, 1)[:32] == struct.pack("<QQQQ", 5, 2, 0, 0)
    assert found.status("snap") == "0 2048 snapshot 24/512 16"


def test_256_exceptions_fill_the_first_area_and_wipe_the_next() -> None:
    found = Machine()
    found.poke(0, 0, pattern("A", 2048))
    cow = found.stack.add_disk("big", 4096, SparseMemory(dict.fromkeys((258, 259), b"\xff" * 4096)))
    assert found.create("snap", "0 2048 snapshot loop0 big P 8") == 0
    assert found.create("org", "0 2048 snapshot-origin loop0") == 0
    assert found.put("org", 0, "B", 255 * 8) == 0
    data = bytearray(4096)
    cow.backing.read(258 * 4096, memoryview(data))
    assert data == b"\xff" * 4096
    assert found.status("snap") == "0 2048 snapshot 2056/4096 16"
    assert found.put("org", 255 * 8, "B", 8) == 0
    cow.backing.read(258 * 4096, memoryview(data))
    assert not any(data)
    assert found.status("snap") == "0 2048 snapshot 2072/4096 24"
    snapshot = found.snapshot("snap")
    assert snapshot.complete == {chunk: chunk + 2 for chunk in range(256)}
    assert found.read("snap", 0, 2048) == pattern("A", 2048)


# The order of what reaches the disk


def test_copies_under_way_together_cost_one_write_of_the_area() -> None:
    found = bare_machine()
    found.with_origin(f"{SNAP} P 8")
    found.notes.lines.clear()
    assert found.io([found.writing("org", 0, pattern("B", 40))]) == [0]
    areas = [line for line in found.notes.lines if line.endswith("write+fua loop1 8+8")]
    assert len(areas) == 1
    assert found.status("snap") == "0 2048 snapshot 56/512 16"


def test_data_is_flushed_before_its_entry_and_the_origin_comes_last() -> None:
    for seed in range(40):
        found = bare_machine(seed=seed)
        found.with_origin(f"{SNAP} P 8")
        found.notes.lines.clear()
        assert found.put("org", 0, "B", 8) == 0
        notes = found.notes
        assert notes.place("loop1: write loop1 16+8") < notes.place("loop1: flush loop1") \
            < notes.place("loop1: write+fua loop1 8+8") < notes.place("loop0: write loop0 0+8")


def test_the_next_area_is_wiped_before_the_full_one_is_written() -> None:
    found = bare_machine()
    found.with_origin(f"{SNAP} P 1")
    found.notes.lines.clear()
    assert found.put("snap", 0, "B", 32) == 0
    lines = [line for line in found.notes.lines if "+fua" in line or "loop1 34+1" in line]
    assert lines == ["loop1: write loop1 34+1", "loop1: write+fua loop1 1+1"]


def test_entries_are_in_the_order_of_allocation_whatever_copy_ends_first() -> None:
    found = bare_machine()
    found.with_origin(f"{SNAP} P 8")
    found.disk(0).faults.append(DiskFault((Op.READ,), delay_ns=1000, first_sector=80, last_sector=87))
    late = found.writing("org", 80, pattern("B", 8))
    early = found.writing("org", 160, pattern("C", 8))
    assert found.io([late, early]) == [0, 0]
    assert entries(found, 8, 3) == [(10, 2), (20, 3), (0, 0)]
    notes = found.notes
    assert notes.place("read loop0 80+8") < notes.place("write loop0 160+8")


def test_a_device_that_ends_with_the_last_data_chunk_of_an_area_loses_the_snapshot() -> None:
    found = bare_machine(34)
    found.with_origin(f"{SNAP} P 1")
    assert found.put("snap", 0, "B", 31) == 0
    assert found.put("snap", 31, "B", 1) == errno.EIO
    assert found.kernel() == ["err: device-mapper: snapshots: Invalidating snapshot: Error reading/writing."]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.raw(1, 0, 1)[4:8] == bytes(4)


def test_a_full_area_and_an_empty_one_load_with_the_data_behind_both() -> None:
    found = bare_machine()
    found.with_origin(f"{SNAP} P 1")
    assert found.put("snap", 0, "B", 32) == 0
    for chunk in (32, 33):
        found.remove("snap")
        assert found.create("snap", f"{SNAP} P 1") == 0
        assert found.status("snap") == f"0 2048 snapshot {chunk + 3}/512 3"
        assert found.read("snap", 0, 32) == pattern("B", 32)
        assert found.put("snap", chunk, "C", 1) == 0
    assert entries(found, 34, 3) == [(32, 35), (33, 36), (0, 0)]


def test_an_area_that_cannot_be_written_loses_the_snapshot_and_not_the_origin() -> None:
    for seed in range(20):
        found = bare_machine(seed=seed)
        found.with_origin(f"{SNAP} P 8")
        found.disk(1).faults.append(DiskFault((Op.WRITE,), errno.EIO, first_sector=8, last_sector=15))
        origin = found.writing("org", 0, pattern("B", 8))
        own = found.writing("snap", 80, pattern("C", 1))
        assert found.io([origin, own]) == [0, errno.EIO]
        assert found.read("org", 0, 8) == pattern("B", 8)
        assert found.status("snap") == "0 2048 snapshot Invalid"
        assert found.raw(1, 0, 1)[:8] == bytes.fromhex("53 6e 41 70 00 00 00 00")


# Loading


def test_headers_that_are_not_right() -> None:
    """Case 6 of the recording d-snapshot (Linux 6.1)."""
    found = bare_machine(256)
    assert found.create("snap", f"{SNAP} P 8") == 0
    found.remove("snap")
    assert found.raw(1, 0, 1)[:16] == HEADER_8
    prefix = "device-mapper: persistent snapshot: "
    override = "warning: " + prefix + "chunk size {} in device metadata overrides table chunk size of 8."
    power = "err: " + prefix + "invalid on-disk chunk size {}: Chunk size is not a power of 2."

    def refused(name: str) -> list[str]:
        return [f"err: device-mapper: table: 254:1: snapshot: Failed to read snapshot metadata (-{name})",
                "err: device-mapper: ioctl: error adding target to table"]

    cases: list[tuple[int, bytes, int, list[str], str]] = [
        (0, b"X", -errno.ENXIO, [f"warning: {prefix}Invalid or corrupt snapshot", *refused("ENXIO")], ""),
        (8, b"\2", -errno.EINVAL,
         [f"warning: {prefix}unable to handle snapshot disk version 2", *refused("EINVAL")], ""),
        (4, b"\0", 0, ["warning: device-mapper: snapshots: Snapshot is marked invalid."], "Invalid"),
        (4, b"\2", 0, [], "16/256 16"),
        (12, b"\0", -errno.EINVAL, [override.format(0), power.format(0), *refused("EINVAL")], ""),
        (12, b"\3", -errno.EINVAL, [override.format(3), power.format(3), *refused("EINVAL")], ""),
        (12, b"\x10", 0, [override.format(16)], "32/256 32"),
    ]
    for offset, data, answer, log, status in cases:
        found.poke(1, offset, data)
        before = found.raw(1, 0, 1)
        assert found.create("snap", f"{SNAP} P 8") == answer
        assert found.kernel() == log
        if not answer:
            assert found.status("snap") == f"0 2048 snapshot {status}"
            found.remove("snap")
        assert found.raw(1, 0, 1) == before
        found.poke(1, 0, HEADER_8)
    found.poke(1, 0, bytes(4))
    assert found.create("snap", f"{SNAP} P 8") == 0
    assert found.kernel() == []
    assert found.raw(1, 0, 1)[:16] == HEADER_8


def test_a_chunk_size_on_disk_that_is_too_high() -> None:
    found = bare_machine(256)
    found.poke(1, 0, struct.pack("<IIII", 0x70416E53, 1, 1, 1 << 31))
    assert found.create("snap", f"{SNAP} P 8") == -errno.EINVAL
    assert ("err: device-mapper: persistent snapshot: invalid on-disk chunk size 2147483648: "
            "Chunk size is too high.") in found.kernel()


@pytest.mark.parametrize(("sectors", "header", "log"), [
    (4, False, []), (7, False, []),
    (8, True, ["warning: device-mapper: persistent snapshot: zero_disk_area(0) failed"]),
    (15, True, ["warning: device-mapper: persistent snapshot: zero_disk_area(0) failed"]),
])
def test_a_device_without_room_for_a_header_and_an_area(sectors: int, header: bool, log: list[str]) -> None:
    found = bare_machine(sectors)
    assert found.create("snap", f"{SNAP} P 8") == -errno.EIO
    assert found.kernel()[:-2] == log
    assert (found.raw(1, 0, 1)[:16] == HEADER_8) == header
    assert not any(found.raw(1, 1, 2047))


def test_a_device_that_ends_behind_the_first_area_takes_no_exception() -> None:
    found = bare_machine(16)
    assert found.create("snap", f"{SNAP} P 8") == 0
    assert found.status("snap") == "0 2048 snapshot 16/16 16"
    assert found.put("snap", 0, "B", 8) == errno.EIO
    assert found.status("snap") == "0 2048 snapshot Invalid"


def test_the_default_chunk_and_the_one_on_disk() -> None:
    found = bare_machine()
    assert found.create("snap", f"{SNAP} P 0") == 0
    assert found.table("snap") == "0 2048 snapshot 7:0 254:0 P 32"
    found.remove("snap")
    found.poke(1, 0, HEADER_8)
    assert found.create("snap", f"{SNAP} P 0") == 0
    assert found.table("snap") == "0 2048 snapshot 7:0 254:0 P 8"
    assert found.kernel() == []


def test_a_transient_store_starts_at_the_start_and_writes_data_only() -> None:
    """Case 3 of the recording, with chunks of 8 sectors."""
    found = bare_machine(64)
    found.poke(1, 0, pattern("cow", 64))
    found.with_origin(f"{SNAP} N 8")
    assert found.status("snap") == "0 2048 snapshot 0/64 0"
    assert found.table("snap") == "0 2048 snapshot 7:0 254:0 N 8"
    assert found.put("org", 100, "B", 1) == 0
    assert found.status("snap") == "0 2048 snapshot 8/64 0"
    assert found.put("snap", 205, "D", 1) == 0
    assert found.raw(1, 0, 8) == pattern("A", 8, 96)
    assert found.raw(1, 8, 8) == pattern("A", 5, 200) + pattern("D", 1) + pattern("A", 2, 206)
    assert found.raw(1, 16, 48) == pattern("cow", 48, 16)
    assert found.load("snap", f"{SNAP} N 8") == 0
    assert found.resume("snap") == 0
    assert found.status("snap") == "0 2048 snapshot 16/64 0"
    assert found.first("snap", 205) == "D sector 00000000 ......"
    assert found.put("org", 512, "F", 48) == 0
    assert found.status("snap") == "0 2048 snapshot 64/64 0"
    assert found.kernel() == []
    assert found.put("org", 640, "F", 32) == 0
    assert found.kernel() == ["err: device-mapper: snapshots: Invalidating snapshot: Unable to allocate exception."]
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.device("snap").event_nr == 1


def test_before_there_was_an_overflow_store_the_second_letter_means_nothing() -> None:
    found = bare_machine(era="2.6.34")
    assert found.create("snap", f"{SNAP} PO 8") == 0
    assert found.table("snap") == "0 2048 snapshot 7:0 254:0 P 8"


@pytest.mark.parametrize(("after", "said"), [(0, "write_header failed"), (1, "zero_disk_area(0) failed")])
def test_a_new_store_that_cannot_be_written(after: int, said: str) -> None:
    found = bare_machine(256)
    found.disk(1).faults.append(DiskFault((Op.WRITE,), errno.EIO, after=after))
    assert found.create("snap", f"{SNAP} P 8") == -errno.EIO
    assert found.kernel()[0] == f"warning: device-mapper: persistent snapshot: {said}"


@pytest.mark.parametrize("after", [0, 1])
def test_a_store_that_cannot_be_read(after: int) -> None:
    """Its header, or its exceptions."""
    found = bare_machine(256)
    assert found.create("snap", f"{SNAP} P 8") == 0
    found.remove("snap")
    found.disk(1).faults.append(DiskFault((Op.READ,), errno.EIO, after=after))
    assert found.create("snap", f"{SNAP} P 8") == -errno.EIO
    assert "Failed to read snapshot metadata (-EIO)" in found.kernel()[0]


def test_a_chunk_has_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both devices."""
    found = bare_machine(256)
    store = PersistentStore(found.stack, found.disk(0), found.disk(1))
    monkeypatch.setattr(Disk, "logical_block_sectors", property(lambda disk: 8 if disk is found.disk(0) else 1))
    with pytest.raises(DmError) as refused:
        store.set_chunk_sectors(4)
    assert (refused.value.errno, refused.value.reason) == (
        errno.EINVAL, "Chunk size is not a multiple of device blocksize")
    store.set_chunk_sectors(8)
    store = PersistentStore(found.stack, found.disk(1), found.disk(0))
    with pytest.raises(DmError, match="blocksize"):
        store.set_chunk_sectors(4)
