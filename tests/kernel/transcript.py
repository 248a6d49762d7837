"""Plays recordings of a real kernel on the simulator.

A recording (``recorded/*.out``, Linux 6.1.176) holds command lines after ``$`` and what they printed.
:class:`Player` runs them as processes of the deterministic engine and gives back what they print; the test compares
line by line.  Time is virtual: a command takes as much of it as its I/O waits for, ``sleep`` and the waiting times of
``wt`` pass, and what needs no time is over before the next command.  Kernel log lines are compared for themselves,
section by section, because the recording shows them whenever they happened to arrive.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dmspec.runtime import control
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.block import BlockDevice
from dmspec.runtime.eras import ERAS
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.stack import Stack
from dmspec.runtime.task import Frame, Task
from dmspec.runtime.units import NS_PER_S

from .shell import COMMAND_NS, Script, Unknown

EDIT = re.compile(r"printf ['\"](.*?)['\"] \| dd of=/tmp/disk(\d) bs=1 seek=(\d+) [^;]*(?:; )?(.*)\Z")
GARBAGE = re.compile(r"pat (\w+) (\d+) \| dd of=(\S+) [^;]*; (.*)\Z")
REPEATEDLY = re.compile(r"\(dmsetup status (\w+), repeatedly, changes only\)\Z")
POLL_NS = 50_000_000
MOST_STEPS = 200_000


@dataclass
class Section:
    """One ``#####`` part of a recording: its steps, each a command line and its output."""

    title: str
    steps: list[Step] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)


@dataclass
class Step:
    command: str
    output: list[str] = field(default_factory=list)


def sections(text: str) -> Iterator[Section]:
    section: Section | None = None
    for line in text.splitlines():
        if line.startswith("##### "):
            if section is not None:
                yield section
            section = Section(line.removeprefix("##### "))
        elif section is not None and line.startswith("# left over"):
            section.steps.append(Step("ends"))
        elif section is None or line.startswith("# "):
            continue
        elif line.startswith("kernel: "):
            section.kernel.append(line)
        elif line.startswith("$ "):
            section.steps.append(Step(line.removeprefix("$ ")))
        elif section.steps:
            section.steps[-1].output.append(line)
    if section is not None:
        yield section


class Player:
    """``disks`` are loop0 and up, of so many sectors each."""

    def __init__(self, disks: int, sectors: int) -> None:
        self.engine = SimEngine()
        self.stack = Stack(self.engine, ERAS["now"], TARGETS)
        for index in range(disks):
            self.stack.add_disk(f"loop{index}", sectors, SparseMemory())
        self.background: dict[str, tuple[Task, list[str]]] = {}
        self.files: dict[str, bytes] = {}

    # Time

    def settle(self) -> None:
        """Let happen what needs no time."""
        limit = self.engine.steps + MOST_STEPS
        while self.engine.runnable and self.engine.steps < limit:
            self.engine.step()

    def wait(self, task: Task) -> None:
        """Let time pass until a process has ended, or nothing can happen any more."""
        limit = self.engine.steps + MOST_STEPS
        while not task.ended and self.engine.steps < limit and self.engine.step():
            pass
        self.settle()

    def sleep(self, seconds: float) -> None:
        """Let just so much time pass."""
        end_ns = self.engine.time_ns + round(seconds * NS_PER_S)
        self.settle()
        while self.engine.timers and self.engine.timers[0][0] <= end_ns:
            time_ns, _count, latch = heapq.heappop(self.engine.timers)
            self.engine.time_ns = max(self.engine.time_ns, time_ns)
            latch.release()
            self.settle()
        self.engine.time_ns = end_ns

    def start(self, frame: Frame) -> Task:
        """A process, up to where it needs time."""
        task = Task(self.engine, "process")
        task.start(frame)
        self.settle()
        return task

    def run(self, frame: Frame) -> Task:
        """A process that is waited for."""
        task = self.start(frame)
        self.wait(task)
        return task

    # Command lines

    def play(self, command: str) -> list[str]:
        """What a command line prints; one in the background prints when it is looked at."""
        if command == "ends":
            for name in ("m", "leg0", "leg1", "leg2", "log", "snap", "snap2", "org", "cow", "cow2"):
                if name in self.stack.devices:
                    self.run(control.Remove(self.stack.devices[name]))
            return []
        if edit := EDIT.match(command):
            data = edit[1].encode().decode("unicode_escape").encode("latin-1")
            self.stack.disks[f"loop{edit[2]}"].backing.write(int(edit[3]), memoryview(data))
            return self.play(edit[4]) if edit[4] else []
        if garbage := GARBAGE.match(command):
            return self.play(f"put {garbage[3]} 0 {garbage[1]} {garbage[2]}; {garbage[4]}")
        if repeated := REPEATEDLY.match(command):
            return self.poll(repeated[1])
        if command.endswith(" &"):
            match = re.match(r"\((\w+)\) (.*) &\Z", command)
            if match is None:
                raise Unknown(command)
            script = Script(self, match[2])
            self.background[match[1]] = (self.start(script), script.lines)
            return []
        script = Script(self, command)
        task = self.run(script)
        if not task.ended:
            raise Unknown(f"{command}: blocked {task.waiting.why if task.waiting else ''}")
        return script.lines + ([f"[exit {task.value}]"] if task.value else [])

    def poll(self, name: str) -> list[str]:
        """A mirror's status lines as they change, until all is in sync."""
        lines: list[str] = []
        for _ in range(300):
            self.sleep(COMMAND_NS / NS_PER_S)
            [line] = control.status_lines(self.stack.device(name))
            if line not in lines[-1:]:
                lines.append(line)
            if re.search(r" (\d+)/\1 ", line):
                return lines
            self.sleep(POLL_NS / NS_PER_S)
        return [*lines, "not in sync"]

    def look(self, name: str, blocked_for_s: float | None) -> list[str]:
        """How a background command stands: after so much time, or, with ``None``, when it has ended."""
        task, lines = self.background[name]
        if blocked_for_s is None:
            self.wait(task)
        else:
            self.sleep(blocked_for_s)
        if not task.ended:
            return [f"({name}) still blocked"]
        return [f"({name}) {line}" for line in lines] + [f"({name}) ended [exit {task.value}]"]

    def device(self, path: str) -> BlockDevice:
        return self.stack.lookup(path)
