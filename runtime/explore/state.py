"""States of a run as bytes: what an explorer stores, compares and goes back to.

A state is the pickled :class:`~dmspec.runtime.runner.Running`, which is plain data (see
:mod:`dmspec.runtime.task` for why).  What never changes (the plan, the target types) is left out, and
so is what does not decide how a run goes on: the history (steps, the schedule, the kernel log) and the
order in which tasks became ready or began to wait for a lock, since every order is explored.  So equal
bytes mean equal futures; the converse holds as far as the runtime keeps its data in one shape, and
where it does not, a state is only stored twice.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from ..block import DiskIo
from ..eras import Era
from ..plan import Check, Fault, Instr, Plan, Process, Scenario
from ..runner import Running
from ..signature import Signature
from ..sim import FirstChooser
from ..task import Latch, Task, Wait

KEY_BYTES: Final = 16

# What never changes in one exploration is pickled as its number in its codec's list, so that a state's bytes are the
# same in every process; this is the list of the codec that thaws at the moment.
_constants: list[Any] = []


class Codec:
    """Freezes and thaws the states of one exploration.

    ``keeps_writes``: a check asks what was written in which order, so that is part of a state;
    ``keeps_steps``: a fault strikes at a step, so their number is.
    """

    def __init__(self, *, keeps_writes: bool = False, keeps_steps: bool = False) -> None:
        self.keeps_writes = keeps_writes
        self.keeps_steps = keeps_steps
        self.constants: list[Any] = []
        self.index: dict[int, int] = {}
        self.table: dict[type, Callable[[Any], Any]] = dict.fromkeys(
            (Plan, Process, Instr, Scenario, Fault, Check, Era, MappingProxyType, Signature), self._constant)
        self.table |= {Latch: _latch, Wait: _wait, deque: _deque}

    def _constant(self, value: Any) -> Any:
        at = self.index.get(id(value))
        if at is None:
            at = self.index[id(value)] = len(self.constants)
            self.constants.append(value)
        return _look_up, (at,)

    def freeze(self, run: Running) -> bytes:
        """The state that a run is in, its history forgotten."""
        self._forget(run)
        file = io.BytesIO()
        pickler = pickle.Pickler(file, 5)
        pickler.dispatch_table = self.table
        pickler.dump(run)
        return file.getvalue()

    def thaw(self, state: bytes) -> Any:
        """A run that goes on from a state, of the class that was frozen."""
        global _constants
        _constants = self.constants
        return pickle.loads(state)

    @staticmethod
    def key(state: bytes) -> bytes:
        """Short, and the same in every process that explores the same plan."""
        return hashlib.blake2b(state, digest_size=KEY_BYTES).digest()

    def _forget(self, run: Running) -> None:
        engine, world = run.engine, run.world
        if not self.keeps_steps:
            engine.steps = run.first_step = 0
        engine.schedule = []
        engine.current = engine.last = None
        engine.chooser = FirstChooser()
        engine.runnable = deque(in_order(engine.runnable))
        latches = [mutex.latch for mutex in world.locks.values()]
        latches += [md.suspend_lock.latch for md in world.stack.devices.values()]
        latches += [filesystem.thawed for filesystem in world.filesystems.by_name.values()]
        for latch in latches:
            if len(latch.waiters) > 1:
                latch.waiters = deque(in_order(latch.waiters))
        run.fired = []
        world.stack.log_lines.clear()
        world.violations = [replace(one, step=0, time_ns=0) for one in world.violations]
        if not self.keeps_writes:
            world.writes.clear()
            world.order = 0


def _look_up(at: int) -> Any:
    return _constants[at]


# There are many of these, mostly empty, and pickle's own way with them is slow.


def _latch(latch: Latch) -> Any:
    if not latch.waiters:
        return Latch, (latch.name,)
    return copyreg.__newobj__, (Latch,), (None, {"name": latch.name, "waiters": latch.waiters})  # type: ignore[attr-defined]


def _wait(wait: Wait) -> Any:
    return Wait, (wait.latch, wait.why)


def _deque(items: deque[Any]) -> Any:
    return (deque, (), None, iter(items)) if items else (deque, ())


def in_order(tasks: Iterable[Task]) -> list[Task]:
    """Tasks in an order that does not depend on when they became ready."""
    return sorted(tasks, key=_rank)


def _rank(task: Task) -> tuple[str, str]:
    return (task.name, repr(task.bio) if isinstance(task, DiskIo) else "")
