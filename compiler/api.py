"""The compiler's doors: a file, a text, or loose statements for a stack that is there already."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from dmspec.compiler import ast
from dmspec.compiler.checker import check
from dmspec.compiler.diagnostics import Diagnostic, Sink
from dmspec.compiler.lower import lower
from dmspec.compiler.parser import parse
from dmspec.compiler.source import Source, SourceError, Span, of_text, read
from dmspec.runtime.plan import Plan


@dataclass(frozen=True)
class Compiled:
    """What came of it: a plan if nothing is wrong, and everything there is to say, in order."""

    plan: Plan | None
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(one.is_error for one in self.diagnostics)


def compile_file(path: Path | str, *, allow_later: bool = False) -> Compiled:
    """Compile a spec file; libraries are looked for beside it first."""
    path = Path(path)
    try:
        source = read(path)
    except SourceError as error:
        return Compiled(None, [_unreadable(error)])
    return compile_source(source, path.parent, allow_later=allow_later)


def compile_text(text: str, name: str = "<text>", *, folder: Path | None = None,
                 allow_later: bool = False) -> Compiled:
    """Compile a spec given as a text."""
    try:
        source = of_text(text, name)
    except SourceError as error:
        return Compiled(None, [_unreadable(error)])
    return compile_source(source, folder, allow_later=allow_later)


def compile_source(source: Source, folder: Path | None, *, allow_later: bool = False) -> Compiled:
    """Compile what has been read."""
    sink = Sink()
    parsed = parse(source, sink)
    model = check(source, parsed, sink, folder)
    if sink.has_errors:
        for note in model.later:
            sink.add(note)
        return Compiled(None, sink.in_order(source.name))
    plan, said = lower(model, allow_later=allow_later)
    for diagnostic in said:
        sink.add(diagnostic)
    return Compiled(plan, sink.in_order(source.name))


def _unreadable(error: SourceError) -> Diagnostic:
    offset = min(error.offset, len(error.source.text))
    return Diagnostic(error.code, error.message, Span(error.source, offset, offset + 1), help=error.help)


__all__ = ["Compiled", "ast", "compile_file", "compile_source", "compile_text", "replace"]
