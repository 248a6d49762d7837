import copy
import errno

import pytest

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.eras import ERAS
from dmspec.runtime.errors import DmError
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SeededChooser
from dmspec.runtime.units import NS_PER_S

from .snapshot_machine import Machine, pattern

GROUP = "Invalid number of feature args"
ALWAYS = 1_000_000_000


def machine(params: str = "", seed: int | None = None, wanted: str = "") -> Machine:
    """A kernel that knows the features which `params` or `wanted` name."""
    made = Machine(None if seed is None else SeededChooser(seed))
    made.stack.target_types = dict(TARGETS)
    if "error_reads" in params + wanted or "random_" in params + wanted:
        made.stack.era = ERAS["6.18"]
    made.poke(0, 0, pattern("A", 64))
    if params:
        assert made.create("d", f"0 1024 flakey loop0 0 {params}") == 0
    return made


def other_io(found: Machine, op: Op) -> int:
    return found.io([Bio(op, found.named("d"), 0, 8 if op is Op.DISCARD else 0)])[0]


# Tables


@pytest.mark.parametrize(("params", "reason"), [
    ("", "Invalid argument count"),
    ("loop0 0 10", "Invalid argument count"),
    ("loop0 x 1 1", "Invalid device sector"),
    ("loop0 0 x 1", "Invalid up interval"),
    ("loop0 0 -1 1", "Invalid up interval"),
    ("loop0 0 1 x", "Invalid up interval"),
    ("loop0 0 0 0", "Total (up + down) interval is zero"),
    ("loop0 0 4294967295 1", "Total (up + down) interval is zero"),
    ("loop0 0 4294967295 2", "Interval overflow"),
    ("loop0 0 1 1 x", GROUP), ("loop0 0 1 1 -1", GROUP), ("loop0 0 1 1 1", GROUP), ("loop0 0 1 1 2 drop_writes", GROUP),
    ("loop0 0 1 1 12 a b c d e f g h i j k l", GROUP),
    ("loop0 0 1 1 2 corrupt_bio_byte 1 r 1 0", "Insufficient feature arguments"),
    ("loop0 0 1 1 2 drop_writes drop_writes", "Feature drop_writes duplicated"),
    ("loop0 0 1 1 2 error_writes Error_Writes", "Feature error_writes duplicated"),
    ("loop0 0 1 1 2 error_reads error_reads", "Feature error_reads duplicated"),
    ("loop0 0 1 1 2 error_writes drop_writes", "Feature drop_writes conflicts with feature error_writes"),
    ("loop0 0 1 1 2 drop_writes error_writes", "Feature error_writes conflicts with feature drop_writes"),
    ("loop0 0 1 1 1 corrupt_bio_byte", "Feature corrupt_bio_byte requires parameters"),
    ("loop0 0 1 1 5 corrupt_bio_byte 0 r 1 0", "Invalid corrupt bio byte"),
    ("loop0 0 1 1 5 corrupt_bio_byte x r 1 0", "Invalid corrupt bio byte"),
    ("loop0 0 1 1 2 corrupt_bio_byte 1", "Invalid corrupt bio direction (r or w)"),
    ("loop0 0 1 1 5 corrupt_bio_byte 1 x 1 0", "Invalid corrupt bio direction (r or w)"),
    ("loop0 0 1 1 5 corrupt_bio_byte 1 r 256 0", "Invalid corrupt value to write into bio byte (0-255)"),
    ("loop0 0 1 1 5 corrupt_bio_byte 1 r 1 x", "Invalid corrupt bio flags mask"),
    ("loop0 0 1 1 4 corrupt_bio_byte 1 r 1", "Invalid corrupt bio flags mask"),
    ("loop0 0 1 1 1 random_read_corrupt", "Feature random_read_corrupt requires a parameter"),
    ("loop0 0 1 1 1 random_write_corrupt", "Feature random_write_corrupt requires a parameter"),
    ("loop0 0 1 1 2 random_read_corrupt 1000000001", "Invalid random corrupt argument"),
    ("loop0 0 1 1 2 random_write_corrupt x", "Invalid random corrupt argument"),
    ("loop0 0 1 1 1 nonsense", "Unrecognised flakey feature requested"),
    ("loop0 0 1 1 6 drop_writes corrupt_bio_byte 1 w 1 0",
     "drop_writes is incompatible with corrupt_bio_byte with the WRITE flag set"),
    ("loop0 0 1 1 6 corrupt_bio_byte 1 w 1 0 error_writes",
     "error_writes is incompatible with corrupt_bio_byte with the WRITE flag set"),
    ("loop0 0 1 1 3 drop_writes random_write_corrupt 1",
     "drop_writes is incompatible with random_write_corrupt or corrupt_bio_byte with the WRITE flag set"),
    ("loop0 0 1 1 3 error_reads random_read_corrupt 1",
     "error_reads is incompatible with random_read_corrupt or corrupt_bio_byte with the READ flag set"),
    ("loop0 0 1 1 6 error_reads corrupt_bio_byte 1 r 1 0",
     "error_reads is incompatible with random_read_corrupt or corrupt_bio_byte with the READ flag set"),
])
def test_tables_that_are_refused(params: str, reason: str) -> None:
    found = machine(wanted=params)
    assert found.create("d", f"0 1024 flakey {params}") == -errno.EINVAL
    assert found.kernel()[0] == f"err: device-mapper: table: 254:0: flakey: {reason} (-EINVAL)"
    assert found.disk(0).open_count == 0


