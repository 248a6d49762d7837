"""The coarse structure of a text: braces, line ends and declarations, before any grammar looks at it.

The parser stops at its first error.  To report the others of a file as well it is run on pieces: each
declaration by itself, and again without the statement in which it has found an error.  This module finds the
pieces.  It never fails; what it cannot make sense of it reports and repairs, in a copy of the text with every
character still in its place, so that places found in the copy are places of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dmspec.compiler.diagnostics import Diagnostic, Related, Sink
from dmspec.compiler.source import Source, Span

MAX_DEPTH: Final = 64

DECLARATIONS: Final = (
    "use", "kernel", "disk", "device", "filesystem", "lock", "process", "procedure", "scenario", "property",
)

_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_INSIDE = r"\{[A-Za-z_][A-Za-z0-9_-]*\}"
_TOKEN: Final = re.compile(
    rf"""
    (?P<comment>\#[^\n]*)
    | (?P<text>"(?:[^"\\\r\n]|\\[^\r\n])*")
    | (?P<open_text>"[^\n]*)
    | (?P<name>{_NAME}(?:{_INSIDE}[A-Za-z0-9_.-]*)*|{_INSIDE}[A-Za-z0-9_.-]+(?:{_INSIDE}[A-Za-z0-9_.-]*)*)
    | (?P<joined>\\\r?\n)
    | (?P<boundary>[\n;{{}}])
    | (?P<paren>[()])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """One token of the coarse structure."""

    kind: str
    start: int
    end: int


def marks(text: str) -> Iterator[Mark]:
    """Names, boundaries and parentheses of a text, in order; a boundary's kind is its character."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind in ("boundary", "paren"):
            yield Mark(match[0], match.start(), match.end())
        elif kind in ("name", "open_text"):
            yield Mark(kind, match.start(), match.end())


@dataclass(frozen=True, slots=True)
class Chunk:
    """One declaration's text; ``missing`` braces have to be added for it to be whole."""

    start: int
    end: int
    word: str
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """A file's declarations, its text with what was repaired, and where that was done by guessing."""

    text: str
    chunks: list[Chunk]
    doubtful: list[Span]


def outline(source: Source, sink: Sink) -> Outline | None:
    """Cut a file into declarations; ``None`` when it is nested too deeply to be read at all."""
    scanner = _Scanner(source, sink)
    return scanner.run()


def blank(text: str, start: int, end: int) -> str:
    """The text with a piece of it turned into spaces; line ends stay, so lines keep their numbers."""
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def _first_character(text: str, end: int) -> int | None:
    """The first character that is neither blank, nor in a comment, nor the end of a line."""
    match = re.compile(r"(?:\s|;|\\\r?\n|#[^\n]*)*").match(text, 0, end)
    assert match is not None
    return match.end() if match.end() < end else None


class _Scanner:
    def __init__(self, source: Source, sink: Sink) -> None:
        self.source = source
        self.sink = sink
        self.edits: list[tuple[int, int, str]] = []
        self.chunks: list[Chunk] = []
        self.open: list[Mark] = []
        self.chunk_start = -1
        self.chunk_word = ""
        self.parens = 0
        self.doubtful: list[Span] = []

    def run(self) -> Outline | None:
        text = self.source.text
        line_begins = True
        for mark in marks(text):
            if mark.kind == "name":
                if line_begins and self._may_begin(mark):
                    self._first_word(mark)
            elif mark.kind == "{":
                self.open.append(mark)
                self.parens = 0
            elif mark.kind == "}":
                self._closing(mark)
            elif mark.kind == "open_text":
                self._open_text(mark)
            elif mark.kind == "(":
                self.parens += 1
            elif mark.kind == ")":
                self.parens = max(self.parens - 1, 0)
            if len(self.open) + self.parens > MAX_DEPTH:
                self._say("DM005", f"more than {MAX_DEPTH} blocks inside each other", mark)
                return None
            line_begins = mark.kind in "\n;" or (mark.kind == "}" and not self.open)
        self._end_chunk(len(text), None)
        for start, end, replacement in reversed(self.edits):
            text = text[:start] + replacement + text[end:]
        return Outline(text, self.chunks, self.doubtful)

    def _may_begin(self, mark: Mark) -> bool:
        """Whether a word at the start of a line can begin a declaration: not inside parentheses.

        Where these were never closed, a declaration's word at the very start of a line begins one after all.
        """
        if not self.parens:
            return True
        word = self.source.text[mark.start : mark.end]
        return word in DECLARATIONS and self.source.line_column(mark.start)[1] == 1

    def _first_word(self, mark: Mark) -> None:
        word = self.source.text[mark.start : mark.end]
        if self.open:
            forgotten = (
                word in DECLARATIONS and word != "kernel"
                and self.source.line_column(mark.start)[1] == 1
                and not self._is_statement(mark)
            )
            if not forgotten:
                return
        self._end_chunk(mark.start, mark)
        self.chunk_start, self.chunk_word = mark.start, word

    def _is_statement(self, mark: Mark) -> bool:
        """Whether a word at the start of a line is followed by something that no declaration has there."""
        rest = self.source.text[mark.end : mark.end + 200].lstrip(" \t")
        return not re.match(r"[A-Za-z_]", rest)

    def _end_chunk(self, end: int, next_one: Mark | None) -> None:
        if self.open:
            related = () if next_one is None else (Related("still open here", self._span(next_one)),)
            self.sink.add(Diagnostic(
                "DM009", "this `{` is never closed", self._span(self.open[0]), expected="a `}`",
                found="a new declaration" if next_one else "the end of the file", related=related,
            ))
        if self.chunk_start >= 0:
            self.chunks.append(Chunk(self.chunk_start, end, self.chunk_word, len(self.open)))
        elif (first := _first_character(self.source.text, end)) is not None:
            self.chunks.append(Chunk(first, end, "", len(self.open)))
        self.chunk_start = -1
        self.open = []
        self.parens = 0

    def _closing(self, mark: Mark) -> None:
        self.parens = 0
        if self.open:
            self.open.pop()
            return
        self._say("DM009", "this `}` closes nothing", mark, help_="remove it, or look for a `{` too few above")
        self.edits.append((mark.start, mark.end, " "))

    def _open_text(self, mark: Mark) -> None:
        self._say("DM008", "this text has no closing quote", mark, expected='a `"` in the same line')
        line_start = self.source.text.rfind("\n", 0, mark.start) + 1
        self.doubtful.append(Span(self.source, line_start, mark.end))
        length = mark.end - mark.start
        repaired = self.source.text[mark.start : mark.end - 1].replace("\\", " ")
        self.edits.append((mark.start, mark.end, repaired + '"' if length > 1 else " "))

    def _span(self, mark: Mark) -> Span:
        return Span(self.source, mark.start, mark.end)

    def _say(self, code: str, message: str, mark: Mark, *, expected: str = "", help_: str = "") -> None:
        self.sink.add(Diagnostic(code, message, self._span(mark), expected=expected, help=help_))
