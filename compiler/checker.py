"""From syntax trees to a model: declarations, the names in them, and what they amount to.

Nothing stops at the first error: a declaration with something wrong in it is left out of the model, but its
name stays known, so that it causes no further errors elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from pathlib import Path

from dmspec.compiler import ast
from dmspec.compiler.bind import Binder
from dmspec.compiler.diagnostics import Related, Severity, Sink
from dmspec.compiler.kernel import kernel_says
from dmspec.compiler.library import Loader
from dmspec.compiler.model import Model, ProcessModel
from dmspec.compiler.parser import Parsed
from dmspec.compiler.scenarios import Scenarios
from dmspec.compiler.scope import Context, Library, Scope
from dmspec.compiler.source import Source, Span
from dmspec.compiler.statements import Statements
from dmspec.compiler.tables import Line, Tables
from dmspec.compiler.values import Evaluator
from dmspec.runtime.eras import ERAS
from dmspec.runtime.plan import Device, Disk, Filesystem, Lock, Plan
from dmspec.runtime.signature import Kind, flag, opt, pos, signature
from dmspec.runtime.units import SECTOR_BYTES

DISK = signature(pos("size", Kind.SIZE), opt("file", Kind.TEXT))
DEVICE = signature(opt("uuid", Kind.TEXT, ""), flag("read-only"))

# A device's name that no spec can have.
NO_NAME = "~"

# What may only be the consequence of a syntax error: not said in a file that has one.
_CONSEQUENCES = frozenset({"DM101", "DM104", "DM105", "DM201", "DM306", "DM401", "DM402", "DM407"})


def check(source: Source, parsed: Parsed, sink: Sink, folder: Path | None) -> Model:
    """Check a parsed spec; what is wrong goes to ``sink``, and then the model is not whole."""
    own = Sink()
    checker = Checker(Context(own, sink), source, parsed, folder)
    model = checker.run()
    damaged = any(one.damaged for _, one in checker.loader.parsed)
    left_out = [span for _, one in checker.loader.parsed for span in one.left_out]
    for diagnostic in own.diagnostics:
        if damaged and (diagnostic.code in _CONSEQUENCES or _inside(diagnostic.span, left_out)):
            continue
        sink.add(diagnostic)
    return model


def check_statements(source: Source, parsed: Parsed, sink: Sink, folder: Path | None, plan: Plan,
                     devices: Collection[str] | None) -> Model:
    """Check loose statements against the names of a plan; the model has one process, without a name."""
    own = Sink()
    checker = Checker(Context(own, sink), source, parsed, folder)
    names = checker.context.names
    names.disks.update(dict.fromkeys(one.name for one in plan.disks))
    names.devices.update(dict.fromkeys(one.name for one in plan.devices))
    names.filesystems.update(dict.fromkeys(one.name for one in plan.filesystems))
    names.locks.update(dict.fromkeys(one.name for one in plan.locks))
    names.processes.update(dict.fromkeys(one.name for one in plan.processes))
    names.created.update(dict.fromkeys(devices or ()))
    names.open_ended = devices is None
    checker.context.era = plan.kernel
    checker.use_by_calling(parsed.statements)
    body = Statements(checker.evaluator).sequence(parsed.statements, checker.scope)
    checker.model.processes.append(ProcessModel("", body, 1))
    checker.context.resolve_references({})
    for diagnostic in own.diagnostics:
        if not _inside(diagnostic.span, parsed.left_out):
            sink.add(diagnostic)
    return checker.finished()


def _called(node: ast.Call | ast.Argument) -> object:
    return node.head if isinstance(node, ast.Call) else node.value


def _inside(span: Span, others: list[Span]) -> bool:
    return any(one.source is span.source and one.start <= span.start < one.end for one in others)


class Checker:
    """Checks one spec."""

    def __init__(self, context: Context, source: Source, parsed: Parsed, folder: Path | None) -> None:
        self.context = context
        self.parsed = parsed
        self.tables = Tables(context)
        self.evaluator = Evaluator(context, self.tables.texts)
        self.tables.evaluator = self.evaluator
        self.loader = Loader(context, folder)
        self.model = Model()
        self.device_lines: dict[str, tuple[ast.Device, list[Line]]] = {}
        self.spec: Library = self.loader.spec(source, parsed)
        self.scope = Scope(self.spec)

    def run(self) -> Model:
        """Check everything."""
        declarations = self.parsed.declarations
        scenarios = Scenarios(self.evaluator, self.scope, self.model)
        self.context.era = scenarios.kernel([one for one in declarations if isinstance(one, ast.Kernel)]) or "now"
        self._names(declarations)
        for one in declarations:
            if isinstance(one, ast.Disk):
                self._disk(one)
            elif isinstance(one, ast.Filesystem):
                self._filesystem(one)
            elif isinstance(one, ast.Lock):
                self.model.locks.append(Lock(one.name.text, one.span.line))
        self._devices([one for one in declarations if isinstance(one, ast.Device)])
        for one in declarations:
            if isinstance(one, ast.Process):
                self._process(one)
        self._uncalled()
        scenarios.run(declarations)
        order = {name: index for index, name in enumerate(self.context.names.devices)}
        self.context.resolve_references(order)
        self._ask_kernel()
        return self.finished()

    def finished(self) -> Model:
        """The model, with what is known of its files."""
        model = self.model
        model.files = [library.source.plan_name for library in self.loader.files]
        digest = hashlib.sha256()
        for library in self.loader.files:
            text = library.source.text.encode()
            digest.update(f"{library.source.plan_name}\0{len(text)}\0".encode())
            digest.update(text)
        model.source_sha256 = digest.hexdigest()
        model.kernel = self.context.era
        return model

    def use_by_calling(self, node: object) -> None:
        """Have the libraries ready whose procedures statements call: `lvm.repair vol` needs no `use lvm`."""
        if isinstance(node, ast.Call | ast.Argument) and isinstance(word := _called(node), ast.Word):
            prefix, dot, _ = word.text.partition(".")
            if dot and prefix not in self.spec.uses and self.loader.is_there(prefix):
                library = self.loader.use(ast.Word(prefix, word.span))
                if library is not None:
                    self.spec.uses[prefix] = library
        if isinstance(node, tuple):
            for one in node:
                self.use_by_calling(one)
        elif is_dataclass(node) and not isinstance(node, Span):
            for item in fields(node):
                self.use_by_calling(getattr(node, item.name))

    # ---- names

    def _names(self, declarations: list[ast.Declaration]) -> None:
        names = self.context.names
        shared: dict[str, Span] = {}
        processes: dict[str, Span] = {}
        spaces = {ast.Disk: names.disks, ast.Device: names.devices, ast.Filesystem: names.filesystems,
                  ast.Lock: names.locks, ast.Process: names.processes}
        for one in declarations:
            if isinstance(one, ast.Disk | ast.Device | ast.Filesystem | ast.Lock | ast.Process):
                first = processes if isinstance(one, ast.Process) else shared
                self._declare(one.name, first)
                spaces[type(one)].setdefault(one.name.text, one.name.span)
        for library, _ in self.loader.parsed:
            for procedure in library.procedures.values():
                self._procedure_names(library, procedure)

    def _declare(self, name: ast.Word, first: dict[str, Span]) -> None:
        self.evaluator.acceptable(name.text, name.span, self.scope)
        if name.text in first:
            self.context.say("DM102", f"`{name.text}` is declared twice", name.span,
                             related=(Related("first declared here", first[name.text]),))
        first.setdefault(name.text, name.span)

    def _procedure_names(self, library: Library, procedure: ast.Procedure) -> None:
        # The procedure's own name is in the library's list, and must not be compared with itself.
        bare = Scope(Library(library.name, library.source, library.index))
        self.evaluator.acceptable(procedure.name.text, procedure.name.span, bare)
        seen: dict[str, Span] = {}
        for parameter in procedure.parameters:
            name = parameter.name
            self.evaluator.acceptable(name.text, name.span, Scope(library))
            if name.text in seen:
                self.context.say("DM102", f"parameter `{name.text}` is there twice", name.span,
                                 related=(Related("first here", seen[name.text]),))
            seen.setdefault(name.text, name.span)

    # ---- what there is

    def _disk(self, one: ast.Disk) -> None:
        binder = Binder(self.evaluator, f"disk `{one.name.text}`", DISK, self.scope, sectors=True)
        values = binder.bind(one.args, one.name.span)
        if values is None:
            return
        if values["size"] == 0:
            self.context.say("DM206", "a disk without a sector", one.span, found="size 0",
                             expected="at least one sector of 512 bytes")
            return
        self.model.disks.append(
            Disk(one.name.text, values["size"] // SECTOR_BYTES, values["file"], one.span.line))

    def _filesystem(self, one: ast.Filesystem) -> None:
        self.evaluator.device_index = len(self.context.names.devices)
        self.evaluator.refer(one.device.text, Kind.DEVICE, one.device.span, self.scope)
        self.evaluator.device_index = None
        self.model.filesystems.append(Filesystem(one.name.text, one.device.text, one.span.line))

    def _devices(self, devices: list[ast.Device]) -> None:
        order = {name: index for index, name in enumerate(self.context.names.devices)}
        for one in devices:
            binder = Binder(self.evaluator, f"device `{one.name.text}`", DEVICE, self.scope)
            values = binder.bind(one.args, one.name.span)
            self.evaluator.device_index = order[one.name.text]
            lines = self.tables.lines(one.table, self.scope)
            self.evaluator.device_index = None
            if values is None or lines is None:
                continue
            self.device_lines.setdefault(one.name.text, (one, lines))
            self.model.devices.append(Device(
                one.name.text, [line.text for line in lines], values["uuid"], values["read_only"],
                one.span.line))

    def _ask_kernel(self) -> None:
        """Have the constructors look at the tables of devices in which nothing is wrong so far."""
        wrong = [one.span for one in self.context.sink.diagnostics if one.is_error]
        sizes: dict[str, int | None] = {disk.name: disk.sectors for disk in self.model.disks}
        for name in self.context.names.disks:
            sizes.setdefault(name, None)
        for name, (one, lines) in self.device_lines.items():
            if not any(span.source is one.span.source and one.span.start <= span.start < one.span.end
                       for span in wrong):
                said, size = kernel_says([line.text for line in lines], sizes, ERAS[self.context.era], name)
                for refusal in said:
                    line = lines[min(max(refusal.line, 0), len(lines) - 1)]
                    self.context.say("DM305", f"the kernel refuses this table of `{name}` with {refusal.errno}",
                                     line.span, found=f"`{line.text}`", kernel=refusal.message)
                sizes[name] = None if said else size
            sizes.setdefault(name, None)
        self._ask_about_loads(sizes)

    def _ask_about_loads(self, sizes: dict[str, int | None]) -> None:
        """The same for tables that operations load: what is known of a device's size is what it began with."""
        if self.context.sink.has_errors:
            return
        # A device's size can change while the spec runs; a disk's cannot.
        known = {name: size if name in self.context.names.disks else None for name, size in sizes.items()}
        known.update(dict.fromkeys(self.context.names.created))
        for texts, (lines, scope) in self.tables.loaded.items():
            said, _ = kernel_says(list(texts), known, ERAS[self.context.era], NO_NAME)
            for refusal in said:
                line = lines[min(max(refusal.line, 0), len(lines) - 1)]
                self.context.say("DM307", f"loading this table will fail with {refusal.errno}", line.span, scope,
                                 found=f"`{line.text}`", kernel=refusal.message, severity=Severity.WARNING)

    # ---- what is done

    def _process(self, one: ast.Process) -> None:
        body = Statements(self.evaluator).body(one.block, self.scope)
        self.model.processes.append(ProcessModel(one.name.text, body, one.span.line))

    def _uncalled(self) -> None:
        """Check the procedures that nobody calls, with parameters of which nothing is known."""
        for library, _ in self.loader.parsed:
            for name, procedure in library.procedures.items():
                if (library.index, name) in self.context.called:
                    continue
                params = dict.fromkeys(one.name.text for one in procedure.parameters)
                scope = Scope(library, params, ((procedure, procedure.name.span),), generic=True)
                statements = Statements(self.evaluator)
                statements.body(procedure.block, scope)