def test_later_kernels_know_more_and_have_another_default() -> None:
    found = machine()
    assert found.create("d", "0 1024 flakey loop0 0 1 1 1 error_reads") == -errno.EINVAL
    found.stack.era = ERAS["6.18"]
    for reason, words in (("Invalid down interval", "1 x"),
                          ("Feature corrupt_bio_byte requires 4 parameters", "1 1 1 corrupt_bio_byte")):
        found.kernel()
        assert found.create("d", f"0 1024 flakey loop0 0 {words}") == -errno.EINVAL
        assert found.kernel()[0] == f"err: device-mapper: table: 254:0: flakey: {reason} (-EINVAL)"
    assert found.create("d", "0 1024 flakey loop0 0 0 60 5 corrupt_bio_byte 3 r 64 0") == 0
    assert found.first("d", 5) == "A @ector 00000005 ......"
    assert found.create("e", "0 1024 flakey loop0 0 1 1") == 0
    assert found.table("e") == "0 1024 flakey 7:0 0 1 1 2 error_reads error_writes "


def test_the_device_is_looked_up_last() -> None:
    found = machine()
    assert found.create("d", "0 1024 flakey nothing 0 1 1") == -errno.ENODEV
    assert found.kernel()[0] == "err: device-mapper: table: 254:0: flakey: Device lookup failed (-ENODEV)"


@pytest.mark.parametrize(("params", "table"), [
    ("3 3", "3 3 0 "), ("3 3 0", "3 3 0 "), ("1 2 1 Drop_Writes", "1 2 1 drop_writes "),
    ("1 2 1 error_writes", "1 2 1 error_writes "), ("1 2 1 error_reads", "1 2 1 error_reads "),
    ("1 2 2 error_writes error_reads", "1 2 2 error_reads error_writes "),
    ("1 2 5 corrupt_bio_byte 32 R 1 0", "1 2 5 corrupt_bio_byte 32 r 1 0 "),
    ("1 2 6 corrupt_bio_byte 32 r 1 4294967295 drop_writes", "1 2 6 drop_writes corrupt_bio_byte 32 r 1 4294967295 "),
    ("1 2 4 random_write_corrupt 5 random_read_corrupt 7", "1 2 4 random_read_corrupt 7 random_write_corrupt 5 "),
    ("1 2 2 random_read_corrupt 0", "1 2 2 error_reads error_writes "),
    ("1 2 1 drop_writes junk", "1 2 1 drop_writes "),
    ("4294967297 0", "1 0 0 "),
])
def test_tables_that_load(params: str, table: str) -> None:
    found = machine(params)
    assert found.table("d") == f"0 1024 flakey 7:0 0 {table}"
    assert found.status("d") == "0 1024 flakey "
    assert found.load("d", found.table("d")) == 0
    assert found.table("d", inactive=True) == found.table("d")


