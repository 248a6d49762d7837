"""Processes of a spec: a program counter and locals over flat code (:mod:`dmspec.runtime.plan`).

Before each visible instruction (an operation, ``lock``, ``branch``, ``choose``, ``fork``, ``await``) others
may run; the invisible ones in between (jumps, loop heads, ``try``, ``unlock`` ...) belong to the step before
them.  A lock is let go as early as that, which hides no deadlock.

An operation that fails jumps to the innermost ``try`` that takes its errno; locks taken and loops begun
inside of that ``try`` are given up.  Where there is none, the process ends, its locks are let go, as a dying
process's flock is, and the violation is recorded.  The branches of a fork are processes of their own (the
second branch of ``app`` is ``app.2``) which hold their locks themselves; an error that ends one of them is
the fork's error once all of them have ended.  ``await`` with ``within`` that takes too long fails with ETIME.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.errors import DmError, errno_name, errno_number
from dmspec.runtime.operations.base import EXPECTATION, NO_ERROR
from dmspec.runtime.registry import CONDITIONS, OPERATIONS
from dmspec.runtime.task import Enter, Frame, Goto, Latch, Outcome, Return, Task, Wait
from dmspec.runtime.units import duration_text

if TYPE_CHECKING:
    from dmspec.runtime.plan import Instr, Process
    from dmspec.runtime.world import World

# After so many invisible instructions others may run: a loop without operations must not stop everything.
MOST_INVISIBLE: Final = 100


class Attempt:
    """An open ``try``: what it takes, where it goes on, and what was held when it began."""

    __slots__ = ("errno", "locks", "must", "slots", "to")

    def __init__(self, errno: int | None, must: bool, to: int, locks: int, slots: list[int]) -> None:
        self.errno = errno
        self.must = must
        self.to = to
        self.locks = locks
        self.slots = slots


class ProcessTask(Task):
    """One process, or one branch of a fork.

    ``seen_events`` (by device name), ``cursors`` and ``write_count`` belong to the whole process and are
    the root's.  ``locks`` are the names of the locks it holds, one for each ``lock`` that took it.
    """

    __slots__ = ("attempts", "awaited", "branches", "cursors", "failure", "killed", "locks", "over", "parent", "pc",
                 "process", "root", "said", "seen_events", "slots", "waits_for", "world", "write_count")

    def __init__(self, world: World, process: Process, *, parent: ProcessTask | None = None, name: str = "",
                 pc: int = 0) -> None:
        super().__init__(world.engine, name or process.name)
        self.world = world
        self.process = process
        self.pc = pc
        self.parent = parent
        self.root: ProcessTask = self if parent is None else parent.root
        self.slots: list[int] = [0] * process.slots if parent is None else list(parent.slots)
        self.attempts: list[Attempt] = []
        self.locks: list[str] = []
        self.branches: list[ProcessTask] = []
        self.failure: tuple[int, Instr] | None = None
        self.over = Latch(f"the end of {self.name}")
        self.awaited = Latch(f"what {self.name} awaits")
        self.waits_for: Instr | None = None
        self.said = ""
        self.killed = False
        self.cursors: dict[str, int] = {}
        self.write_count = 0
        self.seen_events = {name: md.event_nr for name, md in world.stack.devices.items()}

    @property
    def code(self) -> list[Instr]:
        """The process's code, which never changes."""
        return self.process.code

    def run(self) -> None:
        """Begin."""
        self.start(Run())

    def step(self) -> None:
        """Take a step; say so when it comes to a wait that is worth a line in the trace."""
        super().step()
        waiting = self.waiting
        if waiting is None:
            self.said = ""
        elif waiting.why != self.said and self._waits_aloud():
            self.said = waiting.why
            self.engine.note(self.name, f"waits {waiting.why}")

    def _waits_aloud(self) -> bool:
        instr = self.code[self.pc]
        operation = OPERATIONS.get(instr.op)
        return instr.op != "await" if operation is None else operation.violates == NO_ERROR

    def awaited_holds(self) -> bool:
        """Whether the condition of the ``await`` at which it stands holds."""
        assert self.waits_for is not None
        return self.holds(self.waits_for)

    def holds(self, instr: Instr) -> bool:
        """Whether the condition of an instruction holds."""
        return CONDITIONS[instr.args["condition"]].holds(self.root, instr.args["args"])

    @property
    def idle(self) -> bool:
        """Whether it only waits for what may never come, as a daemon does, and holds no lock."""
        return self.waits_for is not None and CONDITIONS[self.waits_for.args["condition"]].idle \
            and not self.locks and self.parent is None

    def catches(self, number: int) -> bool:
        """Whether a ``try`` of this process, or of one that waits for it, takes an errno."""
        if any(attempt.errno in (None, number) for attempt in self.attempts):
            return True
        return self.parent is not None and self.parent.catches(number)

    def unlock(self, name: str) -> None:
        """Let go of a lock, once for each time that it was taken."""
        index = len(self.locks) - 1 - self.locks[::-1].index(name)
        del self.locks[index]
        if name not in self.locks:
            self.world.locks[name].release(self)

    def unlock_all(self, but: int = 0) -> None:
        """Let go of every lock but the first ones."""
        while len(self.locks) > but:
            self.unlock(self.locks[-1])

    def kill(self) -> None:
        """SIGKILL: end at once where the kernel can be interrupted, else as soon as the present call is over."""
        self.killed = True
        for branch in self.branches:
            branch.kill()
        if self.waiting is not None and self.frames[-1].interruptible:
            self.waiting.latch.waiters.remove(self)
            self.waiting = None
            self.engine.ready(self)

    def finish(self) -> None:
        """Its last frame has returned."""
        super().finish()
        self.unlock_all()
        self.engine.note(self.name, "ended" if not self.value else f"ended with {errno_name(-self.value)}")
        self.over.release()


