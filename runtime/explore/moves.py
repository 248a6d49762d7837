"""What can happen next in a state: a step of each task that can run, each fault, the next timer.

A move is plain data: its kind and a number.  Tasks are counted in the order of
:func:`~.state.in_order`, so a move means the same for every run that is in the same state.

**Faults strike late.**  A fault that nothing can feel but its disk's I/O commutes with every other step.  So of all
the points at which it may strike between two such I/Os one is enough, the last; there all tasks together without the
fault are a persistent set of the state (Godefroid, Partial-Order Methods, 1996), which loses no state at rest, no
violation, and no shortest way to one.  Where a process asks whether a disk has failed, that is felt as well; where a
check looks into devices while the run goes on, or several faults can strike, every point is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import plan as plans
from ..block import DiskIo
from ..process import INVISIBLE, MOST_INVISIBLE, ProcessTask
from ..registry import OPERATIONS
from ..runner import Running
from ..task import Task
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
        self.may_be_late = self._may_be_late()
        self.last = ""
        self.preemptions = 0

    def _may_be_late(self) -> bool:
        """Whether nothing here feels a fault at once: see the module."""
        awaited = any(instr.op == "await" and instr.args["condition"] == "failed"
                      for name in self.scenario.run for instr in self.world.plan.process(name).code)
        return not awaited and not any(one.watch.reads_devices for one in self.watching) and all(
            OPERATIONS[fault.kind].felt_in_io for fault in self.scenario.faults if "any" in fault.at)


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
        """Answer from the move; what it does not say is 0, and what is too much (in a shortened run) is the last."""
        at = self.count
        self.count += 1
        if at >= self.skip:
            self.asked.append(count)
        return min(self.answers[at], count - 1) if at < len(self.answers) else 0


def moves_of(run: ExploredRun, *, late: bool = True) -> list[Move]:
    """The moves of a state, inner choices not yet spread; without ``late`` faults strike everywhere."""
    moves = [Move("task", number) for number in range(len(run.engine.runnable))]
    faults = [Move("fault", index) for index, left in enumerate(run.faults_left) if left]
    if late and moves and len(faults) == 1 and run.may_be_late:
        disk = run.scenario.faults[faults[0].number].args["disk"]
        if not any(_feels(task, disk) for task in run.engine.runnable):
            return moves
    if not moves and run.engine.timers:
        moves.append(Move("task", 0))
    return moves + faults


def _feels(task: Task, disk: str) -> bool:
    """Whether a task's next step may depend on what is wrong with a disk."""
    if isinstance(task, DiskIo):
        return task.disk.name == disk
    if not isinstance(task, ProcessTask) or not task.frames:
        return False
    instr = _next_visible(task)
    operation = OPERATIONS.get(instr.op)
    return (operation is not None and operation.is_fault) or instr.args.get("condition") == "failed"


def _next_visible(task: ProcessTask) -> plans.Instr:
    """What a process does next: only its first step passes over invisible instructions before that."""
    at = task.pc
    for _ in range(MOST_INVISIBLE if task.frames[0].at == "start" else 0):
        instr = task.code[at]
        if instr.op not in INVISIBLE:
            break
        at = instr.args["to"] if instr.op == "jump" or instr.args.get("times") == 0 else at + 1
    return task.code[at]


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
