import copy
import errno

import pytest

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.errors import DmError
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SeededChooser

from .snapshot_machine import Machine, pattern

RANGE = "err: device-mapper: dust: selected block value out of range"
FAIL_COUNT = "err: device-mapper: dust: selected write fail count out of range"


def machine(table: str = "0 2048 dust loop0 0 512", seed: int | None = None) -> Machine:
    made = Machine(None if seed is None else SeededChooser(seed))
    made.stack.target_types = dict(TARGETS)
    made.poke(0, 0, pattern("A", 2048))
    if table:
        assert made.create("d", table) == 0
    return made


def say(found: Machine, text: str) -> str:
    return control.message(found.device("d"), 0, text)


def say_all(found: Machine, *texts: str) -> None:
    for text in texts:
        assert say(found, text) == ""
    found.kernel()


# Tables


@pytest.mark.parametrize(("params", "reason"), [
    ("", "Invalid argument count"),
    ("loop0 0", "Invalid argument count"),
    ("loop0 0 512 1", "Invalid argument count"),
    ("loop0 0 x", "Invalid block size parameter"),
    ("loop0 0 0", "Invalid block size parameter"),
    ("loop0 0 -512", "Invalid block size parameter"),
    ("loop0 0 4294967296", "Invalid block size parameter"),
    ("loop0 0 ++512", "Invalid block size parameter"),
    ("loop0 0 511", "Block size must be at least 512"),
    ("loop0 0 1000", "Block size must be a power of 2"),
    ("loop0 0 1048576", "Block size is too large"),
    ("loop0 0 2147483648", "Block size is too large"),
    ("loop0 x 512", "Invalid device offset sector"),
    ("nothing 0 512", "Device lookup failed"),
])
def test_tables_that_are_refused(params: str, reason: str) -> None:
    """This target answers EINVAL, whatever the error of the look-up was."""
    found = machine("")
    assert found.create("d", f"0 1024 dust {params}") == -errno.EINVAL
    assert found.kernel()[0] == f"err: device-mapper: table: 254:0: dust: {reason} (-EINVAL)"
    assert found.disk(0).open_count == 0


@pytest.mark.parametrize(("params", "table"), [
    ("loop0 0 512", "7:0 0 512"), ("/dev/loop1 8 4096", "7:1 8 4096"), ("loop0 0 524288", "7:0 0 524288"),
    ("loop0 0 +1024", "7:0 0 1024"), ("loop0 0 000000000000512", "7:0 0 512"),
])
def test_tables_that_load(params: str, table: str) -> None:
    found = machine("")
    assert found.create("d", f"0 1024 dust {params}") == 0
    assert found.table("d") == f"0 1024 dust {table}"
    assert found.status("d") == f"0 1024 dust {table.split(maxsplit=1)[0]} bypass verbose"


def test_the_short_form() -> None:
    kind = TARGETS["dust"]
    assert kind.params({"device": ["pv", 1024], "block": 4096}) == ["pv", "2", "4096"]
    assert kind.natural_length(["pv", "2", "4096"], {"pv": 100}.get) == 98


# Messages