class Run(Frame):
    """Interprets the code of the process that runs it."""

    interruptible = True

    def start(self, task: Task) -> Outcome:
        """Go to the first visible instruction and do it: being started was the scheduling point."""
        assert isinstance(task, ProcessTask)
        outcome = self.advance(task)
        return self.act(task) if type(outcome) is Goto and outcome.label == "act" else outcome

    def advance(self, task: Task) -> Outcome:
        """Pass over invisible instructions to the next visible one."""
        assert isinstance(task, ProcessTask)
        if task.killed:
            return Return(-errno.EINTR)
        for _ in range(MOST_INVISIBLE):
            instr = task.code[task.pc]
            if instr.op == "end":
                return Return(0)
            handler = INVISIBLE.get(instr.op)
            if handler is None:
                return Goto("act")
            handler(task, instr)
        return Goto("advance")

    def act(self, task: Task) -> Outcome:
        """Do a visible instruction."""
        assert isinstance(task, ProcessTask)
        self.at = "act"
        if task.killed:
            return Return(-errno.EINTR)
        if task.world.halted:
            return Wait(task.world.halt, "for the end of the pause")
        instr = task.code[task.pc]
        handler = _VISIBLE.get(instr.op)
        return handler(self, task, instr) if handler is not None else self._operate(task, instr)

    def _operate(self, task: ProcessTask, instr: Instr) -> Outcome:
        operation = OPERATIONS[instr.op]
        task.engine.note(task.name, operation.words(instr.args))
        self.began = task.world.steps
        try:
            answer = operation.perform(task, instr.args)
        except DmError as error:
            answer = -error.errno
        if isinstance(answer, Frame):
            return Enter(answer, "performed")
        return self._over(task, instr, answer)

    def performed(self, task: Task) -> Outcome:
        """An operation's frame has ended."""
        assert isinstance(task, ProcessTask)
        value, self.result = self.result, None
        instr = task.code[task.pc]
        if task.world.steps != self.began and not (isinstance(value, int) and value < 0):
            task.engine.note(task.name, f"{instr.op.replace('expect-', 'expect ', 1)}: done")
        return self._over(task, instr, value)

    def _over(self, task: ProcessTask, instr: Instr, value: Any) -> Outcome:
        if isinstance(value, int) and value < 0:
            return self.failed(task, -value, instr)
        task.pc += 1
        return self.advance(task)

    def failed(self, task: ProcessTask, number: int, instr: Instr) -> Outcome:
        """An operation has failed: to the ``try`` that takes it, or to the end."""
        task.engine.note(task.name, f"{_words(instr)}: {errno_name(number)}")
        while task.attempts:
            attempt = task.attempts.pop()
            if attempt.errno in (None, number):
                task.unlock_all(attempt.locks)
                task.slots = attempt.slots
                task.pc = attempt.to
                return self.advance(task)
        if not (task.parent is not None and task.parent.catches(number)):
            operation = OPERATIONS.get(instr.op)
            check = operation.violates if operation is not None else NO_ERROR
            where = f" (line {instr.line})" if instr.line else ""
            task.world.violated(check, task.root.name,
                                f"`{_words(instr)}` of {task.name}{where} ended with {errno_name(number)}")
        task.failure = (number, instr)
        return Return(-number)

    def lock(self, task: ProcessTask, instr: Instr) -> Outcome:
        """Take a lock, or wait for it."""
        name = instr.args["name"]
        mutex = task.world.locks[name]
        if not mutex.take(task):
            return mutex.wait()
        task.locks.append(name)
        task.engine.note(task.name, f"takes lock {name}")
        task.pc += 1
        return self.advance(task)

    def branch(self, task: ProcessTask, instr: Instr) -> Outcome:
        """``if``: go on behind it, or jump."""
        holds = task.holds(instr) != bool(instr.args["negate"])
        condition = CONDITIONS[instr.args["condition"]]
        word = "not " if instr.args["negate"] else ""
        task.engine.note(task.name, f"if {word}{condition.words(instr.args['args'])}: {'yes' if holds else 'no'}")
        task.pc = task.pc + 1 if holds else instr.args["to"]
        return self.advance(task)

    def choose(self, task: ProcessTask, instr: Instr) -> Outcome:
        """Let the schedule pick where to go on."""
        picked = task.engine.choose(len(instr.args["to"]))
        task.engine.note(task.name, f"choose: alternative {picked + 1} of {len(instr.args['to'])}")
        task.pc = instr.args["to"][picked]
        return self.advance(task)

    def fork(self, task: ProcessTask, instr: Instr) -> Outcome:
        """Start the branches of a ``parallel``."""
        world = task.world
        process = world.plan.process(task.root.name)
        for number, pc in enumerate(instr.args["starts"], 1):
            branch = ProcessTask(world, process, parent=task, name=f"{task.name}.{number}", pc=pc)
            task.branches.append(branch)
        task.engine.note(task.name, f"starts {len(task.branches)} branches")
        for branch in task.branches:
            branch.run()
        return self.join(task)

    def join(self, task: Task) -> Outcome:
        """Wait for the branches; the first error of one is the error of the fork."""
        assert isinstance(task, ProcessTask)
        self.at = "join"
        for branch in task.branches:
            if not branch.ended:
                return Wait(branch.over, f"for its branch {branch.name}")
        failures = [branch.failure for branch in task.branches if branch.failure is not None]
        task.branches = []
        self.at = "act"
        if not failures:
            task.pc = task.code[task.pc].args["to"]
            return self.advance(task)
        number, instr = failures[0]
        if task.catches(number):
            return self.failed(task, number, instr)
        task.failure = (number, instr)
        return Return(-number)

    def await_condition(self, task: ProcessTask, instr: Instr) -> Outcome:
        """Wait until a condition holds, or for as long as ``within`` says."""
        condition = CONDITIONS[instr.args["condition"]]
        task.engine.note(task.name, f"await {condition.words(instr.args['args'])}")
        self.deadline_ns: int | None = None
        within_ns = instr.args["within_ns"]
        if within_ns is not None and not task.holds(instr):
            self.deadline_ns = task.engine.now_ns + within_ns
            task.engine.at(self.deadline_ns, task.awaited)
        return self.awaiting(task)

    def awaiting(self, task: Task) -> Outcome:
        """Look again."""
        assert isinstance(task, ProcessTask)
        self.at = "awaiting"
        instr = task.code[task.pc]
        task.waits_for = None
        if task in task.world.awaiting:
            task.world.awaiting.remove(task)
        if task.killed:
            return Return(-errno.EINTR)
        condition = CONDITIONS[instr.args["condition"]]
        words = condition.words(instr.args["args"])
        if task.holds(instr):
            task.engine.note(task.name, f"{words}: yes")
            if condition.name == "event":
                _saw_event(task, instr.args["args"])
            task.pc += 1
            self.at = "act"
            return self.advance(task)
        if self.deadline_ns is not None and task.engine.now_ns >= self.deadline_ns:
            self.at = "act"
            return self.failed(task, errno.ETIME, instr)
        task.waits_for = instr
        task.world.awaiting.append(task)
        return Wait(task.awaited, f"for {words}")


