"""Snapshots under every schedule, or many: what is frozen stays frozen, and nobody waits for ever."""

import copy
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.runtime import control
from dmspec.runtime.bio import Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.sim import SeededChooser

from .snapshot_machine import SNAP, Machine, every_schedule, machine, pattern

# Races


def race(found: Machine, readers: int) -> None:
    """Reads of the snapshot against a write to the same chunk of the origin."""
    reads = [found.reading("snap", 2, 2) for _ in range(readers)]
    tasks = [found.begin(WaitForBios([read], "a read"), "reader") for read in reads]
    tasks.append(found.begin(WaitForBios([found.writing("org", 0, pattern("B", 8))], "the write"), "writer"))
    assert found.engine.run(found.engine.steps + 1000)
    assert all(task.value == [0] for task in tasks)
    assert all(bytes(read.buf) == pattern("A", 2, 2) for read in reads)
    assert found.read("snap", 0, 8) == pattern("A", 8)
    assert found.read("org", 0, 8) == pattern("B", 8)
    assert not found.snapshot("snap").reads


def test_a_read_and_a_copy_of_one_chunk_in_every_order() -> None:
    base = machine("N 8")
    schedules = 0
    for tree in every_schedule(20_000):
        found = copy.deepcopy(base)
        found.engine.chooser = tree
        race(found, 1)
        schedules += 1
    assert schedules == 300


def test_a_write_to_the_snapshot_and_one_to_the_origin_in_every_order() -> None:
    base = machine("N 8")
    for tree in every_schedule(20_000):
        found = copy.deepcopy(base)
        found.engine.chooser = tree
        found.begin(WaitForBios([found.writing("org", 1, pattern("B", 2))], "the write"), "one")
        found.begin(WaitForBios([found.writing("snap", 4, pattern("C", 1))], "the other"), "two")
        assert found.engine.run(found.engine.steps + 1000)
        found.engine.chooser = SeededChooser(1)
        assert found.read("snap", 0, 8) == pattern("A", 4) + pattern("C", 1) + pattern("A", 3, 5)
        assert found.read("org", 0, 8) == pattern("A", 1) + pattern("B", 2) + pattern("A", 5, 3)


@pytest.mark.parametrize("seed", range(60))
def test_a_persistent_snapshot_under_the_same_race(seed: int) -> None:
    race(machine(seed=seed), 4)


def test_an_exception_is_published_before_the_reads_that_began_earlier_end() -> None:
    """So later reads go to the copy, and the wait for the earlier ones cannot last for ever."""
    found = machine()
    found.disk(0).faults.append(DiskFault((Op.READ,), delay_ns=10, first_sector=0, last_sector=0))
    early = found.begin(WaitForBios([found.reading("snap", 0, 1)], "the early read"), "early")
    assert found.engine.step()
    found.disk(0).faults.clear()
    writer = found.begin(WaitForBios([found.writing("org", 0, pattern("B", 8))], "the write"), "writer")
    while not found.snapshot("snap").complete:
        assert found.engine.step()
    assert not early.ended
    worker = found.snapshot("snap").copier.work
    assert worker.waiting is not None
    assert worker.waiting.why == "for 1 read of chunk 0 of the origin that began before its copy was made"
    late = found.begin(WaitForBios([found.reading("snap", 1, 1)], "the late read"), "late")
    while not late.ended:
        assert found.engine.step()
    assert not early.ended
    assert not writer.ended
    assert found.engine.run()
    assert (early.value, writer.value, late.value) == ([0], [0], [0])


def test_two_snapshots_of_one_origin() -> None:
    """Case 4 of d-snapshot, with every write to the origin in many orders."""
    for seed in range(60):
        found = Machine(SeededChooser(seed))
        found.fresh(256)
        assert found.create("cow2", "0 256 linear loop2 0") == 0
        assert found.create("snap", f"{SNAP} P 8") == 0
        assert found.create("snap2", "0 2048 snapshot /dev/loop0 /dev/mapper/cow2 P 16") == 0
        assert found.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
        assert [one.chunk_sectors for one in found.stack.shared["snapshot"].of(found.disk(0))] == [16, 8]
        assert found.put("org", 0, "B", 16) == 0
        assert (found.status("snap"), found.status("snap2")) == \
            ("0 2048 snapshot 32/256 16", "0 2048 snapshot 48/256 32")
        assert found.put("org", 124, "B", 9) == 0
        assert (found.status("snap"), found.status("snap2")) == \
            ("0 2048 snapshot 48/256 16", "0 2048 snapshot 80/256 32")
        assert found.put("snap2", 64, "B", 16) == 0
        assert found.status("snap") == "0 2048 snapshot 48/256 16"
        assert found.read("snap", 0, 2048) == pattern("A", 2048)
        found.remove("snap")
        assert found.put("org", 32, "B", 16) == 0
        assert found.status("snap2") == "0 2048 snapshot 112/256 32"
        assert found.read("snap2", 0, 64) == pattern("A", 64)


