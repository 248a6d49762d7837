"""Bodies of processes: from statements to checked steps, with procedures put in where they are called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from dmspec.compiler import ast
from dmspec.compiler.bind import Binder
from dmspec.compiler.diagnostics import Related, Severity, did_you_mean, listed
from dmspec.compiler.model import (
    Awaited,
    Caught,
    Chosen,
    Conditional,
    Forked,
    Inlined,
    Locked,
    Perform,
    Place,
    Repeated,
    Step,
)
from dmspec.compiler.scope import (
    EXPECT_PREFIX,
    KEYWORDS,
    UNUSABLE,
    Bound,
    Context,
    Library,
    Scope,
    expectations,
    statement_operations,
)
from dmspec.compiler.source import Span
from dmspec.compiler.split import Lookup, Required, cut, required_names, split
from dmspec.compiler.values import Evaluator
from dmspec.runtime.operations.base import OperationType
from dmspec.runtime.registry import CONDITIONS, OPERATIONS
from dmspec.runtime.signature import Kind, Param

MAX_STEPS: Final = 10_000
FOREVER: Final = "forever"
_WITHIN: Final = Param("within", Kind.DURATION, None)
_TIMES: Final = Param("times", Kind.COUNT)
Steps = tuple[Step, ...]


class Statements:
    """Checks bodies.  One instance per process, so that its steps can be counted."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.context: Context = evaluator.context
        self.steps = 0
        self.held: list[str] = []

    # ---- bodies

    def body(self, block: ast.Block, scope: Scope) -> Steps:
        """The steps of a block."""
        return self.sequence(block.statements, scope)

    def sequence(self, statements: tuple[ast.Statement, ...], scope: Scope) -> Steps:
        """The steps of statements that follow each other."""
        done: list[Step] = []
        for statement in statements:
            if self._too_long(statement, scope):
                break
            done += self._statement(statement, scope)
        return tuple(done)

    def _too_long(self, statement: ast.Statement, scope: Scope) -> bool:
        self.steps += 1
        if self.steps == MAX_STEPS + 1:
            where = scope.calls[0][1] if scope.calls else statement.span
            self.context.say("DM404", f"this process has more than {MAX_STEPS} steps", where,
                             help_="`repeat N { }` does something often at the cost of one step")
        return self.steps > MAX_STEPS

    def _statement(self, statement: ast.Statement, scope: Scope) -> list[Step]:
        place = self._place(statement.span, scope)
        if isinstance(statement, ast.Call):
            return self._calls(statement, scope)
        if isinstance(statement, ast.Expect):
            return self._expect(statement, scope)
        if isinstance(statement, ast.Await):
            return self._await(statement, scope)
        if isinstance(statement, ast.If):
            return self._if(statement, scope)
        if isinstance(statement, ast.With):
            return self._with(statement, scope)
        if isinstance(statement, ast.Parallel):
            return [Forked(place, tuple(self.body(block, scope) for block in statement.blocks))]
        if isinstance(statement, ast.Choose):
            return [Chosen(place, tuple(self.body(block, scope) for block in statement.blocks))]
        if isinstance(statement, ast.Repeat):
            return self._repeat(statement, scope)
        if isinstance(statement, ast.Catch):
            return self._catch(statement, scope)
        self._segment(statement, scope)
        return []

    def _place(self, span: Span, scope: Scope) -> Place:
        return Place(scope.library.index, span.line)

    def _segment(self, statement: ast.Segment | ast.Raw, scope: Scope) -> None:
        what = statement.text if isinstance(statement, ast.Raw) else statement.size
        self.context.say("DM304", "a segment of a table, in a process", what.span, scope,
                         expected="a statement", help_="a table is the argument of `create` or `load`")

    # ---- operations and procedures

    def lookup(self, scope: Scope) -> Lookup:
        """What a call of a name needs at least; ``None`` for a name that cannot be called."""
        def find(name: str) -> Required | None:
            operation = OPERATIONS.get(name)
            if operation is not None and not name.startswith(EXPECT_PREFIX):
                return required_names(operation.signature)
            procedure = scope.library.find(name)
            if procedure is None:
                return None
            return tuple(one.name.text for one in procedure[1].parameters if one.default is None)

        return find

    def _calls(self, call: ast.Call, scope: Scope) -> list[Step]:
        lookup = self.lookup(scope)
        required = () if isinstance(call.head, ast.Joined) else lookup(call.head.text) or ()
        done: list[Step] = []
        for one in split(call, required, lookup, scope):
            done += self._call(one, scope)
        return done

    def _call(self, call: ast.Call, scope: Scope) -> list[Step]:
        head = call.head
        if isinstance(head, ast.Joined):
            self.context.say("DM206", "operations are joined with `+` in a property only", head.span, scope,
                             help_="here, one statement follows the other")
            return []
        operation = OPERATIONS.get(head.text)
        if operation is not None and not head.text.startswith(EXPECT_PREFIX):
            return self._operation(operation, call, scope)
        found = scope.library.find(head.text)
        if found is None:
            self._unknown(head, scope)
            return []
        return self._procedure(*found, call, scope)

    def _unknown(self, head: ast.Word, scope: Scope) -> None:
        names = [*statement_operations(), *scope.library.procedure_names(), *KEYWORDS]
        help_ = did_you_mean(head.text, names)
        prefix, dot, rest = head.text.partition(".")
        library = scope.library.uses.get(prefix)
        if dot and library is not None:
            help_ = help_ or f"`{prefix}` has {listed(sorted(library.procedures))}"
        elif dot and not help_:
            help_ = f"`use {prefix}` at the top makes its procedures known"
        elif not help_ and rest == "":
            qualified = [f"{one}.{head.text}" for one, lib in scope.library.uses.items()
                         if head.text in lib.procedures]
            help_ = f"did you mean `{qualified[0]}`?" if qualified else ""
        what = "procedure" if dot else "operation or procedure"
        self.context.say("DM201", f"there is no {what} `{head.text}`", head.span, scope, help_=help_)

    def _operation(self, operation: OperationType, call: ast.Call, scope: Scope,
                   shown: str = "") -> list[Step]:
        shown = shown or operation.name
        binder = Binder(self.evaluator, f"`{shown}`", operation.signature, scope)
        values = binder.bind(call.args, call.head.span)
        if values is None:
            return []
        for param in operation.signature:
            if param.kind is Kind.NEW_NAME and values[param.key] is not None and not scope.generic:
                self.context.names.created.setdefault(values[param.key], None)
        return [Perform(self._place(call.span, scope), operation.name, values)]

    def _procedure(self, library: Library, procedure: ast.Procedure, call: ast.Call,
                   scope: Scope) -> list[Step]:
        if any(caller is procedure for caller, _ in scope.calls):
            self.context.say("DM110", f"`{procedure.name.text}` uses itself", call.head.span, scope)
            return []
        if not scope.generic:
            self.context.called.add((library.index, procedure.name.text))
        calls = (*scope.calls, (procedure, call.span))
        inner = self._parameters(library, procedure, call, scope, calls)
        if inner is None:
            return []
        body = self.body(procedure.block, inner)
        name = f"{library.name}.{procedure.name.text}" if library.name else procedure.name.text
        return [Inlined(self._place(call.span, scope), name, body)]

    def _parameters(self, library: Library, procedure: ast.Procedure, call: ast.Call, scope: Scope,
                    calls: tuple[tuple[ast.Procedure, Span], ...]) -> Scope | None:
        names = [parameter.name.text for parameter in procedure.parameters]
        given: dict[str, Bound | None] = {}
        good = True
        for arg in call.args:
            free = [name for name in names if name not in given]
            if arg.key is None and not free:
                self.context.say("DM204", f"`{procedure.name.text}` takes no further argument", arg.span, scope,
                                 help_=_usage(procedure))
                good = False
            elif arg.key is not None and arg.key.text not in names:
                self.context.say("DM202", f"`{procedure.name.text}` has no argument `{arg.key.text}`",
                                 arg.key.span, scope, help_=did_you_mean(arg.key.text, names) or _usage(procedure))
                good = False
            elif arg.key is not None and arg.key.text in given:
                self.context.say("DM205", f"`{arg.key.text}` is given twice", arg.span, scope)
                good = False
            else:
                given[arg.key.text if arg.key is not None else free[0]] = scope.resolve(arg.value)
        return self._defaults(library, procedure, call, scope, given, calls) if good else None

    def _defaults(self, library: Library, procedure: ast.Procedure, call: ast.Call, scope: Scope,
                  given: dict[str, Bound | None],
                  calls: tuple[tuple[ast.Procedure, Span], ...]) -> Scope | None:
        params: dict[str, Bound | None] = {}
        missing = []
        for parameter in procedure.parameters:
            name = parameter.name.text
            if name in given:
                params[name] = given[name]
            elif parameter.default is not None:
                # A default may use the parameters before it, and only those: so it can never mean itself.
                params[name] = Scope(library, dict(params), calls, scope.generic).resolve(parameter.default)
            else:
                missing.append(name)
        if missing:
            self.context.say("DM203", f"`{procedure.name.text}` lacks {listed(missing)}", call.head.span, scope,
                             help_=_usage(procedure),
                             related=(Related("declared here", procedure.name.span),))
            return None
        return Scope(library, params, calls, scope.generic)

    # ---- expectations, conditions, control

    def _expect(self, statement: ast.Expect, scope: Scope) -> list[Step]:
        call = statement.call
        known = expectations()
        name = call.head.span.text
        if name not in known:
            self.context.say("DM215", f"there is nothing to expect that is called `{name}`", call.head.span, scope,
                             expected=listed(["error", *sorted(known)], "or"),
                             help_=did_you_mean(name, [*known, "error"]))
            return []
        operation = OPERATIONS[known[name]]
        lookup = self.lookup(scope)
        args, rest = cut(call.args, required_names(operation.signature), lookup, scope)
        here = ast.Call(call.head, args, statement.span)
        done = self._operation(operation, here, scope, shown=f"expect {name}")
        return done + (self._calls(rest, scope) if rest is not None else [])

    def _await(self, statement: ast.Await, scope: Scope) -> list[Step]:
        condition = statement.condition
        type_ = CONDITIONS.get(condition.name.text)
        required = required_names(type_.signature) if type_ else ("",)
        args, rest = cut(condition.args, required, self.lookup(scope), scope)
        within, within_ns = [arg for arg in args if arg.key is not None and arg.key.text == "within"], None
        if condition.negate:
            self.context.say("DM408", "`await` takes no `not`", condition.span, scope)
        for arg in within:
            bound = scope.resolve(arg.value)
            if arg is not within[0]:
                self.context.say("DM205", "`within` is given twice", arg.span, scope)
            elif bound is not None:
                within_ns = self.evaluator.value(_WITHIN, bound)
        own = tuple(arg for arg in args if arg not in within)
        asked = self._condition(replace(condition, args=own), scope)
        done: list[Step] = []
        if asked is not None and within_ns is not UNUSABLE:
            done.append(Awaited(self._place(statement.span, scope), asked[0], asked[1], within_ns))
        return done + (self._calls(rest, scope) if rest is not None else [])

    def _condition(self, condition: ast.Condition, scope: Scope) -> tuple[str, dict[str, Any]] | None:
        name = condition.name.text
        type_ = CONDITIONS.get(name)
        if type_ is None:
            self.context.say("DM211", f"there is no condition `{name}`", condition.name.span, scope,
                             expected=listed(sorted(CONDITIONS), "or"), help_=did_you_mean(name, CONDITIONS))
            return None
        binder = Binder(self.evaluator, f"condition `{name}`", type_.signature, scope)
        values = binder.bind(condition.args, condition.name.span)
        return None if values is None else (name, values)

    def _if(self, statement: ast.If, scope: Scope) -> list[Step]:
        asked = self._condition(statement.condition, scope)
        assumed = self.evaluator.assumed
        before = len(assumed)
        if asked is not None and asked[0] == "exists" and not statement.condition.negate:
            assumed += asked[1].values()
        then = self.body(statement.then, scope)
        del assumed[before:]
        otherwise = self.body(statement.otherwise, scope) if statement.otherwise is not None else ()
        if asked is None:
            return []
        place = self._place(statement.span, scope)
        return [Conditional(place, *asked, statement.condition.negate, then, otherwise)]

    def _with(self, statement: ast.With, scope: Scope) -> list[Step]:
        bound = scope.resolve(statement.lock)
        lock: Any = UNUSABLE if bound is None else self.evaluator.value(Param("lock", Kind.LOCK), bound)
        if lock is not UNUSABLE and lock in self.held:
            self.context.say("DM403", f"`{lock}` is held here already", statement.lock.span, scope,
                             severity=Severity.WARNING, help_="a lock cannot be taken twice")
        self.held.append(str(lock))
        body = self.body(statement.block, scope)
        self.held.pop()
        return [] if lock is UNUSABLE else [Locked(self._place(statement.span, scope), lock, body)]

    def _repeat(self, statement: ast.Repeat, scope: Scope) -> list[Step]:
        bound = scope.resolve(statement.times)
        times: Any = UNUSABLE
        if bound is not None and isinstance(bound.expr, ast.Word) and bound.expr.text == FOREVER:
            times = None
        elif bound is not None:
            times = self.evaluator.value(_TIMES, bound)
        body = self.body(statement.block, scope)
        return [] if times is UNUSABLE else [Repeated(self._place(statement.span, scope), times, body)]

    def _catch(self, statement: ast.Catch, scope: Scope) -> list[Step]:
        errno: Any = None
        if statement.errno is not None:
            bound = scope.resolve(statement.errno)
            errno = UNUSABLE if bound is None else self.evaluator.errno(bound.expr, bound.scope)
        self.evaluator.trying += 1
        body = self.body(statement.block, scope)
        self.evaluator.trying -= 1
        if errno is UNUSABLE:
            return []
        return [Caught(self._place(statement.span, scope), errno, statement.must, body)]


def _usage(procedure: ast.Procedure) -> str:
    words = [one.name.text if one.default is None else f"[{one.name.text}={one.default.span.text}]"
             for one in procedure.parameters]
    return f"arguments: {' '.join(words)}" if words else "it has no arguments"



