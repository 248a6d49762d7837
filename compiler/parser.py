"""From a source to its syntax tree, with all of its syntax errors.

Lark stops at the first error.  So each declaration is parsed by itself, and where one fails, the statement
with the error in it is blanked out and the declaration parsed again.  Every retry blanks something, so there
is an end; a budget keeps a hostile file from making it a long way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lark import Token, Tree, UnexpectedInput, UnexpectedToken

from dmspec import grammar
from dmspec.compiler import ast
from dmspec.compiler.diagnostics import Diagnostic, Sink, near
from dmspec.compiler.explain import explain
from dmspec.compiler.scan import DECLARATIONS, Chunk, Mark, Outline, blank, marks, outline
from dmspec.compiler.source import Source, Span
from dmspec.compiler.tree import Builder

MAX_ERRORS: Final = 25
_BUDGET_CHARACTERS: Final = 1024 * 1024


@dataclass
class Parsed:
    """A file's declarations, those that could be read, and which pieces were left out.

    ``damaged`` is true when names may be missing because of a syntax error, so that it would mislead to say
    that something is not declared.
    """

    declarations: list[ast.Declaration] = field(default_factory=list)
    statements: tuple[ast.Statement, ...] = ()
    damaged: bool = False
    left_out: list[Span] = field(default_factory=list)


class _GiveUpError(Exception):
    """There are too many errors to go on."""


def parse(source: Source, sink: Sink) -> Parsed:
    """Parse a file; its errors go to ``sink``."""
    found, parsed = _outlined(source, sink)
    if found is None:
        return parsed
    work = _Work(source, sink, parsed)
    try:
        for chunk in found.chunks:
            work.chunk(chunk, found.text)
    except _GiveUpError:
        end = len(source.text)
        sink.add(Diagnostic("DM010", f"more than {MAX_ERRORS} errors; the others are not shown",
                            Span(source, end, end)))
    return parsed


def _outlined(source: Source, sink: Sink) -> tuple[Outline | None, Parsed]:
    before = len(sink.diagnostics)
    found = outline(source, sink)
    parsed = Parsed(damaged=len(sink.diagnostics) > before)
    if found is not None:
        parsed.left_out += found.doubtful
    return found, parsed


def parse_statements(source: Source, sink: Sink) -> Parsed:
    """Parse loose statements, as a live command has them."""
    found, parsed = _outlined(source, sink)
    if found is None:
        return parsed
    piece = found.text + "\n" + "}" * sum(chunk.missing for chunk in found.chunks)
    work = _Work(source, sink, parsed)
    try:
        tree = work.attempt(piece, 0, "statements", Chunk(0, len(found.text), ""))
        if tree is not None:
            builder = Builder(source, 0, len(source.text), sink)
            parsed.statements = builder.statements(tree)
    except _GiveUpError:
        pass
    return parsed


class _Work:
    def __init__(self, source: Source, sink: Sink, parsed: Parsed) -> None:
        self.source = source
        self.sink = sink
        self.parsed = parsed
        self.errors = 0
        self.budget = _BUDGET_CHARACTERS

    def chunk(self, chunk: Chunk, text: str) -> None:
        """Parse one declaration, and keep what could be read of it."""
        if chunk.word not in DECLARATIONS:
            self._not_a_declaration(chunk, text)
            return
        piece = text[chunk.start : chunk.end] + "\n" + "}" * chunk.missing
        tree = self.attempt(piece, chunk.start, "file", chunk)
        if tree is not None:
            builder = Builder(self.source, chunk.start, chunk.end, self.sink)
            self.parsed.declarations += builder.file(tree)

    def attempt(self, piece: str, base: int, start: str, chunk: Chunk,
                shape: _Shape | None = None) -> Tree[Token] | None:
        """Parse a piece until it has no error left; ``None`` when its head is wrong."""
        whole = piece
        shape = shape or _Shape.of(start, chunk.word)
        while True:
            self.budget -= len(piece)
            if self.budget < 0 and self.errors:
                raise _GiveUpError
            try:
                return grammar.parser().parse(piece, start=start)
            except UnexpectedInput as error:
                place = self._report(error, piece, base)
            left = _without_statement(piece, place, shape)
            if left is None:
                self._head_is_wrong(whole, base, chunk)
                return None
            piece, first, last = left
            self._leave_out(base + first, base + last)

    def _report(self, error: UnexpectedInput, piece: str, base: int) -> int:
        self.errors += 1
        if self.errors > MAX_ERRORS:
            raise _GiveUpError
        self.parsed.damaged = True
        place = len(piece.rstrip().rstrip("}").rstrip()) if _is_end(error) else _place(error, piece)
        self.sink.add(explain(error, self.source, min(base + place, len(self.source.text))))
        return place

    def _leave_out(self, start: int, end: int) -> None:
        length = len(self.source.text)
        self.parsed.left_out.append(Span(self.source, min(start, length), min(end, length)))

    def _head_is_wrong(self, piece: str, base: int, chunk: Chunk) -> None:
        """Read the block of a declaration whose head cannot be read, only for the errors in it."""
        self._leave_out(chunk.start, chunk.end)
        self._block_of(piece, base, chunk.word)

    def _block_of(self, piece: str, base: int, word: str) -> None:
        block = next((mark for mark in marks(piece) if mark.kind == "{"), None)
        if block is None or word not in ("device", "process", "procedure", "scenario", "property"):
            return
        head = f"{word} x "
        # Without a word, so that an error in this head, which there cannot be, would not end up here again.
        chunk = Chunk(base + block.start, base + len(piece), "")
        first = base + block.start - len(head)
        self.attempt(head + piece[block.start :], first, "file", chunk, _Shape.of("file", word))

    def _not_a_declaration(self, chunk: Chunk, text: str) -> None:
        self.errors += 1
        if self.errors > MAX_ERRORS:
            raise _GiveUpError
        self.parsed.damaged = True
        self._leave_out(chunk.start, chunk.end)
        if not chunk.word:
            start = chunk.start
            self.sink.add(Diagnostic("DM007", "this begins no declaration", Span(self.source, start, start + 1),
                                     expected="a declaration, such as `disk pv1 64MiB`"))
            return
        meant = near(chunk.word, DECLARATIONS)
        help_ = f"did you mean `{meant}`?" if meant else "inside a `process NAME { }` it may be a statement"
        self.sink.add(Diagnostic(
            "DM007", f"`{chunk.word}` begins no declaration",
            Span(self.source, chunk.start, chunk.start + len(chunk.word)),
            expected=", ".join(DECLARATIONS[:-1]) + f" or {DECLARATIONS[-1]}", help=help_,
        ))
        self._block_of(text[chunk.start : chunk.end] + "\n" + "}" * chunk.missing, chunk.start, meant)


def _is_end(error: UnexpectedInput) -> bool:
    return isinstance(error, UnexpectedToken) and error.token.type == "$END"


def _place(error: UnexpectedInput, piece: str) -> int:
    place: int | None = error.pos_in_stream
    return len(piece) if place is None else max(0, min(place, len(piece)))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where statements are in a piece: at what depth of braces at least, and from which depth they nest."""

    least: int
    nesting: int

    @classmethod
    def of(cls, start: str, word: str) -> _Shape:
        if start == "statements":
            return cls(0, 0)
        return cls(1, 2 if word in ("scenario", "property") else 1)


