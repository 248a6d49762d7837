import copy
import errno
import struct

import pytest

from dmspec.runtime import control
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.bio import Op
from dmspec.runtime.block import DiskFault
from dmspec.runtime.errors import DmError
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.sim import SeededChooser
from dmspec.runtime.targets.raid import Raid
from dmspec.runtime.targets.raid_superblock import MAX_SECTOR, Superblock

from .snapshot_machine import dump, pattern
from .test_snapshot_merge import Merging

PLAIN = "0 2048 raid raid1 3 0 region_size 128 2 - /dev/loop0 - /dev/loop1"
WHOLE = "0 2048 raid raid1 3 0 region_size 128 2 /dev/mapper/m0 /dev/loop0 /dev/mapper/m1 /dev/loop1"
FAILED = ["crit: md/raid1:mdX: Disk failure on loop1, disabling device.",
          "crit: md/raid1:mdX: Operation continuing on 1 devices."]
RESYNC = ["info: md: resync of RAID array mdX", "info: md: mdX: resync done."]


class RaidMachine(Merging):
    """Disks loop0 to loop4; m0 and m1 are metadata devices on loop2 and loop3, m2 is one on loop4."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed)
        for number in (3, 4):
            self.stack.add_disk(f"loop{number}", 2048, SparseMemory())
        for number in range(3):
            assert self.create(f"m{number}", f"0 1024 linear /dev/loop{number + 2} 0") == 0

    def raid(self) -> Raid:
        target = self.target("r")
        assert isinstance(target, Raid)
        return target

    def info(self) -> str:
        return self.status("r").removeprefix("0 2048 raid raid1 ")

    def message(self, text: str) -> int:
        try:
            control.message(self.device("r"), 0, text)
        except DmError as error:
            return error.errno
        return 0

    def fault(self, number: int, *kinds: Op, first: int = 0, last: int | None = None) -> None:
        self.disk(number).faults.append(DiskFault(kinds, errno.EIO, first_sector=first, last_sector=last))

    def superblock(self, number: int) -> Superblock:
        found = Superblock.unpack(self.raw(number + 2, 0, 1))
        assert found is not None
        return found

    def marks(self, number: int) -> list[int]:
        """Which regions are marked in the bitmap on a metadata device; md fills its last sector with ones."""
        sector = self.raw(number + 2, 8, 1)
        sectors, _state, region_bytes = struct.unpack_from("<QII", sector, 40)
        bits = int.from_bytes(sector[256:], "little")
        count = -(-sectors * 512 // region_bytes) if region_bytes else 0
        assert not count or bits >> count == (1 << 8 * 256 - count) - 1
        return [region for region in range(count) if bits >> region & 1]

    def legs_agree(self) -> None:
        for group in self.target("r").compare_areas():
            parts = [self.stack.disks[device.name].backing for device, _first, _sectors in group]
            contents = []
            for backing, (_device, first, sectors) in zip(parts, group, strict=True):
                data = bytearray(sectors * 512)
                backing.read(first * 512, memoryview(data))
                contents.append(bytes(data))
            assert len(set(contents)) == 1, group


def whole(seed: int | None = None) -> RaidMachine:
    """An array with metadata, synchronised; from here on the schedule is that of the seed."""
    found = RaidMachine()
    found.poke(0, 0, pattern("A", 2048))
    assert found.create("r", WHOLE) == 0
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    found.kernel()
    found.notes.lines.clear()
    if seed is not None:
        found.engine.chooser = SeededChooser(seed)
    return found


# The recording h-others


def test_without_metadata_it_counts_as_in_sync() -> None:
    found = RaidMachine()
    assert found.create("r", PLAIN) == 0
    assert found.kernel() == ["info: md/raid1:mdX: active with 2 out of 2 mirrors"]
    assert (found.status("r"), found.table("r")) == \
        ("0 2048 raid raid1 2 AA 2048/2048 idle 0 0 -", "0 2048 raid raid1 3 0 region_size 128 2 - 7:0 - 7:1")
    assert found.put("r", 100, "R", 8) == 0
    assert [found.first(name, 100) for name in ("loop0", "loop1", "r")] == ["R sector 00000000 ......"] * 3
    assert found.device("r").event_nr == 0


def test_with_metadata_it_is_synchronised_first() -> None:
    """The superblock is the recorded one, except for the events: there they are 20, by md's safe mode."""
    found = RaidMachine()
    assert found.create("r", WHOLE) == 0
    found.engine.run()
    assert found.kernel() == [
        "info: device-mapper: raid: Superblocks created for new raid set",
        "info: md/raid1:mdX: not clean -- starting background reconstruction",
        "info: md/raid1:mdX: active with 2 out of 2 mirrors",
        "warning: mdX: bitmap file is out of date, doing full recovery", *RESYNC]
    assert (found.status("r"), found.table("r")) == \
        ("0 2048 raid raid1 2 AA 2048/2048 idle 0 0 -",
         "0 2048 raid raid1 3 0 region_size 128 2 254:0 7:0 254:1 7:1")
    assert found.message("check") == 0
    found.engine.run()
    assert found.kernel() == ["info: md: data-check of RAID array mdX", "info: md: mdX: data-check done."]
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    block = bytearray(found.raw(2, 0, 1))
    assert int.from_bytes(block[16:24], "little") == found.raid().events
    block[16] = 0x14
    assert dump(bytes(block)).splitlines() == [
        "00000000  44 6d 52 64 01 00 00 00  02 00 00 00 00 00 00 00  |DmRd............|",
        "00000010  14 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "00000020  ff ff ff ff ff ff ff ff  ff ff ff ff ff ff ff ff  |................|",
        "00000030  01 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "00000040  ff ff ff ff ff ff ff ff  01 00 00 00 00 00 00 00  |................|",
        "00000050  00 00 00 00 00 00 00 00  00 08 00 00 00 00 00 00  |................|",
        "00000060  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "00000070  00 08 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
        "00000080  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|", "*", "00000200"]
    assert found.superblock(1).position == 1
    assert found.marks(0) == found.marks(1) == []


