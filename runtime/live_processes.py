"""Processes of the plan that run on a mounted stack beside everything else, as dmeventd does; and a watchdog.

They run in the world of the mount, with its locks, so that what ``dmspec do`` does meets them.  They end with the
mount at the latest, killed as any process is that waits in the kernel.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from .checks import wait_for
from .errors import DmspecError, PlanError
from .explore.explain import find_cycle, wait_edges
from .process import ProcessTask
from .runner import scenarios_of

if TYPE_CHECKING:
    from .plan import Plan, Process
    from .server import MountServer

LOOKS_PER_PERIOD: Final = 4

Tell = Callable[[str, str], None]


def processes_named(plan: Plan, names: Sequence[str]) -> list[Process]:
    """The processes that are meant: each name is a process's, or a scenario's, which stands for all of its own."""
    known = {process.name: process for process in plan.processes}
    scenarios = {one.name: one.run for one in scenarios_of(plan)}
    found: dict[str, Process] = {}
    for name in names:
        if name not in known and name not in scenarios:
            there = ", ".join(known) or "no processes"
            raise PlanError(f"there is no process or scenario {name!r} to run; there is: {there}")
        for one in [name] if name in known else scenarios[name]:
            found[one] = known[one]
    simulated = {one.name for one in plan.filesystems}
    for process in found.values():
        for instr in process.code:
            if instr.args.get("target", instr.args.get("filesystem")) in simulated:
                raise PlanError(f"process {process.name} uses a filesystem of the spec (line {instr.line}): those are "
                                "simulated, for runs; on a mount there are real ones")
    return list(found.values())


class LiveProcesses:
    """Those of one mount.  ``tell(name, text)`` hears what they do, under the stack's lock, and must not wait."""

    def __init__(self, server: MountServer) -> None:
        self.server = server
        self.tell: Tell = lambda _name, _text: None
        self.names: set[str] = set()

    def begin(self, processes: Sequence[Process]) -> None:
        """Start them; one that runs already is not started twice."""
        def start() -> None:
            world = self.server.world
            running = [one.name for one in processes
                       if one.name in world.processes and not world.processes[one.name].ended]
            if running:
                raise PlanError(f"{', '.join(running)} runs already")
            if processes and not self.names:
                self.server.listeners.append(self._note)
            tasks = []
            for process in processes:
                task = ProcessTask(world, process)
                world.processes[process.name] = task
                self.server.processes.add(task)
                self.names.add(process.name)
                tasks.append(task)
            for task in tasks:
                self.tell(task.name, "begins")
                task.run()

        self.server.engine.call(start)

    def begin_named(self, names: Sequence[str]) -> dict[str, Any]:
        """Start them by name; the answer for whoever asked over the control socket."""
        self.begin(processes_named(self.server.spec, names))
        return {"end": True}

    def _note(self, lane: str, text: str) -> None:
        if lane.partition(".")[0] in self.names:
            self.tell(lane, text)

    def states(self) -> list[dict[str, Any]]:
        """Each with what it waits for."""
        found: list[dict[str, Any]] = []
        self.server.engine.call(lambda: found.extend(
            {"name": name, "ended": task.ended, "locks": list(task.locks),
             "waits": task.waiting.why if task.waiting is not None else ""}
            for name, task in self.server.world.processes.items()))
        return found


def standstill(server: MountServer) -> list[str]:
    """Who waits for whom, if nothing can move and somebody waits for more than an event; to be called with the lock.

    What `dmspec do` runs is in worlds of its own; it is looked at too.
    """
    engine, world = server.engine, server.world
    if engine.runnable or engine.performing or engine.timers:
        return []
    strangers = [task for task in server.processes if task.world is not world]
    if not any(not task.ended and task.waiting is not None and not task.idle for task in server.processes):
        return []
    edges = list(wait_edges(world))
    cycle = find_cycle(edges)
    stopped = any(md.deferred or (md.live is not None and any(list(target.held()) for target in md.live.targets))
                  for md in world.stack.devices.values())
    if not (cycle or stopped):
        return []                                  # a filesystem that is being frozen may take its time
    lines = list(wait_for(world))
    lines += [f"{task.name} waits {task.waiting.why}" for task in strangers
              if task.waiting is not None and not task.idle]
    lines += [f"    {edge.waiter} -> {edge.holder}: {edge.why}" for edge in edges]
    return lines + ([f"the cycle: {' -> '.join([*cycle, cycle[0]])}"] if cycle else [])


class Watchdog:
    """Looks now and then; when all has stood still for a period, and the same ones wait, it says so, once."""

    def __init__(self, server: MountServer, period_s: float, tell: Tell) -> None:
        self.server = server
        self.period_s = period_s
        self.tell = tell
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="dmspec-watchdog", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End it."""
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        before: list[str] = []
        looks = 0
        while not self.over.wait(self.period_s / LOOKS_PER_PERIOD):
            now: list[str] = []
            with contextlib.suppress(DmspecError):
                now = self.server.engine.call(lambda: standstill(self.server))
            looks = looks + 1 if now and now == before else 0
            before = now
            if looks == LOOKS_PER_PERIOD:
                self._say(now)

    def _say(self, lines: list[str]) -> None:
        self.tell("watchdog", f"nothing has moved for {self.period_s:g} s, and nothing can:")
        for line in lines:
            self.tell("watchdog", f"  {line}")


def lines_of(states: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How processes stand, in words."""
    for one in states:
        held = f", holds lock {' and '.join(one['locks'])}" if one["locks"] else ""
        waits = f"waits {one['waits']}" if one["waits"] else "is running"
        yield f"process {one['name']}: {'has ended' if one['ended'] else waits}{held}"
