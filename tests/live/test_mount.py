"""`dmspec mount`, `do` and `umount`: what a mounted stack is to programs, and how it ends."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes import CDLL, c_int, c_int64, get_errno
from pathlib import Path

import pytest

from dmspec.runtime import wire

from .conftest import (
    BINDINGS,
    KIB,
    MIB,
    InThread,
    Mount,
    aligned,
    command,
    direct,
    fails_with,
    left_over,
    opened,
    until,
)

pytestmark = pytest.mark.requires("fuse")

PLAIN = """
disk pv1 4MiB
disk pv2 4MiB
device a { linear pv1 }
device b { linear pv2 }
"""
MIRROR = """
disk pv1 4MiB
disk pv2 4MiB
device vol { mirror pv1 pv2 log=core region=64KiB nosync handle_errors }
"""
TWO_BINDINGS = pytest.mark.parametrize("binding", BINDINGS)


def punch(descriptor: int, offset: int, length: int) -> None:
    libc = CDLL(None, use_errno=True)
    if libc.fallocate(c_int(descriptor), c_int(3), c_int64(offset), c_int64(length)) != 0:
        raise OSError(get_errno(), os.strerror(get_errno()))


# Bytes


@TWO_BINDINGS
def test_reads_and_writes_of_any_alignment_are_a_bytearray(mount: Mount, binding: str) -> None:
    stack = mount(MIRROR, binding)
    model = bytearray(4 * MIB)
    draw = random.Random(7)
    with opened(stack.device("vol")) as plain, opened(stack.device("vol"), os.O_RDWR | os.O_DIRECT) as past_cache:
        for _ in range(150):
            offset, length = draw.randrange(4 * MIB), draw.choice([1, 7, 511, 512, 513, 4096, 5000, 70_000, MIB])
            length = min(length, 4 * MIB - offset)
            data = draw.randbytes(length)
            kind = draw.randrange(4)
            if kind == 0:
                assert os.pwrite(plain, data, offset) == length
                model[offset:offset + length] = data
            elif kind == 1:
                offset, length = offset & ~511, length & ~511
                if length:
                    assert os.pwrite(past_cache, aligned(data[:length]), offset) == length
                    model[offset:offset + length] = data[:length]
            elif kind == 2:
                assert os.pread(plain, length, offset) == model[offset:offset + length]
            else:
                offset &= ~511
                assert os.pread(past_cache, 4096, offset) == model[offset:offset + 4096]
        os.fsync(plain)
        for disk in ("pv1", "pv2"):
            assert stack.disk(disk).read_bytes() == model
    stack.umount()


LARGE = {
    "linear": "disk pv1 16MiB\ndevice vol { linear pv1 }\n",
    "segments": "disk pv1 8MiB\ndisk pv2 9MiB\ndevice vol { 7MiB linear pv1 @512  9MiB linear pv2 }\n",
    "striped": "disk pv1 8MiB\ndisk pv2 8MiB\ndevice vol { striped pv1 pv2 chunk=64KiB }\n",
    "mirror": "disk pv1 16MiB\ndisk pv2 16MiB\ndevice vol { mirror pv1 pv2 log=core region=512KiB nosync }\n",
    "snapshot": "disk pv1 16MiB\ndisk cow 40MiB\ndevice org { snapshot-origin pv1 }\n"
                "device vol { snapshot pv1 cow chunk=64KiB }\n",
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_write_backs_arrive_whole(mount: Mount, kind: str) -> None:
    """Their pages are moved to the disks' files, from the second of a row on; here with an odd beginning and end."""
    stack = mount(LARGE[kind])
    draw = random.Random(11)
    model = bytearray(16 * MIB)
    for _ in range(4):
        with opened(stack.device("vol")) as descriptor:
            for _ in range(3):
                offset = draw.randrange(6 * MIB)
                data = draw.randbytes(draw.randrange(5 * MIB, 10 * MIB))
                assert os.pwrite(descriptor, data, offset) == len(data)
                model[offset:offset + len(data)] = data
            os.fsync(descriptor)
        with opened(stack.device("vol"), os.O_RDONLY) as descriptor:
            assert os.pread(descriptor, 16 * MIB, 0) == model
    if kind == "mirror":
        assert stack.disk("pv1").read_bytes() == stack.disk("pv2").read_bytes() == model


