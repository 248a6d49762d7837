"""Diagnostics as a person reads them, with the line and a caret under it, and as JSON has them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from dmspec.compiler.diagnostics import Diagnostic, Severity
from dmspec.compiler.source import Span

JSON_VERSION: Final = 1
_WIDTH: Final = 120
_COLORS: Final = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.NOTE: "1;36"}


class _Paint:
    def __init__(self, color: bool) -> None:
        self.color = color

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.color and text else text


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """All diagnostics as text; ``color`` is for the caller to decide (NO_COLOR, a terminal)."""
    paint = _Paint(color)
    return "\n".join(_one(diagnostic, paint) for diagnostic in diagnostics)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``2 errors, 1 note``; an empty string when there is nothing."""
    counts = dict.fromkeys(Severity, 0)
    for diagnostic in diagnostics:
        counts[diagnostic.severity] += 1
    return ", ".join(f"{n} {kind.value}{'s' if n > 1 else ''}" for kind, n in counts.items() if n)


def _one(diagnostic: Diagnostic, paint: _Paint) -> str:
    severity = diagnostic.severity
    head = paint(_COLORS[severity], f"{severity.value}[{diagnostic.code}]")
    lines = [f"{head}{paint('1', ': ' + diagnostic.message)}"]
    margin = max(len(str(span.line)) for span in (diagnostic.span, *(one.span for one in diagnostic.related)))
    lines += _excerpt(diagnostic.span, margin, paint, _COLORS[severity], "")
    for label, text in (
        ("dm", f'"{diagnostic.kernel}"' if diagnostic.kernel else ""),
        ("found", diagnostic.found),
        ("expected", diagnostic.expected),
        ("help", diagnostic.help),
    ):
        if text:
            lines.append(f"{' ' * margin} {paint('1;34', '=')} {paint('1', label + ':')} {text}")
    for one in diagnostic.related:
        lines.append(f"{' ' * margin} {paint('1;34', '=')} {paint('1', 'note:')} {one.message}")
        lines += _excerpt(one.span, margin, paint, "1;34", "")
    return "\n".join(lines) + "\n"


def _excerpt(span: Span, margin: int, paint: _Paint, style: str, label: str) -> list[str]:
    line, column = span.source.line_column(span.start)
    pad = " " * margin
    head = f"{pad}{paint('1;34', '-->')} {span.source.name}:{line}:{column}"
    if not span.source.text:
        return [head]
    text = span.source.line_text(line)
    shown, before, width = _window(text, column - 1, span.end - span.start)
    bar = paint("1;34", "|")
    caret = paint(style, "^" * width + (f" {label}" if label else ""))
    return [
        head,
        f"{pad} {bar}",
        f"{paint('1;34', str(line).rjust(margin))} {bar} {shown}".rstrip(),
        f"{pad} {bar} {' ' * before}{caret}",
    ]


def _window(text: str, start: int, length: int) -> tuple[str, int, int]:
    """The part of a line that is shown, how far in the caret begins, and how many carets there are.

    Counted in columns of a terminal, so that wide characters and tabs leave the caret in its place.
    """
    start = min(start, len(text))
    end = max(min(start + max(length, 1), len(text)), start)
    first = 0 if end <= _WIDTH else max(0, start - _WIDTH // 3)
    head = "..." if first else ""
    last = first + _WIDTH
    tail = "..." if len(text) > last else ""
    shown = head + _columns(text[first:last]) + tail
    before = len(head) + _width(_columns(text[first:start]))
    under = _width(_columns(text[start : min(end, last)]))
    return shown, before, max(under, 1)


def _columns(text: str) -> str:
    return text.replace("\t", "    ")


def _width(text: str) -> int:
    wide = sum(1 for char in text if unicodedata.east_asian_width(char) in "WF")
    marks = sum(1 for char in text if unicodedata.combining(char))
    return len(text) + wide - marks


def to_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, Any]]:
    """Diagnostics for ``--json``; places count from 1, ``end_column`` is the one behind the last character."""
    return [_json_one(diagnostic) for diagnostic in diagnostics]


def _json_one(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        **_json_place(diagnostic.span),
        "found": diagnostic.found or None,
        "expected": diagnostic.expected or None,
        "help": diagnostic.help or None,
        "kernel": diagnostic.kernel or None,
        "related": [{"message": one.message, **_json_place(one.span)} for one in diagnostic.related],
    }


def _json_place(span: Span) -> dict[str, Any]:
    line, column = span.source.line_column(span.start)
    end_line, end_column = span.source.line_column(span.end)
    return {
        "file": span.source.name, "line": line, "column": column,
        "end_line": end_line, "end_column": end_column,
    }