# Status


def test_how_a_resync_is_seen() -> None:
    found = RaidMachine()
    found.poke(0, 0, pattern("A", 2048))
    control.create(found.stack, "r")
    assert found.load("r", WHOLE) == 0
    assert found.status("r", inactive=True) == "0 2048 raid raid1 2 aa 0/2048 frozen 0 0 -"
    task = found.begin(control.DoResume(found.device("r")))
    found.until(lambda: task.ended)
    seen = [found.info()]
    while found.engine.step():
        if found.info() != seen[-1]:
            seen.append(found.info())
    assert seen == [*(f"2 aa {done}/2048 resync 0 0 -" for done in range(0, 2049, 128)), "2 AA 2048/2048 idle 0 0 -"]
    assert found.suspend("r") == 0
    assert found.info() == "2 AA 0/2048 frozen 0 0 -"
    found.legs_agree()
    assert found.raw(1, 0, 2048) == pattern("A", 2048)


def test_nosync_trusts_the_legs_and_so_does_sync() -> None:
    """With `sync` Linux 6.1 looks at no superblock, and synchronises nothing (tried with legs that differ)."""
    found = RaidMachine()
    table = WHOLE.replace("raid1 3 0 ", "raid1 4 0 nosync ")
    assert found.create("r", table) == 0
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert found.superblock(0).resync_offset == MAX_SECTOR
    assert not any(line.startswith("loop1: write") for line in found.notes.lines)
    assert found.remove("r") == 0
    found.kernel()
    assert found.create("r", WHOLE) == 0
    assert found.kernel() == ["info: md/raid1:mdX: active with 2 out of 2 mirrors"]
    assert found.remove("r") == 0
    assert found.create("r", table.replace("nosync", "sync")) == 0
    assert found.kernel() == ["info: md/raid1:mdX: active with 2 out of 2 mirrors"]


def test_a_leg_that_is_missing() -> None:
    found = RaidMachine()
    assert found.create("r", PLAIN.replace("- /dev/loop1", "- -")) == 0
    assert found.kernel() == ["info: md/raid1:mdX: active with 1 out of 2 mirrors"]
    assert found.info() == "2 A- 2048/2048 idle 0 0 -"
    assert found.put("r", 0, "B", 8) == 0
    assert not found.device("r").supports_discard


# Failing legs


