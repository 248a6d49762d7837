"""The control socket: what it takes, whom it lets in, and what becomes of a client that goes away."""

import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from dmspec.runtime import wire
from dmspec.runtime.plan import to_bytes

from .conftest import InThread, Mount, Stack, command, direct, hashes, statements, until

LOCKED = """
disk pv1 1MiB
disk pv2 1MiB
lock big
device a { linear pv1 }
device m { mirror pv1 pv2 log=core region=64KiB nosync handle_errors }
"""


# Messages


def sent(data: bytes) -> dict[str, Any] | None:
    """What the other side receives."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        return wire.receive(theirs)


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


BAD = {
    "huge": struct.pack("<I", wire.MOST_BYTES + 1),
    "cut in the length": b"\x01\x00",
    "cut in the message": struct.pack("<I", 10) + b"\x80",
    "garbage": framed(b"\xc1garbage"),
    "not a map": framed(msgpack.packb([1, 2])),
    "two things": framed(msgpack.packb({}) * 2),
    "keys that are no text": framed(msgpack.packb({1: 2})),
    "bad text": framed(b"\x81\xa1\xff\x01"),
    "an array without its elements": framed(b"\xdd\xff\xff\xff\xff"),
    "deep": framed(b"\x91" * 100_000),
    "deep maps": framed(b"\x81\xa1a" * 2000 + b"\x01"),
    "nothing": framed(b""),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_message_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        sent(data)


def test_messages_pass_and_the_end_is_none() -> None:
    message = {"dmspec": 1, "bytes": bytes(range(256)), "nested": [{"a": None}], "text": "Gerät"}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, message)
        wire.send(ours, {})
        ours.close()
        assert [wire.receive(theirs), wire.receive(theirs), wire.receive(theirs)] == [message, {}, None]


# The folder and the lock


def test_the_folder_is_of_its_owner_alone(runtime_folder: Path) -> None:
    assert wire.folder() == runtime_folder
    assert runtime_folder.stat().st_mode & 0o7777 == 0o700
    runtime_folder.chmod(0o750)
    with pytest.raises(wire.WireError, match="not a folder of this user alone"):
        wire.folder()
    runtime_folder.rmdir()
    runtime_folder.write_text("a file")
    with pytest.raises(wire.WireError):
        wire.folder()
    runtime_folder.unlink()
    (runtime_folder.parent / "elsewhere").mkdir(mode=0o700)
    runtime_folder.symlink_to("elsewhere")
    with pytest.raises(wire.WireError, match="not a folder of this user alone"):
        wire.folder()


@pytest.mark.requires("root")
def test_a_folder_of_another_user_is_refused(runtime_folder: Path, tmp_path: Path) -> None:
    wire.folder()
    os.chown(runtime_folder, 65534, 65534)
    with pytest.raises(wire.WireError, match="not a folder of this user alone"):
        wire.folder()
    done = command("umount", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_runtime_folder_that_cannot_be_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nobody/can/make/this")
    with pytest.raises(wire.WireError, match="set XDG_RUNTIME_DIR"):
        wire.folder()


def test_a_lock_has_one_holder(runtime_folder: Path, tmp_path: Path) -> None:
    lock = wire.Lock(tmp_path)
    assert wire.holder(tmp_path) == os.getpid()
    with pytest.raises(wire.WireError, match=r"mounted at .* already"):
        wire.Lock(tmp_path)
    assert not wire.wait_gone(tmp_path, 0.05)
    gone = InThread(wire.wait_gone, tmp_path)
    lock.release()
    assert gone.result()
    assert wire.holder(tmp_path) is None
    assert wire.wait_gone(tmp_path)
    assert list(runtime_folder.iterdir()) == []
    wire.Lock(tmp_path).release()


# A mount's socket

needs_fuse = pytest.mark.requires("fuse")


@contextmanager
def connected(stack: Stack) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        with wire.short_name(wire.socket_path(stack.dir)) as name:
            connection.connect(name)
        yield connection


def problem_of(stack: Stack, data: bytes) -> str:
    with connected(stack) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = wire.receive(connection)
    return "" if answer is None else str(answer.get("problem", answer))


class Client:
    """`dmspec do` in a process of its own; ``said`` grows."""

    def __init__(self, stack: Stack, text: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "dmspec", "do", str(stack.dir), text],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(iter(self.process.stdout.readline, ""))
        self.process.stdout.close()

    def says(self, text: str) -> None:
        until(lambda: any(text in line for line in self.said), text)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.reader.join(20)
        return status


@pytest.fixture
def client() -> Iterator[Callable[[Stack, str], Client]]:
    made: list[Client] = []

    def start(stack: Stack, text: str) -> Client:
        made.append(Client(stack, text))
        return made[-1]

    yield start
    for one in made:
        one.end(signal.SIGKILL)


Start = Callable[[Stack, str], Client]


@needs_fuse
def test_a_server_survives_bad_messages(mount: Mount) -> None:
    stack = mount(LOCKED)
    path = wire.socket_path(stack.dir)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert stat.S_ISSOCK(path.stat().st_mode)
    before = hashes(stack.disk("pv1").parent)
    for name, data in BAD.items():
        assert problem_of(stack, data), name
    for message, says in [
        ({"dmspec": 2, "ask": "status"}, "version 1"),
        ({"ask": "status"}, "version 1"),
        ({"dmspec": 1}, "no such question: None"),
        ({"dmspec": 1, "ask": ["stop"]}, "no such question"),
        ({"dmspec": 1, "ask": "run"}, "a plan was expected"),
        ({"dmspec": 1, "ask": "run", "plan": b"junk"}, ""),
        ({"dmspec": 1, "ask": "run", "plan": to_bytes(stack.plan())}, "one process `do`"),
    ]:
        assert says in problem_of(stack, framed(msgpack.packb(message))), message
    other = statements("fail pv1", stack.plan())
    other.locks.append(type(other.locks[0])("unknown"))
    assert "locks" in problem_of(stack, framed(msgpack.packb({"dmspec": 1, "ask": "run", "plan": to_bytes(other)})))
    with connected(stack):  # says nothing, for as long as it likes
        assert stack.status("a").strip() == "0 2048 linear"
    assert hashes(stack.disk("pv1").parent) == before
    stack.umount()


@needs_fuse
def test_two_clients_at_once(mount: Mount) -> None:
    stack = mount(LOCKED)
    first = InThread(stack.ok, "await suspended(a) within=20s\nresume a")
    second = InThread(stack.ok, "write m at=0 size=4KiB times=8\nsuspend a")
    second.result()
    first.result()
    assert not stack.devices()["a"]["suspended"]


@needs_fuse
def test_locks_hold_between_clients_and_die_with_them(mount: Mount, client: Start) -> None:
    stack = mount(LOCKED)
    first = client(stack, "with big { await suspended(a) }")
    first.says("takes lock big")
    second = InThread(stack.ok, "with big { write m at=0 size=4KiB }")
    assert not second.over
    assert first.end(signal.SIGINT) == 130
    second.result()


@needs_fuse
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_goes_away_takes_its_suspend_back(mount: Mount, client: Start, number: signal.Signals) -> None:
    """The kernel's suspend waits for bios interruptibly, and undoes what it did."""
    stack = mount(LOCKED)
    stack.ok("delay pv1 3600s writes")
    writing = InThread(direct, stack.device("a"), b"x" * 4096, 0)
    until(lambda: stack.devices()["a"]["open"] == 1, "the write to be under way")
    suspending = client(stack, "with big { suspend a nolockfs }")
    suspending.says("waits for 1 bio in a")
    reading = InThread(stack.device("a").read_bytes)
    suspending.end(number)
    assert len(reading.result()) == 1 << 20
    assert not stack.devices()["a"]["suspended"]
    stack.ok("with big { fail pv2 }")
    assert not writing.over
    stack.clear_away()
    with suppress(OSError):
        writing.result()


