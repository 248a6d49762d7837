"""The log of a mirror on disk: what a resume takes from it, and what it writes back (reference: mirror.md)."""

from __future__ import annotations

import struct

import pytest
from tests.runtime.snapshot_machine import Machine, pattern

from dmspec.runtime.dirty_log import MAGIC, Bits
from dmspec.runtime.frames import WaitForBios

LEG_SECTORS = 40
REGIONS = 5  # of 8 sectors
OLD, NEW = pattern("old", LEG_SECTORS), pattern("new", LEG_SECTORS)


def machine(header: tuple[int, int, int], bits: int, word: str) -> Machine:
    """Two legs that differ, and a log that says what it says, in use for as long as it takes."""
    made = Machine()
    made.poke(0, 0, NEW)
    made.poke(1, 0, OLD)
    made.poke(2, 0, struct.pack("<IIQ", *header).ljust(1024, b"\0") + struct.pack("<Q", bits))
    words = f"3 /dev/loop2 8 {word}" if word else "2 /dev/loop2 8"
    table = f"0 {LEG_SECTORS} mirror disk {words} 2 /dev/loop0 0 /dev/loop1 0"
    assert made.create("vol", table) == 0
    made.engine.run(made.engine.steps + 100_000)
    return made


def copied(made: Machine) -> list[int]:
    """The regions that were copied to the second leg."""
    leg = made.raw(1, 0, LEG_SECTORS)
    return [region for region in range(REGIONS) if leg[region * 4096:region * 4096 + 4096]
            == NEW[region * 4096:region * 4096 + 4096]]


def on_disk(made: Machine) -> tuple[int, int, int, int]:
    raw = made.raw(2, 0, 3)
    return *struct.unpack_from("<IIQ", raw), struct.unpack_from("<Q", raw, 1024)[0]


@pytest.mark.parametrize(("header", "bits", "word", "regions"), [
    ((MAGIC, 2, 5), 0b11111, "", []),
    ((MAGIC, 2, 5), 0b10110, "", [0, 3]),
    ((MAGIC, 1, 5), 0b11011, "", [2]),
    ((MAGIC, 2, 3), 0b11111, "", [3, 4]),
    ((MAGIC, 2, 64), (1 << 64) - 1, "", []),
    ((MAGIC, 2, 5), 0b11111, "sync", [0, 1, 2, 3, 4]),
    ((MAGIC, 2, 5), 0, "nosync", []),
    ((MAGIC + 1, 2, 5), 0b11111, "", [0, 1, 2, 3, 4]),
    ((0, 0, 0), 0, "", [0, 1, 2, 3, 4]),
])
def test_what_is_copied_and_what_the_log_says_then(
        header: tuple[int, int, int], bits: int, word: str, regions: list[int]) -> None:
    """Of a log that knew fewer regions the new ones are not in sync; bits behind the last region are cleared."""
    made = machine(header, bits, word)
    assert copied(made) == regions
    assert on_disk(made) == (MAGIC, 2, REGIONS, 0b11111)
    assert made.status("vol") == "0 40 mirror 2 7:0 7:1 5/5 1 AA 3 disk 7:2 A"
    assert made.kernel() == []


def test_a_log_of_another_version_is_not_believed() -> None:
    made = machine((MAGIC, 3, 5), 0b11111, "")
    assert copied(made) == [0, 1, 2, 3, 4]
    assert made.status("vol").endswith("3 disk 7:2 D")
    assert made.kernel() == [
        "warning: device-mapper: dirty region log: incompatible disk log version",
        "warning: device-mapper: dirty region log: 7:2: Failed to read header on dirty region log device"]


@pytest.mark.parametrize(("sectors", "regions", "fits"), [
    (3, 5, True), (2, 5, False), (3, 4096, True), (3, 4097, False)])
def test_how_large_a_log_device_has_to_be(sectors: int, regions: int, fits: bool) -> None:
    """The header takes two sectors; the bits are whole 64-bit words."""
    made = Machine()
    assert made.create("log", f"0 {sectors} linear /dev/loop2 0") == 0
    made.stack.add_disk("large", 2 * regions, made.disk(0).backing)
    table = f"0 {2 * regions} mirror disk 3 /dev/mapper/log 2 nosync 2 /dev/large 0 /dev/large 0"
    assert (made.create("vol", table) == 0) is fits
    needed = 1536 if regions <= 4096 else 2048
    assert fits or f"log device 254:0 too small: need {needed} bytes" in made.kernel()[0]


def test_a_region_is_clean_on_disk_only_when_its_writes_are_on_the_legs() -> None:
    made = machine((MAGIC, 2, 5), 0b11111, "")
    made.begin(WaitForBios([made.writing("vol", 8, NEW[:512])], "the test's own write"))
    while made.raw(1, 8, 1) == OLD[8 * 512:9 * 512]:
        made.engine.step()
    assert on_disk(made)[3] == 0b11101
    assert made.suspend("vol") == 0
    assert on_disk(made)[3] == 0b11111


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65, 130])
def test_the_next_zero(count: int) -> None:
    for zero in range(count):
        bits = Bits(count)
        bits.fill(True)
        bits.clear(zero)
        assert [bits.next_zero(first) for first in range(count + 1)] \
            == [zero if first <= zero else count for first in range(count + 1)]


def test_bits_inside_of_a_buffer_leave_the_rest_alone() -> None:
    buffer = bytearray(b"x" * 24)
    bits = Bits(9, buffer, 8)
    bits.fill(False)
    bits.set(8)
    assert bytes(buffer) == b"x" * 8 + b"\0\1" + b"\0" * 6 + b"x" * 8
    assert (bits.test(8), bits.test(0), bits.weight(), bits.raw()) == (True, False, 1, b"\0\1" + b"\0" * 6)
    bits.load(b"\3" + b"\0" * 7)
    assert bytes(buffer) == b"x" * 8 + b"\3" + b"\0" * 7 + b"x" * 8
