"""The search itself: every state that can be reached, breadth first, so the first violation is the shortest.

The frontier and the store of seen states stand behind :class:`Store`, whose keys are stable, so that
other stores (on disk, or sharded over machines by key) can take the place of :class:`MemoryStore`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from .. import plan as plans
from .. import trace as traces
from ..build import build
from ..registry import TARGETS
from ..runner import Watching, all_checks, scenario_of
from ..sim import SimEngine
from .moves import ExploredRun, Move, make, mover, moves_of
from .state import Codec

PROGRESS_STATES: Final = 500


class Store(Protocol):
    """What has been seen, and what is still to be looked at."""

    def add(self, key: bytes, state: bytes, parent: bytes | None, move: Move | None) -> bool:
        """Note a state; ``False`` when it was known.  A new one goes to the frontier."""

    def next(self) -> tuple[bytes, bytes] | None:
        """Take a state (its key and itself) from the frontier, in the order of adding."""

    def path(self, key: bytes) -> list[Move]:
        """The moves from the first state to this one."""

    def __len__(self) -> int: ...

    @property
    def waiting(self) -> int:
        """How many are in the frontier."""


class MemoryStore:
    """All in memory: 16 bytes and two references for a state, its bytes only while it waits."""

    def __init__(self) -> None:
        self.parents: dict[bytes, tuple[bytes | None, Move | None]] = {}
        self.frontier: deque[tuple[bytes, bytes]] = deque()

    def add(self, key: bytes, state: bytes, parent: bytes | None, move: Move | None) -> bool:
        if key in self.parents:
            return False
        self.parents[key] = (parent, move)
        self.frontier.append((key, state))
        return True

    def next(self) -> tuple[bytes, bytes] | None:
        return self.frontier.popleft() if self.frontier else None

    def path(self, key: bytes) -> list[Move]:
        moves: list[Move] = []
        at: bytes | None = key
        while at is not None:
            at, move = self.parents[at]
            if move is not None:
                moves.append(move)
        return moves[::-1]

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def waiting(self) -> int:
        return len(self.frontier)


@dataclass
class Finding:
    """A check violated, with the shortest way there; ``states`` had been seen by then."""

    check: str
    text: str
    path: list[Move]
    states: int


@dataclass
class Progress:
    """How far the search is."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    frontier: int = 0
    ends: int = 0


@dataclass
class Exploration:
    """What came of it.  ``complete``: every state within the bounds has been looked at."""

    scenario: str
    complete: bool
    stopped: str
    progress: Progress
    findings: dict[str, Finding] = field(default_factory=dict)
    reached: dict[str, bool] = field(default_factory=dict)


class Explorer:
    """Explores one scenario.

    ``most_states`` bounds the search, ``keep_going`` is asked now and then and ends it when it
    answers ``False`` (Ctrl-C, a time limit); both leave a result that says it is partial.
    """

    def __init__(self, plan: plans.Plan, scenario_name: str, *, most_states: int | None = None,
                 store: Store | None = None) -> None:
        self.plan = plan
        self.scenario = scenario_of(plan, scenario_name)
        self.most_states = most_states
        self.store: Store = store if store is not None else MemoryStore()
        self.codec = Codec(
            keeps_writes=any(check.name in ("no-lost-write", "frozen") for check in all_checks(self.scenario)),
            keeps_steps=any("step" in fault.at for fault in self.scenario.faults))
        self.progress = Progress()
        self.result = Exploration(self.scenario.name, True, "", self.progress)

    def begin(self) -> ExploredRun:
        """The scenario before its first step."""
        engine = SimEngine()
        world = build(self.plan, engine, target_types=TARGETS, kernel=self.scenario.kernel)
        return ExploredRun(world, self.scenario)

    def run(self, keep_going: Callable[[Progress], bool] = lambda _progress: True) -> Exploration:
        """Look at every state."""
        first = self.begin()
        self._judge(first, None)
        state = self.codec.freeze(first)
        self.store.add(self.codec.key(state), state, None, None)
        level = 1
        while (item := self.store.next()) is not None:
            self._expand(*item)
            level -= 1
            if not level:
                level = self.store.waiting
                self.progress.depth += bool(level)
            if not self._may_go_on(keep_going):
                break
        self.progress.states = len(self.store)
        return self.result

    def _may_go_on(self, keep_going: Callable[[Progress], bool]) -> bool:
        progress = self.progress
        progress.states = len(self.store)
        progress.frontier = self.store.waiting
        if self.most_states is not None and progress.states >= self.most_states and progress.frontier:
            self.result.complete, self.result.stopped = False, f"the bound of {self.most_states} states"
            return False
        if progress.transitions // PROGRESS_STATES != self._reported and not keep_going(progress):
            self.result.complete, self.result.stopped = False, "it was told to stop"
            return False
        self._reported = progress.transitions // PROGRESS_STATES
        return True

    _reported = 0

    def _expand(self, key: bytes, state: bytes) -> None:
        run = self.codec.thaw(state)
        todo = moves_of(run)
        if not any(move.kind == "task" for move in todo):
            self.progress.ends += 1
            run.come_to_rest()
            self._judge(run, key)
            run = self.codec.thaw(state) if todo else run
        fresh = True
        while todo:
            if not fresh:
                run = self.codec.thaw(state)
            fresh = False
            move = todo.pop(0)
            todo = make(run, move) + todo
            self.progress.transitions += 1
            self._judge(run, key, move)
            after = self.codec.freeze(run)
            self.store.add(self.codec.key(after), after, key, move)

    def _judge(self, run: ExploredRun, parent: bytes | None, move: Move | None = None) -> None:
        """Note violations and what was reached; then forget them, so that the search goes on behind."""
        for watching in run.watching:
            name = watching.check.name
            if watching.text and name not in self.result.findings:
                path = (self.store.path(parent) if parent is not None else []) + ([move] if move else [])
                self.result.findings[name] = Finding(name, watching.text, path, len(self.store))
            if watching.reached and watching.check.mode == "sometimes":
                self.result.reached[name] = True
            _forget(watching)
        run.world.violations.clear()


def _forget(watching: Watching) -> None:
    watching.text = ""
    watching.reached = False
    watching.watch.remark = ""


def trace_of(plan: plans.Plan, scenario_name: str, path: list[Move]) -> traces.Schedule:
    """What makes an ordinary run take a path: :func:`~dmspec.runtime.runner.run_scenario` replays it."""
    explorer = Explorer(plan, scenario_name)
    run = explorer.begin()
    for move in path:
        make(run, move)
    return run.schedule()


def movers(plan: plans.Plan, scenario_name: str, path: list[Move]) -> list[str]:
    """Who makes each move of a path."""
    explorer = Explorer(plan, scenario_name)
    run = explorer.begin()
    names = []
    for move in path:
        names.append(mover(run, move))
        make(run, move)
    return names