def test_a_snapshot_that_fails_does_not_keep_another_from_its_copy() -> None:
    for seed in range(60):
        found = Machine(SeededChooser(seed))
        found.fresh(64)
        assert found.create("cow2", "0 512 linear loop2 0") == 0
        assert found.create("snap2", "0 2048 snapshot /dev/loop0 /dev/mapper/cow2 P 16") == 0
        assert found.create("snap", f"{SNAP} P 8") == 0
        assert found.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
        assert found.io([found.writing("org", 0, pattern("B", 64)),
                         found.writing("org", 96, pattern("C", 64))]) == [0, 0]
        assert found.status("snap") == "0 2048 snapshot Invalid"
        assert found.read("snap2", 0, 2048) == pattern("A", 2048)
        assert found.read("org", 96, 64) == pattern("C", 64)


def test_whoever_comes_while_the_header_is_written_waits_for_it() -> None:
    found = machine("P 8", 32)
    found.disk(1).faults.append(DiskFault((Op.WRITE,), delay_ns=5000, first_sector=0, last_sector=7))
    found.disk(1).faults.append(DiskFault((Op.WRITE,), delay_ns=100, first_sector=16, last_sector=31))
    copied = WaitForBios([found.writing("snap", 0, pattern("B", 1)), found.writing("org", 8, pattern("C", 8))], "early")
    found.begin(copied, "early")
    assert found.engine.step()
    found.begin(WaitForBios([found.writing("org", 16, pattern("D", 8))], "the write without room"), "writer")
    snapshot = found.snapshot("snap")
    while not any("Invalidating" in text for _level, text in found.stack.log_lines):
        assert found.engine.step()
    assert found.status("snap") == "0 2048 snapshot 32/32 16"
    late = WaitForBios([found.reading("snap", 0, 1), found.writing("snap", 100, pattern("E", 8)),
                        found.writing("org", 200, pattern("F", 8))], "late")
    found.begin(late, "late")
    while snapshot.valid:
        assert copied.pending == 2
        assert late.pending == 3
        assert found.raw(0, 8, 16) + found.raw(0, 200, 8) == pattern("A", 16, 8) + pattern("A", 8, 200)
        assert found.engine.step()
    assert found.raw(1, 0, 1)[4] == 0
    assert found.engine.run()
    assert [bio.status for bio in copied.bios] == [errno.EIO, 0]
    assert [bio.status for bio in late.bios] == [errno.EIO, errno.EIO, 0]
    assert found.raw(0, 8, 16) == pattern("C", 8) + pattern("D", 8)


def test_writes_wait_while_too_many_copies_are_under_way() -> None:
    for seed in range(30):
        found = machine(seed=seed)
        snapshot = found.snapshot("snap")
        snapshot.threshold = 1
        most = 0
        bios = [found.writing("org", 16 * number, pattern("B", 8)) for number in range(8)]
        bios += [found.writing("snap", 16 * number + 8, pattern("C", 1)) for number in range(8)]
        task = found.begin(WaitForBios(bios, "many"))
        while found.engine.step():
            most = max(most, snapshot.copies)
        assert task.value == [0] * 16
        assert most == 2
        assert found.status("snap") == "0 2048 snapshot 144/512 16"


