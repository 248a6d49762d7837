"""What a checker carries about: which names there are, what parameters stand for, and what was found.

Procedures are put in where they are called, with their arguments in place of their parameters.  A parameter
is therefore bound to an expression together with the scope in which that expression means something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dmspec.compiler import ast
from dmspec.compiler.diagnostics import Diagnostic, Related, Severity, Sink, did_you_mean
from dmspec.compiler.source import Source, Span
from dmspec.runtime.registry import OPERATIONS
from dmspec.runtime.signature import Kind

KEYWORDS: Final = (
    "with", "parallel", "choose", "or", "repeat", "if", "else", "await", "expect", "allow", "not",
)
EXPECT_PREFIX: Final = "expect-"


class _Unusable:
    """In place of a value that is wrong, which has been said, or not known, as in an unused procedure."""

    def __repr__(self) -> str:
        return "UNUSABLE"


UNUSABLE: Final = _Unusable()


@dataclass(frozen=True, eq=False)
class Library:
    """One file's procedures.  ``index`` is the file's place in the plan; the spec itself has 0."""

    name: str
    source: Source
    index: int
    procedures: dict[str, ast.Procedure] = field(default_factory=dict)
    uses: dict[str, Library] = field(default_factory=dict)

    def find(self, name: str) -> tuple[Library, ast.Procedure] | None:
        """The procedure that a name means in this file, and the file it is from."""
        if name in self.procedures:
            return self, self.procedures[name]
        prefix, _, rest = name.partition(".")
        library = self.uses.get(prefix)
        if library is not None and rest in library.procedures:
            return library, library.procedures[rest]
        return None

    def procedure_names(self) -> list[str]:
        """The names under which procedures can be called in this file."""
        used = [f"{prefix}.{name}" for prefix, library in self.uses.items() for name in library.procedures]
        return [*self.procedures, *used]


@dataclass(frozen=True, eq=False)
class Bound:
    """An expression and where its words mean something."""

    expr: ast.Expression
    scope: Scope


@dataclass(frozen=True, eq=False)
class Scope:
    """Where a statement stands: in which file, and with which parameters.

    ``calls`` are the calls through which it was put in, the outermost first.  In a ``generic`` scope a
    procedure is checked that nobody calls: its parameters are not known.
    """

    library: Library
    params: Mapping[str, Bound | None] = field(default_factory=dict)
    calls: tuple[tuple[ast.Procedure, Span], ...] = ()
    generic: bool = False

    def resolve(self, expr: ast.Expression) -> Bound | None:
        """What an expression stands for, with parameters replaced; ``None`` for what is not known."""
        if isinstance(expr, ast.Word) and expr.text in self.params:
            bound = self.params[expr.text]
            return None if bound is None else bound.scope.resolve(bound.expr)
        return Bound(expr, self)


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that has to be declared somewhere.  ``hints`` are other words that would fit in its place."""

    name: str
    kind: Kind
    span: Span
    scope: Scope
    hints: tuple[str, ...] = ()
    device_index: int | None = None


@dataclass
class Names:
    """All names of a spec, by kind, each with the place of its declaration.

    ``open_ended``: there may be more devices, made before the text at hand is compiled.
    """

    disks: dict[str, Span | None] = field(default_factory=dict)
    devices: dict[str, Span | None] = field(default_factory=dict)
    filesystems: dict[str, Span | None] = field(default_factory=dict)
    locks: dict[str, Span | None] = field(default_factory=dict)
    processes: dict[str, Span | None] = field(default_factory=dict)
    created: dict[str, Span | None] = field(default_factory=dict)
    open_ended: bool = False

    def of_kind(self, kind: Kind) -> list[str]:
        """The names that fit where an argument of this kind is due."""
        devices = [*self.disks, *self.devices, *self.created]
        return {
            Kind.DISK: [*self.disks],
            Kind.FILESYSTEM: [*self.filesystems],
            Kind.LOCK: [*self.locks],
            Kind.PROCESS: [*self.processes],
            Kind.TARGETABLE: [*devices, *self.filesystems],
        }.get(kind, devices)

    def what_is(self, name: str) -> str:
        """What a name is declared as, in words; an empty string for one that is not."""
        for what, names in (
            ("a disk", self.disks), ("a device", self.devices), ("a filesystem", self.filesystems),
            ("a lock", self.locks), ("a process", self.processes), ("a device", self.created),
        ):
            if name in names:
                return what
        return ""


