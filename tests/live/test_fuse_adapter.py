"""The FUSE layer by itself, over plain memory: what a mounted device is to programs, and how a mount ends."""

import errno
import json
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, c_int, c_int64, get_errno
from pathlib import Path
from typing import Any

import pytest

from dmspec.runtime.fuse import FuseUnavailable, force_unmount, libraries, mounts, pick_binding, unmount

PROGRAM = Path(__file__).with_name("memory_export.py")
MIB = 1 << 20
SIZE = 8 * MIB

BINDINGS = [
    pytest.param("mfusepy", marks=pytest.mark.requires("fuse", "libfuse3")),
    pytest.param("fusepy", marks=pytest.mark.requires("fuse", "libfuse2")),
]

Start = Callable[..., "Server"]


class Server:
    """A server process of memory_export.py, and its mount."""

    def __init__(self, folder: Path, binding: str, *options: str) -> None:
        self.binding = binding
        self.root = folder / "mount"
        self.root.mkdir()
        self.store = folder / "store"
        self.store.mkdir()
        command = [sys.executable, str(PROGRAM), str(self.root), "--binding", binding]
        command += [f"--folder={self.store}", f"--device=a={SIZE}", f"--device=b={SIZE}", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        assert self._line() == {"ok": "ready"}
        assert Path(f"/proc/{self.pid}/cwd").readlink() == Path.cwd()  # libfuse changes to /
        entry = mounts.topmost(self.root)
        assert entry is not None
        self.entry = entry

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or '{"ended": "without a word"}')
        return answer

    def order(self, method: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._line()["ok"]

    def ended(self) -> str | None:
        """Wait for the end, and give the exception that serve() raised."""
        answer = self._line()
        self.process.wait()
        problem: str | None = answer["ended"]
        return problem

    def names(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir())

    def is_mounted(self) -> bool:
        return mounts.is_mounted(self.entry)

    def stored(self, name: str, offset: int, length: int) -> bytes:
        with (self.store / name).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def clear_away(self) -> None:
        self.process.kill()
        self.process.communicate()
        force_unmount(self.root)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def starter(binding: str, *options: str) -> Server:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(Server(folder, binding, *options))
        return servers[-1]

    yield starter
    for server in servers:
        server.clear_away()


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(start: Start, binding: str) -> Server:
    return start(binding)


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        with suppress(OSError):  # close(2) repeats the error of a write-back
            os.close(descriptor)


@contextmanager
def fails_with(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers, errno.errorcode[caught.value.errno or 0]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what another process does, which nothing here can signal."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = CDLL(None, use_errno=True)
    if libc.fallocate(c_int(descriptor), c_int(mode), c_int64(offset), c_int64(length)) != 0:
        raise OSError(get_errno(), os.strerror(get_errno()))


def test_devices_are_files_of_their_size(server: Server) -> None:
    server.order("add", "r", 12345, True)
    assert server.names() == ["a", "b", "r"]
    for name, size, mode in (("a", SIZE, 0o600), ("r", 12345, 0o400)):
        status = (server.root / name).stat()
        assert stat.S_ISREG(status.st_mode)
        assert (status.st_size, stat.S_IMODE(status.st_mode)) == (size, mode)
        assert status.st_uid == os.geteuid()
    assert os.statvfs(server.root).f_files == 3
    server.order("remove", "b")
    assert server.names() == ["a", "r"]
    assert not (server.root / "b").exists()
    assert not Path(os.fsdecode(bytes(server.root) + b"/\xff")).exists()


def test_any_offset_and_length(server: Server) -> None:
    draw = random.Random(1)
    model = bytearray(SIZE)
    with opened(server.root / "a") as file:
        for _ in range(150):
            offset = draw.randrange(SIZE - 1)
            length = min(draw.choice((1, 511, 4096, 4097, 70_001, MIB, 3 * MIB)), SIZE - offset)
            if draw.random() < 0.5:
                data = draw.randbytes(length)
                assert os.pwrite(file, data, offset) == length
                model[offset : offset + length] = data
            else:
                assert os.pread(file, length, offset) == model[offset : offset + length]
        os.fsync(file)
        assert os.pread(file, MIB, SIZE) == b""
        assert os.pread(file, MIB, SIZE - 10) == model[-10:]
    assert server.stored("a", 0, SIZE) == model


def test_direct_io_ends_as_a_block_device_does(server: Server) -> None:
    with mmap.mmap(-1, 8192) as buffer, opened(server.root / "a", os.O_RDWR | os.O_DIRECT) as file:
        buffer[:] = b"d" * 8192
        if server.binding == "fusepy":
            assert os.pwritev(file, [buffer], SIZE - 4096) == 4096
        else:
            with fails_with(errno.ENOSPC):
                os.pwritev(file, [buffer], SIZE - 4096)
        with fails_with(errno.ENOSPC):
            os.pwritev(file, [buffer], SIZE)
        assert os.preadv(file, [buffer], SIZE - 4096) == 4096
        assert server.stored("a", SIZE - 4096, 8192) == b"d" * 4096
        assert os.fstat(file).st_size == SIZE


def test_buffered_writes_beyond_the_end_are_told(server: Server) -> None:
    with opened(server.root / "a") as file, fails_with(errno.ENOSPC):
        os.pwrite(file, b"x" * 100, SIZE + 5000)
        os.fsync(file)
    with opened(server.root / "b") as file:
        done = os.pwrite(file, b"y" * 8192, SIZE - 4096)
        if server.binding == "fusepy":
            assert done == 4096
        else:
            with fails_with(errno.ENOSPC):
                os.fsync(file)
    assert server.stored("b", SIZE - 4096, 8192) == b"y" * 4096
    for name in "ab":
        until(lambda name=name: (server.root / name).stat().st_size == SIZE)  # type: ignore[misc]


def test_filling_a_device_ends(server: Server) -> None:
    with opened(server.root / "a") as file, fails_with(errno.ENOSPC):
        for _ in range(1 << 16):
            os.write(file, b"f" * MIB)
    assert server.stored("a", 0, SIZE) == b"f" * SIZE
    until(lambda: (server.root / "a").stat().st_size == SIZE)
    with opened(server.root / "a") as file:
        with suppress(OSError):  # the kernel keeps an error until somebody has asked for it
            os.fsync(file)
        assert os.pwrite(file, b"again", 0) == 5
        os.fsync(file)


def test_truncation_is_ignored_as_o_trunc_and_refused_otherwise(server: Server) -> None:
    path = server.root / "a"
    with opened(path) as written, opened(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT) as file:
        os.pwrite(written, b"kept", 100)
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        assert os.fstat(file).st_size == SIZE
        os.ftruncate(file, SIZE)
        for size in (0, 100, SIZE + 1):
            with fails_with(errno.EINVAL):
                os.ftruncate(file, size)
        assert os.fstat(file).st_size == SIZE
    assert path.stat().st_size == SIZE
    assert server.stored("a", 100, 4) == b"kept"


def test_the_directory_is_the_exports_alone(server: Server) -> None:
    a, new = server.root / "a", server.root / "new"
    for attempt in (
        lambda: new.write_bytes(b""),
        new.mkdir,
        a.unlink,
        lambda: a.rename(new),
        lambda: new.symlink_to(a),
        lambda: a.chmod(0o644),
    ):
        with fails_with(errno.EPERM):
            attempt()
    with fails_with(errno.ENOENT):
        new.read_bytes()


def test_a_read_only_device_opens_and_refuses_each_write(server: Server) -> None:
    server.order("set", "a", "read_only", True)
    with opened(server.root / "a") as file, fails_with(errno.EPERM):
        os.pwrite(file, b"1", 0)
    with opened(server.root / "a", os.O_RDONLY) as file:
        assert os.pread(file, 3, 0) == bytes(3)
        assert server.order("opens", "a") == 1
    until(lambda: server.order("opens", "a") == 0)


def test_errors_and_flushes_reach_the_program(server: Server) -> None:
    with opened(server.root / "a") as file:
        os.pwrite(file, b"1", 0)
        os.fsync(file)
        os.fdatasync(file)
        assert server.order("counted", "flush") == 2
        server.order("set", "a", "fault", errno.EIO)
        with fails_with(errno.EIO):
            os.pread(file, 4096, MIB)
        with fails_with(errno.EIO):
            os.pwrite(file, b"2" * 4096, 0)
            os.fsync(file)
        server.order("set", "a", "fault", None)
        assert os.pwrite(file, b"3" * 4096, 0) == 4096
        os.fsync(file)
    assert server.stored("a", 0, 2) == b"33"


def test_punching_a_hole_is_a_discard(server: Server) -> None:
    keep, punch = 1, 2
    with opened(server.root / "a") as file:
        os.pwrite(file, b"z" * 65536, 0)
        fallocate(file, keep | punch, 4096, 8192)
        assert os.pread(file, 65536, 0) == b"z" * 4096 + bytes(8192) + b"z" * 53248
        assert server.order("counted", "discard") == 1
        fallocate(file, keep | punch, SIZE - 4096, 8192)
        fallocate(file, 0, 0, SIZE)
        fallocate(file, keep, 0, SIZE)
        with fails_with(errno.ENOSPC):
            fallocate(file, 0, SIZE, 4096)
        server.order("set", "a", "discards", False)
        with fails_with(errno.EOPNOTSUPP):
            fallocate(file, keep | punch, 0, 4096)
        assert os.fstat(file).st_size == SIZE


def test_a_new_size_is_seen(server: Server) -> None:
    path = server.root / "a"
    with opened(path) as file:
        os.pwrite(file, b"old", 0)
        for size in (2 * SIZE, SIZE // 2, SIZE + 512):
            server.order("resize", "a", size)
            server.order("refresh", "a")
            assert os.fstat(file).st_size == size
            assert path.stat().st_size == size
            assert os.lseek(file, 0, os.SEEK_END) == size
        assert os.pread(file, 3, 0) == b"old"
    server.order("resize", "a", SIZE)
    until(lambda: path.stat().st_size == SIZE)


@contextmanager
def suspended(server: Server, name: str) -> Iterator[None]:
    """Suspend a device; it goes on before the files are closed, which would wait for it."""
    server.order("suspend", name)
    try:
        yield
    finally:
        server.order("resume", name)


def transfer(way: str, file: int, number: int) -> None:
    """Do one of 64 transfers that share no page."""
    with mmap.mmap(-1, 4096) as page:
        page[:] = bytes([number]) * 4096
        if way == "direct reads":
            os.preadv(file, [page], number * 8192)
        else:
            os.pwritev(file, [page], number * 8192)


@pytest.mark.parametrize("way", ["direct reads", "direct writes", "buffered writes"])
def test_a_suspended_device_blocks_only_itself(server: Server, way: str) -> None:
    """64 blocked transfers of one file leave another file and the directory alone."""
    flags = os.O_RDWR | (os.O_DIRECT if "direct" in way else 0)
    one_at_a_time = way == "direct writes" or (way, server.binding) == ("buffered writes", "fusepy")
    with opened(server.root / "a", flags) as file, opened(server.root / "b") as other:
        with suspended(server, "a"):
            jobs = [threading.Thread(target=transfer, args=(way, file, n), daemon=True) for n in range(64)]
            for job in jobs:
                job.start()
            if way == "buffered writes" and server.binding == "mfusepy":
                for job in jobs:
                    job.join()
                jobs = [threading.Thread(target=os.fsync, args=(file,), daemon=True)]
                jobs[0].start()
            until(lambda: server.order("waiting", "a") == (1 if one_at_a_time else 64))
            assert server.names() == ["a", "b"]
            assert (server.root / "a").stat().st_size == SIZE
            for _ in range(4):
                assert os.pwrite(other, b"b" * SIZE, 0) == SIZE
                os.fsync(other)
            os.posix_fadvise(other, 0, SIZE, os.POSIX_FADV_DONTNEED)
            assert os.pread(other, SIZE, 0) == b"b" * SIZE
        for job in jobs:
            job.join()
    if "writes" in way:
        for number in range(64):
            assert server.stored("a", number * 8192, 4096) == bytes([number]) * 4096


def test_umount_waits_for_open_files_and_then_ends_the_server(server: Server) -> None:
    data = os.urandom(SIZE)
    with opened(server.root / "a") as file:
        os.pwrite(file, data, 0)
        with fails_with(errno.EBUSY):
            unmount(server.root)
    unmount(server.root)
    assert server.ended() is None
    assert server.stored("a", 0, SIZE) == data
    assert server.names() == []


@pytest.mark.parametrize("how", ["stop", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_other_end_cuts_open_files_off(server: Server, how: str | signal.Signals) -> None:
    data = os.urandom(SIZE)
    with opened(server.root / "a") as file:
        os.pwrite(file, data, 0)
        if isinstance(how, signal.Signals):
            os.kill(server.pid, how)
        else:
            server.order(how)
        assert server.ended() is None
        assert server.names() == []
        with fails_with(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            os.pwrite(file, b"late", 0)
            os.fsync(file)
    assert server.stored("a", 0, SIZE) == data


def test_a_killed_server_leaves_no_mount(server: Server) -> None:
    with opened(server.root / "a") as file:
        os.pwrite(file, b"flushed", 0)
        os.fsync(file)
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        until(lambda: not server.is_mounted())
    assert server.names() == []
    assert server.stored("a", 0, 7) == b"flushed"


def test_a_server_killed_while_it_ends_leaves_no_mount(start: Start, binding: str) -> None:
    """No thread of the server may wait for the server itself: killed, it would never be gone."""
    server = start(binding, "--grace=60")
    result = blocked_reader(server)
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: not server.is_mounted())
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: bool(result))


def test_only_the_very_mount_is_taken_away(server: Server) -> None:
    entry = server.entry
    impostor = mounts.MountEntry(entry.mount_id + 1, entry.device, entry.path, entry.filesystem_type)
    assert not mounts.unmount_exactly(impostor)
    elsewhere = mounts.MountEntry(entry.mount_id, "0:1", entry.path, entry.filesystem_type)
    assert not mounts.unmount_exactly(elsewhere)
    assert server.is_mounted()
    assert mounts.unmount_exactly(entry)
    assert not mounts.unmount_exactly(entry)
    assert server.ended() is None


def blocked_reader(server: Server) -> "list[int | None]":
    """Read a suspended device in a thread; the list gets the errno."""
    result: list[int | None] = []

    def read() -> None:
        with pytest.raises(OSError) as caught:
            (server.root / "a").read_bytes()
        result.append(caught.value.errno)

    server.order("suspend", "a")
    threading.Thread(target=read, daemon=True).start()
    until(lambda: server.order("waiting", "a") > 0)
    return result


def test_a_blocked_mount_can_be_forced(start: Start, binding: str) -> None:
    server = start(binding, "--grace=0.3")
    result = blocked_reader(server)
    assert force_unmount(server.root)
    until(lambda: bool(result))
    assert result[0] in (errno.ECONNABORTED, errno.ENOTCONN, errno.EIO)
    server.order("resume", "a")
    assert (server.ended(), force_unmount(server.root)) == (None, False)


def test_a_stuck_end_gives_up(start: Start, binding: str) -> None:
    server = start(binding, "--grace=0.2")
    result = blocked_reader(server)
    os.kill(server.pid, signal.SIGTERM)
    assert "MountStuck" in str(server.ended())
    until(lambda: bool(result) and not server.is_mounted())


def test_a_second_signal_hurries_and_the_export_may_let_go(start: Start, binding: str) -> None:
    server = start(binding, "--grace=60", "--give-up")
    data = os.urandom(MIB)
    server.order("suspend", "a")
    writer = threading.Thread(target=(server.root / "a").write_bytes, args=(data,), daemon=True)
    writer.start()
    until(lambda: server.order("waiting", "a") > 0)
    os.kill(server.pid, signal.SIGTERM)
    os.kill(server.pid, signal.SIGINT)
    assert server.ended() is None
    writer.join()
    assert server.stored("a", 0, MIB) == data


def test_our_bug_ends_the_mount_and_comes_out_of_serve(server: Server) -> None:
    server.order("set", "b", "bug", True)
    # Through the page cache a read that failed is tried again, when the mount may have ended.
    with opened(server.root / "b", os.O_RDONLY | os.O_DIRECT) as file, fails_with(errno.EIO):
        os.preadv(file, [mmap.mmap(-1, 4096)], 0)
    assert (server.ended(), server.is_mounted()) == ("AssertionError('a planted bug')", False)


def test_a_single_thread_serves_too(start: Start, binding: str) -> None:
    server = start(binding, "--single")
    (server.root / "a").write_bytes(b"s" * MIB)
    assert (server.root / "a").read_bytes()[: MIB + 1] == b"s" * MIB + b"\0"
    os.kill(server.pid, signal.SIGTERM)
    assert server.ended() is None


def test_a_missing_library_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = libraries.Library("no_such_module", "nosuch", ("libnosuch.so.1",), "apt-get install nosuch")
    monkeypatch.setattr(libraries, "LIBRARIES", {"mfusepy": absent, "fusepy": absent})
    choice = pick_binding()
    assert choice.binding is None
    assert {"nosuch", "libnosuch.so.1"} <= {found.subject for found in choice.findings if not found.found}
    with pytest.raises(FuseUnavailable, match="apt-get install nosuch"):
        libraries.load_binding("auto")
