"""The binary door: the ioctls of a recording played byte by byte, and buffers that lie."""

from __future__ import annotations

import errno
import random
import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from dmspec.runtime import control
from dmspec.runtime import ioctl_format as form
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.eras import ERAS
from dmspec.runtime.ioctl import DRIVER_VERSION, IoctlCore
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.stack import Stack
from dmspec.runtime.task import Task

RECORDED = Path(__file__).parents[1] / "kernel_cases" / "recorded" / "g-ioctl.out"

FLAGS = {"DM_EXISTS_FLAG": form.EXISTS, "DM_READONLY_FLAG": form.READONLY, "DM_SUSPEND_FLAG": form.SUSPEND,
         "DM_PERSISTENT_DEV_FLAG": form.PERSISTENT_DEV, "DM_STATUS_TABLE_FLAG": form.STATUS_TABLE,
         "DM_ACTIVE_PRESENT_FLAG": form.ACTIVE_PRESENT, "DM_INACTIVE_PRESENT_FLAG": form.INACTIVE_PRESENT,
         "DM_SKIP_LOCKFS_FLAG": form.SKIP_LOCKFS, "DM_NOFLUSH_FLAG": form.NOFLUSH,
         "DM_QUERY_INACTIVE_TABLE_FLAG": form.QUERY_INACTIVE, "DM_UEVENT_GENERATED_FLAG": form.UEVENT_GENERATED,
         "DM_UUID_FLAG": form.UUID, "DM_DEFERRED_REMOVE": form.DEFERRED_REMOVE}
NUMBERS = {"DM_VERSION": 0, "DM_REMOVE_ALL": 1, "DM_LIST_DEVICES": 2, "DM_DEV_CREATE": 3, "DM_DEV_REMOVE": 4,
           "DM_DEV_RENAME": 5, "DM_DEV_SUSPEND": 6, "DM_DEV_STATUS": 7, "DM_DEV_WAIT": 8, "DM_TABLE_LOAD": 9,
           "DM_TABLE_CLEAR": 10, "DM_TABLE_DEPS": 11, "DM_TABLE_STATUS": 12, "DM_LIST_VERSIONS": 13,
           "DM_TARGET_MSG": 14, "DM_DEV_SET_GEOMETRY": 15}


class Machine:
    """A stack with two disks, whose ioctls are run until nothing moves."""

    def __init__(self) -> None:
        self.engine = SimEngine()
        self.stack = Stack(self.engine, ERAS["now"], TARGETS)
        for index in range(2):
            self.stack.add_disk(f"loop{index}", 2048, SparseMemory())
        self.core = IoctlCore(self.stack)

    def start(self, nr: int, data: bytes) -> Task:
        task = Task(self.engine, "ioctl")
        task.start(self.core.call(nr, data))
        self.engine.run(limit=self.engine.steps + 100_000)
        return task

    def call(self, nr: int, header: form.Header, payload: bytes = b"", size: int = 16384) -> tuple[int, bytes]:
        header.data_size = size
        header.data_start = header.data_start or form.HEADER_BYTES
        data = (header.write() + payload).ljust(size, b"\0")
        task = self.start(nr, data)
        assert task.ended, task.waiting
        error, back = task.value
        return error, back + data[len(back):]

    def good(self, nr: int, header: form.Header, payload: bytes = b"") -> form.Header:
        error, data = self.call(nr, header, payload)
        assert error == 0, errno.errorcode[error]
        return form.Header.read(data)


def spec(start: int, length: int, kind: str, text: str) -> bytes:
    return form.write_specs([form.Spec(start, length, kind, text)])


# The recording


def read_fields(text: str) -> tuple[form.Header, set[str]]:
    """The fields of a structure as strace writes them, and which of them it wrote."""
    header = form.Header()
    found = set()
    if match := re.search(r"version=\[(\d+), (\d+), (\d+)\]", text):
        header.version = (int(match[1]), int(match[2]), int(match[3]))
        found.add("version")
    for name in ("data_size", "data_start", "target_count", "open_count", "event_nr"):
        if match := re.search(rf"\b{name}=(\d+)", text):
            setattr(header, name, int(match[1]))
            found.add(name)
    for name in ("name", "uuid"):
        if match := re.search(rf'\b{name}="([^"]*)"', text):
            setattr(header, name, match[1])
            found.add(name)
    if match := re.search(r"makedev\(0x([0-9a-f]+), (?:0x)?([0-9a-f]+)\)", text):
        header.dev = form.encode_dev(int(match[1], 16), int(match[2], 16))
        found.add("dev")
    if match := re.search(r"flags=([A-Z_|]+)", text):
        header.flags = sum(FLAGS[word] for word in match[1].split("|"))
        found.add("flags")
    return header, found


