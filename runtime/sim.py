"""The deterministic engine: virtual time, and a schedule that is data.

At each step the engine picks one of the tasks that can run.  A :class:`Chooser` picks; what it
picked is kept in :attr:`SimEngine.schedule`, so the same plan with the same schedule gives the same
run, to the byte, on every Python.  Index 0 is the task that ran last, if it still can, else the one
that has waited longest; so a schedule of zeros switches only where somebody waits.

Disk I/O is a task as well: it takes effect when it is picked.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Protocol

from .bio import Bio
from .block import Disk, DiskIo
from .task import Latch, Task


class Chooser(Protocol):
    """Picks a number below ``count``."""

    def choose(self, count: int) -> int: ...


class FirstChooser:
    """Always 0: nobody is interrupted."""

    def choose(self, count: int) -> int:
        del count
        return 0


class SeededChooser:
    """SplitMix64, so that a seed gives the same schedule on every Python for ever.

    With ``switch_percent`` the running task goes on unless a draw says otherwise, which makes
    traces longer to read and bugs easier to reach than a fair choice at every step does.
    """

    def __init__(self, seed: int, switch_percent: int = 30) -> None:
        self.state = seed & 0xFFFFFFFFFFFFFFFF
        self.switch_percent = switch_percent

    def draw(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return mixed ^ (mixed >> 31)

    def choose(self, count: int) -> int:
        if self.draw() % 100 >= self.switch_percent:
            return 0
        return self.draw() % count


class ReplayChooser:
    """A recorded schedule; when it is used up, 0."""

    def __init__(self, schedule: list[int]) -> None:
        self.schedule = schedule
        self.position = 0

    def choose(self, count: int) -> int:
        if self.position >= len(self.schedule):
            return 0
        picked = self.schedule[self.position]
        self.position += 1
        return min(picked, count - 1)


class Observer(Protocol):
    """Who hears what happens: the trace."""

    def note(self, step: int, time_ns: int, lane: str, text: str) -> None: ...


class SimEngine:
    """See the module.  ``steps`` counts the steps taken; ``schedule`` is what was picked; ``last`` moved last."""

    def __init__(self, chooser: Chooser | None = None, observer: Observer | None = None) -> None:
        self.chooser: Chooser = chooser or FirstChooser()
        self.observer = observer
        self.runnable: deque[Task] = deque()
        self.timers: list[tuple[int, int, Latch]] = []
        self.timer_count = 0
        self.time_ns = 0
        self.steps = 0
        self.schedule: list[int] = []
        self.current: Task | None = None
        self.last: Task | None = None

    @property
    def now_ns(self) -> int:
        return self.time_ns

    def ready(self, task: Task) -> None:
        if task is self.current:
            self.runnable.appendleft(task)
        else:
            self.runnable.append(task)

    def submit(self, disk: Disk, bio: Bio) -> None:
        io = DiskIo(self, disk, bio)
        delay_ns = disk.delay_of(bio)
        if delay_ns:
            latch = Latch(f"{bio!r} delayed")
            latch.waiters.append(io)
            self.at(self.time_ns + delay_ns, latch)
        else:
            self.runnable.append(io)

    def at(self, time_ns: int, latch: Latch) -> None:
        self.timer_count += 1
        heapq.heappush(self.timers, (time_ns, self.timer_count, latch))

    def choose(self, count: int) -> int:
        picked = self.chooser.choose(count) if count > 1 else 0
        if count > 1:
            self.schedule.append(picked)
        return picked

    def note(self, lane: str, text: str) -> None:
        if self.observer is not None:
            self.observer.note(self.steps, self.time_ns, lane, text)

    def step(self) -> bool:
        """Take one step, letting time pass when nothing else can happen; ``False``: at rest."""
        while not self.runnable:
            if not self.timers:
                return False
            time_ns, _count, latch = heapq.heappop(self.timers)
            self.time_ns = max(self.time_ns, time_ns)
            latch.release()
        picked = self.choose(len(self.runnable))
        self.runnable.rotate(-picked)
        task = self.runnable.popleft()
        self.runnable.rotate(picked)
        self.steps += 1
        self.current = self.last = task
        task.step()
        self.current = None
        return True

    def run(self, limit: int | None = None) -> bool:
        """Run until nothing can happen any more; ``False`` when ``limit`` steps were not enough."""
        while limit is None or self.steps < limit:
            if not self.step():
                return True
        return False
