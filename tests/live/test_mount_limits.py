"""What happens at the edges of the host and of sizes: a clear error, or it works; never a stuck or a wrong one."""

import dataclasses
import errno
import os
import resource
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmspec.runtime import wire
from dmspec.runtime.server import MountServer

from .conftest import KIB, MIB, InThread, Mount, aligned, command, direct, fails_with, left_over, opened, plan_of, until
from .test_live_export import do, ok, read, served

pytestmark = pytest.mark.requires("fuse")

PLAIN = "disk pv1 8MiB\ndevice a { linear pv1 }\n"
MIRROR = "disk pv1 8MiB\ndisk pv2 8MiB\ndevice a { mirror pv1 pv2 log=core region=64KiB nosync handle_errors }\n"
TIB = 1 << 40


@pytest.fixture
def small_host(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room for 2 MiB."""
    folder = tmp_path / "one" / "small"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.requires("root")
def test_a_full_host_is_a_disk_error_where_it_was_met(mount: Mount, small_host: Path) -> None:
    """O_DIRECT hears it at once, a buffered writer from fsync; what was there stays, and there is a way out."""
    stack = mount(PLAIN, store=small_host)
    direct(stack.device("a"), b"1" * MIB, 0)
    with fails_with(errno.ENOSPC):
        for at in range(MIB, 8 * MIB, MIB):
            direct(stack.device("a"), b"2" * MIB, at)
    with opened(stack.device("a")) as file:
        os.pwrite(file, b"3" * MIB, 6 * MIB)
        with fails_with(errno.ENOSPC):
            os.fsync(file)
    assert stack.device("a").read_bytes()[:MIB] == b"1" * MIB
    stack.umount()


@pytest.mark.requires("root")
def test_a_full_host_under_a_leg_is_that_legs_failure(mount: Mount, small_host: Path) -> None:
    """The write waits for the repair, as the kernel has it, and is on the other leg then."""
    assert small_host.name == "small"
    stack = mount(MIRROR.replace("disk pv2 8MiB", 'disk pv2 8MiB file="small/pv2.img"'), memory=True)
    held = InThread(direct, stack.device("a"), b"x" * MIB * 3, 0)
    until(lambda: " AD " in stack.status("a"), "the leg to fail")
    assert not held.over
    stack.ok("load a { linear pv1 }\nsuspend a noflush nolockfs\nresume a")
    held.result()
    assert stack.device("a").read_bytes()[:3 * MIB] == b"x" * MIB * 3
    stack.umount()


def test_a_backing_file_cut_short_is_a_disk_error(mount: Mount) -> None:
    """What was cut off cannot be read, nothing else is touched, and a write makes the file longer again."""
    stack = mount(PLAIN)
    direct(stack.device("a"), b"1" * 4 * MIB, 0)
    os.truncate(stack.disk("pv1"), MIB)
    with opened(stack.device("a"), os.O_RDONLY | os.O_DIRECT) as file:
        buffer = aligned(bytes(64 * KIB))
        assert os.preadv(file, [buffer], 0) == 64 * KIB
        assert bytes(buffer) == b"1" * 64 * KIB
        with fails_with(errno.EIO):
            os.preadv(file, [buffer], 2 * MIB)
    direct(stack.device("a"), b"2" * KIB * 64, 8 * MIB - 64 * KIB)
    assert stack.device("a").read_bytes()[2 * MIB:3 * MIB] == bytes(MIB)
    stack.umount()


def test_a_cut_leg_of_a_mirror_is_read_from_the_other(mount: Mount) -> None:
    stack = mount(MIRROR)
    direct(stack.device("a"), b"1" * 8 * MIB, 0)
    os.truncate(stack.disk("pv1"), 0)
    assert stack.device("a").read_bytes() == b"1" * 8 * MIB
    assert " RA " in stack.status("a")
    stack.umount()


def test_a_removed_backing_file_serves_until_the_end(mount: Mount) -> None:
    """As every open file does."""
    stack = mount(PLAIN)
    stack.disk("pv1").unlink()
    direct(stack.device("a"), b"1" * MIB, MIB)
    assert stack.device("a").read_bytes()[MIB:2 * MIB] == b"1" * MIB
    stack.umount()


# Descriptors


def limited(descriptors: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    return limit


def test_too_few_descriptors_for_the_disks_are_told(tmp_path: Path, runtime_folder: Path) -> None:
    spec = tmp_path / "spec.dms"
    spec.write_text("".join(f"disk p{number} 64KiB\ndevice d{number} {{ linear p{number} }}\n" for number in range(99)))
    for name in ("mnt", "store"):
        (tmp_path / name).mkdir()
    for more in ([], ["--store", tmp_path / "store"]):
        done = command("mount", spec, tmp_path / "mnt", *more, preexec_fn=limited(40))
        assert done.returncode == 2, done.stderr
        assert "Too many open files" in done.stderr
        assert "Traceback" not in done.stderr
    assert not list((tmp_path / "store").iterdir())
    assert left_over(runtime_folder) == []


def test_a_mount_out_of_descriptors_comes_back(mount: Mount) -> None:
    """Its socket is asked more often at once than it has descriptors for; I/O goes on, and later it answers."""
    stack = mount(PLAIN)
    descriptors = Path(f"/proc/{stack.server}/fd")
    limit = max(int(path.name) for path in descriptors.iterdir()) + 4
    resource.prlimit(stack.server, resource.RLIMIT_NOFILE, (limit, limit))
    connections = [socket.socket(socket.AF_UNIX) for _ in range(16)]
    try:
        for one in connections:
            with wire.short_name(wire.socket_path(stack.dir)) as name:
                one.connect(name)
        until(lambda: len(list(descriptors.iterdir())) == limit, "the last descriptor to be taken")
        direct(stack.device("a"), b"1" * MIB, 0)
    finally:
        for one in connections:
            one.close()
    assert stack.devices()["a"]["sectors"] == 16384
    assert stack.device("a").read_bytes()[:MIB] == b"1" * MIB
    stack.umount()


# Sizes


def test_sixteen_tebibytes(mount: Mount) -> None:
    """A linear volume and a mirror of 33 million regions, in memory; their first and last bytes are used."""
    stack = mount("disk pv1 16TiB\ndisk pv2 16TiB\ndevice a { linear pv1 }\n"
                  "device m { mirror pv1 pv2 log=core region=512KiB nosync }\n", memory=True)
    for name in ("a", "m"):
        assert stack.device(name).stat().st_size == 16 * TIB
        for at in (0, 16 * TIB - 4096):
            direct(stack.device(name), name.encode() * 4096, at)
        with opened(stack.device(name)) as file:
            assert [os.pread(file, 4096, at) for at in (0, 16 * TIB - 4096)] == [name.encode() * 4096] * 2
    assert "33554432/33554432 1 AA" in stack.status("m")
    stack.umount()


def test_a_disk_larger_than_the_host_can_have_is_told(tmp_path: Path, runtime_folder: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "spec.dms").write_text("disk pv1 8388608TiB\ndevice a { linear pv1 }\n")
    for more in ([], ["--store", tmp_path / "store"]):
        done = command("mount", tmp_path / "spec.dms", tmp_path / "mnt", *more)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "store").exists()
    assert left_over(runtime_folder) == []


def test_a_thousand_snapshots() -> None:
    """Of one origin: a write is copied for each of them, and each still shows what was there before."""
    count = 1000
    text = "disk pv 1MiB\n" + "".join(f"disk c{number} 256KiB\n" for number in range(count)) + \
        "device vol { snapshot-origin pv }\n" + \
        "".join(f"device s{number} {{ snapshot pv c{number} P chunk=16KiB }}\n" for number in range(count))
    with served(text) as server:
        server.export.write("vol", 20 * KIB, memoryview(b"x" * 4096))
        assert read(server.export, "vol", 20 * KIB, 4096) == b"x" * 4096
        for number in (0, count // 2, count - 1):
            assert read(server.export, f"s{number}", 20 * KIB, 4096) == bytes(4096)
        assert sum("snapshot 96/512 64" in device["status"][0] for device in server.status()) == count


@pytest.mark.parametrize("count", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_devices(count: int) -> None:
    """A source is at most 256 KiB long, so these are added to a plan."""
    plan = plan_of("disk pv 64MiB\ndevice d0 { 4KiB linear pv }")
    plan = dataclasses.replace(plan, devices=[dataclasses.replace(plan.devices[0], name=f"d{number}")
                                              for number in range(count)])
    server = MountServer(plan, spec_folder=Path("/nonexistent"))
    try:
        last = f"d{count - 1}"
        assert len(server.export.names()) == count
        server.export.write(last, 0, memoryview(b"x" * 4096))
        assert read(server.export, "d0", 0, 4096) == b"x" * 4096
        ok(server, f"suspend {last}\nresume {last}")
        assert do(server, "remove d1") == {"error": "", "violations": []}
        assert len(server.status()) == count - 1
    finally:
        server.close()
