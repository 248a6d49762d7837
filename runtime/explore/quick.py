"""A quick look: some hundred drawn runs find most violations at once, and are then shortened.

Runs are drawn from a fixed seed, and how many there are is counted in steps, not in time, so what a quick look finds
is the same everywhere.  Seven runs of eight give each task a priority for a while (after PCT: Burckhardt and others, A
randomized scheduler with probabilistic guarantees of finding bugs, 2010), the eighth draws every step.  Faults strike
early: what comes of one is mostly the longer part of a violation.  (Of what was tried on the scenarios of the mail this
finds those that are hardest to find in the fewest steps, over many seeds.)

What it finds is real, with a way to it.  That way is short, not proved to be the shortest: the search is what proves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..sim import SeededChooser
from .moves import ExploredRun, Move, make, moves_of
from .state import in_order

if TYPE_CHECKING:
    from .search import Explorer

# At least so many steps are drawn, and more, for as long as a violation that the spec expects has not been found.
LEAST_STEPS: Final = 3_000
MOST_STEPS: Final = 60_000
SHORTENING_STEPS: Final = 6_000
_LONGEST: Final = 1_000

# Who moves, in words that mean the same in another run (a fault's number, or a task's name with its I/O), and how the
# choices within its step are answered.
Mover = tuple[str, str]
Turn = tuple[Mover, tuple[int, ...]]


class Drawn:
    """Which move is next: by drawn priorities, or (for each eighth seed) drawn anew each time."""

    def __init__(self, seed: int) -> None:
        self.draws = SeededChooser(seed * 0x5851F42D4C957F2D + 1)
        self.fair = seed % 8 == 1
        self.spread = (1, 1, 2, 3)[self.draws.draw() % 4]
        self.changes = (3, 6, 12)[self.draws.draw() % 3]
        self.priorities: dict[str, int] = {}

    def pick(self, run: ExploredRun, moves: list[Move]) -> Move:
        """One of the moves; a fault once in ``spread`` times."""
        faults = [move for move in moves if move.kind == "fault"]
        tasks = moves[:len(moves) - len(faults)]
        if faults and (not tasks or self.draws.draw() % self.spread == 0):
            return faults[self.draws.draw() % len(faults)]
        if len(tasks) == 1 or self.fair:
            return tasks[self.draws.draw() % len(tasks)]
        if self.draws.draw() % self.changes == 0:
            self.priorities.clear()
        names = [task.name for task in in_order(run.engine.runnable)]
        for name in names:
            if name not in self.priorities:
                self.priorities[name] = self.draws.draw()
        return max(tasks, key=lambda move: self.priorities[names[move.number]])


class Quick:
    """One quick look.  ``found``: of each check its text and the shortest way so far; ``runs`` were drawn."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.first = explorer.codec.freeze(explorer.begin())
        self.found: dict[str, tuple[str, list[Move]]] = {}
        self.reached: set[str] = set()
        self.steps = 0
        self.runs = 0

    def look(self) -> None:
        """Draw runs, then shorten what was found."""
        wanted = set(self.explorer.scenario.violations)
        seed = 0
        while self.steps < LEAST_STEPS or (not wanted <= set(self.found) and self.steps < MOST_STEPS):
            self._draw(Drawn(seed))
            seed += 1
        for check in list(self.found):
            self._shorten(check, self.steps + SHORTENING_STEPS // len(self.found))

    def _draw(self, drawn: Drawn) -> None:
        run: ExploredRun = self.explorer.codec.thaw(self.first)
        self.runs += 1
        path: list[Move] = []
        while len(path) < _LONGEST:
            moves = moves_of(run)
            if not any(move.kind == "task" for move in moves):
                run.come_to_rest()
                self._note(run, path)
                if not moves:
                    return
            move = drawn.pick(run, moves)
            others = make(run, move)
            while others and (picked := drawn.draws.draw() % (len(others) + 1)):
                move = others[picked - 1]
                run = self._again(path)
                others = make(run, move)
            self.steps += 1
            path.append(move)
            self._note(run, path)

    def _again(self, path: list[Move]) -> ExploredRun:
        run: ExploredRun = self.explorer.codec.thaw(self.first)
        for move in path:
            make(run, move)
            self.steps += 1
        return run

    def _note(self, run: ExploredRun, path: list[Move]) -> set[str]:
        """Keep what is violated; say what is."""
        violated = set()
        for watching in run.watching:
            name = watching.check.name
            if watching.text:
                violated.add(name)
                if name not in self.found or len(path) < len(self.found[name][1]):
                    self.found[name] = watching.text, list(path)
            if watching.reached and watching.check.mode == "sometimes":
                self.reached.add(name)
            watching.forget()
        run.world.violations.clear()
        return violated

    def _shorten(self, check: str, limit: int) -> None:
        """Leave out parts of the way, from large to small, for as long as the rest still leads to the violation."""
        size = max(len(self.found[check][1]) // 2, 1)
        while size and self.steps < limit:
            movers = self._movers(self.found[check][1])
            at = 0
            shorter = False
            while at < len(movers) and self.steps < limit:
                before = len(self.found[check][1])
                self._follow(movers[:at] + movers[at + size:], before)
                if len(self.found[check][1]) < before:
                    movers = self._movers(self.found[check][1])
                    shorter = True
                else:
                    at += size
            if not shorter or size > 1:
                size //= 2

    def _movers(self, path: list[Move]) -> list[Turn]:
        run: ExploredRun = self.explorer.codec.thaw(self.first)
        movers = []
        for move in path:
            movers.append((_mover(run, move), move.inner))
            make(run, move)
            self.steps += 1
        return movers

    def _follow(self, movers: list[Turn], most: int) -> None:
        """Let these move, as far as they can, then the others, until all is at rest or it is too long."""
        run: ExploredRun = self.explorer.codec.thaw(self.first)
        path: list[Move] = []
        left = list(movers)
        while len(path) < most:
            moves = moves_of(run)
            if not any(move.kind == "task" for move in moves):
                run.come_to_rest()
                self._note(run, path)
                return
            by_mover = {_mover(run, move): move for move in moves}
            while left and left[0][0] not in by_mover:
                left.pop(0)
            who, inner = left.pop(0) if left else (_mover(run, moves[0]), ())
            move = replace(by_mover[who], inner=inner)
            make(run, move)
            self.steps += 1
            path.append(move)
            self._note(run, path)


def _mover(run: ExploredRun, move: Move) -> Mover:
    if move.kind == "fault":
        return "fault", str(move.number)
    tasks = in_order(run.engine.runnable)
    if not tasks:
        return "time", ""
    task = tasks[move.number]
    return task.name, str(getattr(task, "bio", ""))
