"""The live engine by itself: many threads, control operations in between, and how it fails."""

import errno
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dmspec.runtime.backing import FileBacking
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.errors import DmspecError, InternalError
from dmspec.runtime.live import Abandoned, LiveEngine
from dmspec.runtime.server import MountServer
from dmspec.runtime.targets.striped import Striped
from dmspec.runtime.task import Frame, Latch, Outcome, Task, Wait

from .conftest import BINDINGS, KIB, InThread, Mount, command, direct, fails_with, plan_of, statements, until

LANES = 4
LANE_BYTES = 64 * KIB
STACKS = {
    "linear": ("disk pv1 256KiB\ndisk pv2 256KiB\ndevice vol { linear pv1 }", "vol",
               "suspend vol\nresume vol"),
    "mirror": (("disk pv1 256KiB\ndisk pv2 256KiB\ndisk log 64KiB\n"
               "device vol { mirror pv1 pv2 log=log region=16KiB handle_errors }"), "vol",
               "suspend vol\nresume vol"),
    "snapshot": (("disk pv1 256KiB\ndisk pv2 256KiB\ndisk cow 2MiB\n"
                 "device base { mirror pv1 pv2 log=core region=16KiB handle_errors }\n"
                 "device snap { snapshot base cow P chunk=4KiB }\ndevice vol { snapshot-origin base }"), "base",
                 "suspend vol snap\nresume snap vol"),
}


@contextmanager
def served(text: str) -> Iterator[MountServer]:
    server = MountServer(plan_of(text), spec_folder=Path("/nonexistent"))
    try:
        yield server
    finally:
        server.close()


def do(server: MountServer, text: str) -> dict[str, Any]:
    def note(_lane: str, _text: str) -> None:
        pass

    return server.run_process(server.begin_process(statements(text, server.plan), note), note)


class Lane:
    """A thread that reads and writes its own part of the device at any alignment, beside a model of it."""

    def __init__(self, server: MountServer, number: int) -> None:
        self.export = server.export
        self.begin = number * LANE_BYTES
        self.model = bytearray(LANE_BYTES)
        self.draw = random.Random(number)
        self.rounds = 0
        self.enough = threading.Event()
        self.call = InThread(self._run)

    def _run(self) -> None:
        draw = self.draw
        while not self.enough.is_set() or self.rounds < 50:
            self.rounds += 1
            length = draw.choice([1, 100, 512, 513, 4096, 10_000])
            offset = draw.randrange(LANE_BYTES - length)
            if draw.random() < 0.3:
                offset, length = offset & ~511, 4096 if offset < LANE_BYTES - 4096 else 512
            if draw.random() < 0.6:
                data = draw.randbytes(length)
                assert self.export.write("vol", self.begin + offset, memoryview(data)) == length
                self.model[offset:offset + length] = data
            else:
                buffer = bytearray(length)
                assert self.export.read("vol", self.begin + offset, memoryview(buffer)) == length
                assert buffer == self.model[offset:offset + length]
            if draw.random() < 0.05:
                self.export.flush("vol")


@pytest.mark.parametrize("kind", STACKS)
def test_many_threads_with_control_operations_in_between(kind: str) -> None:
    text, node, pause = STACKS[kind]
    with served(text) as server:
        lanes = [Lane(server, number) for number in range(LANES)]
        frozen = None
        for _ in range(15):
            assert do(server, pause)["error"] == ""
            reload = "load vol { linear pv1 }\n" if kind == "linear" else ""
            assert do(server, f"{reload}suspend {node}\nresume {node}")["error"] == ""
        if kind != "linear":
            until(lambda: mirror_status(server, node)[0] == "16/16", "both legs to be good")
            assert do(server, pause)["error"] == ""
            assert do(server, "fail pv1 writes")["error"] == ""
            until(lambda: "A" not in letters(server, node)[:1], "the mirror to notice")
            assert do(server, f"load {node} {{ linear pv2 }}\nsuspend {node} noflush nolockfs\nresume {node}"
                      )["error"] == ""
        if kind == "snapshot":
            frozen = contents(server, "snap")
        before = [lane.rounds for lane in lanes]
        until(lambda: all(lane.rounds > was + 5 or lane.call.over for lane, was in zip(lanes, before, strict=True)))
        for lane in lanes:
            lane.enough.set()
        for lane in lanes:
            lane.call.result()
        assert contents(server, "vol") == b"".join(lane.model for lane in lanes)
        assert frozen is None or contents(server, "snap") == frozen
        assert server.engine.waiters == set()
        assert server.engine.performing == 0