@pytest.mark.parametrize("table", [PLAIN, WHOLE])
def test_a_write_that_fails_on_a_leg_is_a_success(table: str) -> None:
    found = RaidMachine()
    assert found.create("r", table) == 0
    found.engine.run()
    found.kernel()
    events = found.device("r").event_nr
    found.fault(1, Op.WRITE)
    assert found.put("r", 100, "B", 8) == 0
    assert found.info() == "2 AD 2048/2048 idle 0 0 -"
    assert found.kernel() == FAILED
    assert found.device("r").event_nr == events + 1
    assert list(found.target("r").held()) == []
    assert found.first("r", 100) == "B sector 00000000 ......"
    assert found.put("r", 300, "C", 300) == 0
    assert found.suspend("r") == 0
    assert found.info() == "2 AD 0/2048 frozen 0 0 -"


def test_the_superblocks_know_of_it_before_the_writer_does() -> None:
    for seed in range(40):
        found = whole(seed)
        found.fault(1, Op.WRITE)
        write = WaitForBios([found.writing("r", 100, pattern("B", 8))], "a write")
        task = found.begin(write)
        while not task.ended:
            assert found.engine.step()
            if not write.pending:
                assert found.superblock(0).failed == 2
        assert task.value == [0]
        found.engine.run()
        assert found.superblock(1).failed == 0
        assert found.marks(0) == [0]
        assert found.marks(1) in ([], [0])


def test_the_last_leg_is_never_dropped() -> None:
    found = whole()
    for number in (0, 1):
        found.fault(number, Op.WRITE, Op.READ)
    assert found.put("r", 0, "B", 8) == errno.EIO
    assert found.info().split()[1] == "DA"
    assert found.put("r", 0, "B", 8) == errno.EIO
    assert found.read("r", 0, 8) is None
    found.disk(1).faults.clear()
    assert found.put("r", 0, "C", 8) == 0
    assert found.first("r", 0) == "C sector 00000000 ......"


def test_a_metadata_device_that_fails_takes_its_leg_with_it() -> None:
    found = whole()
    found.fault(3, Op.WRITE)
    assert found.put("r", 0, "B", 8) == 0
    assert found.info() == "2 AD 2048/2048 idle 0 0 -"
    found.fault(2, Op.WRITE)
    assert found.put("r", 512, "C", 8) == 0
    assert found.info() == "2 AD 2048/2048 idle 0 0 -"


def test_a_leg_that_answers_again_is_taken_back_at_a_resume() -> None:
    """Only what it lacks is copied."""
    for seed in range(20):
        found = whole(seed)
        found.fault(1, Op.WRITE)
        assert found.put("r", 100, "B", 8) == 0
        assert found.put("r", 1000, "C", 8) == 0
        found.disk(1).faults.clear()
        found.kernel()
        assert found.suspend("r") == 0
        assert found.info() == "2 AD 0/2048 frozen 0 0 -"
        found.notes.lines.clear()
        assert found.resume("r") == 0
        found.engine.run()
        assert found.kernel() == [
            "info: device-mapper: raid: Faulty raid1 device #1 has readable super block.  Attempting to revive it.",
            "info: md: recovery of RAID array mdX", "info: md: mdX: recovery done."]
        assert found.info() == "2 AA 2048/2048 idle 0 0 -"
        assert [line for line in found.notes.lines if line.startswith("loop1: write")] == \
            ["loop1: write loop1 0+128", "loop1: write loop1 896+128"]
        assert found.raw(1, 0, 2048) == found.raw(0, 0, 2048)
        assert (found.marks(0), found.superblock(0).failed, found.superblock(1).recovery_offset) == ([], 0, MAX_SECTOR)


def test_a_leg_without_metadata_is_not_taken_back() -> None:
    found = RaidMachine()
    assert found.create("r", PLAIN) == 0
    found.fault(1, Op.WRITE)
    assert found.put("r", 100, "B", 8) == 0
    found.disk(1).faults.clear()
    assert (found.suspend("r"), found.resume("r")) == (0, 0)
    assert found.info() == "2 AD 2048/2048 idle 0 0 -"


