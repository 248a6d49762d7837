"""Where in the spec each process stands at each step of a counterexample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmspec.runtime.plan import Instr, Plan, Process


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file of the plan, what is done there, and the lines that called its procedure, innermost first."""

    file: int
    line: int
    words: str
    callers: tuple[tuple[int, int], ...] = ()


class Follower:
    """Finds the instruction that a process is at. A snapshot tells only the line, and what is done there.

    Where several instructions fit (a procedure that is called twice) it is the first one that does not lie before
    the one of the step before, since code goes forwards except in a loop.
    """

    def __init__(self, plan: Plan) -> None:
        self.codes: dict[str, Process] = {one.name: one for one in plan.processes}
        self.at: dict[str, int] = {}

    def places(self, state: Mapping[str, Any]) -> dict[str, Place]:
        """The place of each process that has not ended."""
        found: dict[str, Place] = {}
        for process in state["processes"]:
            code = self.codes.get(process["name"].partition(".")[0])
            if process["ended"] or code is None:
                continue
            place = self._place(process["name"], code.code, process["at"], process["line"])
            if place is not None:
                found[process["name"]] = place
        return found

    def _place(self, name: str, code: list[Instr], at: str, line: int) -> Place | None:
        fitting = [pc for pc, instr in enumerate(code) if instr.line == line and at in (instr.op, words_of(instr))]
        if not fitting:
            return None
        before = self.at.get(name, 0)
        pc = next((pc for pc in fitting if pc >= before), fitting[0])
        self.at[name] = pc
        return Place(code[pc].file, line, words_of(code[pc]), tuple(_callers(code[:pc])))


def _callers(code: Iterable[Instr]) -> list[tuple[int, int]]:
    inside: list[tuple[int, int]] = []
    for instr in code:
        if instr.op == "enter":
            inside.append((instr.file, instr.line))
        elif instr.op == "leave" and inside:
            inside.pop()
    return inside[::-1]


def words_of(instr: Instr) -> str:
    """An instruction as a spec writes it."""
    from dmspec.runtime.registry import CONDITIONS, OPERATIONS

    operation = OPERATIONS.get(instr.op)
    if operation is not None:
        return operation.words(instr.args)
    if instr.op in ("lock", "unlock"):
        return f"{'take' if instr.op == 'lock' else 'let go of'} lock {instr.args['name']}"
    if instr.op in ("await", "branch"):
        words = CONDITIONS[instr.args["condition"]].words(instr.args["args"])
        word = "await" if instr.op == "await" else "if not" if instr.args["negate"] else "if"
        return f"{word} {words}"
    if instr.op in ("enter", "leave"):
        return f"{'call' if instr.op == 'enter' else 'end of'} {instr.args['procedure']}"
    return instr.op