@pytest.mark.parametrize(("args", "words"), [
    ({}, "pv 0 0 60"),
    ({"up": 3 * NS_PER_S, "down": NS_PER_S + 1}, "pv 0 3 2"),
    ({"drop_writes": True}, "pv 0 0 60 1 drop_writes"),
    ({"error_reads": True, "error_writes": True}, "pv 0 0 60 2 error_reads error_writes"),
    ({"corrupt_byte": 3, "value": 64}, "pv 0 0 60 5 corrupt_bio_byte 3 w 64 0"),
    ({"corrupt_byte": 3, "on": "reads", "flags": 1}, "pv 0 0 60 5 corrupt_bio_byte 3 r 0 1"),
    ({"random_read_corrupt": 5, "random_write_corrupt": 6}, "pv 0 0 60 4 random_read_corrupt 5 random_write_corrupt 6"),
])
def test_the_short_form(args: dict[str, object], words: str) -> None:
    kind = TARGETS["flakey"]
    names = {param.key: param.default for param in kind.signature}
    assert " ".join(kind.params(names | {"device": ["pv", 0]} | args)) == words
    assert kind.natural_length(["pv", "2"], {"pv": 100}.get) == 98


def test_messages_are_refused() -> None:
    found = machine("3 3")
    with pytest.raises(DmError):
        control.message(found.device("d"), 0, "hello")


# Up and down


@pytest.mark.parametrize(("params", "down"), [
    ("3 2", [3, 4, 8, 9, 13, 14]), ("0 60", list(range(15))), ("60 0", []), ("1 1", [1, 3, 5, 7, 9, 11, 13]),
])
def test_when_it_is_down(params: str, down: list[int]) -> None:
    """Whole seconds count, from the construction on."""
    found = machine()
    found.engine.time_ns = 700_000_000
    assert found.create("d", f"0 1024 flakey loop0 0 {params}") == 0
    for second in range(15):
        for within_ns in (0, 999_999_999):
            found.engine.time_ns = 700_000_000 + second * NS_PER_S + within_ns
            expected = "EIO" if second in down else "A sector 00000005 ......"
            assert found.first("d", 5) == expected, second


# What fails while it is down: a read, a write, a flush, a discard
@pytest.mark.parametrize(("features", "answers"), [
    ("", [5, 5, 5, 5]), ("0", [5, 5, 5, 5]), ("1 error_reads", [5, 0, 0, 0]), ("1 error_writes", [0, 5, 5, 5]),
    ("1 drop_writes", [0, 0, 0, 0]), ("2 error_reads drop_writes", [5, 0, 0, 0]),
    ("2 error_reads error_writes", [5, 5, 5, 5]), ("5 corrupt_bio_byte 1 w 1 0", [0, 0, 0, 0]),
    ("2 random_write_corrupt 1000000000", [0, 0, 0, 0]), ("6 error_writes corrupt_bio_byte 1 r 1 0", [0, 5, 5, 5]),
    ("2 random_read_corrupt 0", [5, 5, 5, 5]),
])
@pytest.mark.parametrize("seed", [None, 3])
def test_what_fails_while_it_is_down(features: str, answers: list[int], seed: int | None) -> None:
    found = machine(f"0 60 {features}", seed)
    got = [found.io([found.reading("d", 5, 1)])[0], found.put("d", 9, "B", 1), other_io(found, Op.FLUSH),
           other_io(found, Op.DISCARD)]
    assert got == answers
    if "drop" in features or any(answers[1:]):
        assert found.raw(0, 0, 64) == pattern("A", 64)
    while_up = machine(f"60 1 {features}", seed)
    assert while_up.put("d", 9, "B", 1) == 0
    assert while_up.first("d", 9) == "B sector 00000000 ......"


