"""What a spec says, as frozen nodes: one class per rule of the grammar, each with its place.

Expressions know nothing of what they are for; the checker finds that out from the signature of the
target, operation, fault or check whose argument they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmspec.compiler.source import Span

# ---- expressions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """A name, a bare word, or a parameter of the procedure around it."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Template:
    """A name with parameters inside, such as ``{lv}-real``: literal and parameter parts in turn.

    ``parts`` begins with a literal part, which may be empty.
    """

    parts: tuple[str, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, perhaps with a unit; or one with a point in it, which is a version or a mistake."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted text, without its quotes and escapes."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Range:
    """``1MiB+64KiB``: an offset and a length."""

    offset: Quantity
    length: Quantity
    span: Span


@dataclass(frozen=True, slots=True)
class Located:
    """``pv1@1MiB``."""

    name: Word | Template
    offset: Quantity | Word
    span: Span


@dataclass(frozen=True, slots=True)
class Joined:
    """``suspend+resume``: operations that a property draws as one."""

    words: tuple[Word, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Function:
    """``table-of(vol)``, ``insync(vol)``."""

    name: Word
    args: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Block:
    """Braces with statements, or with the segments of a table: the checker knows which are due."""

    statements: tuple[Statement, ...]
    span: Span


Expression = Word | Template | Quantity | Text | Range | Located | Joined | Function | Block


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; ``key`` is ``None`` for a positional one."""

    key: Word | None
    value: Expression
    span: Span


# ---- statements ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """A word with arguments: an operation, a procedure, a target, a fault, a check."""

    head: Word | Joined
    args: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Segment:
    """A size and a target, in a table."""

    size: Quantity
    call: Call
    span: Span


@dataclass(frozen=True, slots=True)
class Raw:
    """The kernel's own table line."""

    text: Text
    span: Span


@dataclass(frozen=True, slots=True)
class Condition:
    """``insync(vol)`` or ``insync vol``, perhaps with ``not`` before it."""

    negate: bool
    name: Word
    args: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until a condition holds."""

    condition: Condition
    span: Span


@dataclass(frozen=True, slots=True)
class Expect:
    """``expect NAME ...``."""

    call: Call
    span: Span


@dataclass(frozen=True, slots=True)
class With:
    """Hold a lock around a block."""

    lock: Word | Template
    block: Block
    span: Span


@dataclass(frozen=True, slots=True)
class Parallel:
    """Run blocks side by side."""

    blocks: tuple[Block, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Choose:
    """Run one of the blocks: the schedule picks."""

    blocks: tuple[Block, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Repeat:
    """Run a block so many times."""

    times: Quantity | Word
    block: Block
    span: Span


@dataclass(frozen=True, slots=True)
class If:
    """Run one block or the other."""

    condition: Condition
    then: Block
    otherwise: Block | None
    span: Span


@dataclass(frozen=True, slots=True)
class Catch:
    """``expect error`` (``must``) and ``allow error``; ``errno`` is ``None`` for any error."""

    must: bool
    errno: Word | None
    block: Block
    span: Span


Statement = (
    Call | Segment | Raw | Await | Expect | With | Parallel | Choose | Repeat | If | Catch
)

# ---- declarations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """Procedures of a library."""

    name: Word
    span: Span


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel whose behaviour is meant; a scenario may name several."""

    eras: tuple[Word | Quantity, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Disk:
    """``disk pv1 64MiB``."""

    name: Word
    args: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Device:
    """``device vol { ... }``."""

    name: Word
    args: tuple[Argument, ...]
    table: Block
    span: Span


@dataclass(frozen=True, slots=True)
class Filesystem:
    """``filesystem fs on vol``."""

    name: Word
    device: Word
    span: Span


@dataclass(frozen=True, slots=True)
class Lock:
    """``lock vg``."""

    name: Word
    span: Span


@dataclass(frozen=True, slots=True)
class Process:
    """``process app { ... }``."""

    name: Word
    block: Block
    span: Span


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a procedure; ``default`` is ``None`` for one that must be given."""

    name: Word
    default: Expression | None


@dataclass(frozen=True, slots=True)
class Procedure:
    """``procedure create_snapshot(lv, name, cow, chunk=4KiB) { ... }``."""

    name: Word
    parameters: tuple[Parameter, ...]
    block: Block
    span: Span


@dataclass(frozen=True, slots=True)
class Run:
    """The processes of a scenario."""

    processes: tuple[Word, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is picked wherever there is a choice: ``schedule 0 0 2``."""

    picks: tuple[Quantity, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Fault:
    """``fault fail pv1 at=any most=1``."""

    call: Call
    span: Span


@dataclass(frozen=True, slots=True)
class Check:
    """``always``, ``sometimes`` or ``finally``, and a check."""

    mode: Word
    call: Call
    span: Span


@dataclass(frozen=True, slots=True)
class Violation:
    """``expect violation of no-deadlock``; with ``on 2.6.34 now`` only on those kernels."""

    check: Word
    eras: tuple[Word | Quantity, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class On:
    """The devices that a property is about."""

    names: tuple[Word, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Operations:
    """``operations 1..40 of { ... }``."""

    least: Quantity
    most: Quantity
    block: Block
    span: Span


@dataclass(frozen=True, slots=True)
class Scenario:
    """Processes that run together, what goes wrong meanwhile, and what must hold."""

    name: Word
    title: str
    lines: tuple[Run | Schedule | Fault | Check | Violation | Kernel, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Property:
    """What must hold whatever operations are drawn."""

    name: Word
    title: str
    lines: tuple[On | Run | Operations | Check | Kernel, ...]
    span: Span


Declaration = (
    Use | Kernel | Disk | Device | Filesystem | Lock | Process | Procedure | Scenario | Property
)


@dataclass(frozen=True, slots=True)
class File:
    """A whole file."""

    declarations: tuple[Declaration, ...]
