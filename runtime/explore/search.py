"""The search itself: every state that can be reached, breadth first, so the first violation is the shortest.

A quick look comes first (:mod:`.quick`): most violations are known within half a second.  The search then proves what
is the shortest way to each, finds what the quick look has missed, and shows by exhausting the space what holds.

The frontier and the store of seen states stand behind :class:`Store`, whose keys are stable, so that
other stores (on disk, or sharded over machines by key) can take the place of :class:`MemoryStore`.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from .. import plan as plans
from .. import trace as traces
from ..build import build
from ..checks import stuck_processes
from ..operations.base import EXPECTATION
from ..registry import TARGETS
from ..runner import NO_DEADLOCK, all_checks, scenario_of
from ..sim import SimEngine
from .moves import ExploredRun, Move, interrupts, make, mover, moves_of
from .quick import Quick
from .state import Codec
from .words import interned

PROGRESS_STATES: Final = 500
ASK_FOR_WRITES: Final = ("no-lost-write", "frozen", "model-agrees")


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
    """A check violated, with the shortest way there so far; ``states`` had been stored by then.

    ``shortest``: no way is shorter, since the search has looked at all that is nearer.
    """

    check: str
    text: str
    path: list[Move]
    states: int
    shortest: bool = False


@dataclass
class Progress:
    """How far the search is.

    ``states`` were stored, ``transitions`` made; ``depth`` is how many moves away what is looked at is; ``ends``
    counts states at rest, and ``quick_steps`` the steps of the quick look.
    """

    states: int = 0
    transitions: int = 0
    depth: int = 0
    frontier: int = 0
    ends: int = 0
    quick_steps: int = 0


@dataclass
class Exploration:
    """What came of it.

    ``complete``: every state within the bounds has been looked at.  ``drawn``: none was, only runs were drawn.
    """

    scenario: str
    complete: bool
    stopped: str
    progress: Progress
    findings: dict[str, Finding] = field(default_factory=dict)
    reached: dict[str, bool] = field(default_factory=dict)
    drawn: bool = False


class Graph:
    """Who moves from which state to which, to find processes that can never move again."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.keys: list[bytes] = []
        self.alive: dict[str, list[int]] = {}
        self.moves: dict[str, list[int]] = {}
        self.sources = array("L")
        self.targets = array("L")

    def _number(self, key: bytes) -> int:
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.keys)
            self.keys.append(key)
        return number

    def note_state(self, key: bytes, run: ExploredRun) -> None:
        """Who still has something to do in a state."""
        number = self._number(key)
        for process in stuck_processes(run.world):
            self.alive.setdefault(process.name, []).append(number)

    def note_move(self, key: bytes, after: bytes, who: str) -> None:
        source = self._number(key)
        self.sources.append(source)
        self.targets.append(self._number(after))
        self.moves.setdefault(who.partition(".")[0], []).append(source)

    def stuck(self, process: str) -> bytes | None:
        """The first state in which a process has not ended and from which no move of its can be reached."""
        back: list[list[int]] = [[] for _ in self.keys]
        for source, target in zip(self.sources, self.targets, strict=True):
            back[target].append(source)
        good = bytearray(len(self.keys))
        todo = list(dict.fromkeys(self.moves.get(process, [])))
        for number in todo:
            good[number] = 1
        while todo:
            for source in back[todo.pop()]:
                if not good[source]:
                    good[source] = 1
                    todo.append(source)
        return next((self.keys[number] for number in self.alive.get(process, []) if not good[number]), None)


