"""Byte ranges at any alignment: what is asked for is written, all of it, and nothing else."""

import copy
import errno
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.bio import Op
from dmspec.runtime.block import Disk, DiskFault
from dmspec.runtime.byte_io import (
    MAX_BIO_SECTORS,
    Digest,
    DiscardBytes,
    FlushDevice,
    HashBytes,
    ReadBytes,
    WriteBytes,
    WriteRanges,
    sector_words,
    stream,
)
from dmspec.runtime.sim import SeededChooser, SimEngine
from dmspec.runtime.task import Frame, Task
from dmspec.runtime.trace import Recorder

SECTORS = 8192


class Machine:
    """One disk, and an engine to run frames on."""

    def __init__(self, seed: int | None = None) -> None:
        self.recorder = Recorder()
        self.engine = SimEngine(SeededChooser(seed) if seed is not None else None, self.recorder)
        self.disk = Disk(self.engine, "pv", 0, SECTORS, SparseMemory())

    def start(self, frame: Frame) -> Task:
        task = Task(self.engine, "test")
        task.start(frame)
        return task

    def do(self, frame: Frame) -> Any:
        task = self.start(frame)
        assert self.engine.run(100_000)
        assert task.ended
        return task.value

    def fail(self, kind: Op, sector: int) -> None:
        self.disk.faults.append(DiskFault((kind,), errno.EIO, first_sector=sector, last_sector=sector))

    def ios(self) -> list[str]:
        return [event.text for event in self.recorder.events]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 2000)), min_size=1, max_size=6))
def test_any_writes_read_back_as_from_a_bytearray(writes: list[tuple[int, int]]) -> None:
    machine, model = Machine(), bytearray(8192)
    for number, (offset, length) in enumerate(writes):
        data = stream(f"w{number}", offset, length)
        model[offset:offset + length] = data
        assert machine.do(WriteBytes(machine.disk, offset, data)) == 0
    assert machine.do(ReadBytes(machine.disk, 0, len(model))) == model
    offset, length = writes[0]
    assert machine.do(ReadBytes(machine.disk, offset, length)) == model[offset:offset + length]


def test_an_aligned_write_is_one_bio_and_reads_nothing() -> None:
    machine = Machine()
    machine.do(WriteBytes(machine.disk, 4096, bytes(4096)))
    assert machine.ios() == ["write pv 8+8"]


def test_an_unaligned_write_reads_its_two_edges_first() -> None:
    machine = Machine()
    machine.do(WriteBytes(machine.disk, 100, bytes(1024)))
    assert machine.ios() == ["read pv 0+1", "read pv 2+1", "write pv 0+3"]


def test_a_long_range_is_cut_into_bios() -> None:
    machine = Machine()
    data = stream("long", 0, (MAX_BIO_SECTORS + 8) * 512)
    assert machine.do(WriteBytes(machine.disk, 512, data)) == 0
    assert machine.ios() == [f"write pv 1+{MAX_BIO_SECTORS}", f"write pv {MAX_BIO_SECTORS + 1}+8"]
    assert machine.do(ReadBytes(machine.disk, 512, len(data))) == data


def test_fua_goes_down() -> None:
    machine = Machine()
    machine.do(WriteBytes(machine.disk, 0, bytes(512), fua=True))
    assert machine.ios() == ["write+fua pv 0+1"]


@pytest.mark.parametrize(("kind", "sector"), [(Op.WRITE, 1), (Op.READ, 0)])
def test_an_error_at_an_edge_is_the_writes_and_its_range_is_free_again(kind: Op, sector: int) -> None:
    machine, ranges = Machine(), WriteRanges()
    machine.fail(kind, sector)
    assert machine.do(WriteBytes(machine.disk, 100, bytes(600), ranges=ranges)) == -errno.EIO
    machine.disk.faults.clear()
    assert machine.do(WriteBytes(machine.disk, 100, bytes(600), ranges=ranges)) == 0


def test_reads_flushes_and_discards_fail_with_the_disk() -> None:
    machine = Machine()
    machine.disk.faults.append(DiskFault((Op.READ, Op.FLUSH, Op.DISCARD), errno.EIO))
    assert machine.do(ReadBytes(machine.disk, 3, 10)) == -errno.EIO
    assert machine.do(FlushDevice(machine.disk)) == -errno.EIO
    assert machine.do(DiscardBytes(machine.disk, 0, 4096)) == -errno.EIO
    assert machine.do(HashBytes(machine.disk, 0, 4096)) == -errno.EIO