def mirror_status(server: MountServer, node: str) -> list[str]:
    """The words of a mirror's status line, from its sync ratio on."""
    [line] = [device["status"][0] for device in server.status() if device["name"] == node]
    return str(line).split()[6:]


def letters(server: MountServer, node: str) -> str:
    return mirror_status(server, node)[2]


def contents(server: MountServer, name: str) -> bytes:
    buffer = bytearray(server.export.size_bytes(name))
    server.export.read(name, 0, memoryview(buffer))
    return bytes(buffer)


# Failures of ours


class Forever(Frame):
    """Waits for nothing."""

    def start(self, task: Task) -> Outcome:
        return Wait(Latch("nothing"), "for nothing")


class Broken(Frame):
    """Raises what a mistake of ours would."""

    def start(self, task: Task) -> Outcome:
        raise ZeroDivisionError("a mistake of ours")


@pytest.fixture
def engine() -> Iterator[LiveEngine]:
    one = LiveEngine()
    yield one
    one.stop()
    assert not one._thread.is_alive()


def test_an_exception_in_a_step_reaches_every_waiter(engine: LiveEngine) -> None:
    told = threading.Event()
    engine.on_broken = told.set
    waiting = [InThread(engine.run, Forever(), f"waiter {number}") for number in range(5)]
    until(lambda: len(engine.waiters) == 5, "all to wait")
    with pytest.raises(ZeroDivisionError):
        engine.run(Broken(), "broken")
    for one in waiting:
        with pytest.raises(InternalError, match="a mistake of ours"):
            one.result()
    assert isinstance(engine.broken, ZeroDivisionError)
    assert told.is_set()
    with pytest.raises(InternalError, match="a mistake of ours"):
        engine.run(Forever(), "later")
    with pytest.raises(InternalError, match="a mistake of ours"):
        engine.call(lambda: None)
    engine.abandon("later")
    assert isinstance(engine.broken, ZeroDivisionError)


def test_an_exception_in_the_background_is_kept(engine: LiveEngine) -> None:
    told = threading.Event()
    engine.on_broken = told.set
    waiting = InThread(engine.run, Forever(), "waiter")
    until(lambda: engine.waiters, "it to wait")
    engine.call(lambda: Task(engine, "background").start(Broken()))
    assert told.wait(20)
    with pytest.raises(InternalError):
        waiting.result()


def test_abandoned_threads_get_an_error_and_nothing_runs_any_more(engine: LiveEngine) -> None:
    waiting = [InThread(engine.run, Forever(), f"waiter {number}") for number in range(5)]
    until(lambda: len(engine.waiters) == 5, "all to wait")
    engine.on_broken = lambda: pytest.fail("that is no bug")
    engine.abandon("enough")
    for one in waiting:
        with pytest.raises(Abandoned, match="enough"):
            one.result()
    with pytest.raises(Abandoned):
        engine.call(lambda: None)
    assert engine.waiters == set()


class Slow(FileBacking):
    """Moves its bytes when it may, and says that it is about to."""

    def read(self, offset: int, buffer: memoryview) -> None:
        self.moving.set()
        assert self.may_move.wait(20)
        buffer[:] = b"\xff" * len(buffer)

    @classmethod
    def instead_of(cls, server: MountServer, disk: str) -> "Slow":
        slow = cls(server.disks.backings[disk].fd, durable=False)
        slow.moving, slow.may_move = threading.Event(), threading.Event()
        server.stack.disks[disk].backing = slow
        return slow

    moving: threading.Event
    may_move: threading.Event