class Explorer:
    """Explores one scenario.

    ``most_states`` bounds the search, ``keep_going`` is asked now and then and ends it when it
    answers ``False`` (Ctrl-C, a time limit); both leave a result that says it is partial.
    ``preemptions`` restricts it to runs with at most so many interruptions of a task that could go on.
    ``quick`` has it take a quick look first; with ``stop_when_all_found`` it ends when every check has been violated
    and, where violations are expected, when these are.  Without ``late_faults`` faults strike at every point.
    """

    def __init__(self, plan: plans.Plan, scenario_name: str, *, most_states: int | None = None,
                 preemptions: int | None = None, stop_when_all_found: bool = False, quick: bool = False,
                 late_faults: bool = True, store: Store | None = None) -> None:
        self.plan = interned(plan)
        self.scenario = scenario_of(self.plan, scenario_name)
        self.most_states = most_states
        self.preemptions = preemptions
        self.quick = quick and preemptions is None
        self.late_faults = late_faults
        self.wanted: set[str] = set()
        if stop_when_all_found:
            self.wanted = set(self.scenario.violations) or \
                {check.name for check in all_checks(self.scenario) if check.mode != "sometimes"} - {EXPECTATION}
        self.graph = Graph()
        self.store: Store = store if store is not None else MemoryStore()
        self.codec = Codec(
            self.plan, self.begin(),
            keeps_writes=any(check.name in ASK_FOR_WRITES for check in all_checks(self.scenario)),
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
        if self.quick:
            self._look_quickly()
        first = self.begin()
        self._judge(first, None)
        state = self.codec.freeze(first)
        self.store.add(self.codec.key(state), state, None, None)
        level = 1
        while self._may_go_on(keep_going) and (item := self.store.next()) is not None:
            self._expand(*item)
            level -= 1
            if not level:
                level = self.store.waiting
                self.progress.depth += bool(level)
                self._prove(self.progress.depth)
        self.progress.states = len(self.store)
        if self.result.complete:
            self._prove(None)
            self._partial_deadlock()
        return self.result

    def run_interruptibly(self, keep_going: Callable[[Progress], bool] = lambda _progress: True) -> Exploration:
        """As :meth:`run`; Ctrl-C ends the search and leaves what it has found."""
        try:
            return self.run(keep_going)
        except KeyboardInterrupt:
            self.result.complete, self.result.stopped = False, "interrupted"
            self.progress.states = len(self.store)
            return self.result

    def look_quickly(self) -> Exploration:
        """Find by drawing what can be found so, and nothing more."""
        self._look_quickly()
        self.result.complete, self.result.drawn, self.result.stopped = False, True, "a quick look"
        return self.result

    def _look_quickly(self) -> None:
        quick = Quick(self)
        quick.look()
        self.progress.quick_steps = quick.steps
        for check, (text, path) in quick.found.items():
            self.result.findings[check] = Finding(check, text, path, 0)
        self.result.reached = dict.fromkeys(sorted(quick.reached), True)

    def _prove(self, distance: int | None) -> None:
        """Everything nearer than that has been looked at (``None``: everything)."""
        for finding in self.result.findings.values():
            if distance is None or len(finding.path) <= distance:
                finding.shortest = True

    def _partial_deadlock(self) -> None:
        """A process that can never move again, though others always can."""
        if NO_DEADLOCK not in {check.name for check in all_checks(self.scenario)} or \
                NO_DEADLOCK in self.result.findings:
            return
        for name in self.scenario.run:
            key = self.graph.stuck(name)
            if key is not None:
                text = f"{name} can never move again, while others go on for ever"
                self.result.findings[NO_DEADLOCK] = Finding(NO_DEADLOCK, text, self.store.path(key), len(self.store),
                                                            shortest=True)
                return

    def _may_go_on(self, keep_going: Callable[[Progress], bool]) -> bool:
        progress = self.progress
        progress.states = len(self.store)
        progress.frontier = self.store.waiting
        if self.wanted and self.wanted <= set(self.result.findings):
            self.result.complete, self.result.stopped = False, "what was wanted has been found"
            return False
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
        todo = moves_of(run, late=self.late_faults)
        if not any(move.kind == "task" for move in todo):
            self.progress.ends += 1
            run.come_to_rest()
            self._judge(run, key)
            run = self.codec.thaw(state) if todo else run
        if self.preemptions is not None and run.preemptions >= self.preemptions:
            todo = [move for move in todo if not interrupts(run, move)]
        self.graph.note_state(key, run)
        fresh = True
        while todo:
            if not fresh:
                run = self.codec.thaw(state)
            fresh = False
            move = todo.pop(0)
            who = mover(run, move)
            if self.preemptions is not None:
                run.preemptions += interrupts(run, move)
                run.last = who if move.kind == "task" else run.last
            todo = make(run, move) + todo
            self.progress.transitions += 1
            self._judge(run, key, move)
            after = self.codec.freeze(run)
            after_key = self.codec.key(after)
            self.store.add(after_key, after, key, move)
            self.graph.note_move(key, after_key, who)

    def _judge(self, run: ExploredRun, parent: bytes | None, move: Move | None = None) -> None:
        """Note violations and what was reached; then forget them, so that the search goes on behind."""
        for watching in run.watching:
            name = watching.check.name
            if watching.text:
                self._found(name, watching.text, parent, move)
            if watching.reached and watching.check.mode == "sometimes":
                self.result.reached[name] = True
            watching.forget()
        run.world.violations.clear()

    def _found(self, check: str, text: str, parent: bytes | None, move: Move | None) -> None:
        """The first way that the search comes upon is a shortest one, but it may be no shorter than what is known."""
        known = self.result.findings.get(check)
        if known is not None and (known.shortest or len(known.path) <= self.progress.depth + bool(move)):
            return
        path = (self.store.path(parent) if parent is not None else []) + ([move] if move else [])
        self.result.findings[check] = Finding(check, text, path, len(self.store), shortest=True)


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
