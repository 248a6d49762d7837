"""The compiler's doors: a file, a text, or loose statements for a stack that is there already."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from dmspec.compiler.checker import check, check_statements
from dmspec.compiler.diagnostics import Diagnostic, Sink
from dmspec.compiler.lower import lower, lower_process
from dmspec.compiler.parser import parse, parse_statements
from dmspec.compiler.source import Source, SourceError, Span, of_text, read
from dmspec.runtime.plan import Plan

STATEMENTS_PROCESS = "do"


@dataclass(frozen=True)
class Compiled:
    """What came of it: a plan if nothing is wrong, and everything there is to say, in order."""

    plan: Plan | None
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(one.is_error for one in self.diagnostics)


def compile_file(path: Path | str) -> Compiled:
    """Compile a spec file; libraries are looked for beside it first."""
    path = Path(path)
    try:
        source = read(path)
    except SourceError as error:
        return Compiled(None, [_unreadable(error)])
    return compile_source(source, path.parent)


def compile_text(text: str, name: str = "<text>", *, folder: Path | None = None) -> Compiled:
    """Compile a spec given as a text; ``folder`` is where libraries are looked for first."""
    try:
        source = of_text(text, name)
    except SourceError as error:
        return Compiled(None, [_unreadable(error)])
    return compile_source(source, folder)


def compile_source(source: Source, folder: Path | None) -> Compiled:
    """Compile what has been read."""
    sink = Sink()
    parsed = parse(source, sink)
    model = check(source, parsed, sink, folder)
    plan = None if sink.has_errors else lower(model)
    return Compiled(plan, sink.in_order(source.name))


def compile_statements(text: str, plan: Plan, *, name: str = "<statements>", folder: Path | None = None,
                       devices: Collection[str] | None = None) -> Compiled:
    """Compile statements, such as ``fail pv1`` or ``lvm.repair vol``, against the names of a plan.

    The plan that comes of it has the same declarations and one process, ``do``.  A library is used by calling
    its procedure; ``folder`` is where it is looked for before those that come with dmspec.  ``devices`` are the
    devices that are there now; without them, any name is taken for one that was made since the plan began.
    """
    try:
        source = of_text(text, name)
    except SourceError as error:
        return Compiled(None, [_unreadable(error)])
    sink = Sink()
    parsed = parse_statements(source, sink)
    model = check_statements(source, parsed, sink, folder, plan, devices)
    if sink.has_errors:
        return Compiled(None, sink.in_order(source.name))
    process = lower_process(replace(model.processes[0], name=STATEMENTS_PROCESS))
    made = replace(plan, files=model.files, source_sha256=model.source_sha256, processes=[process],
                   scenarios=[], properties=[])
    return Compiled(made, sink.in_order(source.name))


def _unreadable(error: SourceError) -> Diagnostic:
    offset = min(error.offset, len(error.source.text))
    return Diagnostic(error.code, error.message, Span(error.source, offset, offset + 1), help=error.help)
