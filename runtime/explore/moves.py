"""What can happen next in a state: a step of each task that can run, each fault, the next timer.

A move is plain data: its kind and a number.  Tasks are counted in the order of
:func:`~.state.in_order`, so a move means the same for every run that is in the same state.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import plan as plans
from ..runner import Running
from ..trace import Schedule
from ..world import World
from .state import in_order


@dataclass(frozen=True, slots=True)
class Move:
    """``task`` N takes a step (its inner choices answered by ``inner``), or ``fault`` N strikes.

    When no task can run, ``task`` 0 lets time pass to the next timer.
    """

    kind: str
    number: int
    inner: tuple[int, ...] = ()


class ExploredRun(Running):
    """A run whose faults with ``at=any`` strike when a move says so; ``faults_left`` of each.

    ``last`` and ``preemptions`` are kept only where preemptions are bounded: who moved last, and how often
    somebody who could go on was interrupted.
    """

    def __init__(self, world: World, scenario: plans.Scenario) -> None:
        super().__init__(world, scenario, schedule=Schedule())
        self.planned = None
        self.armed = [armed for armed in self.armed if "step" in armed.fault.at]
        self.faults_left = [fault.most if "any" in fault.at else 0 for fault in scenario.faults]
        self.last = ""
        self.preemptions = 0


class Steering:
    """The engine's chooser for one move: first the task, then the choices within its step.

    ``asked`` collects how many alternatives each inner choice had.
    """

    def __init__(self, position: int, inner: tuple[int, ...], several: bool) -> None:
        self.answers = ([position] if several else []) + list(inner)
        self.skip = 1 if several else 0
        self.asked: list[int] = []
        self.count = 0

    def choose(self, count: int) -> int:
        """Answer from the move; what it does not say is 0."""
        at = self.count
        self.count += 1
        if at >= self.skip:
            self.asked.append(count)
        return self.answers[at] if at < len(self.answers) else 0


def moves_of(run: ExploredRun) -> list[Move]:
    """All moves of a state, inner choices not yet spread."""
    moves = [Move("task", number) for number in range(len(run.engine.runnable))]
    if not moves and run.engine.timers:
        moves.append(Move("task", 0))
    moves += [Move("fault", index) for index, left in enumerate(run.faults_left) if left]
    return moves


def interrupts(run: ExploredRun, move: Move) -> bool:
    """Whether a move takes the turn from a task that could go on."""
    return move.kind == "task" and mover(run, move) != run.last and \
        any(task.name == run.last for task in run.engine.runnable)


def make(run: ExploredRun, move: Move) -> list[Move]:
    """Make a move.  The answer is the alternatives that its step turned out to have, if any."""
    if move.kind == "fault":
        run.faults_left[move.number] -= 1
        run.strike_any(move.number)
        run.world.settle()
        return []
    runnable = run.engine.runnable
    position = 0
    if runnable:
        task = in_order(runnable)[move.number]
        position = next(at for at, one in enumerate(runnable) if one is task)
    steering = Steering(position, move.inner, len(runnable) > 1)
    run.engine.chooser = steering
    run.step()
    others = []
    for at in range(len(move.inner), len(steering.asked)):
        head = move.inner + (0,) * (at - len(move.inner))
        others += [Move("task", move.number, (*head, other)) for other in range(1, steering.asked[at])]
    return others


def mover(run: ExploredRun, move: Move) -> str:
    """Who moves, for people."""
    if move.kind == "fault":
        return "fault"
    tasks = in_order(run.engine.runnable)
    return tasks[move.number].name if tasks else "time"