def test_a_write_that_waits_for_a_copy_keeps_the_origin_from_suspending() -> None:
    found = machine()
    found.disk(1).faults.append(DiskFault((Op.WRITE,), delay_ns=5000))
    write = WaitForBios([found.writing("org", 0, pattern("B", 8))], "the write")
    found.begin(write, "writer")
    while not found.snapshot("snap").pending:
        assert found.engine.step()
    suspend = found.begin(control.DoSuspend(found.device("org"), noflush=True))
    while found.engine.step():
        assert not (write.pending and suspend.ended)
    assert (write.bios[0].status, write.pending, suspend.value) == (0, 0, 0)


# Copies of the whole machine


@pytest.mark.parametrize("table", ["P 1", "N 8"])
def test_a_copy_made_at_any_step_goes_on_as_the_original_does(table: str) -> None:
    found = machine(table, 64, seed=5)
    bios = [found.writing("org", 3, pattern("B", 20)), found.writing("snap", 10, pattern("C", 9)),
            found.reading("snap", 0, 32), found.writing("org", 40, pattern("D", 30))]
    found.begin(WaitForBios(bios, "everything"))
    copies = [copy.deepcopy(found)]
    while found.engine.step():
        copies.append(copy.deepcopy(found))
    assert len(copies) > 30
    for one in copies:
        assert one.engine.run()
        assert one.notes.lines == found.notes.lines
        assert one.engine.schedule == found.engine.schedule
        assert one.statuses() == found.statuses()
        assert [one.raw(number, 0, 128) for number in range(3)] == \
            [found.raw(number, 0, 128) for number in range(3)]


# Handover


def test_a_second_table_for_the_same_copies_takes_them_over() -> None:
    found = machine()
    assert found.put("snap", 8, "B", 8) == 0
    assert found.create("other", "0 2048 zero") == -errno.EINVAL
    found.kernel()
    control.create(found.stack, "other")
    assert found.load("other", f"{SNAP} PO 8") == 0
    assert found.table("other", inactive=True) == "0 2048 snapshot 7:0 254:0 PO 0"
    assert found.load("snap", f"{SNAP} P 8") == -errno.EINVAL
    assert found.kernel()[0] == ("err: device-mapper: table: 254:2: snapshot: "
                                 "Snapshot cow pairing for exception table handover failed (-EINVAL)")
    assert found.resume("other") == -errno.EINVAL
    prefix = "err: device-mapper: snapshots: "
    assert found.kernel() == [f"{prefix}Unable to perform snapshot handover until source is suspended.",
                              "err: device-mapper: table: 254:3: snapshot: preresume failed, error = -22"]
    assert found.put("org", 16, "C", 8) == 0
    assert found.suspend("snap") == 0
    assert found.resume("snap") == -errno.EINVAL
    assert found.kernel() == [f"{prefix}Unable to resume snapshot source until handover completes.",
                              "err: device-mapper: table: 254:2: snapshot: preresume failed, error = -22"]
    assert found.put("org", 24, "D", 8) == 0
    assert found.resume("other") == 0
    assert found.status("other") == "0 2048 snapshot 40/512 16"
    assert found.table("other") == "0 2048 snapshot 7:0 254:0 PO 8"
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.device("snap").event_nr == 0
    assert found.put("org", 32, "E", 8) == 0
    assert found.read("other", 0, 40) == pattern("A", 8) + pattern("B", 8) + pattern("A", 24, 16)
    assert found.resume("snap") == 0
    assert found.first("snap", 0) == "EIO"
    assert found.remove("snap") == 0
    assert found.raw(1, 0, 1)[4] == 1
    assert found.kernel() == []


def test_a_source_that_goes_away_cancels_the_handover() -> None:
    found = machine()
    control.create(found.stack, "other")
    assert found.load("other", f"{SNAP} P 8") == 0
    assert found.remove("snap") == 0
    assert found.kernel() == ["err: device-mapper: snapshots: Cancelling snapshot handover."]
    assert found.status("other", inactive=True) == "0 2048 snapshot Invalid"
    assert found.resume("other") == 0
    assert found.first("other", 0) == "EIO"
    assert found.put("org", 0, "B", 8) == 0
    assert found.remove("other") == 0
    assert found.raw(1, 0, 1)[4] == 1


