"""Scenarios and properties: what runs together, what goes wrong, what must hold."""

from __future__ import annotations

from typing import Any, Final

from dmspec.compiler import ast
from dmspec.compiler.bind import Binder
from dmspec.compiler.diagnostics import Related, did_you_mean, listed
from dmspec.compiler.model import Model
from dmspec.compiler.numbers import number
from dmspec.compiler.scope import UNUSABLE, Context, Scope, statement_operations
from dmspec.compiler.source import Span
from dmspec.compiler.split import Required, required_names, split
from dmspec.compiler.values import Evaluator
from dmspec.runtime.eras import ERAS
from dmspec.runtime.plan import RUN, Check, Fault, Instr, Property, Scenario
from dmspec.runtime.registry import CHECKS, OPERATIONS
from dmspec.runtime.signature import Kind, Param, Signature, signature

# What a property calls by another name.
PROPERTY_WORDS: Final = {"repair": "lvm-repair"}
_MOST: Final = Param("most", Kind.COUNT)


class Scenarios:
    """Checks scenarios and properties, and puts them into the model."""

    def __init__(self, evaluator: Evaluator, scope: Scope, model: Model) -> None:
        self.evaluator = evaluator
        self.context: Context = evaluator.context
        self.scope = scope
        self.model = model

    def run(self, declarations: list[ast.Declaration]) -> None:
        """Check all that are declared."""
        scenarios: dict[str, Span] = {}
        properties: dict[str, Span] = {}
        for one in declarations:
            if isinstance(one, ast.Scenario):
                self._once("scenario", one.name, scenarios)
                self._scenario(one)
            elif isinstance(one, ast.Property):
                self._once("property", one.name, properties)
                self._property(one)

    def _once(self, what: str, name: ast.Word, seen: dict[str, Span]) -> None:
        if name.text in seen:
            self.context.say("DM102", f"{what} `{name.text}` is declared twice", name.span,
                             related=(Related("first declared here", seen[name.text]),))
        seen.setdefault(name.text, name.span)

    # ---- scenarios

    def _scenario(self, one: ast.Scenario) -> None:
        runs: dict[str, Span] = {}
        faults: list[Fault] = []
        checks: list[Check] = []
        violations: list[ast.Violation] = []
        schedule: list[int] = []
        for line in one.lines:
            if isinstance(line, ast.Run):
                self._run(line, runs)
            elif isinstance(line, ast.Schedule):
                schedule += self._schedule(line)
            elif isinstance(line, ast.Fault):
                faults += self._fault(line)
            elif isinstance(line, ast.Check):
                checks += self._check(line)
            elif isinstance(line, ast.Violation):
                violations.append(line)
        eras = self.eras([line for line in one.lines if isinstance(line, ast.Kernel)])
        if not runs:
            self.context.say("DM401", f"scenario `{one.name.text}` runs nothing", one.name.span,
                             expected="`run PROCESS...`", help_=self._processes())
        made = [line.call.head.span.text for line in one.lines if isinstance(line, ast.Check)]
        for violation in violations:
            self._violation(violation, made, eras)
        for era in eras or [""]:
            expected = [line.check.text for line in violations
                        if not line.eras or era in [named.text for named in line.eras]]
            name = f"{one.name.text}@{era}" if len(eras) > 1 else one.name.text
            self.model.scenarios.append(Scenario(
                name, one.title, list(runs), faults, checks, list(dict.fromkeys(expected)), era, one.span.line,
                schedule))

    def _processes(self) -> str:
        names = self.context.names.processes
        return f"processes are {listed(sorted(names))}" if names else "no process is declared"

    def _run(self, line: ast.Run, runs: dict[str, Span]) -> None:
        for process in line.processes:
            if process.text in runs:
                self.context.say("DM405", f"`{process.text}` is run twice", process.span,
                                 related=(Related("first here", runs[process.text]),),
                                 help_="two processes that do the same have two names")
                continue
            runs[process.text] = process.span
            self.evaluator.refer(process.text, Kind.PROCESS, process.span, self.scope)

    def _schedule(self, line: ast.Schedule) -> list[int]:
        """Several such lines follow each other, as if they were one."""
        picks = []
        for pick in line.picks:
            value = number(pick.text, Kind.COUNT)
            if isinstance(value, int):
                picks.append(value)
            else:
                self.context.say(value.code, value.message, pick.span, expected=value.expected, help_=value.help)
        return picks

    def kernel(self, given: list[ast.Kernel]) -> str:
        """The era that a `kernel` line names where there can be only one; an empty string without one."""
        for extra in given[0].eras[1:] if given else ():
            self.context.say("DM405", "a second kernel", extra.span,
                             help_="a scenario can be for several kernels, one after the other")
        return next(iter(self.eras(given)), "")

    def eras(self, given: list[ast.Kernel]) -> list[str]:
        """The eras that a `kernel` line names."""
        for one in given[1:]:
            self.context.say("DM405", "the kernel is named twice", one.span,
                             related=(Related("first here", given[0].span),))
        known: list[str] = []
        for era in given[0].eras if given else ():
            if era.text not in ERAS:
                self.context.say("DM214", f"dmspec does not know the kernel `{era.text}`", era.span,
                                 expected=listed(sorted(ERAS), "or"), help_=did_you_mean(era.text, ERAS))
            elif era.text in known:
                self.context.say("DM405", f"the kernel `{era.text}` is named twice", era.span)
            else:
                known.append(era.text)
        return known

    def _violation(self, one: ast.Violation, made: list[str], eras: list[str]) -> None:
        for era in one.eras:
            if era.text not in eras:
                self.context.say("DM409", f"this scenario is not run on the kernel `{era.text}`", era.span,
                                 expected=listed(eras, "or") if eras else "a kernel of this scenario's `kernel` line",
                                 help_=did_you_mean(era.text, eras))
        if one.check.text in made:
            return
        code = "DM402" if one.check.text in CHECKS else "DM212"
        message = (f"this scenario does not check `{one.check.text}`" if code == "DM402"
                   else f"there is no check `{one.check.text}`")
        help_ = did_you_mean(one.check.text, made or CHECKS)
        if not help_ and code == "DM402":
            help_ = f"add `always {one.check.text}`"
        self.context.say(code, message, one.check.span, help_=help_,
                         expected=listed(made, "or") if made else "a check of this scenario")

    def _check(self, line: ast.Check) -> list[Check]:
        name = line.call.head.span.text
        type_ = CHECKS.get(name)
        if type_ is None:
            self.context.say("DM212", f"there is no check `{name}`", line.call.head.span,
                             expected=listed(sorted(CHECKS), "or"), help_=did_you_mean(name, CHECKS))
            return []
        binder = Binder(self.evaluator, f"check `{name}`", type_.signature, self.scope)
        values = binder.bind(line.call.args, line.call.head.span)
        return [] if values is None else [Check(line.mode.text, name, values, line.span.line)]

    # ---- faults

    def _fault(self, line: ast.Fault) -> list[Fault]:
        name = line.call.head.span.text
        faults = [one.name for one in OPERATIONS.values() if one.is_fault]
        if name not in faults:
            what = f"`{name}` is no fault" if name in OPERATIONS else f"there is no fault `{name}`"
            self.context.say("DM213", what, line.call.head.span, expected=listed(sorted(faults), "or"),
                             help_=did_you_mean(name, faults))
            return []
        operation = OPERATIONS[name]
        own, points, mosts = self._sorted_out(line.call.args, operation.signature)
        binder = Binder(self.evaluator, f"fault `{name}`", operation.signature, self.scope)
        values = binder.bind(own, line.call.head.span)
        at = self.evaluator.point(points[0].value, self.scope) if points else {"any": True}
        most = self._most(mosts, 1)
        if values is None or at is UNUSABLE or most is UNUSABLE:
            return []
        return [Fault(name, values, at, most, line.span.line)]

    def _sorted_out(self, args: tuple[ast.Argument, ...], own: Signature) -> tuple[
            tuple[ast.Argument, ...], list[ast.Argument], list[ast.Argument]]:
        """A fault line's arguments: the fault's own, `at` and `most`.

        Where the fault has an `at` of its own, on the disk, the value tells them apart: a size with a unit of
        its own is a place on the disk, anything else is a point in time.
        """
        mine: list[ast.Argument] = []
        points: list[ast.Argument] = []
        mosts: list[ast.Argument] = []
        for arg in args:
            key = "" if arg.key is None else arg.key.text
            if key == "at" and not (own.named("at") is not None and _is_size(arg.value)):
                points.append(arg)
            elif key == "most" and own.named("most") is None:
                mosts.append(arg)
            else:
                mine.append(arg)
        for extra in (*points[1:], *mosts[1:]):
            self.context.say("DM205", f"`{extra.key.text if extra.key else ''}` is given twice", extra.span)
        return tuple(mine), points, mosts

    def _most(self, given: list[ast.Argument], default: int | None) -> Any:
        if not given:
            return default
        bound = self.scope.resolve(given[0].value)
        return UNUSABLE if bound is None else self.evaluator.value(_MOST, bound)

    # ---- properties

    def _property(self, one: ast.Property) -> None:
        on: list[str] = []
        runs: dict[str, Span] = {}
        checks: list[Check] = []
        given = [line for line in one.lines if isinstance(line, ast.Operations)]
        for line in one.lines:
            if isinstance(line, ast.On):
                on += [name.text for name in line.names]
                for name in line.names:
                    self.evaluator.refer(name.text, Kind.TARGETABLE, name.span, self.scope)
            elif isinstance(line, ast.Run):
                self._run(line, runs)
            elif isinstance(line, ast.Check):
                checks += self._check(line)
        kernel = self.kernel([line for line in one.lines if isinstance(line, ast.Kernel)])
        for extra in given[1:]:
            self.context.say("DM405", "a second list of operations", extra.span,
                             related=(Related("first here", given[0].span),))
        if not given:
            self.context.say("DM407", f"property `{one.name.text}` draws nothing", one.name.span,
                             expected="`operations 1..40 of { ... }`")
            return
        least, most = self._bounds(given[0])
        self.evaluator.any_leg = True
        operations = self._drawn(given[0].block)
        self.evaluator.any_leg = False
        self.model.properties.append(Property(
            one.name.text, one.title, on, operations, least, most, checks, kernel, list(runs),
            one.span.line))

    def _bounds(self, one: ast.Operations) -> tuple[int, int]:
        bounds = []
        for end in (one.least, one.most):
            value = number(end.text, Kind.COUNT)
            if not isinstance(value, int):
                self.context.say(value.code, value.message, end.span, expected=value.expected, help_=value.help)
                return 1, 1
            bounds.append(value)
        if bounds[1] < 1 or bounds[0] > bounds[1]:
            self.context.say("DM406", f"from {bounds[0]} to {bounds[1]} there is nothing to draw",
                             one.least.span.to(one.most.span), expected="such as `1..40`")
        return bounds[0], bounds[1]

    def _lookup(self, name: str) -> Required | None:
        if name in self.context.names.processes:
            return ()
        name = PROPERTY_WORDS.get(name, name)
        if name in statement_operations():
            return required_names(OPERATIONS[name].signature)
        return None

    def _drawn(self, block: ast.Block) -> list[Instr]:
        drawn: list[Instr] = []
        for statement in block.statements:
            if not isinstance(statement, ast.Call):
                start = statement.span.start
                word = statement.span.text.split(maxsplit=1)[0]
                self.context.say("DM206", "a property draws operations, no other statements",
                                 Span(statement.span.source, start, start + len(word)),
                                 expected="an operation, such as `write vol`")
                continue
            required = () if isinstance(statement.head, ast.Joined) else self._lookup(statement.head.text) or ()
            for call in split(statement, required, self._lookup, self.scope):
                drawn += self._operation(call)
        if not drawn and not block.statements:
            self.context.say("DM407", "nothing to draw", block.span, expected="operations")
        return drawn

    def _operation(self, call: ast.Call) -> list[Instr]:
        """One drawn operation: ``args``, how often at ``most``, and for joined ones their ``parts``."""
        words = call.head.words if isinstance(call.head, ast.Joined) else (call.head,)
        mosts = [arg for arg in call.args if arg.key is not None and arg.key.text == "most"]
        own = tuple(arg for arg in call.args if arg not in mosts)
        most = self._most(mosts, None)
        parts: list[dict[str, Any]] = []
        for word in words:
            name = word.text
            if name in self.context.names.processes:
                values = Binder(self.evaluator, f"process `{name}`", signature(), self.scope).bind(own, word.span)
                parts.append({"operation": RUN, "args": {"process": name}, "drawn": []})
                continue
            name = PROPERTY_WORDS.get(name, name)
            if name not in statement_operations():
                names = [*statement_operations(), *PROPERTY_WORDS, *self.context.names.processes]
                self.context.say("DM201", f"there is no operation `{name}`", word.span,
                                 help_=did_you_mean(name, names))
                return []
            found = OPERATIONS[name].signature
            values = Binder(self.evaluator, f"`{name}`", found, self.scope).bind(own, word.span)
            if values is None:
                return []
            given = {arg.key.text for arg in own if arg.key is not None}
            drawn = [param.key for param in found if param.name in ("at", "size") and param.name not in given]
            parts.append({"operation": name, "args": values, "drawn": drawn})
        if most is UNUSABLE:
            return []
        joined = "+".join(word.text for word in words)
        return [Instr(joined, {"parts": parts, "most": most}, 0, call.span.line)]


def _is_size(value: ast.Expression) -> bool:
    if not isinstance(value, ast.Quantity) or value.text.isdigit():
        return False
    return isinstance(number(value.text, Kind.SIZE), int) and not isinstance(number(value.text, Kind.DURATION), int)