@TWO_BINDINGS
def test_the_end_is_enospc_and_truncation_means_nothing(mount: Mount, binding: str) -> None:
    stack = mount(PLAIN, binding)
    stack.device("a").write_bytes(b"x" * 4 * MIB)
    with opened(stack.device("a"), os.O_RDWR | os.O_TRUNC) as descriptor:
        assert os.fstat(descriptor).st_size == 4 * MIB
        assert os.pread(descriptor, 4096, 0) == b"x" * 4096
        assert os.pread(descriptor, 4096, 4 * MIB) == b""
        with fails_with(errno.EINVAL):
            os.ftruncate(descriptor, 0)
    with opened(stack.device("a"), os.O_RDWR | os.O_DIRECT) as descriptor, fails_with(errno.ENOSPC):
        os.pwrite(descriptor, aligned(b"y" * 4096), 4 * MIB)
    dd = subprocess.run(["dd", "if=/dev/zero", f"of={stack.device('a')}", "bs=64k"], capture_output=True, text=True,
                        timeout=60, check=False)
    assert dd.returncode == 1
    assert "No space left on device" in dd.stderr
    until(lambda: stack.device("a").stat().st_size == 4 * MIB, "the true size")
    assert stack.disk("pv1").stat().st_size == 4 * MIB
    refusals: list[Callable[[], None]] = [
        (stack.dir / "new").touch, stack.device("a").unlink, (stack.dir / "sub").mkdir]
    for refused in refusals:
        with fails_with(errno.EPERM, errno.EACCES, errno.ENOSYS):
            refused()


@TWO_BINDINGS
def test_eio_where_the_stack_says_so(mount: Mount, binding: str) -> None:
    stack = mount("disk pv1 1MiB\ndevice bad { 1MiB error }\ndevice half { 512KiB linear pv1  512KiB error }\n",
                  binding)
    with fails_with(errno.EIO), opened(stack.device("bad"), os.O_RDONLY) as descriptor:
        os.pread(descriptor, 4096, 0)
    with fails_with(errno.EIO):
        direct(stack.device("bad"), b"x" * 4096, 0)
    with opened(stack.device("half")) as descriptor:
        assert os.pwrite(descriptor, b"x" * 4096, 0) == 4096
        os.fsync(descriptor)
        with fails_with(errno.EIO):
            os.pwrite(descriptor, b"x" * 4096, 600 * KIB)  # at once without the page cache, else by fsync
            os.fsync(descriptor)
    assert stack.disk("pv1").read_bytes()[:4096] == b"x" * 4096


@TWO_BINDINGS
def test_a_read_only_device_takes_no_writes(mount: Mount, binding: str) -> None:
    stack = mount(PLAIN, binding)
    stack.ok("create ro { linear pv1 } read-only")
    assert stack.device("ro").stat().st_mode & 0o777 == 0o400
    with opened(stack.device("ro")) as descriptor, fails_with(errno.EPERM):
        os.pwrite(descriptor, bytes(512), 0)
    with opened(stack.device("ro"), os.O_RDONLY) as descriptor:
        assert os.pread(descriptor, 512, 0) == bytes(512)


@pytest.mark.parametrize("binding", BINDINGS[:1])
def test_punching_a_hole_reaches_the_disks_or_is_refused(mount: Mount, binding: str) -> None:
    stack = mount(MIRROR + "disk pv3 4MiB\ndisk cow 4MiB\ndevice lin { linear pv3 }\n", binding)
    for name, disks in (("vol", ("pv1", "pv2")), ("lin", ("pv3",))):
        stack.device(name).write_bytes(b"x" * 4 * MIB)
        with opened(stack.device(name)) as descriptor:
            os.fsync(descriptor)
            before = {disk: stack.disk(disk).stat().st_blocks for disk in disks}
            punch(descriptor, MIB + 100, 2 * MIB)
            assert os.pread(descriptor, 4 * MIB, 0) == b"x" * (MIB + 100) + bytes(2 * MIB) + b"x" * (MIB - 100)
        for disk in disks:
            assert stack.disk(disk).stat().st_blocks <= before[disk] - 2 * MIB // 512 + 16
            assert stack.disk(disk).read_bytes()[MIB + 100:3 * MIB + 100] == bytes(2 * MIB)
    stack.ok("create snap { snapshot lin cow P chunk=4KiB }")
    with opened(stack.device("snap")) as descriptor, fails_with(errno.EOPNOTSUPP):
        punch(descriptor, 0, MIB)


