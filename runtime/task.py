"""Tasks: everything that can take a step, as plain data.

**How state is held, and why.**  A task is a stack of frames; a frame is an object with a label
(``at``, the name of its method that runs next) and fields.  There is no generator, closure, bound
method or thread in it, so the whole of a stack (devices, workers, bios, processes) can be copied
with :func:`copy.deepcopy`, hashed and compared between any two steps, which exploring every
interleaving needs.  It is also the kernel's own shape: ``map`` answers, ``end_io`` is called, a
worker passes over its lists in a fixed order, and only a few places wait.  A generator version of
the mirror's write path was written too and measured against this one: see
``tests/bench/state_shape.py`` and the figures in its docstring.

Three rules for code that runs in a task: it neither reads a clock nor draws random numbers; every
wait names the :class:`Latch` that ends it and says why in words (a deadlock is explained with
them); after a wait the same label runs again and looks at the state anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from .bio import Bio
    from .block import Disk


class Outcome:
    """What a step comes to."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Wait(Outcome):
    """Run the same label again when the latch is released.  ``why`` ends "X waits ...": "for ..."."""

    latch: Latch
    why: str


@dataclass(frozen=True, slots=True)
class Goto(Outcome):
    """Others may run; go on at this label."""

    label: str


@dataclass(frozen=True, slots=True)
class Enter(Outcome):
    """Run another frame to its end, then go on at ``then`` with its value in ``result``."""

    frame: Frame
    then: str


@dataclass(frozen=True, slots=True)
class Return(Outcome):
    """The frame has ended with this value (an errno, negative, where the kernel has one)."""

    value: Any = 0


DONE: Final = Return(0)


class Frame:
    """A passage through code that may wait.  Subclasses have one method per label.

    ``interruptible``: its present wait ends when its task is killed, and the label looks at ``task.killed``.
    """

    at: str = "start"
    result: Any = None
    interruptible: bool = False

    def start(self, task: Task) -> Outcome:
        raise NotImplementedError


class Latch:
    """What a wait ends by: a name and who waits, in order."""

    __slots__ = ("name", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiters: deque[Task] = deque()

    def release(self) -> None:
        """Everyone who waits runs again, in the order of their waiting."""
        while self.waiters:
            task = self.waiters.popleft()
            task.waiting = None
            task.engine.ready(task)


class Engine(Protocol):
    """What the runtime needs of an engine, and all that it knows of one."""

    @property
    def now_ns(self) -> int: ...

    def ready(self, task: Task) -> None:
        """The task can take a step."""

    def submit(self, disk: Disk, bio: Bio) -> None:
        """Start I/O on a disk; ``bio.complete`` is called later, from a step of its own."""

    def at(self, time_ns: int, latch: Latch) -> None:
        """Release a latch at a time."""

    def choose(self, count: int) -> int:
        """A number below ``count`` that the schedule picks."""

    def note(self, lane: str, text: str) -> None:
        """Something happened, for the trace."""


class Task:
    """A stack of frames with a name (its lane in the trace).  Only processes can be ``killed``."""

    __slots__ = ("ended", "engine", "frames", "name", "value", "waiting")

    killed: bool = False

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.frames: list[Frame] = []
        self.waiting: Wait | None = None
        self.ended = False
        self.value: Any = None

    def start(self, frame: Frame) -> None:
        """Run a frame from its first label."""
        self.frames.append(frame)
        self.engine.ready(self)

    def step(self) -> None:
        """Run until the next wait, the next point where others may run, or the end.

        A task that was ended from outside while it was ready takes an empty step.
        """
        while self.frames:
            frame = self.frames[-1]
            outcome = getattr(frame, frame.at)(self)
            if type(outcome) is Enter:
                frame.at = outcome.then
                self.frames.append(outcome.frame)
            elif type(outcome) is Return:
                self.frames.pop()
                if not self.frames:
                    self.value = outcome.value
                    self.finish()
                    return
                self.frames[-1].result = outcome.value
            elif type(outcome) is Goto:
                frame.at = outcome.label
                self.engine.ready(self)
                return
            else:
                assert type(outcome) is Wait, f"{frame!r}.{frame.at} answered {outcome!r}"
                self.waiting = outcome
                outcome.latch.waiters.append(self)
                return

    def finish(self) -> None:
        """The last frame has returned."""
        self.ended = True

    def end(self) -> None:
        """End from outside: forget the frames, and the wait if there is one."""
        if self.waiting is not None:
            self.waiting.latch.waiters.remove(self)
            self.waiting = None
        self.frames.clear()
        self.ended = True


class Work(Task):
    """A kernel work item: queued any number of times it runs once, and again if queued while it runs."""

    __slots__ = ("again", "body", "busy", "idle", "pending")

    def __init__(self, engine: Engine, name: str, body: Frame) -> None:
        super().__init__(engine, name)
        self.body = body
        self.body.at, self.body.result = "start", None
        self.busy = False
        self.pending = False
        self.again = False
        self.idle = Latch(f"{name} idle")

    def queue(self) -> None:
        if self.ended:
            return
        if self.busy:
            self.again = not self.pending
            return
        self.busy = self.pending = True
        self.start(self.body)

    def step(self) -> None:
        self.pending = False
        super().step()

    def finish(self) -> None:
        """What it came to is nobody's: an idle item has one state, whatever it did last."""
        self.busy = self.pending = False
        self.value = self.body.result = None
        self.body.at = "start"
        if self.again:
            self.again = False
            self.queue()
        else:
            self.idle.release()


class Mutex:
    """A lock that tasks wait for; ``owner`` is a task, and FIFO order is fair."""

    __slots__ = ("latch", "name", "owner")

    def __init__(self, name: str) -> None:
        self.name = name
        self.owner: Task | None = None
        self.latch = Latch(name)

    def take(self, task: Task) -> bool:
        """Take it if it is free (or already held by this task)."""
        if self.owner is None:
            self.owner = task
        return self.owner is task

    def wait(self) -> Wait:
        owner = self.owner.name if self.owner is not None else "nobody"
        return Wait(self.latch, f"for {self.name}, held by {owner}")

    def release(self, task: Task) -> None:
        assert self.owner is task, f"{task.name} releases {self.name}, which it does not hold"
        self.owner = None
        self.latch.release()