@needs_fuse
def test_a_write_that_waits_for_a_resume_outlives_its_client(mount: Mount, client: Start) -> None:
    """As a process in state D does, with its locks."""
    stack = mount(LOCKED)
    stack.ok("suspend a")
    writing = client(stack, "with big { write a at=0 size=4KiB pattern=LATE }\nwrite m at=0 size=4KiB pattern=NEVER")
    writing.says("write a")
    writing.end(signal.SIGKILL)
    second = InThread(stack.ok, "with big { resume m }")
    assert stack.devices()["a"]["suspended"]
    assert not second.over
    stack.ok("resume a")
    second.result()
    assert stack.device("a").read_bytes()[:4] == b"LATE"
    assert stack.device("m").read_bytes()[:5] != b"NEVER"


@needs_fuse
def test_a_client_that_does_not_read_holds_up_nobody(mount: Mount) -> None:
    stack = mount(LOCKED)
    plan = to_bytes(statements("repeat 100000 { fail pv2\nheal pv2 }", stack.plan()))
    with connected(stack) as connection:
        wire.send(connection, {"dmspec": 1, "ask": "run", "plan": plan})
        for _ in range(3):
            stack.ok("write m at=0 size=4KiB")
            direct(stack.device("a"), b"x" * 4096, 0)
    until(lambda: InThread(stack.ok, "heal pv2").result() is not None, "the loop to be ended")
    stack.umount()
