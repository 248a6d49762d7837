"""The text of a spec, and places in it.

Whatever a file may hold, reading it ends in a :class:`Source` or in one :class:`SourceError` with a code of
the diagnostics' table; what comes behind can rely on text of a bounded size and depth.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 256 * 1024


@dataclass(frozen=True, eq=False)
class Source:
    """One file: ``name`` as diagnostics show it, ``plan_name`` as plans keep it, and the text."""

    name: str
    text: str
    plan_name: str = field(default="")

    @cached_property
    def _line_starts(self) -> list[int]:
        starts = [0]
        at = self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def line_column(self, offset: int) -> tuple[int, int]:
        """Line and column of a place, both from 1."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def line_text(self, line: int) -> str:
        """A line without its end."""
        start = self._line_starts[line - 1]
        end = self._line_starts[line] - 1 if line < len(self._line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a source, from ``start`` up to but not including ``end``."""

    source: Source
    start: int
    end: int

    @property
    def line(self) -> int:
        """The line in which the piece begins."""
        return self.source.line_column(self.start)[0]

    @property
    def column(self) -> int:
        """The column in which the piece begins."""
        return self.source.line_column(self.start)[1]

    @property
    def text(self) -> str:
        """The piece itself."""
        return self.source.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """The piece from the start of this one to the end of the other."""
        return Span(self.source, self.start, max(self.end, other.end))


class SourceError(Exception):
    """A file that cannot be read as a spec.  ``offset`` is a place in ``source``, if there is one to show."""

    def __init__(self, code: str, message: str, source: Source, *, offset: int = 0, help_: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.source = source
        self.offset = offset
        self.help = help_


def read(path: Path, name: str | None = None, plan_name: str | None = None) -> Source:
    """Read a file; raise :class:`SourceError` for one that is not there, or is no text of a sane size."""
    name = str(path) if name is None else name
    plan_name = path.name if plan_name is None else plan_name
    nothing = Source(name, "", plan_name)
    try:
        # O_NONBLOCK: a named pipe without a writer shall be refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            data = file.read(MAX_BYTES + 1) or b""
    except (OSError, ValueError) as error:
        raise SourceError("DM001", f"cannot read {name}: {_why(error)}", nothing) from None
    return decode(data, name, plan_name)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return "it is a directory" if error.errno == errno.EISDIR else os.strerror(error.errno).lower()
    return "that is no file name"


def decode(data: bytes, name: str, plan_name: str) -> Source:
    """Make a source of a file's bytes."""
    if len(data) > MAX_BYTES:
        raise SourceError("DM004", f"{name} has more than {MAX_BYTES // 1024} KiB", Source(name, "", plan_name))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = Source(name, data[: error.start].decode("utf-8", "replace"), plan_name)
        line, column = good.line_column(len(good.text))
        byte = data[error.start]
        message = f"{name} is not UTF-8: byte 0x{byte:02x} in line {line}, column {column}"
        raise SourceError("DM002", message, good, offset=len(good.text)) from None
    return of_text(text, name, plan_name)


def of_text(text: str, name: str, plan_name: str | None = None) -> Source:
    """Make a source of a text, refusing what no file of text holds."""
    source = Source(name, text, name if plan_name is None else plan_name)
    if len(text) > MAX_BYTES:
        raise SourceError("DM004", f"{name} has more than {MAX_BYTES // 1024} KiB", Source(name, "", name))
    for offset, char in enumerate(text):
        if (char < " " and char not in "\n\r\t") or char == "\x7f" or "\ud800" <= char <= "\udfff":
            raise SourceError(
                "DM003", f"a control character, U+{ord(char):04X}", source, offset=offset,
                help_="a spec is plain text" if ord(char) else "this looks like a binary file",
            )
    return source