@pytest.mark.parametrize("seed", range(40))
def test_a_table_is_reloaded_while_both_sides_write(seed: int) -> None:
    found = machine(seed=seed)
    for sector in (0, 40, 80):
        bios = [found.writing("org", sector, pattern("B", 20)), found.writing("snap", sector + 10, pattern("C", 20))]
        writer = found.begin(WaitForBios(bios, "the writes"), "writer")
        device = found.device("snap")
        assert found.load("snap", f"{SNAP} P 8") == 0
        assert found.resume("snap") == 0
        assert not device.suspended
        assert writer.value == [0, 0]
    expected = b"".join(pattern("A", 10, sector) + pattern("C", 20) + pattern("A", 10, sector + 30)
                        for sector in (0, 40, 80))
    assert found.read("snap", 0, 120) == expected
    assert found.kernel() == []


def test_a_resume_waits_for_bios_that_are_inside_the_origin() -> None:
    found = machine()
    found.disk(0).faults.append(DiskFault((Op.WRITE,), delay_ns=5000))
    write = WaitForBios([found.writing("org", 0, pattern("B", 8))], "the write")
    found.begin(write, "writer")
    assert found.engine.step()
    loader = found.begin(control.Load(found.device("snap"), control.resolve_lines(found.stack, [f"{SNAP} P 8"])))
    while not loader.ended:
        assert found.engine.step()
    resume = found.begin(control.DoResume(found.device("snap")))
    late = None
    while found.engine.step():
        if found.device("org").block_io and late is None:
            assert resume.waiting is not None
            assert resume.waiting.why == "for bios in org, to suspend it internally"
            late = found.begin(WaitForBios([found.writing("org", 64, pattern("C", 8))], "the late write"), "late")
        assert not (write.pending and resume.ended)
    assert late is not None
    assert (write.bios[0].status, resume.value, late.value) == (0, 0, [0])
    assert not found.device("org").block_io
    assert found.read("snap", 0, 128) == pattern("A", 128)


@pytest.mark.parametrize(("store", "status"), [("P", "Invalid"), ("PO", "Overflow")])
def test_what_became_of_a_snapshot_is_handed_over_too(store: str, status: str) -> None:
    found = machine(f"{store} 8", 16)
    assert found.put("snap", 0, "B", 8) == errno.EIO
    assert found.load("snap", f"{SNAP} {store} 8") == 0
    assert found.resume("snap") == 0
    assert found.status("snap") == f"0 2048 snapshot {status}"


def test_the_order_of_snapshots_is_that_of_the_chunks_they_turn_out_to_have() -> None:
    found = machine("P 8")
    assert found.create("snap2", "0 2048 snapshot loop0 loop2 N 16") == 0
    found.remove("snap")
    assert found.create("snap", f"{SNAP} P 32") == 0
    listed = found.stack.shared["snapshot"].of(found.disk(0))
    assert [one.chunk_sectors for one in listed] == [16, 8]
    assert found.load("snap", f"{SNAP} P 32") == 0
    assert [one.chunk_sectors for one in listed] == [0, 16, 8]
    assert found.resume("snap") == 0
    assert [one.chunk_sectors for one in listed] == [16, 8]


def test_copies_that_nobody_waits_for_end_before_a_handover() -> None:
    """A write that waits on another snapshot's copy goes on without those of one that is invalid by then."""
    found = machine("P 8", 24)
    assert found.create("snap2", "0 2048 snapshot loop0 loop2 N 16") == 0
    found.disk(1).faults.append(DiskFault((Op.WRITE,), delay_ns=5000, first_sector=16, last_sector=23))
    task = found.begin(WaitForBios([found.writing("org", 0, pattern("B", 8))], "a write"), "writer")
    found.begin(WaitForBios([found.writing("snap", 80, pattern("C", 8))], "one without room"), "writer2")
    while not task.ended:
        assert found.engine.step()
    source = found.snapshot("snap")
    assert (source.valid, list(source.pending)) == (False, [0])
    loader = found.begin(control.Load(found.device("snap"), control.resolve_lines(found.stack, [f"{SNAP} P 8"])))
    while not loader.ended:
        assert found.engine.step()
    resume = found.begin(control.DoResume(found.device("snap")))
    waits = []
    while found.engine.step():
        if resume.waiting is not None:
            waits.append(resume.waiting.why)
    assert "for copies of the table whose exceptions it takes over" in waits
    assert resume.value == 0
    assert found.status("snap") == "0 2048 snapshot Invalid"
    assert found.read("snap2", 0, 16) == pattern("A", 16)