# Suspending


@TWO_BINDINGS
def test_a_suspended_device_blocks_its_own_io_only(mount: Mount, binding: str) -> None:
    stack = mount(PLAIN, binding)
    stack.ok("suspend a")
    writing = InThread(direct, stack.device("a"), b"a" * 4096, 0)
    until(lambda: stack.device("a").stat().st_size and wire_waiting(stack.dir, "a"), "the write to wait")
    with opened(stack.device("b")) as descriptor:
        os.pwrite(descriptor, b"b" * 4096, 0)
        os.fsync(descriptor)
        assert os.pread(descriptor, 4096, 0) == b"b" * 4096
    assert stack.names() == ["a", "b"]
    shown = command("do", stack.dir, "--status")
    assert shown.returncode == 0
    assert "a (254:0): SUSPENDED" in shown.stdout
    assert "b (254:1): ACTIVE" in shown.stdout
    assert not writing.over
    assert stack.disk("pv1").read_bytes()[:4096] == bytes(4096)
    stack.ok("resume a")
    writing.result()
    assert stack.disk("pv1").read_bytes()[:4096] == b"a" * 4096
    stack.umount()


def wire_waiting(mountpoint: Path, name: str) -> bool:
    """Whether I/O has reached a device and waits there: its file is open."""
    [answer] = wire.ask(mountpoint, "status")
    return any(device["name"] == name and device["open"] for device in answer["devices"])


@TWO_BINDINGS
@pytest.mark.parametrize("way", ["umount --force", "SIGTERM, then SIGINT"])
def test_held_io_does_not_keep_a_mount_for_ever(mount: Mount, runtime_folder: Path, binding: str, way: str) -> None:
    stack = mount(PLAIN, binding, foreground=True)
    stack.ok("write a at=0 size=4KiB pattern=kept")
    stack.ok("suspend a")
    writing = InThread(direct, stack.device("a"), b"a" * 4096, 0)
    reading = InThread(stack.device("a").read_bytes)
    until(lambda: stack.devices()["a"]["open"] == 2, "both to wait")
    began = time.monotonic()
    if way.startswith("SIGTERM"):
        os.kill(stack.server, signal.SIGTERM)
        os.kill(stack.server, signal.SIGINT)  # whoever insists does not get the time of grace
    else:
        assert command("umount", "--force", stack.dir).returncode == 0
    status, said = stack.ended()
    assert time.monotonic() - began < 8
    assert (status, said) == (1, f"dmspec: {stack.dir}: unmounted while I/O was held; that I/O has failed\n")
    for waiting in (writing, reading):
        with fails_with(errno.EIO, errno.ENOTCONN, errno.ECONNABORTED):
            waiting.result()
    assert stack.disk("pv1").read_bytes()[:4] == b"kept"
    assert left_over(runtime_folder) == []


def test_umount_says_what_it_waits_for(mount: Mount) -> None:
    stack = mount(PLAIN)
    stack.ok("suspend a")
    writing = InThread(direct, stack.device("a"), b"a" * 4096, 0)
    until(lambda: wire_waiting(stack.dir, "a"), "the write to wait")
    umount = subprocess.Popen([sys.executable, "-m", "dmspec", "umount", str(stack.dir)], stderr=subprocess.PIPE,
                              text=True)
    assert umount.stderr is not None
    assert umount.stderr.readline().startswith("dmspec: I/O waits for a: suspended")
    stack.ok("resume a")
    assert umount.wait(20) == 0
    umount.stderr.close()
    writing.result()
    stack.gone()
    assert stack.disk("pv1").read_bytes()[:4096] == b"a" * 4096


# Names and sizes