def _saw_event(task: ProcessTask, args: dict[str, Any]) -> None:
    md = task.world.stack.devices.get(args["device"])
    if md is not None and args["registered"]:
        task.world.registered[md.name] = md.event_nr
    elif md is not None:
        task.root.seen_events[md.name] = md.event_nr


def _words(instr: Instr) -> str:
    operation = OPERATIONS.get(instr.op)
    if operation is not None:
        return operation.words(instr.args)
    if instr.op == "await":
        words = CONDITIONS[instr.args["condition"]].words(instr.args["args"])
        within_ns = instr.args["within_ns"]
        return f"await {words}" + (f" within={duration_text(within_ns)}" if within_ns is not None else "")
    return instr.op


def _jump(task: ProcessTask, instr: Instr) -> None:
    task.pc = instr.args["to"]


def _loop(task: ProcessTask, instr: Instr) -> None:
    """``times`` of null is a loop without end."""
    slot, times = instr.args["slot"], instr.args["times"]
    if times is not None and task.slots[slot] >= times:
        task.slots[slot] = 0
        task.pc = instr.args["to"]
    else:
        task.slots[slot] += 1
        task.pc += 1


def _try(task: ProcessTask, instr: Instr) -> None:
    args = instr.args
    task.attempts.append(Attempt(_number(args["errno"]), args["must"], args["to"], len(task.locks),
                                 list(task.slots)))
    task.pc += 1


