"""The quick way through a stack beside the ordinary one: the same operations end in the same state, bytes and words."""

import fcntl
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.runtime.backing import FileBacking
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import DiskIo
from dmspec.runtime.fuse.piped import PIPE_BYTES, Piped
from dmspec.runtime.kcopyd import CopyJob, Piece
from dmspec.runtime.live import in_background
from dmspec.runtime.live_export import LiveExport
from dmspec.runtime.live_straight import Straight, compiled
from dmspec.runtime.mapped_device import MappedIo
from dmspec.runtime.server import MountServer
from dmspec.runtime.targets.mirror import Mirror

from .conftest import KIB, InThread, until
from .test_live_export import SIZE, STACKS, do, ok, served

MORE = {
    **STACKS,
    "mirror-core": "disk pv1 256KiB\ndisk pv2 256KiB\ndevice vol { mirror pv1 pv2 log=core region=16KiB nosync }",
    "lvm": "disk pv1 512KiB\ndisk pv2 512KiB\ndisk pv3 1MiB\ndevice leg0 { 256KiB linear pv1 @4KiB }\n"
           "device leg1 { 256KiB linear pv2 @8KiB }\n"
           "device real { mirror leg0 leg1 log=core region=32KiB nosync }\ndevice cow { linear pv3 }\n"
           "device vol { snapshot-origin real }\ndevice snap { snapshot real cow P chunk=8KiB }",
    "two-snapshots": "disk pv1 256KiB\ndisk c1 1MiB\ndisk c2 1MiB\ndevice s1 { snapshot pv1 c1 P chunk=4KiB }\n"
                     "device s2 { snapshot pv1 c2 N chunk=16KiB }\ndevice vol { snapshot-origin pv1 }",
    "linear-linear": "disk pv1 300KiB\ndevice low { 128KiB linear pv1 @9KiB  132KiB linear pv1 @140KiB }\n"
                     "device vol { linear low @4KiB }",
    "merge": "disk pv1 256KiB\ndisk cow 1MiB\ndevice vol { snapshot-merge pv1 cow P chunk=4KiB }",
    "flakey": "disk pv1 256KiB\n"
              "device vol { 128KiB linear pv1  128KiB flakey pv1 @128KiB up=0s down=3600s drop_writes }",
}

# Kinds whose whole volume goes straight, once a first write to all of it has made regions and exceptions.
ALL_STRAIGHT = ["linear", "segments", "striped", "mirror-core", "origin", "snapshot", "tower", "lvm", "two-snapshots",
                "linear-linear"]


@dataclass
class Count:
    """How many requests have gone each way; with ``pages`` what is written lies in pages of the kernel."""

    straight: int = 0
    ordinary: int = 0
    pages: bool = False


