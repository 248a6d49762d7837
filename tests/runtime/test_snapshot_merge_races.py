"""What the recorded cases of a merge do not show: both devices, many areas, races, and a cut at any step."""

import copy
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.sim import SeededChooser

from .snapshot_machine import DISK_SECTORS, Machine, pattern
from .test_snapshot_merge import DIGEST, MERGE, MS, Merging, Volatile, fresh

# What the cases do not show


def test_a_flush_goes_to_both_devices_and_a_discard_nowhere() -> None:
    found = Merging()
    found.fresh(512)
    table = "0 2048 snapshot-merge /dev/loop0 /dev/mapper/cow P 8 1 discard_zeroes_cow"
    assert found.create("org", table) == 0
    found.notes.lines.clear()
    assert found.io([Bio(Op.FLUSH, found.named("org"), 0, 0)]) == [0]
    assert [line for line in found.notes.lines if "flush" in line] == ["loop0: flush loop0", "loop1: flush loop1"]
    assert found.io([Bio(Op.DISCARD, found.named("org"), 0, 64)]) == [0]
    assert found.sum("org", 0, 2048) == found.sum("loop0", 0, 2048)
    assert not any("discard" in line for line in found.notes.lines)


def two_areas() -> Merging:
    """266 exceptions: 256 fill the first area."""
    found = Merging()
    for number in (0, 1):
        found.disk(number).sectors = 8192
    assert found.create("cow", "0 8192 linear loop1 0") == 0
    assert found.create("snap", "0 4096 snapshot loop0 cow P 8") == 0
    for sector in (*range(0, 4096, 16), *range(8, 168, 16)):
        assert found.put("snap", sector, "S", 8) == 0
    assert found.status("snap").split()[3:] == ["2152/8192", "24"]
    control.create(found.stack, "org")
    return found


TWO = "0 4096 snapshot-merge loop0 cow P 8"


def test_areas_that_are_used_up_are_read_back() -> None:
    """What is allocated shrinks with every range, the metadata with every area."""
    found = two_areas()
    before = found.sum("snap", 0, 4096)
    assert found.suspend("snap") == 0
    assert found.swap("org", TWO) == 0
    seen = [words.split() for words in found.statuses_of_merge()]
    assert [" ".join(words[3:]) for words in seen if words[4] == "24"][-1] == "2072/8192 24"
    assert seen[-1][3:] == ["16/8192", "16"]
    assert (found.sum("org", 0, 4096), found.sum("loop0", 0, 4096)) == (before, before)


def test_an_area_that_cannot_be_read_back_fails_the_merge_which_can_be_taken_up_again() -> None:
    found = two_areas()
    before = found.sum("snap", 0, 4096)
    assert found.remove("snap") == 0
    assert found.load("org", TWO) == 0
    found.disk(1).faults.append(DiskFault((Op.READ,), errno.EIO, first_sector=8, last_sector=15))
    assert found.resume("org") == 0
    found.engine.run()
    assert found.kernel() == ["err: device-mapper: snapshots: Read error in exception store: shutting down merge"]
    assert found.status("org") == "0 4096 snapshot-merge Merge failed"
    found.disk(1).faults.clear()
    assert (found.suspend("org"), found.resume("org")) == (0, 0)
    assert (found.sum("org", 0, 4096), found.sum("loop0", 0, 4096)) == (before, before)


def test_a_snapshot_that_is_resumed_stops_the_merge_meanwhile() -> None:
    """The merge goes on before the snapshot is active: the next range is not kept for it, the later ones are."""
    for seed in range(40):
        found = fresh(removed=False)
        assert found.put("snap", 800, "S", 16) == 0
        assert found.remove("snap") == 0
        found.engine.chooser = SeededChooser(seed)
        found.slow(1000)
        assert found.create("cow2", "0 512 linear /dev/loop2 0") == 0
        assert found.swap("org", MERGE) == 0
        control.create(found.stack, "snap2")
        assert found.swap("snap2", "0 2048 snapshot loop0 cow2 P 8") == 0
        assert not found.merge().shutting_down
        assert found.status("org") == "0 2048 snapshot-merge 184/512 16"
        frozen = found.raw(0, 0, 2048)
        assert frozen[800 * 512:816 * 512] == pattern("S", 16)
        found.engine.run()
        assert found.status("org") == "0 2048 snapshot-merge 16/512 16"
        assert found.status("snap2") == "0 2048 snapshot 104/512 16"
        kept = found.read("snap2", 0, 2048)
        assert kept is not None
        assert (kept[:1000 * 512], kept[1080 * 512:]) == (frozen[:1000 * 512], frozen[1080 * 512:])
        assert kept[1000 * 512:1080 * 512] == pattern("A", 80, 1000)


def test_removing_it_in_the_middle_leaves_what_can_be_merged_later() -> None:
    found = fresh()
    found.slow(1000)
    assert found.swap("org", MERGE) == 0
    assert found.end_of(control.Remove(found.device("org"))) == 0
    found.engine.run()
    assert found.stack.shared["snapshot"].by_origin == []
    assert found.create("snap", "0 2048 snapshot loop0 cow P 8") == 0
    assert found.status("snap") == "0 2048 snapshot 104/512 16"
    assert found.sum("snap", 0, 2048) == DIGEST