@pytest.mark.parametrize(("before", "text", "answer", "logged"), [
    ([], "addbadblock 5", "",
     ["info: device-mapper: dust: dust_add_block: badblock added at block 5 with write fail count 0"]),
    ([], "ADDBADBLOCK 5 3", "",
     ["info: device-mapper: dust: dust_add_block: badblock added at block 5 with write fail count 3"]),
    ([], "addbadblock 5 255", "",
     ["info: device-mapper: dust: dust_add_block: badblock added at block 5 with write fail count 255"]),
    ([], "addbadblock 2048", "",
     ["info: device-mapper: dust: dust_add_block: badblock added at block 2048 with write fail count 0"]),
    (["addbadblock 5"], "removebadblock 5", "",
     ["info: device-mapper: dust: dust_remove_block: badblock removed at block 5"]),
    (["addbadblock 5"], "queryblock 5", "dust_query_block: block 5 found in badblocklist", []),
    ([], "queryblock 6", "dust_query_block: block 6 not found in badblocklist", []),
    ([], "countbadblocks", "countbadblocks: 0 badblock(s) found", []),
    (["addbadblock 5", "addbadblock 9"], "CountBadBlocks", "countbadblocks: 2 badblock(s) found", []),
    ([], "clearbadblocks", "dust_clear_badblocks: no badblocks found", []),
    (["addbadblock 5"], "clearbadblocks", "dust_clear_badblocks: badblocks cleared", []),
    ([], "listbadblocks", "No blocks in badblocklist", []),
    (["addbadblock 64", "addbadblock 5"], "listbadblocks", "5\n64\n", []),
    ([], "enable", "", ["info: device-mapper: dust: enabling read failures on bad sectors"]),
    (["enable"], "disable", "", ["info: device-mapper: dust: disabling read failures on bad sectors"]),
    ([], "quiet", "", []),
    (["quiet"], "addbadblock 5", "", []),
    (["quiet", "addbadblock 5"], "removebadblock 5", "", []),
    (["quiet"], "enable", "", ["info: device-mapper: dust: enabling read failures on bad sectors"]),
])
def test_messages(before: list[str], text: str, answer: str, logged: list[str]) -> None:
    found = machine()
    say_all(found, *before)
    assert say(found, text) == answer
    assert found.kernel() == logged


@pytest.mark.parametrize(("before", "text", "logged"), [
    ([], "nonsense", ["err: device-mapper: dust: unrecognized message 'nonsense' received"]),
    ([], "Nonsense 5", ["err: device-mapper: dust: unrecognized message 'Nonsense' received"]),
    ([], "removebadblock 5 1", ["err: device-mapper: dust: unrecognized message 'removebadblock' received"]),
    ([], "enable 5", ["err: device-mapper: dust: unrecognized message 'enable' received"]),
    ([], "addbadblock", ["err: device-mapper: dust: addbadblock requires an additional argument"]),
    ([], "removebadblock", ["err: device-mapper: dust: removebadblock requires an additional argument"]),
    ([], "QueryBlock", ["err: device-mapper: dust: QueryBlock requires an additional argument"]),
    ([], "addbadblock x", []), ([], "addbadblock -1", []), ([], "nonsense x", []), ([], "addbadblock 5 x", []),
    ([], "addbadblock 2049", [RANGE]), ([], "addbadblock 2049 1", [RANGE]), ([], "queryblock 2049", [RANGE]),
    ([], "addbadblock 5 256", [FAIL_COUNT]), ([], "addbadblock 2049 256", [FAIL_COUNT]),
    ([], "a b c d", ["err: device-mapper: dust: invalid number of arguments '4'"]),
    (["addbadblock 5"], "addbadblock 5", ["err: device-mapper: dust: dust_add_block: block 5 already in badblocklist"]),
    ([], "removebadblock 5", ["err: device-mapper: dust: dust_remove_block: block 5 not found in badblocklist"]),
    (["quiet", "addbadblock 5"], "addbadblock 5", []),
    (["quiet"], "removebadblock 5", []),
    (["quiet"], "nonsense", ["err: device-mapper: dust: unrecognized message 'nonsense' received"]),
])
def test_messages_that_are_refused(before: list[str], text: str, logged: list[str]) -> None:
    found = machine()
    say_all(found, *before)
    with pytest.raises(DmError) as raised:
        say(found, text)
    assert raised.value.errno == errno.EINVAL
    assert found.kernel() == logged


def test_quiet_and_enable_show_in_the_status() -> None:
    found = machine()
    say_all(found, "quiet", "enable")
    assert found.status("d") == "0 2048 dust 7:0 fail_read_on_bad_block quiet"
    say_all(found, "quiet", "disable")
    assert found.status("d") == "0 2048 dust 7:0 bypass verbose"


