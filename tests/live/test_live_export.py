"""A stack as files, without FUSE: any alignment and size against a bytearray, and what reaches the disks."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.runtime.backing import FileBacking
from dmspec.runtime.block import Disk
from dmspec.runtime.live_export import LiveExport
from dmspec.runtime.server import MountServer

from .conftest import KIB, MIB, InThread, fails_with, plan_of, statements, until

SIZE = 256 * KIB
STACKS = {
    "linear": "disk pv1 256KiB\ndevice vol { linear pv1 }",
    "segments": "disk pv1 128KiB\ndisk pv2 129KiB\ndevice vol { 128KiB linear pv2 @1KiB  128KiB linear pv1 }",
    "striped": "disk pv1 128KiB\ndisk pv2 128KiB\ndevice vol { striped pv1 pv2 chunk=4KiB }",
    "mirror": "disk pv1 256KiB\ndisk pv2 256KiB\ndisk log 64KiB\n"
              "device vol { mirror pv1 pv2 log=log region=16KiB handle_errors }",
    "origin": "disk pv1 256KiB\ndisk cow 1MiB\ndevice snap { snapshot pv1 cow P chunk=4KiB }\n"
              "device vol { snapshot-origin pv1 }",
    "snapshot": "disk pv1 256KiB\ndisk cow 1MiB\ndevice vol { snapshot pv1 cow P chunk=4KiB }",
    "tower": "disk pv1 256KiB\ndisk pv2 256KiB\ndisk cow 1MiB\ndevice m { mirror pv1 pv2 log=core region=16KiB }\n"
             "device base { linear m }\ndevice snap { snapshot base cow N chunk=8KiB }\n"
             "device vol { snapshot-origin base }",
}


@contextmanager
def served(text: str, folder: Path | None = None) -> Iterator[MountServer]:
    """All of a mount but FUSE."""
    server = MountServer(plan_of(text), spec_folder=Path("/nonexistent"), store=folder)
    try:
        yield server
    finally:
        server.close()


def read(export: LiveExport, name: str, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[:export.read(name, offset, memoryview(buffer))])


def do(server: MountServer, text: str) -> dict[str, Any]:
    def note(_lane: str, _text: str) -> None:
        pass

    process = server.begin_process(statements(text, server.plan), note)
    return server.run_process(process, note)


def ok(server: MountServer, text: str) -> None:
    assert do(server, text) == {"error": "", "violations": []}


# Any alignment and size

EDGE = st.sampled_from([0, 1, 511, 512, 513, 4095, 4096, 8191, 65536, SIZE - 513, SIZE - 512, SIZE - 1, SIZE, SIZE + 9])
OFFSET = st.integers(0, SIZE + 600) | EDGE
LENGTH = st.integers(1, 9000) | st.sampled_from([1, 512, 4096, 65536, SIZE])
ACTION = st.tuples(st.sampled_from(["write", "read", "discard", "suspend"]), OFFSET, LENGTH, st.integers(1, 255))


def check(export: LiveExport, model: bytearray, kind: str, offset: int, length: int, seed: int) -> None:
    if kind == "write":
        data = bytes((seed + at) % 251 for at in range(length))
        if offset >= SIZE:
            with fails_with(errno.ENOSPC):
                export.write("vol", offset, memoryview(data))
            return
        assert export.write("vol", offset, memoryview(data)) == min(length, SIZE - offset)
        model[offset:offset + length] = data[:max(SIZE - offset, 0)]
    elif kind == "read":
        assert read(export, "vol", offset, length) == model[offset:offset + length]
    elif kind == "discard" and offset + length <= SIZE:
        device = export.stack.devices["vol"]
        if device.supports_discard and device.discard_zeroes:
            export.discard("vol", offset, length)
            model[offset:offset + length] = bytes(length)
        else:
            with fails_with(errno.EOPNOTSUPP):
                export.discard("vol", offset, length)


@pytest.mark.parametrize("kind", STACKS)
@settings(max_examples=25)
@given(actions=st.lists(ACTION, max_size=12))
def test_a_device_is_a_bytearray(kind: str, actions: list[tuple[str, int, int, int]]) -> None:
    with served(STACKS[kind]) as server:
        model = bytearray(SIZE)
        for action, offset, length, seed in actions:
            if action == "suspend":
                ok(server, "suspend vol\nresume vol")
            check(server.export, model, action, offset, length, seed)
        assert read(server.export, "vol", 0, SIZE) == model


@pytest.mark.parametrize(("kind", "supported"), [
    ("linear", True), ("segments", True), ("striped", True), ("mirror", True), ("origin", False), ("snapshot", False),
    ("tower", False),
])
def test_a_discard_zeroes_on_the_disks_or_is_refused(kind: str, supported: bool) -> None:
    with served(STACKS[kind]) as server:
        server.export.write("vol", 0, memoryview(b"x" * SIZE))
        if kind == "mirror":
            until(lambda: "16/16" in server.status()[0]["status"][0], "the first resynchronisation, which fills a leg")
        before = used(server)
        if not supported:
            with fails_with(errno.EOPNOTSUPP):
                server.export.discard("vol", 0, SIZE)
            return
        server.export.discard("vol", 700, SIZE // 2)
        assert read(server.export, "vol", 0, SIZE) == b"x" * 700 + bytes(SIZE // 2) + b"x" * (SIZE // 2 - 700)
        assert used(server) <= before - SIZE // 2 + 16 * KIB


def used(server: MountServer) -> int:
    return sum(os.fstat(backing.fd).st_blocks * 512 for backing in server.disks.backings.values())


def test_what_is_not_there_has_no_io() -> None:
    with served(STACKS["linear"]) as server:
        export = server.export
        for call in (lambda: export.flush("none"), lambda: export.open("none", write=False),
                     lambda: read(export, "none", 0, 1), lambda: export.discard("none", 0, 1)):
            with fails_with(errno.ENXIO):
                call()
        with pytest.raises(KeyError):
            export.size_bytes("none")
        ok(server, "create empty")
        assert list(export.names()) == ["vol"]
        assert read(export, "vol", SIZE, 10) == b""


# Flushes


class Recording(FileBacking):
    """Counts what is done to a disk; ``log`` is shared by all."""

    log: Counter[str]

    def write(self, offset: int, buffer: memoryview) -> None:
        self.log[f"write {self.name}"] += 1
        super().write(offset, buffer)

    def flush(self) -> None:
        self.log[f"flush {self.name}"] += 1
        super().flush()


def recorded(server: MountServer) -> Counter[str]:
    """Let the disks of a server count."""
    log: Counter[str] = Counter()
    for name, disk in server.stack.disks.items():
        assert isinstance(disk, Disk)
        backing = server.disks.backings[name]
        counting = Recording(backing.fd, durable=False, name=name)
        counting.log = log
        disk.backing = counting
    return log


@pytest.mark.parametrize(("kind", "disks"), [
    ("linear", "pv1"), ("segments", "pv1 pv2"), ("striped", "pv1 pv2"), ("mirror", "pv1 pv2"), ("origin", "pv1"),
    ("snapshot", "cow"), ("tower", "pv1 pv2"),
])
def test_a_flush_reaches_every_disk_below(kind: str, disks: str) -> None:
    with served(STACKS[kind]) as server:
        server.export.write("vol", 0, memoryview(b"x" * 4096))
        log = recorded(server)
        server.export.flush("vol")
        for disk in disks.split():
            assert log[f"flush {disk}"] >= 1, (disk, log)


def test_a_flush_that_fails_is_an_error() -> None:
    with served(STACKS["segments"]) as server:
        ok(server, "fail pv2 writes")
        with fails_with(errno.EIO):
            server.export.flush("vol")


def test_a_write_that_is_answered_is_on_both_legs_and_its_region_in_the_log() -> None:
    with served(STACKS["mirror"]) as server:
        until(lambda: "16/16" in server.status()[0]["status"][0], "the first resynchronisation")
        log = recorded(server)
        server.export.write("vol", 0, memoryview(b"x" * 512))
        assert log["write pv1"] == log["write pv2"] == 1
        assert log["write log"] >= 1
        assert log["flush log"] >= 1


# Openings


def test_openings_are_counted_under_the_name_of_the_opening() -> None:
    with served(STACKS["linear"] + "\ndisk pv2 1MiB") as server:
        export, stack = server.export, server.stack
        device = stack.devices["vol"]
        export.open("vol", write=True)
        export.open("vol", write=False)
        assert do(server, "remove vol")["error"] == "EBUSY"
        ok(server, "rename vol other\ncreate vol { linear pv2 }")
        export.open("other", write=False)
        with fails_with(errno.EBUSY):
            export.open("vol", write=False)
        assert export.size_bytes("vol") == SIZE
        export.write("vol", 0, memoryview(b"old!" * 128))
        assert read(export, "other", 0, 4) == b"old!"
        export.close("vol", write=True)
        export.close("vol", write=False)
        assert device.open_count == 1
        export.open("vol", write=False)
        assert export.size_bytes("vol") == MIB
        assert (device.open_count, stack.devices["vol"].open_count) == (1, 1)
        export.close("other", write=False)
        ok(server, "remove other")
        export.close_all()
        assert export.opened == {}
        ok(server, "remove vol")


def test_the_last_close_removes_what_was_removed_deferred() -> None:
    with served(STACKS["linear"]) as server:
        server.export.open("vol", write=False)
        ok(server, "remove vol deferred")
        assert list(server.export.names()) == ["vol"]
        server.export.close("vol", write=False)
        until(lambda: list(server.export.names()) == [], "the removal")


# Edges


def test_writes_to_parts_of_a_sector_do_not_undo_each_other() -> None:
    """Nor those of whole sectors, nor a process's own: all of them go through one set of ranges."""
    with served(STACKS["linear"]) as server:
        def part(lane: int) -> None:
            for _ in range(60):
                server.export.write("vol", 1024 + lane * 100, memoryview(bytes([lane + 1]) * 100))

        def whole() -> None:
            for number in range(60):
                server.export.write("vol", 512, memoryview(bytes([number]) * 512))

        together(*(lambda lane=lane: part(lane) for lane in range(5)), whole,
                 lambda: ok(server, "write vol at=1536 size=100 times=1 pattern=P"))
        assert read(server.export, "vol", 1024, 500) == b"".join(bytes([lane + 1]) * 100 for lane in range(5))
        assert read(server.export, "vol", 512, 512) == bytes([59]) * 512


def together(*functions: Callable[[], object]) -> None:
    calls = [InThread(function) for function in functions]
    for call in calls:
        call.result()


def test_a_whole_sector_waits_for_a_part_of_it_that_is_being_changed() -> None:
    """The part is read first; what is written between that and its write must not be lost."""
    with served(STACKS["linear"]) as server:
        ok(server, "delay pv1 50ms reads")
        part = InThread(server.export.write, "vol", 10, memoryview(b"part"))
        until(lambda: server.export.ranges.busy.get("254:0"), "the part to be entered")
        server.export.write("vol", 0, memoryview(b"w" * 512))
        part.result()
        server.export.discard("vol", 512, 512)
        assert read(server.export, "vol", 0, 512) == b"w" * 512
        part = InThread(server.export.write, "vol", 10, memoryview(b"part"))
        until(lambda: server.export.ranges.busy["254:0"], "the part to be entered")
        server.export.discard("vol", 0, 512)
        part.result()
        assert read(server.export, "vol", 0, 512) == bytes(512)