@pytest.mark.parametrize("how", ["abandoned", "broken"])
def test_a_buffer_is_left_alone_once_its_owner_has_an_error(how: str) -> None:
    """The memory is FUSE's: after the answer, whatever it is, not a byte of it may change."""
    with served(STACKS["linear"][0]) as server:
        slow = Slow.instead_of(server, "pv1")
        first = bytearray(4096)
        second = bytearray(4096)
        reads = [InThread(server.export.read, "vol", 0, memoryview(buffer)) for buffer in (first, second)]
        assert slow.moving.wait(20)
        ends = InThread(server.engine.abandon, "enough") if how == "abandoned" else \
            InThread(server.engine.run, Broken(), "broken")
        until(lambda: server.engine.broken is not None, "the end")
        assert not ends.over
        assert not any(read.over for read in reads)
        slow.may_move.set()
        for call in (ends, *reads):
            with suppress(ZeroDivisionError, OSError, DmspecError):
                call.result()
        assert server.engine.performing == 0
        assert server.engine.waiters == set()


def test_timers_fire_while_every_thread_waits() -> None:
    with served(STACKS["linear"][0]) as server:
        assert do(server, "delay pv1 20ms")["error"] == ""
        buffer = bytearray(512)
        status = server.engine.do_bio(Bio(Op.READ, server.stack.devices["vol"], 0, 1, buffer))
        assert status == 0
        assert do(server, "sleep 20ms")["error"] == ""


def test_an_await_that_takes_too_long_ends(engine: LiveEngine) -> None:
    with served(STACKS["linear"][0]) as server:
        assert do(server, "await suspended(vol) within=30ms")["error"] == "ETIME"
        waiting = InThread(do, server, "await suspended(vol)")
        until(lambda: server.world.awaiting, "it to await")
        assert do(server, "suspend vol")["error"] == ""
        assert waiting.result()["error"] == ""
        assert do(server, "resume vol")["error"] == ""


def test_the_end_takes_processes_with_it() -> None:
    with served(STACKS["linear"][0]) as server:
        awaiting = InThread(do, server, "await suspended(vol)")
        until(lambda: server.world.awaiting, "it to await")
        sleeping = InThread(do, server, "sleep 1000s")
        until(lambda: len(server.processes) == 2, "it to sleep")
        server.export.write("vol", 0, memoryview(b"x" * 512))
    for call in (awaiting, sleeping):
        with suppress(Abandoned):
            assert call.result()["error"] == "EINTR"


# A mount that our mistake ends


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("binding", BINDINGS)
def test_our_mistake_ends_the_mount_and_says_so(
    mount: Mount, binding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A striped target that cannot map what lies at 1 MiB."""
    assert Striped.map is not None
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'mount' in sys.argv:\n"
        "    from dmspec.runtime.targets.striped import Striped\n"
        "    good = Striped.map\n"
        "    def bad(self, bio):\n"
        "        if bio.sector == 2048:\n"
        "            raise ZeroDivisionError('a mistake of ours')\n"
        "        return good(self, bio)\n"
        "    Striped.map = bad\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stack = mount("disk pv1 4MiB\ndisk pv2 4MiB\ndevice a { striped pv1 chunk=1MiB }\ndevice b { linear pv2 }\n",
                  binding, foreground=True)
    stack.ok("suspend b")
    waiting = InThread(direct, stack.device("b"), b"x" * 4096, 0)
    until(lambda: stack.devices()["b"]["open"], "the write to wait")
    direct(stack.device("a"), b"x" * 4096, 0)
    with fails_with(errno.EIO):
        direct(stack.device("a"), b"x" * 4096, 1 << 20)
    with fails_with(errno.EIO, errno.ECONNABORTED, errno.ENOTCONN):
        waiting.result()
    status, said = stack.ended()
    assert status == 70
    assert "internal error: " in said
    assert "a mistake of ours" in said
    assert stack.disk("pv1").read_bytes()[:4096] == b"x" * 4096
    monkeypatch.delenv("PYTHONPATH")
    assert command("do", stack.dir, "--status").returncode == 2