# I/O


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_reads_of_a_bad_block_fail_until_it_is_written(seed: int | None) -> None:
    found = machine(seed=seed)
    say_all(found, "addbadblock 5")
    assert found.first("d", 5) == "A sector 00000005 ......"        # not enabled yet
    say_all(found, "enable")
    assert found.first("d", 5) == "EIO"
    assert found.first("d", 6) == "A sector 00000006 ......"
    assert found.read("d", 0, 16) is None                           # cut at blocks; one of them fails
    assert found.put("d", 5, "B", 1) == 0
    assert found.kernel() == ["info: device-mapper: dust: block 5 removed from badblocklist by write"]
    assert found.first("d", 5) == "B sector 00000000 ......"
    assert say(found, "countbadblocks") == "countbadblocks: 0 badblock(s) found"


def test_writes_fail_as_often_as_said() -> None:
    found = machine()
    say_all(found, "addbadblock 5 2", "enable")
    assert [found.put("d", 5, "B", 1) for _ in range(3)] == [errno.EIO, errno.EIO, 0]
    assert found.first("d", 5) == "B sector 00000000 ......"


def test_disabled_writes_heal_nothing() -> None:
    found = machine()
    say_all(found, "addbadblock 5 2")
    assert found.put("d", 5, "B", 1) == 0
    say_all(found, "enable")
    assert found.first("d", 5) == "EIO"
    assert found.put("d", 5, "C", 1) == errno.EIO
    say_all(found, "quiet")
    assert [found.put("d", 5, "C", 1), found.put("d", 5, "C", 1)] == [errno.EIO, 0]
    assert found.kernel() == []


def test_a_block_is_counted_on_the_device_below() -> None:
    found = machine("0 1024 dust loop0 64 4096")
    say_all(found, "addbadblock 9", "enable")
    assert found.first("d", 7) == "A sector 00000071 ......"
    assert [found.first("d", sector) for sector in range(8, 17)] == ["EIO"] * 8 + ["A sector 00000080 ......"]
    assert found.put("d", 10, "B", 1) == 0
    assert found.kernel() == ["info: device-mapper: dust: block 1 removed from badblocklist by write"]   # 9 / 8


def test_a_segment_that_does_not_begin_at_0() -> None:
    found = machine("")
    assert found.create("d", "0 64 linear loop1 0", "64 64 dust loop0 16 512") == 0
    control.message(found.device("d"), 64, "addbadblock 20")
    control.message(found.device("d"), 64, "enable")
    assert found.first("d", 68) == "EIO"
    assert found.first("d", 69) == "A sector 00000021 ......"


def test_a_flush_is_a_write_to_the_block_at_the_offset() -> None:
    found = machine("0 1024 dust loop0 64 512")
    say_all(found, "addbadblock 64 1", "enable")
    assert [found.io([Bio(Op.FLUSH, found.named("d"), 0, 0)]) for _ in range(2)] == [[errno.EIO], [0]]
    assert found.first("d", 0) == "A sector 00000064 ......"


def test_a_discard_heals_as_a_write_does() -> None:
    found = machine()
    say_all(found, "addbadblock 5", "enable")
    assert found.io([Bio(Op.DISCARD, found.named("d"), 5, 1)]) == [0]
    assert found.first("d", 5) == "0" * 24


def test_another_table_forgets_the_blocks() -> None:
    found = machine()
    say_all(found, "addbadblock 5", "enable")
    assert found.suspend("d") == 0
    assert found.resume("d") == 0
    assert found.first("d", 5) == "EIO"
    assert found.load("d", found.table("d")) == 0
    assert found.resume("d") == 0
    assert found.first("d", 5) == "A sector 00000005 ......"
    assert found.status("d") == "0 2048 dust 7:0 bypass verbose"


def test_a_copy_has_blocks_of_its_own() -> None:
    found = machine()
    say_all(found, "addbadblock 5", "enable")
    other = copy.deepcopy(found)
    assert other.put("d", 5, "B", 1) == 0
    assert found.first("d", 5) == "EIO"
