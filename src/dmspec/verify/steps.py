"""What is done on both sides: a case is disks and a flat list of steps.

A step has the name and the arguments of an operation of the language, so the emulator does it as a process
of a spec would; ``read`` keeps what it reads, and ``look`` does nothing: it is there for what is seen after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from dmspec.runtime.operations.base import complete
from dmspec.runtime.registry import OPERATIONS

IO: Final = frozenset({"write", "read", "flush", "discard", "wipe"})
FAULTS: Final = frozenset({"fail", "heal"})
CONTROL: Final = frozenset({"create", "load", "clear", "suspend", "resume", "remove", "rename", "message"})


@dataclass(frozen=True, slots=True)
class Step:
    """``args`` are complete: they have every argument of the operation.  ``line``: of the spec, 0 if of none."""

    op: str
    args: dict[str, Any] = field(default_factory=dict)
    line: int = 0

    def __str__(self) -> str:
        operation = OPERATIONS.get(self.op)
        return operation.words(self.args) if operation is not None else self.op


def step(op: str, *, line: int = 0, **args: Any) -> Step:
    """A step with the defaults of the arguments that are left out."""
    operation = OPERATIONS.get(op)
    return Step(op, complete(operation.signature, args) if operation is not None else args, line)


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk of a case.  ``contents``: what it holds at the start, from sector 0 on; zeros behind that."""

    name: str
    sectors: int
    contents: bytes = b""


@dataclass(frozen=True, slots=True)
class Case:
    """Disks, and what is done in turn; each step begins when all the ones before have come to rest."""

    name: str
    disks: tuple[DiskSpec, ...]
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Outcome:
    """How a step went: ``error`` is an errno's name, ``blocked``: it has not ended.  ``data``: what it read."""

    error: str = ""
    blocked: bool = False
    data: bytes | None = None

    def __str__(self) -> str:
        return "blocked" if self.blocked else self.error or "done"


@dataclass(slots=True)
class Seen:
    """A step on one side: how it went, and what was to be seen afterwards, line by line."""

    outcome: Outcome
    view: list[str]


@dataclass(slots=True)
class Played:
    """A case on the emulator.  ``last``: what is to be seen at the end, with all tables.  ``tables``: those of
    ``create`` and ``load`` as they were resolved, by the number of the step.

    ``contents``: what disks and devices held at the end, and the error that ended the reading; ``sizes``: how
    many bytes they have.  ``wedged``: something had not ended.
    """

    case: Case
    steps: list[Step]
    seen: list[Seen]
    last: list[str]
    tables: dict[int, list[str]]
    contents: dict[str, tuple[bytes, str]]
    sizes: dict[str, int]
    wedged: bool = False