def test_a_leg_that_failed_before_lacks_what_the_bitmap_says_when_the_table_is_loaded_again() -> None:
    found = whole()
    found.fault(1, Op.WRITE)
    assert found.put("r", 640, "B", 8) == 0
    assert found.remove("r") == 0
    found.disk(1).faults.clear()
    found.notes.lines.clear()
    found.kernel()
    assert found.create("r", WHOLE) == 0
    found.engine.run()
    assert found.kernel() == ["info: md/raid1:mdX: active with 1 out of 2 mirrors",
                              "info: md: recovery of RAID array mdX", "info: md: mdX: recovery done."]
    assert [line for line in found.notes.lines if line.startswith("loop1: write")] == ["loop1: write loop1 640+128"]
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert found.raw(1, 0, 2048) == found.raw(0, 0, 2048)


def test_a_table_may_be_loaded_while_a_leg_fails_under_the_old_one() -> None:
    found = whole()
    assert found.load("r", WHOLE) == 0
    found.fault(1, Op.WRITE)
    assert found.put("r", 640, "B", 8) == 0
    found.disk(1).faults.clear()
    assert found.resume("r") == 0
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert found.first("loop1", 640) == "B sector 00000000 ......"


# Rebuilds


def test_a_new_leg_is_rebuilt() -> None:
    found = whole()
    assert found.remove("r") == 0
    found.kernel()
    other = WHOLE.replace("m1 /dev/loop1", "m2 /dev/loop1")
    found.poke(1, 0, bytes(2048 * 512))
    assert found.create("r", other) == -errno.EINVAL
    assert found.kernel()[:2] == [
        ("err: device-mapper: raid: New device injected into existing raid set without 'delta_disks' or 'rebuild' "
         "parameter specified"),
        "err: device-mapper: table: 254:3: raid: Unable to assemble array: Invalid superblocks (-EINVAL)"]
    control.create(found.stack, "r")
    assert found.load("r", other.replace("raid1 3 0", "raid1 5 0 rebuild 1")) == 0
    task = found.begin(control.DoResume(found.device("r")))
    found.until(lambda: task.ended)
    assert found.info() == "2 Aa 0/2048 recover 0 0 -"
    found.until(lambda: found.info().startswith("2 Aa 1024/"))
    assert found.suspend("r") == 0
    assert found.info() == "2 Aa 1152/2048 frozen 0 0 -"
    assert Superblock.unpack(found.raw(4, 0, 1)).recovery_offset == 1152  # type: ignore[union-attr]
    assert found.remove("r") == 0
    found.kernel()
    found.notes.lines.clear()
    assert found.create("r", other) == 0
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert found.raw(1, 0, 2048) == pattern("A", 2048)
    assert next(line for line in found.notes.lines if line.startswith("loop1: write")) == "loop1: write loop1 1152+128"


def test_legs_do_not_change_places() -> None:
    found = whole()
    assert found.remove("r") == 0
    found.kernel()
    assert found.create("r", "0 2048 raid raid1 1 0 2 m1 loop1 m0 loop0") == -errno.EINVAL
    assert "raid: Cannot change device positions in raid set (-EINVAL)" in found.kernel()[-2]


def test_a_larger_table_synchronises_what_is_new() -> None:
    found = RaidMachine()
    for number in (0, 1):
        found.poke(number, 0, pattern("AB"[number], 2048))
    small = WHOLE.replace("0 2048", "0 1024")
    assert found.create("r", small.replace("raid1 3 0", "raid1 4 0 nosync")) == 0
    assert found.load("r", WHOLE) == 0
    found.notes.lines.clear()
    assert found.resume("r") == 0
    found.engine.run()
    assert [line for line in found.notes.lines if line.startswith("loop1: write")] == \
        [f"loop1: write loop1 {first}+128" for first in range(1024, 2048, 128)]
    assert found.superblock(0).array_sectors == 2048


# Reads


