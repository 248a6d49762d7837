import errno
from collections.abc import Callable

import pytest

from dmspec.runtime import control
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SeededChooser
from dmspec.runtime.targets.snapshot_merge import SnapshotMerge
from dmspec.runtime.task import Frame

from .snapshot_machine import Machine, dump, pattern

MERGE = "0 2048 snapshot-merge /dev/loop0 /dev/mapper/cow P 8"
DIGEST = "d6e16ade5237a12983d3dc0a6f7e3d62bb7b08b5c3640190d9440bcc05e69f07"
MS = 1_000_000


class Volatile:
    """A disk whose cache forgets: until a flush, each write may or may not have reached it."""

    def __init__(self, durable: SparseMemory | None = None) -> None:
        self.durable = durable or SparseMemory()
        self.seen = SparseMemory(dict(self.durable.pages))
        self.pending: list[tuple[int, bytes]] = []

    def read(self, offset: int, buffer: memoryview) -> None:
        self.seen.read(offset, buffer)

    def write(self, offset: int, buffer: memoryview) -> None:
        self.seen.write(offset, buffer)
        self.pending.append((offset, bytes(buffer)))

    def discard(self, offset: int, length: int) -> None:
        self.write(offset, memoryview(bytes(length)))

    def flush(self) -> None:
        self.durable = SparseMemory(dict(self.seen.pages))
        self.pending.clear()

    def harden(self, offset: int, length: int) -> None:
        self.flush()

    def close(self) -> None:
        self.pending.clear()

    def after_cut(self, seed: int) -> SparseMemory:
        """What is left when the power fails: of each write that was not flushed some sectors, or none."""
        left = SparseMemory(dict(self.durable.pages))
        draw = SeededChooser(seed, 100)
        for offset, data in self.pending:
            for first in range(0, len(data), 4096):
                if draw.choose(2):
                    left.write(offset + first, memoryview(data[first:first + 4096]))
        return left