def test_before_there_was_a_handover_what_is_copied_meanwhile_is_lost() -> None:
    found = Machine(era="2.6.32")
    found.fresh(512)
    found.with_origin(f"{SNAP} P 8")
    assert found.load("snap", f"{SNAP} P 8") == 0
    assert found.status("snap", inactive=True) == "0 2048 snapshot 16/512"
    assert found.put("org", 0, "B", 8) == 0
    assert found.first("snap", 0) == "A sector 00000000 ......"
    assert found.resume("snap") == 0
    assert found.status("snap") == "0 2048 snapshot 16/512"
    assert found.first("snap", 0) == "B sector 00000000 ......"


# A model

SECTORS = 48
NAMES = ("org", "snap", "snap2")
Piece = tuple[str, bool, int, int]

pieces = st.tuples(
    st.sampled_from(NAMES), st.booleans(), st.integers(0, SECTORS - 1), st.integers(1, 20),
).map(lambda piece: (piece[0], piece[1], piece[2], min(piece[3], SECTORS - piece[2])))
between = st.sampled_from(["", "", "reload snap", "reload snap2", "remake snap", "suspend org"])
rounds = st.lists(st.tuples(st.lists(pieces, min_size=1, max_size=5), between), min_size=1, max_size=4)


class Model:
    """What each sector of the three devices may hold: the origin, and two devices that were copied from it."""

    def __init__(self, found: Machine) -> None:
        self.found = found
        self.count = 0
        self.held = {name: [pattern("A", 1, sector) for sector in range(SECTORS)] for name in NAMES}

    def play(self, batch: list[Piece]) -> None:
        """Start all at once; of writes that overlap either may come last, and a read may see any of them."""
        allowed = {name: [{one} for one in self.held[name]] for name in NAMES}
        bios = []
        for name, writes, sector, count in batch:
            if not writes:
                bios.append(self.found.reading(name, sector, count))
                continue
            self.count += 1
            data = pattern(f"w{self.count}", count)
            bios.append(self.found.writing(name, sector, data))
            for place in range(count):
                allowed[name][sector + place].add(data[place * 512 : (place + 1) * 512])
        assert self.found.io(bios) == [0] * len(bios)
        for bio, (name, _writes, sector, count) in zip(bios, batch, strict=True):
            data = bytes(bio.buf)
            for place in range(count):
                assert data[place * 512 : (place + 1) * 512] in allowed[name][sector + place]
        for name in NAMES:
            whole = self.found.read(name, 0, SECTORS)
            assert whole is not None
            for sector in range(SECTORS):
                now = whole[sector * 512 : (sector + 1) * 512]
                assert now in allowed[name][sector]
                written = allowed[name][sector] - {self.held[name][sector]}
                assert not written or now in written
                self.held[name][sector] = now

    def control(self, command: str) -> None:
        verb, _space, name = command.partition(" ")
        tables = {"snap": f"{SNAP} P 4", "snap2": "0 2048 snapshot /dev/loop0 loop2 P 16"}
        if verb == "reload":
            assert self.found.load(name, tables[name]) == 0
            assert self.found.resume(name) == 0
        elif verb == "remake":
            assert self.found.remove(name) == 0
            assert self.found.create(name, tables[name]) == 0
        elif verb == "suspend":
            assert self.found.suspend(name) == 0
            assert self.found.resume(name) == 0


@settings(max_examples=150, deadline=None)
@given(rounds, st.integers(0, 1 << 32), st.sampled_from([5, 30, 90]), st.sampled_from([0, 2, 2048]))
def test_any_reads_and_writes_agree_with_arrays(
    script: list[tuple[list[Piece], str]], seed: int, switch_percent: int, threshold: int,
) -> None:
    found = machine("P 4")
    assert found.create("snap2", "0 2048 snapshot /dev/loop0 loop2 P 16") == 0
    found.engine.chooser = SeededChooser(seed, switch_percent)
    model = Model(found)
    for batch, command in script:
        for name in ("snap", "snap2"):
            found.snapshot(name).threshold = threshold
        model.play(batch)
        model.control(command)
    model.play([(name, False, 0, SECTORS) for name in NAMES])
    assert found.kernel() == []
    assert "Invalid" not in found.statuses()