def test_a_flakey_segment_behind_another_one() -> None:
    found = machine()
    assert found.create("d", "0 64 linear loop1 0", "64 64 flakey loop0 8 60 1") == 0
    assert found.first("d", 66) == "A sector 00000010 ......"


# Corruption


@pytest.mark.parametrize("flags", [0, 1, 1 << 17 | 1])
def test_a_write_is_changed_below_and_not_in_the_writers_hands(flags: int) -> None:
    found = machine(f"0 60 5 corrupt_bio_byte 3 w 64 {flags}")
    data = bytearray(pattern("B", 2))
    bio = found.writing("d", 2, bytes(data))
    bio.buf, bio.fua = data, flags > 1
    assert found.io([bio]) == [0]
    assert bytes(data) == pattern("B", 2)
    assert found.first("loop0", 2) == "B @ector 00000000 ......"
    assert found.first("loop0", 3) == "B sector 00000001 ......"


@pytest.mark.parametrize("params", ["5 corrupt_bio_byte 513 w 64 0", "5 corrupt_bio_byte 3 w 64 2",
                                    "5 corrupt_bio_byte 3 r 64 0"])
def test_a_write_that_is_not_meant_is_not_changed(params: str) -> None:
    found = machine(f"0 60 {params}")
    assert found.put("d", 2, "B", 1) == 0
    assert found.first("loop0", 2) == "B sector 00000000 ......"


def test_a_read_is_changed_only_when_it_comes_from_a_mapped_device() -> None:
    """As in the recording h-others: of what a disk has read nothing is left that could be changed."""
    found = machine("0 60 5 corrupt_bio_byte 3 r 64 0")
    assert found.first("d", 5) == "A sector 00000005 ......"
    assert found.create("base", "0 2048 linear loop0 0") == 0
    assert found.create("e", "0 1024 flakey base 0 0 60 5 corrupt_bio_byte 3 r 64 0") == 0
    assert found.first("e", 5) == "A @ector 00000005 ......"
    assert found.first("loop0", 5) == "A sector 00000005 ......"
    assert found.create("f", "0 1024 flakey base 0 60 1 5 corrupt_bio_byte 3 r 64 0") == 0
    assert found.first("f", 5) == "A sector 00000005 ......"


def differing(one: bytes, other: bytes) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_chance_is_the_tables_own() -> None:
    """The same table has the same luck; another one has another."""
    def changed(params: str) -> list[bytes]:
        found = machine(f"0 60 {params}")
        return [found.read("d", 0, 64) or b"" for _ in range(8)]

    first = changed(f"2 random_read_corrupt {ALWAYS}")
    assert first == changed(f"2 random_read_corrupt {ALWAYS}")
    assert first != changed(f"2 random_read_corrupt {ALWAYS - 1}")
    assert all(differing(data, pattern("A", 64)) <= 1 for data in first)
    assert len(set(first)) > 4
    assert changed("2 random_read_corrupt 1") == [pattern("A", 64)] * 8


def test_a_chance_of_a_half() -> None:
    found = machine("0 60 2 random_write_corrupt 500000000")
    hits = 0
    for _ in range(200):
        assert found.put("d", 0, "B", 1) == 0
        hits += differing(found.raw(0, 0, 1), pattern("B", 1))
    assert 70 < hits < 130


def test_a_copy_has_the_same_luck() -> None:
    found = machine(f"0 60 2 random_read_corrupt {ALWAYS}")
    found.read("d", 0, 8)
    other = copy.deepcopy(found)
    assert [found.read("d", 0, 8) for _ in range(5)] == [other.read("d", 0, 8) for _ in range(5)]
