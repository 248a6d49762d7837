"""The model of legal contents, line by line."""

from __future__ import annotations

import pytest

from dmspec.runtime.model import SECTOR, ZEROS, Clock, Volume

A, B, C = (bytes([letter]) * SECTOR for letter in b"ABC")


@pytest.fixture
def volume() -> Volume:
    return Volume(Clock(), "vol")


def written(volume: Volume, data: bytes, sector: int = 0, *, fua: bool = False) -> None:
    volume.acknowledged(volume.begin_write(sector * SECTOR, data, fua=fua))


def test_a_new_volume_holds_zeros(volume: Volume) -> None:
    assert volume.readable(7) == {ZEROS}
    assert volume.wrong(0, ZEROS + ZEROS) is None
    assert volume.wrong(0, ZEROS + A) == (1, A, {ZEROS})


def test_a_write_under_way_may_be_there_or_not(volume: Volume) -> None:
    write = volume.begin_write(0, A)
    assert volume.readable(0) == {ZEROS, A}
    volume.acknowledged(write)
    assert volume.readable(0) == {A}


def test_a_write_that_failed_may_be_there_until_it_is_overwritten(volume: Volume) -> None:
    volume.not_acknowledged(volume.begin_write(0, A))
    assert volume.readable(0) == {ZEROS, A}
    written(volume, B)
    assert volume.readable(0) == {B}


def test_of_two_writes_at_once_either_may_have_won(volume: Volume) -> None:
    one, two = volume.begin_write(0, A), volume.begin_write(0, B)
    volume.acknowledged(one)
    assert volume.readable(0) == {A, B}
    volume.acknowledged(two)
    assert volume.readable(0) == {A, B}
    written(volume, C)
    assert volume.readable(0) == {C}


def test_a_write_of_a_part_keeps_the_rest(volume: Volume) -> None:
    written(volume, A)
    volume.acknowledged(volume.begin_write(100, b"x" * 10))
    assert volume.readable(0) == {A[:100] + b"x" * 10 + A[110:]}


def test_a_part_may_be_laid_over_what_comes_while_it_waits(volume: Volume) -> None:
    part = volume.begin_write(0, b"x")
    written(volume, B)
    volume.acknowledged(part)
    assert {b"x" + B[1:], B} <= volume.readable(0)
    assert ZEROS not in volume.readable(0)


def test_a_discard_leaves_the_old_or_zeros(volume: Volume) -> None:
    written(volume, A)
    volume.not_acknowledged(volume.begin_discard(0, 1))
    assert volume.readable(0) == {A, ZEROS}


def test_a_power_cut_brings_back_what_was_not_flushed(volume: Volume) -> None:
    written(volume, A)
    volume.power_cut()
    assert volume.readable(0) == {ZEROS, A}


def test_a_flush_makes_durable_what_had_ended(volume: Volume) -> None:
    written(volume, A)
    flush = volume.begin_flush()
    written(volume, B)
    volume.flushed(flush)
    volume.power_cut()
    assert volume.readable(0) == {A, B}


def test_after_a_power_cut_a_flush_decides_nothing(volume: Volume) -> None:
    written(volume, A)
    volume.power_cut()
    volume.flushed(volume.begin_flush())
    assert volume.readable(0) == {ZEROS, A}


def test_fua_is_a_flush_of_its_own(volume: Volume) -> None:
    written(volume, A)
    written(volume, B, fua=True)
    volume.power_cut()
    assert volume.readable(0) == {B}


def test_a_lost_flush_is_not_believed(volume: Volume) -> None:
    volume.no_flush = True
    written(volume, A, fua=True)
    volume.flushed(volume.begin_flush())
    volume.power_cut()
    assert volume.readable(0) == {ZEROS, A}


def test_a_read_sees_what_there_was_at_any_moment_of_it(volume: Volume) -> None:
    read = volume.begin_read(0, SECTOR)
    written(volume, A)
    written(volume, B)
    assert volume.answered(read, 0, A) is None
    read = volume.begin_read(0, SECTOR)
    assert volume.answered(read, 0, A) == (0, A, {B})


def test_a_snapshot_keeps_what_its_origin_held(volume: Volume) -> None:
    written(volume, A)
    snapshot = volume.snapshot("snap")
    snapshot.now_taken()
    written(volume, B)
    assert (volume.readable(0), snapshot.readable(0)) == ({B}, {A})
    written(snapshot, C)
    assert (volume.readable(0), snapshot.readable(0)) == ({B}, {C})


def test_while_a_snapshot_is_being_taken_a_write_may_be_in_it(volume: Volume) -> None:
    snapshot = volume.snapshot("snap")
    written(volume, A)
    snapshot.now_taken()
    assert snapshot.readable(0) == {ZEROS, A}


def test_what_a_snapshot_shares_is_flushed_with_its_origin(volume: Volume) -> None:
    written(volume, A)
    snapshot = volume.snapshot("snap")
    snapshot.now_taken()
    volume.flushed(volume.begin_flush())
    snapshot.power_cut()
    assert snapshot.readable(0) == {A}


def test_a_flush_of_the_origin_does_not_harm_what_a_snapshot_keeps(volume: Volume) -> None:
    snapshot = volume.snapshot("snap")
    snapshot.now_taken()
    written(volume, A)
    volume.flushed(volume.begin_flush())
    snapshot.power_cut()
    assert snapshot.readable(0) == {ZEROS}


def test_what_nobody_can_say_is_not_judged(volume: Volume) -> None:
    volume.anything = True
    assert volume.wrong(0, A) is None
    assert volume.answered(volume.begin_read(0, SECTOR), 0, A) is None


def test_a_write_under_way_may_go_to_the_volume_that_its_device_shows_next(volume: Volume) -> None:
    other = Volume(volume.clock, "other")
    write = volume.begin_write(0, A)
    other.may_get(write)
    written(other, B)
    volume.acknowledged(write)
    assert other.readable(0) == {A, B}
    written(other, C)
    assert other.readable(0) == {C}