@dataclass
class Context:
    """What all parts of the checker share.

    Syntax errors go to ``syntax``, all else to ``sink``: some of that is only said where the syntax is right.
    """

    sink: Sink
    syntax: Sink
    names: Names = field(default_factory=Names)
    references: list[Reference] = field(default_factory=list)
    called: set[tuple[int, str]] = field(default_factory=set)
    era: str = "now"

    def say(self, code: str, message: str, span: Span, scope: Scope | None = None, *,
            found: str = "", expected: str = "", help_: str = "", kernel: str = "",
            related: Iterable[Related] = (), severity: Severity = Severity.ERROR) -> None:
        """Report something; inside a procedure the diagnostic says also from where it was called."""
        calls = () if scope is None else tuple(
            Related(f"in `{procedure.name.text}`, which is called here", call)
            for procedure, call in reversed(scope.calls)
        )
        self.sink.add(Diagnostic(
            code, message, span, found=found, expected=expected, help=help_, kernel=kernel,
            related=(*related, *calls), severity=severity,
        ))

    def refer(self, reference: Reference) -> None:
        """Remember a name to look up when all declarations are known."""
        if not reference.scope.generic:
            self.references.append(reference)


    def resolve_references(self, declared_before: Mapping[str, int]) -> None:
        """Report the names that nothing declares; ``declared_before`` numbers the devices in order."""
        for one in self.references:
            fitting = self.names.of_kind(one.kind)
            if one.name not in fitting:
                if not (self.names.open_ended and one.kind in (Kind.DEVICE, Kind.TARGETABLE)):
                    self._unknown(one, fitting)
            elif one.device_index is not None and one.name not in self.names.disks:
                self._order(one, declared_before)

    def _unknown(self, one: Reference, fitting: list[str]) -> None:
        what = self.names.what_is(one.name)
        if what:
            self.say("DM104", f"`{one.name}` is {what}", one.span, one.scope,
                     found=what, expected=one.kind.value, help_=_one_of(fitting))
            return
        wanted = one.kind.value.split(",")[0]
        help_ = did_you_mean(one.name, [*fitting, *one.hints]) or _one_of(fitting)
        self.say("DM101", f"there is no {wanted.removeprefix('a ')} `{one.name}`", one.span, one.scope,
                 expected=one.kind.value, help_=help_)

    def _order(self, one: Reference, order: Mapping[str, int]) -> None:
        if one.name not in order:
            self.say("DM105", f"`{one.name}` is only made while the spec runs", one.span, one.scope,
                     help_="what is declared is there from the start, and so has to be what it lies on")
        elif order[one.name] == one.device_index:
            self.say("DM105", f"`{one.name}` lies on itself", one.span, one.scope)
        elif one.device_index is not None and order[one.name] > one.device_index:
            self.say("DM105", f"`{one.name}` is declared further down", one.span, one.scope,
                     help_=f"move the declaration of `{one.name}` up: devices are made in order")


def _one_of(names: list[str]) -> str:
    from dmspec.compiler.diagnostics import listed

    return f"there is {listed(sorted(names))}" if names else ""


def statement_operations() -> list[str]:
    """Operations that begin a statement by their own name."""
    return [name for name in OPERATIONS if not name.startswith(EXPECT_PREFIX)]


def expectations() -> dict[str, str]:
    """What can stand behind `expect`, and the operation that it is."""
    return {name.removeprefix(EXPECT_PREFIX): name for name in OPERATIONS if name.startswith(EXPECT_PREFIX)}


Values = dict[str, Any]