def test_the_merge_waits_for_writes_that_are_under_way_and_they_are_in_it() -> None:
    found = fresh()
    assert found.load("org", MERGE) == 0
    found.disk(1).faults.append(DiskFault((Op.READ,), delay_ns=50 * MS, first_sector=104, last_sector=184))
    assert found.end_of(control.DoResume(found.device("org"))) == 0
    found.disk(1).faults.append(DiskFault((Op.WRITE,), delay_ns=100 * MS, first_sector=16, last_sector=104))
    writer = found.begin(WaitForBios([found.writing("org", 128, pattern("W", 8))], "a write"))
    found.until(lambda: found.status("org").endswith("104/512 16"))
    assert found.merge().reads == {16: 1}
    waiting = found.merge().copier.work.waiting
    assert waiting is not None
    assert waiting.why == "for writes to chunks 12 to 22 of org, to merge them"
    late = found.begin(WaitForBios([found.writing("org", 136, pattern("X", 8))], "a write that waits for the merge"))
    found.engine.run()
    assert (writer.value, late.value) == ([0], [0])
    assert found.raw(0, 128, 16) == pattern("W", 8) + pattern("X", 8)


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_made_at_any_step_goes_on_as_the_original_does(seed: int) -> None:
    found = fresh(seed)
    assert found.create("cow2", "0 512 linear /dev/loop2 0") == 0
    assert found.create("snap2", "0 2048 snapshot /dev/loop0 /dev/mapper/cow2 P 8") == 0
    assert found.load("org", MERGE) == 0
    found.begin(control.DoResume(found.device("org")))
    found.begin(WaitForBios([found.writing("org", 104, pattern("W", 8))], "a write"), "writer")
    copies = []
    while True:
        if found.engine.steps % 11 == 0:
            copies.append(copy.deepcopy(found))
        if not found.engine.step():
            break
    for one in copies:
        one.engine.run()
        assert one.notes.lines == found.notes.lines
        assert one.engine.schedule == found.engine.schedule
        assert one.raw(0, 0, 2048) == found.raw(0, 0, 2048)
    assert len(copies) > 5


# Any exceptions, any I/O, any schedule, and a cut at any step


CHUNKS = st.lists(st.tuples(st.sampled_from(["snap", "org"]), st.integers(0, 27), st.integers(1, 6)), max_size=10)
DURING = st.lists(st.tuples(st.booleans(), st.integers(0, 255), st.integers(1, 20)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(before=CHUNKS, during=DURING, seed=st.integers(0, 1000), cut=st.integers(0, 400))
def test_what_it_shows_never_changes_and_a_cut_loses_nothing(
        before: list[tuple[str, int, int]], during: list[tuple[bool, int, int]], seed: int, cut: int) -> None:
    found = Merging()
    for disk in found.stack.disks.values():
        disk.backing = Volatile()
    found.fresh(512)
    found.with_origin("0 2048 snapshot /dev/loop0 /dev/mapper/cow P 8")
    assert found.create("cow2", "0 1024 linear /dev/loop2 0") == 0
    assert found.create("snap2", "0 2048 snapshot /dev/loop0 /dev/mapper/cow2 P 16") == 0
    for name, chunk, count in before:
        assert found.write(name, chunk * 8, pattern(name, count * 8, chunk)) == 0
    wanted = bytearray(found.read("snap", 0, 2048) or b"")
    frozen = found.read("snap2", 0, 2048)
    assert found.suspend("snap") == 0
    assert found.load("org", MERGE) == 0
    assert found.suspend("org") == 0
    for disk in found.stack.disks.values():
        disk.backing.flush()
    found.engine.chooser = SeededChooser(seed)
    found.begin(control.DoResume(found.device("org")))
    uncertain = bytearray(DISK_SECTORS)
    start = found.engine.steps
    for writing, sector, count in during:
        for _ in range(7):
            found.engine.step()
        if found.engine.steps - start > cut:
            break
        if writing:
            data = pattern("W", count, sector)
            wanted[sector * 512:sector * 512 + len(data)] = data
            uncertain[sector:sector + count] = b"\1" * count
            assert found.end_of(WaitForBios([found.writing("org", sector, data)], "a write")) == [0]
        else:
            bio = found.reading("org", sector, count)
            assert found.end_of(WaitForBios([bio], "a read")) == [0]
            assert bytes(bio.buf) == bytes(wanted[sector * 512:(sector + count) * 512])
    while found.engine.steps - start < cut and found.engine.step():
        pass
    _check_after_cut(found, bytes(wanted), uncertain, frozen, seed)
    found.engine.run()
    assert found.read("org", 0, 2048) == bytes(wanted)
    assert found.raw(0, 0, 2048) == bytes(wanted)
    assert found.read("snap2", 0, 2048) == frozen
    assert found.status("org") == "0 2048 snapshot-merge 16/512 16"


def _check_after_cut(found: Machine, wanted: bytes, uncertain: bytearray, frozen: bytes | None, seed: int) -> None:
    """Another machine with what is left of the disks merges the rest; what was flushed is as it should be.

    Writes during the merge were not flushed, so there each sector may be the old or the new one.
    """
    after = Merging(seed)
    for name, disk in found.stack.disks.items():
        backing = disk.backing
        assert isinstance(backing, Volatile)
        after.stack.disks[name].backing = backing.after_cut(seed + len(name))
    assert after.create("cow", "0 512 linear /dev/loop1 0") == 0
    assert after.create("cow2", "0 1024 linear /dev/loop2 0") == 0
    assert after.create("snap2", "0 2048 snapshot /dev/loop0 /dev/mapper/cow2 P 16") == 0
    assert after.create("org", MERGE) == 0
    after.engine.run()
    assert after.status("org") == "0 2048 snapshot-merge 16/512 16"
    shown = after.read("org", 0, 2048)
    assert shown is not None
    for sector in range(DISK_SECTORS):
        if not uncertain[sector]:
            assert shown[sector * 512:sector * 512 + 512] == wanted[sector * 512:sector * 512 + 512], sector
    assert after.read("snap2", 0, 2048) == frozen