def test_beyond_the_end_is_an_io_error() -> None:
    machine = Machine()
    assert machine.do(ReadBytes(machine.disk, SECTORS * 512 - 100, 200)) == -errno.EIO
    assert machine.do(WriteBytes(machine.disk, SECTORS * 512, bytes(512))) == -errno.EIO


def test_nothing_is_no_io() -> None:
    machine = Machine()
    assert machine.do(ReadBytes(machine.disk, 5, 0)) == b""
    assert machine.do(WriteBytes(machine.disk, 5, b"")) == 0
    assert machine.do(DiscardBytes(machine.disk, 1, 1000)) == 0  # no whole sector in it
    assert machine.ios() == []


def test_a_discard_takes_only_whole_sectors() -> None:
    machine = Machine()
    data = stream("d", 0, 2048)
    machine.do(WriteBytes(machine.disk, 0, data))
    machine.do(DiscardBytes(machine.disk, 100, 1500))
    assert machine.do(ReadBytes(machine.disk, 0, 2048)) == data[:512] + bytes(1024) + data[1536:]


def two_in_one_sector(seed: int, ranges: WriteRanges | None) -> bool:
    """Two writes to the halves of a sector, at once; whether both have arrived."""
    machine = Machine(seed)
    machine.start(WriteBytes(machine.disk, 0, b"x" * 256, ranges=ranges))
    machine.start(WriteBytes(machine.disk, 256, b"y" * 256, ranges=ranges))
    assert machine.engine.run(1000)
    return machine.do(ReadBytes(machine.disk, 0, 512)) == b"x" * 256 + b"y" * 256  # type: ignore[no-any-return]


def test_two_writes_to_one_sector_both_arrive() -> None:
    assert all(two_in_one_sector(seed, WriteRanges()) for seed in range(50))
    assert not all(two_in_one_sector(seed, None) for seed in range(50)), "this test would find nothing"


def test_an_aligned_write_waits_for_one_that_merges_into_its_sectors() -> None:
    def arrived(seed: int, ranges: WriteRanges | None) -> bool:
        machine = Machine(seed)
        machine.start(WriteBytes(machine.disk, 0, b"x" * 100, ranges=ranges))
        machine.start(WriteBytes(machine.disk, 0, b"y" * 1024, ranges=ranges))
        assert machine.engine.run(1000)
        found: bytes = machine.do(ReadBytes(machine.disk, 100, 924))
        return found == b"y" * 924

    assert all(arrived(seed, WriteRanges()) for seed in range(50))
    assert not all(arrived(seed, None) for seed in range(50))


def test_writes_that_share_no_edge_do_not_wait() -> None:
    machine, ranges = Machine(), WriteRanges()
    for offset in (0, 512, 512):
        machine.start(WriteBytes(machine.disk, offset, bytes(512), ranges=ranges))
    assert machine.engine.run(1000)
    assert len(machine.ios()) == 3
    assert ranges.latches == {}


def test_a_hash_is_that_of_the_bytes_and_can_be_copied_in_the_middle() -> None:
    machine = Machine()
    data = stream("h", 0, 3 * 1024 * 1024)
    machine.do(WriteBytes(machine.disk, 0, data))
    assert machine.do(HashBytes(machine.disk, 100, 2_500_000)) == hashlib.sha256(data[100:2_500_100]).hexdigest()
    digest = Digest()
    digest.hash.update(b"one")
    copied = copy.deepcopy(digest)
    digest.hash.update(b"two")
    assert copied.hash.hexdigest() == hashlib.sha256(b"one").hexdigest()


def test_the_text_is_that_of_the_recorded_cases() -> None:
    text = stream("A", 0, 1024)
    assert text[:512] == (b"A sector 00000000 " + b"." * 511)[:511] + b"\n"
    assert text[512:].startswith(b"A sector 00000001 ..")
    assert stream("A", 700, 100) == text[700:800]
    assert sector_words(text) == "'A sector 00000000'"
    assert sector_words(bytes(512)) == "zeros"
    assert sector_words(b"\xff" * 512).startswith("0xff")