def test_a_read_error_is_repaired_from_another_leg() -> None:
    found = whole()
    found.fault(0, Op.READ, first=10, last=11)
    found.notes.lines.clear()
    bio = found.reading("r", 4, 16)
    assert found.end_of(WaitForBios([bio], "a read")) == [0]
    assert bytes(bio.buf) == pattern("A", 16, 4)
    assert found.info() == "2 DA 2048/2048 idle 0 0 -"
    found = whole()
    bad = DiskFault((Op.READ,), errno.EIO, first_sector=10, last_sector=11)
    found.disk(0).faults.append(bad)
    task = found.begin(WaitForBios([bio := found.reading("r", 4, 16)], "a read"))
    found.until(lambda: any("loop0: write" in line for line in found.notes.lines))
    found.disk(0).faults.clear()
    found.engine.run()
    assert task.value == [0]
    assert bytes(bio.buf) == pattern("A", 16, 4)
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert found.kernel() == ["info: md/raid1:mdX: read error corrected (8 sectors at 4 on loop0)",
                              "info: md/raid1:mdX: redirecting sector 4 to other mirror: loop0"]
    assert [line for line in found.notes.lines if "loop0: write" in line] == ["loop0: write loop0 4+8"]


def test_reads_are_spread_by_address_and_write_mostly_legs_are_the_last_resort() -> None:
    found = RaidMachine()
    for number in (0, 1, 3):
        found.disk(number).sectors = 8192
    assert found.create("r", "0 8192 raid raid1 1 0 2 - loop0 - loop1") == 0
    found.notes.lines.clear()
    for sector in (0, 2047, 2048, 4096):
        assert found.read("r", sector, 1) is not None
    assert found.notes.lines == ["loop0: read loop0 0+1", "loop0: read loop0 2047+1", "loop1: read loop1 2048+1",
                                 "loop0: read loop0 4096+1"]
    assert found.create("w", "0 8192 raid raid1 3 0 write_mostly 0 2 - loop3 - loop1") == 0
    found.notes.lines.clear()
    assert found.read("w", 0, 1) is not None
    assert found.notes.lines == ["loop1: read loop1 0+1"]
    found.fault(1, Op.READ, Op.WRITE)
    assert found.read("w", 0, 1) is not None
    assert found.status("w").split()[5] == "AD"


# Messages


def test_check_counts_and_repair_mends() -> None:
    found = whole()
    found.poke(1, 300 * 512, b"x")
    found.poke(1, 2000 * 512, b"x")
    assert found.message("check") == 0
    assert found.info() == "2 AA 0/2048 check 0 0 -"
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 256 0 -"
    assert found.message("REPAIR") == 0
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert found.raw(1, 0, 2048) == pattern("A", 2048)
    assert found.kernel()[-2:] == ["info: md: requested-resync of RAID array mdX",
                                   "info: md: mdX: requested-resync done."]
    assert found.message("check") == 0
    found.engine.run()
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"


def test_messages_that_are_refused_and_a_freeze() -> None:
    found = whole()
    assert found.message("nonsense") == errno.EINVAL
    assert found.message("frozen") == 0
    assert found.info() == "2 AA 0/2048 frozen 0 0 -"
    assert found.message("idle") == 0
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
    assert [found.message(word) for word in ("resync", "recover")] == [0, 0]
    assert found.message("check") == 0
    assert [found.message(word) for word in ("check", "repair", "resync", "recover", "nonsense")] == [errno.EBUSY] * 5
    for _ in range(20):
        found.engine.step()
    assert found.message("frozen") == 0
    found.engine.run()
    assert found.info().startswith("2 AA ")
    assert " frozen " in found.info()
    assert found.kernel()[-1] == "info: md: mdX: data-check interrupted."
    assert found.suspend("r") == 0
    assert found.message("check") == errno.EBUSY
    assert found.resume("r") == 0
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"


# State is data


@pytest.mark.parametrize("seed", range(3))
def test_a_copy_made_at_any_step_goes_on_as_the_original_does(seed: int) -> None:
    found = RaidMachine(seed)
    control.create(found.stack, "r")
    assert found.load("r", WHOLE) == 0
    found.begin(control.DoResume(found.device("r")))
    found.begin(WaitForBios([found.writing("r", 104, pattern("W", 300))], "a write"), "writer")
    found.fault(1, Op.WRITE, first=1024, last=1030)
    found.fault(0, Op.READ, first=1800, last=1810)
    copies = []
    while True:
        if found.engine.steps % 13 == 0:
            copies.append(copy.deepcopy(found))
        if not found.engine.step():
            break
    assert found.info().split()[1] == "AD"
    for one in copies:
        one.engine.run()
        assert one.notes.lines == found.notes.lines
        assert one.raw(0, 0, 2048) == found.raw(0, 0, 2048)
    assert len(copies) > 5