def read_payload(text: str) -> bytes:
    """What follows the structure on the way in."""
    out = b""
    for one in re.finditer(r'\{sector_start=(\d+), length=(\d+), target_type="([^"]*)", string="([^"]*)"\}', text):
        out += spec(int(one[1]), int(one[2]), one[3], one[4])
    if match := re.search(r'\{sector=(\d+), message="([^"]*)"\}', text):
        return form.write_message(int(match[1]), match[2])
    if match := re.match(r', \{string="([^"]*)"\}', text):
        return match[1].encode() + b"\0"
    return out


def read_answer(text: str, data: bytes) -> list[object]:
    """What follows the structure on the way out, as the recording and as we have it."""
    first = form.HEADER_BYTES
    if match := re.findall(r'\{sector_start=(\d+), length=(\d+), status=0, target_type="([^"]*)", string="([^"]*)"\}',
                           text):
        got = [(str(one.start), str(one.length), one.kind, one.text)
               for one in form.read_status(data, first, len(match))]
        return [match, got]
    if match := re.findall(r'\{name="([^"]*)", version=\[(\d+), (\d+), (\d+)\]\}', text):
        return [match, [(name, *(str(one) for one in version)) for name, version in form.read_versions(data, first)]]
    if match := re.findall(r'\{dev=makedev\(0x([0-9a-f]+), (\d+)\), name="([^"]*)"\}', text):
        return [[(int(major, 16), int(minor), name) for major, minor, name in match],
                [(*form.decode_dev(one.dev), one.name) for one in form.read_names(data, first)]]
    return [0, 0]


def recorded_calls() -> list[re.Match[str]]:
    calls = []
    for line in RECORDED.read_text().splitlines():
        match = re.match(r"ioctl\((?:3, )?(DM_\w+), \[(\{.*?\})(.*?)\] => \[(\{.*?\})(.*?)\]\) = (-?\d+)(?: (E\w+))?",
                         line)
        if match:
            calls.append(match)
    return calls


def test_the_recorded_ioctls_are_answered_alike() -> None:
    machine = Machine()
    calls = recorded_calls()
    assert len(calls) > 35
    for match in calls:
        header, _found = read_fields(match[2])
        payload = read_payload(match[3])
        error, data = machine.call(NUMBERS[match[1]], header, payload)
        got = form.Header.read(data)
        wanted, found = read_fields(match[4])
        assert errno.errorcode.get(error) == match[7], match[0]
        for name in found:
            assert getattr(got, name) == getattr(wanted, name), f"{name}: {match[0]}"
        recorded, ours = read_answer(match[5], data)
        assert ours == recorded, match[0]


# Layout


def test_the_structure_has_the_kernel_s_layout() -> None:
    header = form.Header((1, 2, 3), 4, 5, 6, 7, 8, 9, 10, 11, "name", "uuid")
    data = header.write()
    assert len(data) == 312
    assert data[12:16] == (4).to_bytes(4, "little")
    assert data[28:32] == (8).to_bytes(4, "little")
    assert data[40:48] == (11).to_bytes(8, "little")
    assert data[48:52] == b"name"
    assert data[176:180] == b"uuid"
    assert form.Header.read(data) == header


@pytest.mark.parametrize(("number", "dev"), [((254, 0), 0xFE00), ((1, 9), 0x109), ((254, 256), 0x10FE00),
                                             ((4095, 1048575), 0xFFFFFFFF)])
def test_device_numbers(number: tuple[int, int], dev: int) -> None:
    assert form.encode_dev(*number) == dev
    assert form.decode_dev(dev) == number


def test_an_error_writes_the_version_and_nothing_else() -> None:
    task = Machine().start(form.DEV_STATUS, form.Header((4, 0, 0), 16384, name="x").write().ljust(16384, b"\0"))
    assert task.value == (errno.ENXIO, form.write_version(DRIVER_VERSION))


# Lookups and their errors


