"""What may go the quick way: each target's own answer, which must be the place that the ordinary way ends at."""

from __future__ import annotations

import errno

import pytest
from tests.runtime.snapshot_machine import Machine, machine, pattern

from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.region_hash import State
from dmspec.runtime.targets.mirror import Mirror
from dmspec.runtime.targets.mirror_work import LegError
from dmspec.runtime.targets.snapshot import Snapshot

DATA = pattern("D", 8)


def places(found: Machine, name: str, op: Op, sector: int, sectors: int = 1) -> list[tuple[str, int]] | None:
    """The answer to an I/O that begins at this sector of the device; it ends well at once."""
    bio = Bio(op, found.device(name), sector, sectors, bytearray(512 * sectors))
    bio.first_sector = sector
    target = found.target(name)
    answer = target.straight(bio)
    if answer is None:
        return None
    if target.has_end_io:
        assert target.end_io(bio, 0) == 0
    return [(device.name, at) for device, at in answer]


def mirrored(log: str = "core 2 8 nosync", legs: str = "/dev/loop0 4 /dev/loop1 12") -> tuple[Machine, Mirror]:
    """A mirror behind a linear segment of 8 sectors."""
    found = Machine()
    tail = f"0 16 mirror {log} 2 {legs} 1 handle_errors"
    assert found.create("vol", tail) == 0
    target = found.target("vol")
    assert isinstance(target, Mirror)
    return found, target


def test_a_mirror_in_sync() -> None:
    found, target = mirrored()
    assert places(found, "vol", Op.READ, 3) == [("loop0", 7)]
    assert places(found, "vol", Op.WRITE, 9) == [("loop0", 13), ("loop1", 21)]
    assert target.regions.state(1) is State.CLEAN
    target.default = 1
    assert places(found, "vol", Op.READ, 3) == [("loop1", 15)]


def test_a_segment_that_does_not_begin_the_table() -> None:
    found = Machine()
    assert found.create("vol", "0 8 linear /dev/loop2 0",
                        "8 16 mirror core 2 8 nosync 2 /dev/loop0 4 /dev/loop1 12") == 0
    target = found.device("vol").live.targets[1]  # type: ignore[union-attr]
    for op, expected in ((Op.READ, [5]), (Op.WRITE, [5, 13])):
        bio = Bio(op, found.device("vol"), 9, 1, bytearray(512))
        bio.first_sector = 9
        answer = target.straight(bio)
        assert answer is not None
        assert [at for _device, at in answer] == expected


def test_a_write_counts_until_it_ends() -> None:
    found, target = mirrored()
    bios = [Bio(Op.WRITE, found.device("vol"), at, 1, bytearray(512)) for at in (8, 9)]
    for bio in bios:
        bio.first_sector = bio.sector
        assert target.straight(bio) is not None
    assert (target.regions.state(1), target.regions.regions[1].pending) == (State.DIRTY, 2)
    for bio in bios:
        target.end_io(bio, 0)
    assert target.regions.state(1) is State.CLEAN


@pytest.mark.parametrize(("what", "reads", "writes"), [
    ("suspending", True, False), ("log_failure", True, False), ("leg", False, False), ("region", False, False)])
def test_what_keeps_a_mirror_on_the_ordinary_way(what: str, reads: bool, writes: bool) -> None:
    found, target = mirrored()
    if what == "leg":
        target.fail_leg(target.legs[1], LegError.READ)
    elif what == "region":
        target.log.set_region_sync(0, False)
    else:
        setattr(target, what, True)
    assert (places(found, "vol", Op.READ, 0) is not None) is reads
    assert (places(found, "vol", Op.WRITE, 0) is not None) is writes
    assert target.regions.state(0) is (State.NOSYNC if what == "region" else State.CLEAN)


def test_with_a_disk_log_only_what_is_marked_there_goes_straight() -> None:
    found, target = mirrored("disk 3 /dev/loop2 8 nosync")
    assert places(found, "vol", Op.WRITE, 0) is None
    target.log.mark_region(0)
    assert places(found, "vol", Op.WRITE, 1) is None
    flush = target.log.flush()
    assert flush is not None
    assert found.call(flush) == 0
    assert places(found, "vol", Op.WRITE, 1) == [("loop0", 5), ("loop1", 13)]
    assert places(found, "vol", Op.WRITE, 8) is None


def test_a_snapshot_and_its_origin() -> None:
    found = machine()
    org, snap = "org", "snap"
    assert places(found, snap, Op.READ, 9) == [("loop0", 9)]
    assert places(found, snap, Op.WRITE, 9) is None
    assert places(found, org, Op.READ, 9) == [("loop0", 9)]
    assert places(found, org, Op.WRITE, 9) is None
    assert found.write(org, 9, DATA[:512]) == 0
    assert places(found, org, Op.WRITE, 10) == [("loop0", 10)]
    assert places(found, snap, Op.READ, 9) == [("cow", 17)]
    assert places(found, snap, Op.WRITE, 9) == [("cow", 17)]
    assert places(found, snap, Op.WRITE, 16) is None


def test_chunks_that_lie_in_a_row_in_the_store_go_at_once() -> None:
    found = machine()
    target = found.target("snap")
    assert isinstance(target, Snapshot)
    size = target.chunk_sectors
    for chunk in (1, 2, 4, 3):
        assert found.write("snap", chunk * size, DATA[:512]) == 0
    assert target.straight_sectors(0, 100) == 0
    assert target.straight_sectors(size + 3, 100) == 2 * size - 3
    assert target.straight_sectors(size + 3, 5) == 5
    assert target.straight_sectors(3 * size, 100) == size


@pytest.mark.parametrize(("what", "snap", "origin"), [
    ("invalid", (False, False), True), ("invalidating", (False, False), False), ("overflowed", (True, False), True),
    ("busy", (True, False), False)])
def test_what_keeps_a_snapshot_on_the_ordinary_way(what: str, snap: tuple[bool, bool], origin: bool) -> None:
    found = machine()
    assert found.write("org", 0, DATA[:512]) == 0
    snapshot = found.snapshot("snap")
    if what == "invalid":
        snapshot.valid = False
    elif what == "invalidating":
        snapshot.invalidate(errno.EIO)
    elif what == "overflowed":
        snapshot.overflowed = True
    else:
        snapshot.copies = snapshot.threshold + 1
    assert tuple(places(found, "snap", op, 0) is not None for op in (Op.READ, Op.WRITE)) == snap
    assert (places(found, "org", Op.WRITE, 0) is not None) is origin
