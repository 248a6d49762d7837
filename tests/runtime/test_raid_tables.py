import errno

import pytest

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.registry import TARGETS

from .snapshot_machine import Machine
from .test_raid import PLAIN, RaidMachine, whole

# Tables


@pytest.mark.parametrize(("params", "reason"), [
    ("", "No arguments"),
    ("nonsense 1 0 1 - loop0", "Unrecognised raid_type"),
    ("raid5_ls 1 8 3 - loop0 - loop1 - loop2", "Only raid1 is emulated"),
    ("raid1", "Cannot understand number of raid parameters"),
    ("raid1 x 0 2 - loop0 - loop1", "Cannot understand number of raid parameters"),
    ("raid1 9 0 2 - loop0 - loop1", "Cannot understand number of raid parameters"),
    ("raid1 1 0", "Cannot understand number of raid devices parameters"),
    ("raid1 1 0 0 - loop0", "Cannot understand number of raid devices parameters"),
    ("raid1 1 0 3 - loop0 - loop1", "Cannot understand number of raid devices parameters"),
    ("raid1 1 x 2 - loop0 - loop1", "Bad numerical argument given for chunk_size"),
    ("raid1 0 2 - loop0 - loop1", "Bad numerical argument given in raid params"),
    ("raid1 3 0 nosync nosync 2 - loop0 - loop1", "Only one 'nosync' argument allowed"),
    ("raid1 3 0 sync SYNC 2 - loop0 - loop1", "Only one 'sync' argument allowed"),
    ("raid1 3 0 region_size many 2 - loop0 - loop1", "Bad numerical argument given in raid params"),
    ("raid1 3 0 rebuild 2 2 - loop0 - loop1", "Invalid rebuild index given"),
    ("raid1 5 0 rebuild 1 rebuild 1 2 - loop0 - loop1", "rebuild for this index already given"),
    ("raid1 3 0 write_mostly 2 2 - loop0 - loop1", "Invalid write_mostly index given"),
    ("raid1 5 0 write_mostly 0 write_mostly 1 2 - loop0 - loop1", "Can't set all raid1 devices to write_mostly"),
    ("raid1 3 0 max_write_behind -1 2 - loop0 - loop1", "Max write-behind limit out of range"),
    ("raid1 3 0 daemon_sleep -1 2 - loop0 - loop1", "daemon sleep period out of range"),
    ("raid1 5 0 daemon_sleep 1 daemon_sleep 2 2 - loop0 - loop1", "Only one daemon_sleep argument pair allowed"),
    ("raid1 5 0 min_recovery_rate 9 max_recovery_rate 8 2 - loop0 - loop1", "Bogus recovery rates"),
    ("raid1 3 0 stripe_cache 9 2 - loop0 - loop1", "Inappropriate argument: stripe_cache"),
    ("raid1 3 0 delta_disks 1 2 - loop0 - loop1", "A reshape is not emulated"),
    ("raid1 3 0 nonsense 9 2 - loop0 - loop1", "Unable to parse RAID parameter"),
    ("raid1 3 0 sync nosync 2 - loop0 - loop1", "sync and nosync are mutually exclusive"),
    ("raid1 4 0 nosync rebuild 1 2 - loop0 - loop1", "sync/nosync and rebuild are mutually exclusive"),
    ("raid1 3 0 region_size 100 2 - loop0 - loop1", "Region size is not a power of 2"),
    ("raid1 3 0 region_size 4096 2 - loop0 - loop1", "Supplied region size is too large"),
    ("raid1 1 0 2 nothing loop0 - loop1", "RAID metadata device lookup failure"),
    ("raid1 1 0 2 - nothing - loop1", "RAID device lookup failure"),
    ("raid1 1 0 2 m0 - - loop1", "No data device supplied with metadata device"),
    ("raid1 3 0 rebuild 0 2 - - - loop1", "Drive designated for rebuild not specified"),
    ("raid1 1 0 2 - m0 - loop1", "Component device(s) too small"),
    ("raid1 1 0 2 - - - -", "Invalid rdev size"),
    ("raid1 5 0 rebuild 0 rebuild 1 2 - loop0 - loop1", "Failed to run raid array"),
    ("raid1 1 0 2 m0 loop0 - -", "Unable to assemble array: Invalid superblocks"),
])
def test_tables_that_are_refused(params: str, reason: str) -> None:
    found = RaidMachine()
    code = "ENODEV" if "lookup" in reason else "EINVAL"
    assert found.create("r", f"0 2048 raid {params}") == -getattr(errno, code)
    assert found.kernel()[-2:] == [f"err: device-mapper: table: 254:3: raid: {reason} (-{code})",
                                   "err: device-mapper: ioctl: error adding target to table"]
    assert all(disk.open_count == (number >= 2) for number, disk in enumerate(found.stack.disks.values()))