@TWO_BINDINGS
def test_a_reload_shows_the_new_size(mount: Mount, binding: str) -> None:
    stack = mount("disk pv1 4MiB\ndevice a { 1MiB linear pv1 }\n", binding)
    with opened(stack.device("a")) as descriptor:
        os.pwrite(descriptor, b"x" * 4096, 0)
        stack.ok("suspend a\nload a { 2MiB linear pv1 }\nresume a")
        until(lambda: os.fstat(descriptor).st_size == 2 * MIB, "the new size")
        assert os.pwrite(descriptor, b"y" * 4096, 2 * MIB - 4096) == 4096
        os.fsync(descriptor)
    assert stack.disk("pv1").read_bytes()[2 * MIB - 4096:2 * MIB] == b"y" * 4096


@TWO_BINDINGS
def test_an_open_file_follows_its_device_to_another_name(mount: Mount, binding: str) -> None:
    stack = mount(PLAIN, binding)
    with opened(stack.device("a"), os.O_RDWR | os.O_DIRECT) as descriptor:
        stack.ok("rename a c")
        assert stack.names() == ["b", "c"]
        os.pwrite(descriptor, aligned(b"x" * 4096), 0)
        stack.ok("create a { linear pv2 }")
        with fails_with(errno.EBUSY), opened(stack.device("a")):
            pass
        os.pwrite(descriptor, aligned(b"y" * 4096), 4096)
        assert stack.devices()["c"]["open"] == 1
    until(lambda: stack.devices()["c"]["open"] == 0, "the close to arrive")
    assert stack.disk("pv1").read_bytes()[:8192] == b"x" * 4096 + b"y" * 4096
    assert stack.disk("pv2").read_bytes()[:8192] == bytes(8192)
    stack.ok("remove c")
    with opened(stack.device("a")):
        pass
    stack.umount()


# `dmspec do`


def test_what_do_says_when_it_is_misused(mount: Mount, tmp_path: Path) -> None:
    stack = mount(PLAIN, memory=True)
    for statement, status, said in [
        ("fail pv9", 2, "did you mean"),
        ("frobnicate a", 2, "error"),
        ("suspend", 2, "error"),
        ("}", 2, "error"),
        ("remove nothing-of-this-name", 1, "ENXIO"),
        ("write a at=4MiB size=4KiB", 1, "ENOSPC"),
        ("create a { linear pv1 }", 1, "EBUSY"),
        ("expect status a \"0 8192 linear pv2 0\"", 1, "expect"),
    ]:
        done = command("do", stack.dir, statement)
        assert done.returncode == status, (statement, done)
        assert said.lower() in done.stderr.lower(), (statement, done.stderr)
        assert "Traceback" not in done.stderr
    assert command("do", stack.dir).returncode == 2
    assert command("do", stack.dir, "--status", "fail pv1").returncode == 2
    nowhere = command("do", tmp_path, "fail pv1")
    assert (nowhere.returncode, nowhere.stderr) == (2, f"dmspec: nothing of dmspec is mounted at {tmp_path}\n")
    several = command("do", stack.dir, "fail pv1", "heal pv1")
    assert (several.returncode, several.stderr) == (0, "")
    assert command("do", stack.dir, "fail pv1", "--quiet").stdout == ""


def test_umount_of_nothing_is_an_error(tmp_path: Path, runtime_folder: Path) -> None:
    for arguments in (["umount"], ["umount", "--force"]):
        done = command(*arguments, tmp_path)
        assert (done.returncode, done.stderr) == (2, f"dmspec: nothing of dmspec is mounted at {tmp_path}\n")


@TWO_BINDINGS
def test_an_orderly_life_leaves_nothing_behind(mount: Mount, runtime_folder: Path, binding: str) -> None:
    stack = mount(PLAIN, binding)
    assert (stack.dir.stat().st_mode & 0o777, left_over_names(runtime_folder)) == (0o700, {".lock", ".log", ".sock"})
    with opened(stack.device("a")) as descriptor:
        os.pwrite(descriptor, b"unsynced", 5)
    stack.umount()
    assert stack.disk("pv1").read_bytes()[5:13] == b"unsynced"
    assert left_over(runtime_folder) == []
    assert list(stack.dir.iterdir()) == []


def left_over_names(folder: Path) -> set[str]:
    return {path.suffix for path in folder.iterdir()}