def test_a_device_is_found_by_uuid_by_name_and_by_number() -> None:
    machine = Machine()
    control.create(machine.stack, "a", uuid="U")
    for header in (form.Header(name="a"), form.Header(uuid="U"), form.Header(dev=form.encode_dev(254, 0))):
        got = machine.good(form.DEV_STATUS, header)
        assert (got.name, got.uuid, got.dev) == ("a", "U", 0xFE00)
    for header in (form.Header(uuid="V"), form.Header(dev=1), form.Header(), form.Header(name="a", dev=0xFE00)):
        assert machine.call(form.DEV_STATUS, header)[0] == errno.ENXIO
    assert machine.call(form.DEV_STATUS, form.Header(name="a", uuid="U"))[0] == errno.EINVAL
    assert machine.call(form.DEV_CREATE, form.Header(name="a"))[0] == errno.EBUSY
    assert machine.call(form.DEV_CREATE, form.Header(name="b", uuid="U"))[0] == errno.EBUSY


@pytest.mark.parametrize(("version", "error"), [((4, 47, 99), 0), ((4, 48, 0), errno.EINVAL),
                                                ((3, 0, 0), errno.EINVAL)])
def test_versions(version: tuple[int, int, int], error: int) -> None:
    assert Machine().call(form.DM_VERSION, form.Header(version))[0] == error


@pytest.mark.parametrize("nr", [18, 19, 255, -1])
def test_unknown_commands(nr: int) -> None:
    assert Machine().call(nr, form.Header())[0] == errno.ENOTTY


# Answers that do not fit


def test_a_full_buffer_is_said_and_a_larger_one_takes_it() -> None:
    machine = Machine()
    for index in range(40):
        control.create(machine.stack, f"device-{index}")
    for nr, header in ((form.LIST_DEVICES, form.Header()), (form.LIST_VERSIONS, form.Header())):
        error, data = machine.call(nr, header, size=400)
        assert (error, form.Header.read(data).flags & form.BUFFER_FULL) == (0, form.BUFFER_FULL)
        error, data = machine.call(nr, header, size=16384)
        assert (error, form.Header.read(data).flags & form.BUFFER_FULL) == (0, 0)
    entries = form.read_names(machine.call(form.LIST_DEVICES, form.Header())[1], form.HEADER_BYTES)
    assert [entry.name for entry in entries] == sorted(f"device-{index}" for index in range(40))


def test_a_status_that_does_not_fit() -> None:
    machine = Machine()
    machine.good(form.DEV_CREATE, form.Header(name="a"))
    machine.good(form.TABLE_LOAD, form.Header(name="a", target_count=1), spec(0, 8, "linear", "loop0 0"))
    machine.good(form.DEV_SUSPEND, form.Header(name="a"))
    for size in range(form.HEADER_BYTES, form.HEADER_BYTES + 53):
        flags = form.STATUS_TABLE
        _error, data = machine.call(form.TABLE_STATUS, form.Header(name="a", flags=flags), size=size)
        got = form.Header.read(data)
        fits = size > form.HEADER_BYTES + form.SPEC_BYTES + len("7:0 0") + 1
        assert bool(got.flags & form.BUFFER_FULL) != fits, size
        assert got.data_size == (form.HEADER_BYTES + form.SPEC_BYTES + 6 if fits else form.SMALLEST_BYTES)


def test_several_targets_point_from_the_first() -> None:
    machine = Machine()
    machine.good(form.DEV_CREATE, form.Header(name="a"))
    table = [form.Spec(0, 8, "zero", ""), form.Spec(8, 8, "linear", "loop0 0"), form.Spec(16, 8, "error", "")]
    machine.good(form.TABLE_LOAD, form.Header(name="a", target_count=3), form.write_specs(table))
    _error, data = machine.call(form.TABLE_STATUS, form.Header(name="a", flags=form.STATUS_TABLE | form.QUERY_INACTIVE))
    got = form.Header.read(data)
    assert got.target_count == 3
    assert [(one.start, one.kind, one.text) for one in form.read_status(data, got.data_start, 3)] == [
        (0, "zero", ""), (8, "linear", "7:0 0"), (16, "error", "")]
    steps = [int.from_bytes(data[at + 20:at + 24], "little") for at in (312, 312 + 48, 312 + 96)]
    assert steps == [48, 96, 144]


# Waiting