@pytest.mark.parametrize(("params", "table"), [
    ("raid1 1 0 2 - loop0 - loop1", "raid1 1 0 2 - 7:0 - 7:1"),
    ("RAID1 1 64 2 - loop0 - -", "raid1 1 0 2 - 7:0 - -"),
    ("raid1 2 0 nosync 2 m0 loop0 m1 loop1", "raid1 2 0 nosync 2 254:0 7:0 254:1 7:1"),
    (("raid1 16 0 region_size 64 max_write_behind 100 write_mostly 1 max_recovery_rate 9 min_recovery_rate 8 "
      "daemon_sleep 1000 Write_Mostly 2 sync 3 m0 loop0 - loop1 m1 loop4"),
     ("raid1 16 0 sync daemon_sleep 1000 min_recovery_rate 8 max_recovery_rate 9 write_mostly 1 write_mostly 2 "
      "max_write_behind 50 region_size 64 3 254:0 7:0 - 7:1 254:1 7:4")),
    ("raid1 3 0 rebuild 1 2 - loop0 - loop1", "raid1 3 0 rebuild 1 2 - 7:0 - 7:1"),
])
def test_tables_that_load(params: str, table: str) -> None:
    found = RaidMachine()
    assert found.create("r", f"0 2048 raid {params}") == 0
    assert found.table("r") == f"0 2048 raid {table}"
    assert found.remove("r") == 0
    assert found.create("r", found_again := f"0 2048 raid {table}") == 0
    assert found.table("r").split()[:3] == found_again.split()[:3]


def test_before_2_6_38_there_was_none() -> None:
    found = Machine(era="2.6.34")
    found.stack.target_types = dict(TARGETS)
    assert found.create("r", PLAIN) == -errno.EINVAL
    assert found.kernel()[0] == "err: device-mapper: table: 254:0: raid: unknown target type"


def test_the_length_that_is_left_out_is_that_of_the_shortest_leg() -> None:
    found = RaidMachine()
    lines = control.resolve_lines(found.stack, ["* * raid raid1 2 0 nosync 3 m0 m1 - m2 - -"])
    assert lines[0][:2] == (0, 1024)


# Bios that are not writes


def test_flushes_and_discards_go_to_every_leg() -> None:
    found = whole()
    assert found.io([Bio(Op.FLUSH, found.named("r"), 0, 0)]) == [0]
    assert found.notes.lines == ["loop0: flush loop0", "loop1: flush loop1"]
    assert found.io([Bio(Op.DISCARD, found.named("r"), 64, 100)]) == [0]
    assert found.read("r", 64, 100) == bytes(100 * 512)
    assert found.raw(1, 0, 2048) == found.raw(0, 0, 2048)
    found.fault(0, Op.DISCARD, Op.FLUSH)
    assert found.io([Bio(Op.DISCARD, found.named("r"), 0, 8), Bio(Op.FLUSH, found.named("r"), 0, 0)]) == [0, 0]
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"


def test_a_read_ahead_is_not_worth_a_repair() -> None:
    found = whole()
    found.fault(0, Op.READ)
    bio = found.reading("r", 0, 8)
    bio.readahead = True
    assert found.io([bio]) == [errno.EIO]
    assert found.info() == "2 AA 2048/2048 idle 0 0 -"
