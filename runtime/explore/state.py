"""States of a run as bytes: what an explorer stores, compares and goes back to.

A state is the pickled :class:`~dmspec.runtime.runner.Running`, which is plain data (see
:mod:`dmspec.runtime.task` for why).  What never changes is only referred to (:mod:`.words`), and what does not decide
how a run goes on is left out: the history (steps, the schedule, the kernel log), the order in which tasks became ready
or began to wait for a lock, since every order is explored, and numbers of events of which only it matters whether
they are equal.  So equal bytes mean equal futures.  The converse is tested: no two states that are stored are equal in
every value.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from ..block import DiskIo
from ..plan import Plan
from ..runner import Running
from ..sim import FirstChooser
from ..task import Latch, Task, Wait
from ..world import World
from .words import known

KEY_BYTES: Final = 16
# The newest one that says in its bytes which number each object gets.
PROTOCOL: Final = 3
KEPT_BY_ALL: Final = {"args", "remark"}


class _Primer(pickle.Unpickler):
    """Has things in its memo, from 0 on: setting ``memo`` to a dictionary of them does not work."""

    def __init__(self, things: list[Any]) -> None:
        puts = (b"J" + at.to_bytes(4, "little") + b"Qr" + at.to_bytes(4, "little") + b"0" for at in range(len(things)))
        super().__init__(io.BytesIO(b"\x80\x03" + b"".join(puts) + b"N."))
        self.things = things
        self.load()

    def persistent_load(self, at: int) -> Any:
        return self.things[at]


class Codec:
    """Freezes and thaws the states of one exploration.

    ``keeps_writes``: a check asks what was written in which order, so that is part of a state;
    ``keeps_steps``: a fault strikes at a step, so their number is.  ``first`` is the run before its first step: checks
    that keep nothing from one step to the next are the same objects for all runs.
    """

    def __init__(self, plan: Plan, first: Running, *, keeps_writes: bool = False, keeps_steps: bool = False) -> None:
        self.keeps_writes = keeps_writes
        self.keeps_steps = keeps_steps
        self.table: dict[type, Callable[[Any], Any]] = {Latch: _latch, Wait: _wait, deque: _deque}
        self.last_awaits = _last_awaits(plan)
        self.watching = first.watching if all(set(vars(one.watch)) == KEPT_BY_ALL for one in first.watching) else None
        everything = [*known(plan), self.watching]
        self.primed = pickle.Pickler(io.BytesIO(), PROTOCOL)
        self.primed.memo = {id(one): (at, one) for at, one in enumerate(everything)}
        self.primed_back = _Primer(everything)

    def freeze(self, run: Running) -> bytes:
        """The state that a run is in, its history forgotten."""
        self._forget(run)
        if self.watching is not None:
            run.watching = self.watching
        file = io.BytesIO()
        pickler = pickle.Pickler(file, PROTOCOL)
        pickler.dispatch_table = self.table
        pickler.memo = self.primed.memo
        pickler.dump(run)
        return file.getvalue()

    def thaw(self, state: bytes) -> Any:
        """A run that goes on from a state, of the class that was frozen; its checks have seen nothing yet."""
        for watching in self.watching or ():
            watching.forget()
        unpickler = pickle.Unpickler(io.BytesIO(state))
        unpickler.memo = self.primed_back.memo
        return unpickler.load()

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
        for filesystem in world.filesystems.by_name.values():
            latches += [filesystem.thawed, filesystem.settled]
        for latch in latches:
            if len(latch.waiters) > 1:
                latch.waiters = deque(in_order(latch.waiters))
        self._forget_events(world)
        for process in world.all_processes():
            process.said = ""
        run.fired = []
        world.stack.log_lines.clear()
        world.violations = [replace(one, step=0, time_ns=0) for one in world.violations]
        world.races.clear()
        if not self.keeps_writes:
            world.writes.clear()
            world.order = 0

    def _forget_events(self, world: World) -> None:
        """Number events anew, leaving out what nobody will ask for: it only matters whether two numbers are equal."""
        if self.last_awaits is None:
            return
        for process in world.processes.values():
            for name in list(process.seen_events):
                if process.ended or process.pc > self.last_awaits.get((process.name, name), -1):
                    del process.seen_events[name]
        for name, md in world.stack.devices.items():
            places = [process.seen_events for process in world.processes.values() if name in process.seen_events]
            places += [world.registered] if name in world.registered else []
            numbers = sorted({0, md.event_nr, *(place[name] for place in places)})
            if numbers[-1] == md.event_nr:
                for place in places:
                    place[name] = numbers.index(place[name])
                md.event_nr = numbers.index(md.event_nr)


def _last_awaits(plan: Plan) -> dict[tuple[str, str], int] | None:
    """Where each process asks for an event of each device for the last time; ``None``: somebody asks for its number."""
    last: dict[tuple[str, str], int] = {}
    for process in plan.processes:
        loops = any(instr.op == "jump" and instr.args["to"] <= at for at, instr in enumerate(process.code))
        for at, instr in enumerate(process.code):
            if instr.op == "expect-events":
                return None
            if instr.args.get("condition") == "event":
                last[process.name, instr.args["args"]["device"]] = len(process.code) if loops else at
    return last


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