def _end_try(task: ProcessTask, instr: Instr) -> None:
    task.attempts.pop()
    task.pc += 1
    if instr.args["must"]:
        wanted = instr.args["errno"]
        wanted = "an error" if wanted is None else errno_name(wanted) if isinstance(wanted, int) else wanted
        task.world.violated(EXPECTATION, task.root.name, f"{wanted} was expected (line {instr.line}), but "
                                                         "all went well")


def _number(name: str | int | None) -> int | None:
    return errno_number(name) if isinstance(name, str) else name


def _unlock(task: ProcessTask, instr: Instr) -> None:
    name = instr.args["name"]
    task.unlock(name)
    if name not in task.locks:
        task.engine.note(task.name, f"lets go of lock {name}")
    task.pc += 1


def _enter(task: ProcessTask, instr: Instr) -> None:
    task.engine.note(task.name, f"{instr.args['procedure']} begins")
    task.pc += 1


def _leave(task: ProcessTask, instr: Instr) -> None:
    task.engine.note(task.name, f"{instr.args['procedure']} ends")
    task.pc += 1


INVISIBLE: Final = {
    "jump": _jump, "loop": _loop, "try": _try, "end-try": _end_try, "unlock": _unlock,
    "enter": _enter, "leave": _leave,
}
_VISIBLE: Final = {
    "lock": Run.lock, "branch": Run.branch, "choose": Run.choose, "fork": Run.fork, "await": Run.await_condition,
}
