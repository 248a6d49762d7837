"""A stack behind dmsetup without a mount: the client talks to the ioctl core on the deterministic engine."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, cast

import pytest

from dmspec.dmsetup.command import main
from dmspec.dmsetup.door import Door, NoMountError
from dmspec.runtime import control
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.block import BlockDevice
from dmspec.runtime.eras import ERAS
from dmspec.runtime.ioctl_live import IoctlDoor
from dmspec.runtime.live import LiveEngine
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.stack import Stack
from dmspec.runtime.task import Task


class Engine(SimEngine):
    """The deterministic engine with what a mount's questions ask of theirs."""

    def call(self, function: Callable[[], Any]) -> Any:
        return function()


class LocalDoor(Door):
    """Answers from here; a command that would wait is an error of the test."""

    def __init__(self, disks: Sequence[int] = (16384,) * 3) -> None:
        self.engine = Engine()
        self.stack = Stack(self.engine, ERAS["now"], TARGETS)
        for index, sectors in enumerate(disks):
            self.stack.add_disk(f"loop{index}", sectors, SparseMemory())
        self.stack.on_removed = lambda md: Task(self.engine, "deferred removal").start(control.Remove(md))
        self.questions = IoctlDoor(self.stack, cast(LiveEngine, self.engine))
        self.calls: list[int] = []

    def ask(self, question: str, **more: Any) -> dict[str, Any]:
        if question == "ioctl":
            self.calls.append(more["nr"])
            task = Task(self.engine, "ioctl")
            task.start(self.questions.core.call(more["nr"], more["data"]))
            self.engine.run(limit=self.engine.steps + 100_000)
            if not task.ended:
                raise NoMountError("it waits")
            return {"errno": task.value[0], "data": task.value[1]}
        answer = self.questions.answer(cast(Any, None), {"ask": question, **more})
        assert answer is not None
        return answer


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


class Machine:
    """Runs dmsetup commands one after the other: what each prints on both streams, and its status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, door: LocalDoor | None = None) -> None:
        self.door = door or LocalDoor()
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("LC_ALL", "C")
        self.held: dict[str, BlockDevice] = {}

    def hold(self, name: str) -> None:
        """Open a device, as a program does; it is the same one after a rename."""
        self.held[name] = self.door.stack.device(name)
        self.door.stack.hold(self.held[name])

    def let_go(self, name: str) -> None:
        """Close it."""
        self.door.stack.release(self.held.pop(name))
        self.door.engine.run(limit=self.door.engine.steps + 10_000)

    def run(self, *words: str, stdin: bytes = b"") -> tuple[str, str, int]:
        out, err = io.StringIO(), io.StringIO()
        self.monkeypatch.setattr(sys, "stdin", _Stdin(stdin))
        with redirect_stdout(out), redirect_stderr(err):
            status = main(list(words), door=self.door)
        return out.getvalue(), err.getvalue(), status

    def good(self, *words: str, stdin: bytes = b"") -> str:
        out, err, status = self.run(*words, stdin=stdin)
        assert (err, status) == ("", 0), words
        return out