@contextmanager
def in_pages(data: bytes) -> Iterator[Piped]:
    """A write-back's bytes as the device loop has them, after a head of 80 bytes."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pages = Piped()
    try:
        os.write(writer, bytes(80) + data)
        assert pages.take(reader, bytearray(80), memoryview(bytearray(len(data)))) == 80 + len(data)
        yield pages
        pages.over()
    finally:
        pages.close()
        os.close(reader)
        os.close(writer)


def write_straight(quick: Straight, offset: int, data: bytes, *, pages: bool) -> bool:
    """Where it is refused, all of it must be there for the ordinary path."""
    if not pages:
        return quick.write(offset, memoryview(data))
    with in_pages(data) as piped:
        done = quick.write_pages(offset, len(data), piped)
        assert done or piped.buffer() == data
    return done


def write(export: LiveExport, name: str, offset: int, data: bytes, count: Count | None) -> int:
    """Without a count: by the ordinary path only.  The answer is an errno."""
    quick = export.straight(name) if count is not None else None
    if count is not None and quick is not None and write_straight(quick, offset, data, pages=count.pages):
        count.straight += 1
        return 0
    if count is not None:
        count.ordinary += 1
    try:
        export.write(name, offset, memoryview(data))
    except OSError as problem:
        return problem.errno or -1
    return 0


def read(export: LiveExport, name: str, offset: int, length: int, count: Count | None) -> bytes | int:
    buffer = bytearray(length)
    quick = export.straight(name) if count is not None else None
    if quick is not None and quick.read(offset, memoryview(buffer)):
        assert count is not None
        count.straight += 1
        return bytes(buffer)
    if count is not None:
        count.ordinary += 1
    try:
        export.read(name, offset, memoryview(buffer))
    except OSError as problem:
        return problem.errno or -1
    return bytes(buffer)


def words(server: MountServer) -> tuple[Any, ...]:
    """All that a person could see of a stack but its bytes."""
    return server.status(), list(server.stack.log_lines)


def disks(server: MountServer) -> dict[str, bytes]:
    found = {}
    for name, backing in server.disks.backings.items():
        data = bytearray(os.fstat(backing.fd).st_size)
        backing.read(0, memoryview(data))
        found[name] = bytes(data)
    return found


def insync(server: MountServer) -> str:
    """Wait for resyncs: when they meet what else is done is a matter of time."""
    return "".join(f"await insync({md.name})\n" for md in server.stack.devices.values()
                   if md.live is not None and md.live.types == ["mirror"])


BLOCKS = SIZE // 4096
ACTION = st.tuples(
    st.sampled_from(["write"] * 5 + ["read"] * 4 + ["snap", "discard", "flush", "reload", "suspend", "noflush", "bad",
                                                   "heal"]),
    st.integers(0, BLOCKS - 1), st.integers(1, 9), st.integers(1, 255))


def act(server: MountServer, count: Count | None, kind: str, block: int, blocks: int, seed: int) -> Any:
    offset, length = block * 4096, min(blocks * 4096 + (seed % 3) * 512, SIZE - block * 4096)
    if kind in ("write", "snap"):
        name = "snap" if kind == "snap" and "snap" in server.stack.devices else "vol"
        return write(server.export, name, offset, bytes([seed]) * length, count)
    if kind == "read":
        return read(server.export, "vol", offset, length, count)
    statement = {
        "discard": f"allow error EOPNOTSUPP {{ discard vol at={offset} size={length} }}",
        "flush": "flush vol",
        "reload": "heal pv1\nload vol table=table-of(vol)\nresume vol\n" + insync(server),
        "suspend": "suspend vol\nresume vol",
        "noflush": "suspend vol noflush nolockfs\nresume vol",
        "bad": f"fail pv1 reads range={offset}+{length}",
        "heal": "heal pv1",
    }[kind]
    return do(server, statement)


@pytest.mark.parametrize("kind", MORE)
@settings(max_examples=12)
@given(actions=st.lists(ACTION, min_size=1, max_size=14), pages=st.booleans())
def test_both_ways_end_alike(kind: str, actions: list[tuple[str, int, int, int]], pages: bool) -> None:
    with served(MORE[kind]) as ordinary, served(MORE[kind]) as quick:
        count = Count(pages=pages)
        for server in (ordinary, quick):
            ok(server, insync(server) or "flush vol")
        for action in actions:
            assert act(ordinary, None, *action) == act(quick, count, *action), action
        until(lambda: words(ordinary) == words(quick), "the same words", 4)
        until(lambda: disks(ordinary) == disks(quick), "the same bytes", 4)


@pytest.mark.parametrize("pages", [False, True])
@pytest.mark.parametrize("kind", ALL_STRAIGHT)
def test_what_has_settled_goes_straight(kind: str, pages: bool) -> None:
    with served(MORE[kind]) as server:
        ok(server, insync(server) or "flush vol")
        # An origin in use when its snapshot was made cuts no writes, and looks at their first chunk only.
        for block in range(BLOCKS):
            write(server.export, "vol", block * 4096, b"a" * 4096, None)
        count = Count(pages=pages)
        for block in range(0, BLOCKS, 3):
            write(server.export, "vol", block * 4096, b"b" * 4096, count)
            assert read(server.export, "vol", block * 4096, 4096, count) == b"b" * 4096
        write(server.export, "vol", 0, b"c" * SIZE, count)
        assert read(server.export, "vol", 0, SIZE, count) == b"c" * SIZE
        assert count.ordinary == 0


def test_a_disk_log_is_written_once_for_a_stream_of_writes_to_a_region() -> None:
    """Once marked, a region goes straight until somebody clears its mark."""
    with served(MORE["mirror"]) as server:
        ok(server, "await insync(vol)")
        held = [InThread(write, server.export, "vol", 0, b"x" * 4096, None)]
        held[0].result()
        count = Count()
        for _ in range(200):
            write(server.export, "vol", 4096, b"y" * 4096, count)
        assert count.straight > 100


@pytest.mark.parametrize("statement", ["suspend vol", "suspend vol noflush nolockfs", "fail pv1", "delay pv1 1ms",
                                       "detach pv1"])
def test_what_stands_in_the_way_is_seen(statement: str) -> None:
    """Nothing goes straight into a device that is suspended or a disk that is ill; afterwards it does again."""
    with served(MORE["linear"]) as server:
        quick = server.export.straight("vol")
        assert quick is not None
        data, buffer = memoryview(b"x" * 4096), memoryview(bytearray(4096))
        assert quick.write(0, data)
        ok(server, statement)
        assert not quick.write(0, data)
        assert not quick.read(0, buffer)
        ok(server, "resume vol" if statement.startswith("suspend") else "heal pv1")
        assert quick.write(0, data)
        assert quick.read(0, buffer)
        assert buffer == data


def test_only_whole_sectors_inside_the_device_go_straight() -> None:
    with served(MORE["linear"]) as server:
        quick = server.export.straight("vol")
        assert quick is not None
        for offset, length in ((1, 512), (0, 511), (SIZE - 512, 1024), (SIZE, 512), (0, 0)):
            assert not quick.write(offset, memoryview(bytes(length)))
            assert not quick.read(offset, memoryview(bytearray(length)))


def test_a_table_swapped_meanwhile_is_taken_at_once() -> None:
    with served("disk a 64KiB\ndisk b 64KiB\ndevice low { linear a }\ndevice vol { linear low }") as server:
        quick = server.export.straight("vol")
        assert quick is not None
        assert quick.write(0, memoryview(b"1" * 512))
        ok(server, "load low { linear b }\nresume low")
        assert quick.write(0, memoryview(b"2" * 512))
        assert [data[:1] for data in disks(server).values()] == [b"1", b"2"]


def test_a_compiled_table_says_what_map_says() -> None:
    text = MORE["linear-linear"]
    with served(text) as server:
        device = server.stack.devices["vol"]
        segments = compiled(device, 0, device.sectors)
        assert segments is not None
        assert [segment.end for segment in segments] == [248, 512]
        assert [segment.shift for segment in segments] == [8 + 18, 8 - 256 + 280]
        assert compiled(server.stack.devices["low"], 0, 512 + 99) is None


def test_a_suspend_waits_for_what_goes_straight_and_nothing_moves_after_it() -> None:
    """Four threads write numbers while the device is suspended again and again."""
    with served(MORE["lvm"]) as server:
        for block in range(BLOCKS):
            write(server.export, "vol", block * 4096, bytes(4096), None)
        stop = threading.Event()
        count = Count()

        def writer(lane: int) -> None:
            draw = random.Random(lane)
            while not stop.is_set():
                block = draw.randrange(lane, BLOCKS, 4)
                write(server.export, "vol", block * 4096, draw.randbytes(16) * 256, count)

        writers = [InThread(writer, lane) for lane in range(4)]
        for _ in range(15):
            ok(server, "suspend vol noflush nolockfs")
            vol = server.stack.devices["vol"]
            before = disks(server)
            assert (vol.in_flight, vol.suspended) == (0, True)
            until(lambda vol=vol: len(vol.deferred) == 4, "every writer to wait")  # type: ignore[misc]
            assert disks(server) == before
            done = count.straight
            ok(server, "resume vol")
            until(lambda done=done: count.straight > done, "writes to go straight again")  # type: ignore[misc]
        stop.set()
        for one in writers:
            one.result()
        assert all(md.in_flight == 0 for md in server.stack.devices.values())
        assert not any(server.export.ranges.busy.values())


def test_a_write_of_part_of_a_sector_and_straight_ones_do_not_undo_each_other() -> None:
    """Bytes 0 to 255 of a sector are written alone, while all of it is, in turn, by the quick way."""
    with served(MORE["linear"]) as server:
        def several(function: Callable[[int], None]) -> None:
            for number in range(300):
                function(number)

        quick = server.export.straight("vol")
        assert quick is not None

        def whole(number: int) -> None:
            if not quick.write(0, memoryview(bytes([number % 250]) * 1024)):
                server.export.write("vol", 0, memoryview(bytes([number % 250]) * 1024))

        def part(number: int) -> None:
            server.export.write("vol", 100, memoryview(bytes([number % 250]) * 50))

        both = [InThread(several, whole), InThread(several, part)]
        for one in both:
            one.result()
        last = bytearray(1024)
        server.export.read("vol", 0, memoryview(last))
        assert set(last[:100]) == set(last[150:]) == {299 % 250}


def test_what_failed_straight_is_done_again_on_the_ordinary_path() -> None:
    """The host refuses the bytes: the mirror's leg is marked, and the write ends as it does on the ordinary path."""
    with served("disk pv1 64KiB\ndisk pv2 64KiB\ndevice vol { mirror pv1 pv2 log=core region=16KiB nosync }") as server:
        quick = server.export.straight("vol")
        assert quick is not None
        assert quick.write(0, memoryview(b"x" * 4096))
        backing = server.disks.backings["pv2"]
        backing.fd, good = os.open("/dev/full", os.O_RDWR | os.O_CLOEXEC), backing.fd
        assert not quick.write(0, memoryview(b"y" * 4096))
        server.export.write("vol", 0, memoryview(b"y" * 4096))
        assert "2 " in server.status()[0]["status"][0]
        assert " AD " in server.status()[0]["status"][0]
        os.close(backing.fd)
        backing.fd = good
        assert server.stack.devices["vol"].in_flight == 0
        assert disks(server)["pv1"][:4096] == b"y" * 4 * KIB


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("refuses", [1, 2])
@pytest.mark.parametrize("kind", ["linear", "mirror-core", "snapshot", "segments"])
def test_pages_that_were_moved_in_part_are_all_there_to_be_written(kind: str, refuses: int, for_good: bool) -> None:
    """The first or the second move ends in an error of the host's file, and so do all others or none."""
    class Refusing(FileBacking):
        """One of the moves of a write finds another descriptor."""

        times = 0
        writing = False

        @property
        def fd(self) -> int:
            Refusing.times += Refusing.writing
            is_bad = Refusing.times >= refuses if for_good else Refusing.times == refuses
            return bad if Refusing.writing and is_bad else self.good

        @fd.setter
        def fd(self, number: int) -> None:
            self.good = number

    with served(MORE[kind]) as server:
        for block in range(BLOCKS):
            write(server.export, "vol", block * 4096, b"a" * 4096, None)
        bad = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        quick = server.export.straight("vol")
        assert quick is not None
        for disk in server.stack.disks.values():
            assert isinstance(disk.backing, FileBacking)
            disk.backing = Refusing(disk.backing.fd, durable=False, name=disk.name)
        data = random.Random(3).randbytes(SIZE // 2 + 4096)
        Refusing.writing = True
        with in_pages(data) as pages:
            done = quick.write_pages(SIZE // 4, len(data), pages)
            assert done or pages.buffer() == data
        Refusing.writing = False
        os.close(bad)
        assert done == (not for_good or refuses > Refusing.times)
        if not done:
            server.export.write("vol", SIZE // 4, memoryview(data))
        assert read(server.export, "vol", SIZE // 4, len(data), None) == data


def test_after_a_suspend_no_worker_is_left_that_could_write_to_the_log() -> None:
    """Another table may have it then."""
    with served(MORE["mirror"]) as server:
        ok(server, insync(server))
        vol = server.stack.devices["vol"]
        for _ in range(20):
            write(server.export, "vol", 0, b"x" * 4096, Count())
            ok(server, "suspend vol noflush nolockfs")
            assert vol.live is not None
            (mirror,) = vol.live.targets
            assert isinstance(mirror, Mirror)
            with server.engine.lock:
                assert not mirror.work.busy
            ok(server, "resume vol")


@pytest.mark.parametrize("kind", ["mirror", "lvm"])
def test_a_copy_that_nobody_waits_for_is_known_as_one(kind: str) -> None:
    """A resynchronisation's, also through mapped legs; a copy for a snapshot has somebody waiting."""
    with served(MORE[kind]) as server:
        disk = server.stack.disks["pv1"]
        for name, md in server.stack.devices.items():
            for target in md.live.targets if md.live is not None else ():
                if isinstance(target, Mirror):
                    job = CopyJob((target.legs[0].device, 0), [(target.legs[1].device, 0)], 8, target)
                    piece = Piece(target.copier, job, 0, 8)
                    bio = Bio(Op.READ, target.legs[0].device, 0, 8, bytearray(4096), owner=piece)
                    assert in_background(DiskIo(server.engine, disk, bio)), name
                    assert in_background(DiskIo(server.engine, disk, bio.clone(MappedIo(md, bio)))), name
        assert not in_background(DiskIo(server.engine, disk, Bio(Op.FLUSH, None, 0, 0)))
