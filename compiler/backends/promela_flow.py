"""What is known of a process before it runs: the tasks that it comes to, and what each holds at each instruction.

A task is a process or a branch of one of its forks.  Locks and open ``try`` blocks are blocks in a spec, so at
an instruction they are always the same, and an error's way out can be written down as labels and jumps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dmspec.runtime.errors import errno_number
from dmspec.runtime.plan import Instr, Process


@dataclass(frozen=True, slots=True)
class Attempt:
    """An open ``try`` at ``pc``: what it takes (``None``: any errno), where it goes on, how many locks were held."""

    errno: int | None
    to: int
    locks: int
    pc: int


@dataclass(frozen=True, slots=True)
class Held:
    """Locks in the order of their taking, and attempts, the innermost last."""

    locks: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass
class Task:
    """A process, or the branch of one that begins at ``start``; ``fork`` is where its parent waits for it."""

    name: str
    process: Process
    start: int = 0
    parent: Task | None = None
    fork: int = 0
    held: dict[int, Held] = field(default_factory=dict)
    branches: dict[int, list[Task]] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The process that it belongs to, as checks and races name it."""
        return self.process.name

    def outer_attempts(self) -> list[Attempt]:
        """What takes an error on the parents' side."""
        if self.parent is None:
            return []
        return [*self.parent.held[self.fork].attempts, *self.parent.outer_attempts()]

    def family(self) -> Iterator[Task]:
        """Itself and every branch below it."""
        yield self
        for branches in self.branches.values():
            for branch in branches:
                yield from branch.family()


def follow(task: Task) -> Task:
    """Fill in what the task holds at every instruction that it can come to, and its branches."""
    todo = [(task.start, Held())]
    while todo:
        pc, held = todo.pop()
        if pc in task.held:
            continue
        task.held[pc] = held
        instr = task.process.code[pc]
        todo += list(_after(instr, pc, held))
        if instr.op == "fork":
            task.branches[pc] = [
                Task(f"{task.name}.{number}", task.process, start, task, pc)
                for number, start in enumerate(instr.args["starts"], 1)]
    for branches in task.branches.values():
        for branch in branches:
            follow(branch)
    return task


def _after(instr: Instr, pc: int, held: Held) -> Iterator[tuple[int, Held]]:
    op, args = instr.op, instr.args
    if op == "end":
        return
    if op in ("jump", "fork"):
        yield args["to"], held
        return
    if op == "choose":
        yield from ((to, held) for to in args["to"])
        return
    if op in ("branch", "loop"):
        yield args["to"], held
    if op == "lock":
        held = Held((*held.locks, args["name"]), held.attempts)
    elif op == "unlock":
        held = Held(without(held.locks, args["name"]), held.attempts)
    elif op == "try":
        yield args["to"], held
        attempt = Attempt(number_of(args["errno"]), args["to"], len(held.locks), pc)
        held = Held(held.locks, (*held.attempts, attempt))
    elif op == "end-try":
        held = Held(held.locks, held.attempts[:-1])
    yield pc + 1, held


def without(locks: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The locks less the one of that name that was taken last."""
    at = len(locks) - 1 - locks[::-1].index(name)
    return locks[:at] + locks[at + 1:]


def number_of(name: str | int | None) -> int | None:
    """An errno as a number."""
    return errno_number(name) if isinstance(name, str) else name
