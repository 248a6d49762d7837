"""What a suspend with lockfs does to the real machine (the mount's :class:`~.stack.Freezer`).

A device's file may be loop-mounted.  Then its filesystem is frozen (``FIFREEZE``) and the loop
device's and the file's cached pages are written back; without a mount only the latter is done, as
the kernel syncs a block device's page cache.  All this sends I/O through the device itself, so a
child process does it (:mod:`dmspec.runtime.lockfs_child` says why), and a thread waits for that child
while the suspend waits for the thread.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import lockfs_child
from .errors import DmspecError
from .live import LiveEngine
from .task import Frame, Latch, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .mapped_device import MappedDevice

class LiveFreezer:
    """``directory`` is where the devices' files are, as soon as it is mounted; ``names_of`` knows their names.

    ``children`` has the process that keeps things frozen for a device, by its number: a name may change meanwhile.
    ``on_resume`` is told of every resume, under the stack's lock.
    """

    def __init__(self, engine: LiveEngine, names_of: Callable[[MappedDevice], list[str]]) -> None:
        self.engine = engine
        self.names_of = names_of
        self.directory: str | None = None
        self.children: dict[str, subprocess.Popen[str]] = {}
        self.on_resume: Callable[[MappedDevice], None] | None = None

    def freeze(self, device: MappedDevice, task: Task) -> Frame | None:
        del task
        directory = self.directory
        names = self.names_of(device)
        if directory is None or not names:
            return None
        number, paths = device.number, [f"{directory}/{name}" for name in names]
        return InThread(self.engine, f"what lies on {device.name} to be frozen",
                        functools.partial(self.freeze_now, number, paths))

    def thaw(self, device: MappedDevice) -> Frame | None:
        if self.on_resume is not None:
            self.on_resume(device)
        number = device.number
        if number not in self.children:
            return None
        return InThread(self.engine, f"what lies on {device.name} to be thawed",
                        functools.partial(self.thaw_now, number))

    def freeze_now(self, number: str, paths: Iterable[str]) -> int:
        """0 or a negative errno."""
        child = subprocess.Popen([sys.executable, "-m", lockfs_child.__name__, *paths], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True, env=_environment())
        assert child.stdout is not None
        said = child.stdout.readline()
        answer: dict[str, Any] = json.loads(said) if said else {"errno": errno.EIO, "frozen": []}
        if answer["frozen"]:
            self.children[number] = child
        else:
            _end(child)
        return -int(answer["errno"])

    def thaw_now(self, number: str) -> int:
        """A failure is no reason to stop a resume: the answer is always 0."""
        child = self.children.pop(number, None)
        if child is not None:
            _end(child)
        return 0

    def thaw_all(self) -> None:
        """At the end of a mount: what stays frozen could never be unmounted."""
        for number in list(self.children):
            self.thaw_now(number)


def _end(child: subprocess.Popen[str]) -> None:
    """The end of its input tells the child to thaw and to end."""
    child.communicate()


def _environment() -> dict[str, str]:
    """The child finds the package where this process has it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class InThread(Frame):
    """Do something in a thread, and wait for it; the value is its answer."""

    def __init__(self, engine: LiveEngine, what: str, work: Callable[[], int]) -> None:
        self.engine = engine
        self.what = what
        self.work = work
        self.answer: int | None = None
        self.latch = Latch(what)

    def start(self, task: Task) -> Outcome:
        del task
        threading.Thread(target=self._work, name="dmspec-lockfs", daemon=True).start()
        return self._wait()

    def wait(self, task: Task) -> Outcome:
        del task
        return self._wait()

    def _wait(self) -> Outcome:
        self.at = "wait"
        return Wait(self.latch, f"for {self.what}") if self.answer is None else Return(self.answer)

    def _work(self) -> None:
        answer = -errno.EIO
        try:
            answer = self.work()
        finally:
            def tell() -> None:
                self.answer = answer
                self.latch.release()

            with contextlib.suppress(DmspecError):
                self.engine.call(tell)
