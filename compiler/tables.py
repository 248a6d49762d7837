"""Tables: from segments in a block to the kernel's lines, with names where the kernel has major:minor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from dmspec.compiler import ast
from dmspec.compiler.bind import Binder
from dmspec.compiler.diagnostics import did_you_mean, listed
from dmspec.compiler.numbers import Wrong, number
from dmspec.compiler.scope import UNUSABLE, Context, Scope, statement_operations
from dmspec.compiler.source import Span
from dmspec.compiler.values import Evaluator
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.signature import Kind
from dmspec.runtime.units import SECTOR_BYTES

WHOLE: Final = "*"
MAX_LINE: Final = 16_384


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table, and the place it is from."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class _Piece:
    """A segment before its start is known."""

    size: ast.Quantity | None
    call: ast.Call
    scope: Scope


class Tables:
    """Makes table lines; the evaluator that it uses is set by the checker right after both are made."""

    evaluator: Evaluator

    def __init__(self, context: Context) -> None:
        self.context = context
        # An operation loads its table into a device, which has a size that the table can have too.
        self.into_device = False
        # The tables that operations load, for the kernel to be asked about: each text once.
        self.loaded: dict[tuple[str, ...], tuple[list[Line], Scope]] = {}

    def texts(self, block: ast.Block, scope: Scope) -> Any:
        """The lines of an operation's table, or UNUSABLE."""
        self.into_device = True
        lines = self.lines(block, scope)
        self.into_device = False
        if lines is None:
            return UNUSABLE
        texts = [line.text for line in lines]
        if not scope.generic and not self.evaluator.trying:
            self.loaded.setdefault(tuple(texts), (lines, scope))
        return texts

    def lines(self, block: ast.Block, scope: Scope) -> list[Line] | None:
        """The lines of a block; ``None`` when something in it is wrong or not known."""
        pieces: list[_Piece | Line] = []
        good = True
        for statement in block.statements:
            if isinstance(statement, ast.Raw):
                good = self._sane(statement, scope) and good
                pieces += self._raw(statement)
            elif isinstance(statement, ast.Call | ast.Segment):
                pieces += self._split(statement, scope)
            else:
                self._not_a_segment(statement, scope)
                good = False
        if not pieces:
            if good:
                self.context.say("DM306", "this table has no segment", block.span, scope,
                                 expected="a segment, such as `linear pv1`")
            return None
        return self._laid_out(pieces, good)

    def _raw(self, statement: ast.Raw) -> list[_Piece | Line]:
        lines = [line.strip() for line in statement.text.value.split("\n")]
        kept = [line for line in lines if line and not line.startswith("#")]
        return [Line(line, statement.span) for line in kept]

    def _sane(self, statement: ast.Raw, scope: Scope) -> bool:
        """Whether a kernel's line could be handed to a kernel at all."""
        if len(statement.text.value) <= MAX_LINE and not re.search(r"\d{40}", statement.text.value):
            return True
        self.context.say("DM210", "a table line that no kernel would read", statement.span, scope,
                         expected=f"at most {MAX_LINE} characters, and numbers of less than 40 digits")
        return False

    def _split(self, statement: ast.Call | ast.Segment, scope: Scope) -> list[_Piece | Line]:
        """The segments of one statement: on one line, a size and a target's name begin the next one."""
        call = statement.call if isinstance(statement, ast.Segment) else statement
        size = statement.size if isinstance(statement, ast.Segment) else None
        for index, (first, second) in enumerate(zip(call.args, call.args[1:], strict=False)):
            if first.key is None and isinstance(first.value, ast.Quantity) and second.key is None \
                    and isinstance(second.value, ast.Word) and second.value.text in TARGETS:
                here = ast.Call(call.head, call.args[:index], call.head.span)
                rest = ast.Call(second.value, call.args[index + 2 :], second.span.to(call.span))
                following = ast.Segment(first.value, rest, first.span.to(call.span))
                return [_Piece(size, here, scope), *self._split(following, scope)]
        return [_Piece(size, call, scope)]

    def _not_a_segment(self, statement: ast.Statement, scope: Scope) -> None:
        word = Span(statement.span.source, statement.span.start,
                    statement.span.start + len(statement.span.text.split(maxsplit=1)[0]))
        self.context.say("DM303", "a table holds segments, no statements", word, scope,
                         expected="a target, such as `linear pv1`, or the kernel's own line as a text")

    def _laid_out(self, pieces: list[_Piece | Line], good: bool) -> list[Line] | None:
        position: int | None = 0
        lines: list[Line] = []
        for piece in pieces:
            if isinstance(piece, Line):
                lines.append(piece)
                position = _end_of(piece.text)
                continue
            words = self._words(piece)
            length = self._length(piece, alone=len(pieces) == 1)
            if words is None or length is UNUSABLE:
                good = False
                continue
            if position is None:
                self.context.say("DM302", "the line before this segment does not say where it ends",
                                 piece.call.head.span, piece.scope, help_="write this one as a text too")
                good = False
                continue
            lines.append(Line(" ".join([str(position), str(length), *words]), piece.call.span))
            position += length if isinstance(length, int) else 0
        return lines if good else None

    def _length(self, piece: _Piece, *, alone: bool) -> Any:
        """Sectors, or ``*`` for the whole of the devices below."""
        if piece.size is not None:
            size = number(piece.size.text, Kind.SIZE)
            if isinstance(size, Wrong):
                self.context.say(size.code, size.message, piece.size.span, piece.scope,
                                 expected=size.expected, help_=size.help)
                return UNUSABLE
            if not self.evaluator.whole_sectors(size, piece.size.span, piece.scope):
                return UNUSABLE
            return size // SECTOR_BYTES
        target = TARGETS.get(_target_name(piece))
        if target is None:
            return UNUSABLE
        lies_on_devices = any(one.kind in (Kind.DEVICE, Kind.DEVICE_AT) for one in target.signature)
        if alone and (lies_on_devices or self.into_device):
            return WHOLE
        why = "each segment of several needs its size" if not alone else f"`{target.name}` lies on no device"
        self.context.say("DM302", f"this segment has no size: {why}", piece.call.head.span, piece.scope,
                         expected=f"a size before the target, such as `8MiB {target.name}`")
        return UNUSABLE

    def _words(self, piece: _Piece) -> list[str] | None:
        """A segment's target and the parameter words that the kernel would get."""
        name = _target_name(piece)
        target = TARGETS.get(name)
        if target is None:
            if name:
                self._unknown_target(name, piece)
            return None
        binder = Binder(self.evaluator, f"target `{name}`", target.signature, piece.scope, sectors=True)
        values = binder.bind(piece.call.args, piece.call.head.span)
        return None if values is None else [name, *target.params(values)]

    def _unknown_target(self, name: str, piece: _Piece) -> None:
        help_ = did_you_mean(name, TARGETS)
        if not help_ and name in statement_operations():
            help_ = "this is an operation, and a table holds segments"
        self.context.say("DM301", f"there is no target `{name}`", piece.call.head.span, piece.scope,
                         expected=listed(sorted(TARGETS), "or"), help_=help_)


def _target_name(piece: _Piece) -> str:
    """The target's name; an empty string where a parameter of unknown value stands for it."""
    if isinstance(piece.call.head, ast.Joined):
        return piece.call.head.span.text
    bound = piece.scope.resolve(piece.call.head)
    if bound is None or not isinstance(bound.expr, ast.Word):
        return "" if bound is None else piece.call.head.text
    return bound.expr.text


def _end_of(line: str) -> int | None:
    """Where a kernel's line ends, if it says so in decimal numbers of a sane length."""
    words = line.split()
    if len(words) < 2 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in words[:2]):
        return None
    return int(words[0]) + int(words[1])