def test_wait_returns_when_the_number_is_another() -> None:
    machine = Machine()
    machine.good(form.DEV_CREATE, form.Header(name="a"))
    machine.good(form.TABLE_LOAD, form.Header(name="a", target_count=1), spec(0, 8, "zero", ""))
    machine.good(form.DEV_SUSPEND, form.Header(name="a"))
    header = form.Header((4, 0, 0), 16384, 312, name="a")
    waiting = machine.start(form.DEV_WAIT, header.write().ljust(16384, b"\0"))
    assert waiting.waiting is not None
    machine.good(form.DEV_RENAME, form.Header(name="a"), b"b\0")
    assert waiting.ended
    got = form.Header.read(waiting.value[1])
    assert (waiting.value[0], got.event_nr, got.target_count) == (0, 1, 1)


def test_remove_all_leaves_what_is_open() -> None:
    machine = Machine()
    for name in ("a", "b", "c"):
        machine.good(form.DEV_CREATE, form.Header(name=name))
    machine.stack.hold(machine.stack.device("b"))
    assert machine.call(form.REMOVE_ALL, form.Header())[0] == 0
    assert list(machine.stack.devices) == ["b"]
    assert machine.stack.log_lines[-1] == ("warning", "device-mapper: ioctl: remove_all left 1 open device(s)")
    assert machine.call(form.DEV_REMOVE, form.Header(name="b"))[0] == errno.EBUSY
    got = machine.good(form.DEV_REMOVE, form.Header(name="b", flags=form.DEFERRED_REMOVE))
    assert got.flags & form.DEFERRED_REMOVE
    assert machine.good(form.DEV_STATUS, form.Header(name="b")).flags & form.DEFERRED_REMOVE


# Buffers that lie


@pytest.mark.parametrize(("size", "error"), [(0, errno.EINVAL), (304, errno.EINVAL), (1 << 31, errno.EINVAL),
                                             (20000, errno.EFAULT)])
def test_a_lying_data_size(size: int, error: int) -> None:
    machine = Machine()
    data = form.Header((4, 0, 0), size, 312).write().ljust(16384, b"\0")
    assert machine.start(form.LIST_DEVICES, data).value[0] == error


@pytest.mark.parametrize("length", [0, 11, 12, 304])
def test_a_buffer_that_ends_too_early(length: int) -> None:
    data = form.Header((4, 0, 0), 16384).write()[:length]
    assert Machine().start(form.LIST_DEVICES, data).value[0] == errno.EFAULT


@pytest.mark.parametrize(("start", "count"), [(0, 1), (39, 1), (16380, 1), (1 << 31, 1), (312, 2), (312, 1 << 20)])
def test_specs_outside_the_buffer(start: int, count: int) -> None:
    machine = Machine()
    machine.good(form.DEV_CREATE, form.Header(name="a"))
    header = form.Header(name="a", data_start=start or 1, target_count=count)
    assert machine.call(form.TABLE_LOAD, header, spec(0, 8, "zero", ""))[0] == errno.EINVAL


def test_strings_without_an_end() -> None:
    machine = Machine()
    machine.good(form.DEV_CREATE, form.Header(name="a"))
    full = b"x" * (16384 - form.HEADER_BYTES)
    for nr in (form.DEV_RENAME, form.TARGET_MSG, form.DEV_SET_GEOMETRY):
        assert machine.call(nr, form.Header(name="a"), full)[0] == errno.EINVAL
    body = spec(0, 8, "zero", "")[:form.SPEC_BYTES] + b"y" * (16384 - form.HEADER_BYTES - form.SPEC_BYTES)
    assert machine.call(form.TABLE_LOAD, form.Header(name="a", target_count=1), body)[0] == errno.EINVAL


@settings(max_examples=300)
@given(nr=st.integers(0, 18), data=st.binary(max_size=600), seed=st.integers(0, 1 << 30))
def test_garbage_is_answered(nr: int, data: bytes, seed: int) -> None:
    """Random bytes, and a good buffer in which some bytes are others."""
    machine = Machine()
    control.create(machine.stack, "a")
    machine.good(form.TABLE_LOAD, form.Header(name="a", target_count=1), spec(0, 8, "linear", "loop0 0"))
    drawn = random.Random(seed)
    good = bytearray(form.Header((4, 0, 0), 600, 312, 1, name="a").write() + spec(0, 8, "linear", "loop1 0"))
    good = good.ljust(600, b"\0")
    for _ in range(drawn.randrange(12)):
        good[drawn.randrange(600)] = drawn.choice((0, 1, 0xFF, drawn.randrange(256)))
    for buffer in (data, bytes(good)):
        task = machine.start(nr, buffer)
        if task.ended:
            error, back = task.value
            assert 0 <= error < 200
            assert len(back) <= max(len(buffer), form.HEADER_BYTES)