def _without_statement(piece: str, place: int, shape: _Shape) -> tuple[str, int, int] | None:
    """The piece with the statement around ``place`` blanked, and where that was; ``None`` in a head.

    A statement with a block of its own loses its head and its braces only: what is in the block stays, as a
    part of the block around it, so that errors in there are still found.  Only where blocks do nest: the lines
    of a scenario or a property go with their blocks.
    """
    everything = list(marks(piece))
    boundaries = [mark for mark in everything if mark.kind in "\n;{}"]
    first_brace = next((mark.start for mark in boundaries if mark.kind == "{"), len(piece))
    if shape.least and place <= first_brace:
        return None
    before = [mark for mark in boundaries if mark.start < place]
    after = [mark for mark in boundaries if mark.start >= place]
    start = before[-1].end if before else 0
    end = after[0].start if after else len(piece)
    if after and after[0].kind == "{":
        partner = _partner(boundaries, after[0])
        last = len(piece) if partner is None else partner.end
        depth = sum({"{": 1, "}": -1}.get(mark.kind, 0) for mark in before)
        if depth < shape.nesting or partner is None:
            return blank(piece, start, last), start, last
        left = blank(piece, start, after[0].end)
        return blank(left, partner.start, partner.end), start, partner.end
    left = blank(piece, start, end)
    return (left, start, end) if left != piece else None


def _partner(boundaries: list[Mark], opening: Mark) -> Mark | None:
    depth = 0
    for mark in boundaries:
        if mark.start < opening.start:
            continue
        depth += {"{": 1, "}": -1}.get(mark.kind, 0)
        if depth == 0:
            return mark
    return None