class Merging(Machine):
    """The machine of d2-merge: it has every target, and a delay makes a COW device slow."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(SeededChooser(seed) if seed is not None else None, disks=3)
        self.stack.target_types = dict(TARGETS)

    def merge(self, name: str = "org") -> SnapshotMerge:
        target = self.target(name)
        assert isinstance(target, SnapshotMerge)
        return target

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            assert self.engine.step(), "at rest too early"

    def end_of(self, frame: Frame) -> object:
        """Run a call to its end and no further."""
        task = self.begin(frame)
        self.until(lambda: task.ended)
        return task.value

    def swap(self, name: str, table: str) -> object:
        """``dmsetup load NAME --table TABLE; dmsetup resume NAME``."""
        device = self.device(name)
        error = self.end_of(control.Load(device, control.resolve_lines(self.stack, [table], device)))
        return error or self.end_of(control.DoResume(device))

    def slow(self, ms: int) -> None:
        assert self.swap("cow", f"0 512 delay /dev/loop1 0 {ms} /dev/loop1 0 0") == 0

    def statuses_of_merge(self, name: str = "org") -> list[str]:
        """Its status lines as they change, until all is at rest."""
        found = [self.status(name)]
        while self.engine.step():
            if self.status(name) != found[-1]:
                found.append(self.status(name))
        return [line.removeprefix("0 2048 snapshot-merge ") for line in found]


def fresh(seed: int | None = None, *, removed: bool = True) -> Merging:
    """``fresh`` of d2-merge: twenty-one exceptions."""
    found = Merging()
    found.fresh(512)
    found.with_origin("0 2048 snapshot /dev/loop0 /dev/mapper/cow P 8")
    assert found.put("snap", 100, "S", 80) == 0
    assert found.put("org", 1000, "O", 80) == 0
    assert found.status("snap") == "0 2048 snapshot 184/512 16"
    if removed:
        assert found.remove("snap") == 0
    if seed is not None:
        found.engine.chooser = SeededChooser(seed)
    return found


# Tables (the recording f2-invalid-tables, and d2-merge)


@pytest.mark.parametrize(("params", "reason"), [
    ("", "requires 4 or more arguments"),
    ("loop0 loop1 X 8", "Couldn't create exception store"),
    ("loop0 loop1 P 7", "Couldn't create exception store"),
])
def test_tables_that_are_refused(params: str, reason: str) -> None:
    found = Merging()
    assert found.create("d", f"0 1024 snapshot-merge {params}") == -errno.EINVAL
    assert found.kernel() == [f"err: device-mapper: table: 254:0: snapshot-merge: {reason} (-EINVAL)",
                              "err: device-mapper: ioctl: error adding target to table"]


def test_only_one_takes_exceptions_over_to_merge_them() -> None:
    found = fresh(removed=False)
    assert found.create("cow2", "0 512 linear loop2 0") == 0
    assert found.create("snap2", "0 2048 snapshot loop0 cow2 P 8") == 0
    assert found.load("org", MERGE) == 0
    control.create(found.stack, "other")
    assert found.load("other", "0 2048 snapshot-merge loop0 cow2 P 8") == -errno.EINVAL
    assert found.kernel()[0].endswith("snapshot-merge: A snapshot is already merging. (-EINVAL)")
    assert found.load("other", MERGE) == -errno.EINVAL
    assert found.kernel()[0].endswith("Snapshot cow pairing for exception table handover failed (-EINVAL)")


def test_a_transient_snapshot_cannot_merge() -> None:
    """Case 6 of d2-merge accepts the table; its resume crashes that kernel (d3-merge-transient), here it is refused."""
    found = fresh()
    table = "0 2048 snapshot-merge /dev/loop0 /dev/mapper/cow N 8"
    assert found.load("org", table) == 0
    assert found.status("org", inactive=True) == "0 2048 snapshot-merge 0/512 0"
    assert found.table("org", inactive=True) == "0 2048 snapshot-merge 7:0 254:0 N 8"
    assert found.call(control.Clear(found.device("org"))) == 0
    assert found.load("org", table) == 0
    assert found.resume("org") == -errno.EINVAL
    unable = "err: device-mapper: snapshots: Snapshot exception store does not support snapshot-merge."
    assert unable in found.kernel()
    assert found.device("org").suspended
    assert found.create("snap", "0 2048 snapshot loop0 cow N 8") == -errno.EINVAL
    assert found.load("org", "0 2048 snapshot-origin loop0") == 0
    assert found.resume("org") == 0
    assert found.create("snap", "0 2048 snapshot loop0 cow N 8") == 0
    found.kernel()
    assert found.load("org", table) == -errno.EINVAL
    assert "Snapshot exception store does not support snapshot-merge. (-EINVAL)" in found.kernel()[0]


def test_before_2_6_33_there_was_none() -> None:
    found = Machine(era="2.6.32")
    found.stack.target_types = TARGETS
    assert found.create("d", "0 1024 snapshot-merge loop0 loop1 P 8") == -errno.EINVAL
    assert found.kernel()[0] == "err: device-mapper: table: 254:0: snapshot-merge: unknown target type"


# The cases of d2-merge


def test_1_the_snapshot_is_taken_over_and_merged() -> None:
    found = fresh(removed=False)
    assert found.sum("snap", 0, 2048) == DIGEST
    assert found.sum("org", 0, 2048) == "e01c7cfc6aca2beddf1d17dbc301ef316cac0dc085408bcc0c5afb08d3ff2934"
    entries = dump(found.raw(1, 8, 2)).splitlines()
    assert entries[10:12] == ["000000a0  16 00 00 00 00 00 00 00  0c 00 00 00 00 00 00 00  |................|",
                              "000000b0  7d 00 00 00 00 00 00 00  0d 00 00 00 00 00 00 00  |}...............|"]
    assert (found.suspend("org"), found.suspend("snap")) == (0, 0)
    found.slow(400)
    assert found.load("org", MERGE) == 0
    assert found.status("org", inactive=True) == "0 2048 snapshot-merge 0/512 0"
    assert found.table("org", inactive=True) == "0 2048 snapshot-merge 7:0 254:0 P 0"
    assert found.end_of(control.DoResume(found.device("org"))) == 0
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.end_of(control.Remove(found.device("snap"))) == 0
    assert found.table("org") == "0 2048 snapshot-merge 7:0 254:0 P 8"
    assert found.statuses_of_merge() == ["184/512 16", "104/512 16", "16/512 16"]
    assert found.events() == "cow:0\norg:0"
    assert found.hd("loop1", 8, 2).splitlines() == \
        ["00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|", "*", "00000400"]
    assert found.raw(1, 0, 1)[:16].hex(" ") == "53 6e 41 70 01 00 00 00 01 00 00 00 08 00 00 00"
    assert (found.sum("org", 0, 2048), found.sum("loop0", 0, 2048)) == (DIGEST, DIGEST)
    assert found.swap("org", "0 2048 snapshot-origin /dev/loop0") == 0
    assert found.table("org") == "0 2048 snapshot-origin 7:0"
    assert found.kernel() == []


def test_1b_scattered_exceptions_one_chunk_at_a_time_the_last_first() -> None:
    found = Merging()
    found.fresh(512)
    assert found.create("snap", "0 2048 snapshot /dev/loop0 /dev/mapper/cow P 8") == 0
    for sector in (0, 80, 160, 240, 248, 320):
        assert found.put("snap", sector, "S", 8) == 0
    assert found.status("snap") == "0 2048 snapshot 64/512 16"
    assert found.remove("snap") == 0
    found.slow(1500)
    control.create(found.stack, "org")
    assert found.swap("org", MERGE) == 0
    seen = [(found.status("org").split()[3], found.raw(1, 8, 1))]
    while found.engine.step():
        now = found.status("org").split()[3], found.raw(1, 8, 1)
        if now != seen[-1]:
            seen.append(now)
    entries = [(0, 2), (10, 3), (20, 4), (30, 5), (31, 6), (40, 7)]
    areas = [b"".join(old.to_bytes(8, "little") + new.to_bytes(8, "little") for old, new in entries[:count])
             for count in (6, 5, 3, 2, 1, 0)]
    assert [usage for usage, _area in seen] == ["64/512", "64/512", "56/512", "56/512", "40/512", "40/512", "32/512",
                                                "32/512", "24/512", "24/512", "16/512"]
    assert [area for _usage, area in seen[::2]] == [area.ljust(512, b"\0") for area in areas]
    assert [found.first("loop0", sector) for sector in (0, 80, 248, 328)] == \
        ["S sector 00000000 ......"] * 3 + ["A sector 00000328 ......"]
    assert found.events() == "cow:0\norg:0"


def test_2_a_device_that_has_merged() -> None:
    found = fresh()
    assert found.swap("org", MERGE) == 0
    found.engine.run()
    assert found.status("org") == "0 2048 snapshot-merge 16/512 16"
    assert [found.first("org", sector)[:17] for sector in (100, 1000, 1090)] == \
        ["S sector 00000000", "A sector 00001000", "A sector 00001090"]
    assert found.put("org", 100, "N", 8) == 0
    assert found.first("loop0", 100) == "N sector 00000000 ......"
    assert found.status("org") == "0 2048 snapshot-merge 16/512 16"
    assert found.events() == "cow:0\norg:0"


def test_3_writes_and_reads_while_it_merges() -> None:
    found = fresh()
    found.slow(2000)
    assert found.swap("org", MERGE) == 0
    write = WaitForBios([found.writing("org", 104, pattern("W", 8))], "a write")
    reads = [found.reading("org", 120, 1), found.reading("org", 1020, 1)]
    tasks = [found.begin(write), found.begin(WaitForBios(reads, "reads"))]
    assert found.status("org") == "0 2048 snapshot-merge 184/512 16"
    found.engine.run()
    assert [task.value for task in tasks] == [[0], [0, 0]]
    assert found.put("org", 1500, "W", 8) == 0
    assert (bytes(reads[0].buf)[:17], bytes(reads[1].buf)[:17]) == (b"S sector 00000020", b"A sector 00001020")
    assert found.status("org") == "0 2048 snapshot-merge 16/512 16"
    assert [found.first("loop0", sector)[:17] for sector in (104, 112, 1500, 1010)] == \
        ["W sector 00000000", "S sector 00000012", "W sector 00000000", "A sector 00001010"]


def test_4_another_snapshot_of_the_origin_stays_as_it_was() -> None:
    for seed in range(20):
        found = fresh(seed)
        assert found.create("cow2", "0 512 linear /dev/loop2 0") == 0
        assert found.create("snap2", "0 2048 snapshot /dev/loop0 /dev/mapper/cow2 P 8") == 0
        frozen = found.read("snap2", 0, 2048)
        assert found.swap("org", MERGE) == 0
        found.engine.run()
        assert found.statuses() == ("cow: 0 512 linear \ncow2: 0 512 linear \norg: 0 2048 snapshot-merge 16/512 16\n"
                                    "snap2: 0 2048 snapshot 184/512 16")
        assert [found.first(name, sector)[:17] for sector in (100, 1008) for name in ("snap2", "org")] == \
            ["A sector 00000100", "S sector 00000000", "O sector 00000008", "A sector 00001008"]
        assert found.read("snap2", 0, 2048) == frozen
        assert found.sum("org", 0, 2048) == DIGEST


def test_5_the_cow_cannot_be_read() -> None:
    found = fresh()
    assert found.load("org", MERGE) == 0
    assert found.swap("cow", "0 512 error") == 0
    assert found.resume("org") == 0
    assert found.kernel() == ["err: device-mapper: snapshots: Read error: shutting down merge."]
    assert found.status("org") == "0 2048 snapshot-merge Merge failed"
    assert "snap_merge_failed=y" in found.merge().measurement()
    assert found.events() == "cow:0\norg:0"
    assert (found.first("org", 100), found.first("org", 0)[:17]) == ("EIO", "A sector 00000000")
    assert found.put("org", 0, "Z", 8) == 0


def test_5b_the_cow_fails_in_the_middle() -> None:
    found = fresh()
    found.slow(3000)
    assert found.swap("org", MERGE) == 0
    found.until(lambda: found.status("org") == "0 2048 snapshot-merge 104/512 16")
    held = found.begin(WaitForBios([found.writing("org", 100, pattern("Z", 8))], "a write to the range"))
    assert found.swap("cow", "0 512 error") == 0
    found.engine.run()
    assert found.kernel() == ["err: device-mapper: snapshots: Write error in exception store: shutting down merge"]
    assert found.status("org") == "0 2048 snapshot-merge Merge failed"
    assert found.events() == "cow:0\norg:0"
    assert held.value == [errno.EIO]
    assert [found.first("org", sector)[:17] for sector in (100, 1000, 0)] == \
        ["EIO", "A sector 00001000", "A sector 00000000"]
    assert found.put("org", 0, "Z", 8) == 0


def test_5b_what_could_not_be_forgotten_is_merged_again() -> None:
    found = fresh()
    fault = DiskFault((Op.WRITE,), errno.EIO)
    found.disk(1).faults.append(fault)
    assert found.swap("org", MERGE) == 0
    found.engine.run()
    assert found.status("org") == "0 2048 snapshot-merge Merge failed"
    found.disk(1).faults.clear()
    assert (found.suspend("org"), found.resume("org")) == (0, 0)
    assert not found.merge().complete
    assert found.status("org") == "0 2048 snapshot-merge Merge failed"
    assert (found.sum("org", 0, 2048), found.sum("loop0", 0, 2048)) == (DIGEST, DIGEST)


def test_5c_the_origin_cannot_be_written() -> None:
    found = fresh()
    assert found.remove("org") == 0
    assert found.create("base", "0 2048 linear /dev/loop0 0") == 0
    control.create(found.stack, "org")
    assert found.load("org", "0 2048 snapshot-merge /dev/mapper/base /dev/mapper/cow P 8") == 0
    assert found.swap("base", "0 2048 error") == 0
    assert found.resume("org") == 0
    assert found.kernel() == ["err: device-mapper: snapshots: Write error: shutting down merge."]
    assert found.status("org") == "0 2048 snapshot-merge Merge failed"
    assert found.events() == "base:0\ncow:0\norg:0"


def test_an_origin_that_cannot_be_flushed_fails_the_merge() -> None:
    found = fresh()
    found.disk(0).faults.append(DiskFault((Op.FLUSH,), errno.EIO))
    assert found.swap("org", MERGE) == 0
    found.engine.run()
    assert found.kernel() == ["err: device-mapper: snapshots: Flush after merge failed: shutting down merge"]
    assert found.raw(1, 8, 1)[:16].hex(" ") == "0c 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00"


def test_7_two_merging_tables_and_a_suspend_in_the_middle() -> None:
    found = fresh()
    found.slow(1000)
    assert found.create("cow2", "0 512 linear /dev/loop2 0") == 0
    assert found.swap("org", MERGE) == 0
    control.create(found.stack, "snap2")
    assert found.swap("snap2", "0 2048 snapshot-merge /dev/loop0 /dev/mapper/cow2 P 8") == 0
    assert found.statuses() == ("cow: 0 512 delay 1 0 0\ncow2: 0 512 linear \norg: 0 2048 snapshot-merge 184/512 16\n"
                                "snap2: 0 2048 snapshot-merge 16/512 16")
    assert found.end_of(control.Remove(found.device("snap2"))) == 0
    assert found.end_of(control.DoSuspend(found.device("org"))) == 0
    assert found.status("org") == "0 2048 snapshot-merge 104/512 16"
    found.engine.run()
    assert found.status("org") == "0 2048 snapshot-merge 104/512 16"
    assert found.resume("org") == 0
    assert found.status("org") == "0 2048 snapshot-merge 16/512 16"


def test_7_a_snapshot_that_is_invalid_and_one_that_is_empty() -> None:
    found = fresh()
    assert found.remove("cow") == 0
    found.poke(1, 4, b"\0")
    assert found.create("cow", "0 512 linear /dev/loop1 0") == 0
    assert found.swap("org", MERGE) == 0
    assert found.kernel() == ["warning: device-mapper: snapshots: Snapshot is marked invalid.",
                              "err: device-mapper: snapshots: Snapshot is invalid: can't merge"]
    assert (found.status("org"), found.table("org")) == \
        ("0 2048 snapshot-merge Invalid", "0 2048 snapshot-merge 7:0 254:0 P 8")
    assert found.first("org", 0) == "A sector 00000000 ......"
    found = Merging()
    found.fresh(512)
    assert found.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
    assert found.swap("org", MERGE) == 0
    assert found.status("org") == "0 2048 snapshot-merge 16/512 16"
    assert found.events() == "cow:0\norg:0"


def test_8_the_snapshot_has_to_be_suspended_first() -> None:
    found = fresh(removed=False)
    assert found.load("org", MERGE) == 0
    assert found.resume("org") == -errno.EINVAL
    unable = "err: device-mapper: snapshots: Unable to perform snapshot handover until source is suspended."
    assert found.kernel()[0] == unable
    before = "org: 0 2048 snapshot-merge 0/512 0\nsnap: 0 2048 snapshot 184/512 16"
    after = "org: 0 2048 snapshot-merge 16/512 16\nsnap: 0 2048 snapshot Invalid"
    assert found.statuses().endswith(before)
    assert found.device("org").suspended
    assert found.suspend("snap") == 0
    assert found.resume("org") == 0
    found.engine.run()
    assert found.statuses().endswith(after)
    assert found.device("snap").suspended
    assert found.resume("snap") == 0
    assert found.statuses().endswith(after)
    assert found.sum("org", 0, 2048) == DIGEST


# What a merge meets


def test_another_snapshot_whose_store_is_full_is_lost_and_the_merge_goes_on() -> None:
    """Nothing is overwritten before its header says that it is invalid."""
    found = fresh(removed=False)
    assert found.create("tiny", "0 24 linear /dev/loop2 0") == 0
    assert found.create("other", "0 2048 snapshot /dev/loop0 /dev/mapper/tiny P 8") == 0
    wanted = found.read("snap", 0, 2048)
    before = found.raw(0, 0, 2048)
    assert found.end_of(control.DoSuspend(found.device("snap"))) == 0
    device = found.device("org")
    assert found.end_of(control.Load(device, control.resolve_lines(found.stack, [MERGE], device))) == 0
    resume = found.begin(control.DoResume(device))
    waits = set()
    kept = 0
    while found.engine.step():
        waits |= {resume.waiting.why} if resume.waiting else set()
        if found.raw(2, 0, 1)[4] == 1:
            assert sum(found.raw(0, at, 1) != before[at * 512:at * 512 + 512] for at in range(2048)) <= 8
            kept += 1
    assert kept
    assert found.status("other") == "0 2048 snapshot Invalid"
    assert found.raw(2, 0, 1)[4] == 0
    assert "for a snapshot's header to be written as invalid" in waits
    assert found.raw(0, 0, 2048) == wanted
    assert found.status("org").startswith("0 2048 snapshot-merge 16/512 16")


def test_a_short_last_chunk_is_merged_to_its_end() -> None:
    found = Merging()
    found.poke(0, 0, pattern("A", 2048))
    assert found.create("cow", "0 512 linear /dev/loop1 0") == 0
    assert found.create("base", "0 2044 linear /dev/loop0 0") == 0
    assert found.create("snap", "0 2044 snapshot /dev/mapper/base /dev/mapper/cow P 8") == 0
    assert found.put("snap", 2024, "S", 20) == 0
    assert found.remove("snap") == 0
    assert found.create("org", "0 2044 snapshot-merge /dev/mapper/base /dev/mapper/cow P 8") == 0
    found.engine.run(found.engine.steps + 100_000)
    assert found.status("org") == "0 2044 snapshot-merge 16/512 16"
    assert found.raw(0, 2024, 20) == pattern("S", 20)
    assert found.raw(0, 2044, 4) == pattern("A", 4, 2044)


def test_of_a_merging_origin_only_reads_go_straight() -> None:
    found = fresh()
    found.slow(10)
    assert found.swap("org", MERGE) == 0
    target = found.merge()
    answers = []
    for op, sector in ((Op.READ, 104), (Op.READ, 8), (Op.WRITE, 104), (Op.WRITE, 8)):
        bio = Bio(op, found.device("org"), sector, 1, bytearray(512))
        bio.first_sector = sector
        answer = target.straight(bio)
        answers.append(answer and [device.name for device, _sector in answer])
    assert answers == [["cow"], ["loop0"], None, None]


def test_what_is_merged_is_forgotten_for_good() -> None:
    """The origin is flushed, then the entries are written so that they stay, before a write may reach the origin."""
    found = fresh()
    found.notes.lines.clear()
    assert found.swap("org", MERGE) == 0
    found.engine.run(found.engine.steps + 100_000)
    forgotten = found.notes.place("loop1: write+fua loop1 8+8")
    flushed = [found.notes.place(f"loop{number}: flush") for number in (0, 1)]
    assert flushed == sorted(flushed)
    assert flushed[1] < forgotten < found.notes.place("org: merged chunks")
