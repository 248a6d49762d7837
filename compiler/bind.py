"""Arguments by their signature: which argument is which parameter, and what is missing or too much."""

from __future__ import annotations

from typing import Any

from dmspec.compiler import ast
from dmspec.compiler.diagnostics import did_you_mean, listed
from dmspec.compiler.scope import UNUSABLE, Bound, Context, Scope
from dmspec.compiler.source import Span
from dmspec.compiler.values import Evaluator, what_is
from dmspec.runtime.signature import Kind, Param, Signature


class Binder:
    """Binds the arguments of one call."""

    def __init__(self, evaluator: Evaluator, what: str, signature: Signature, scope: Scope,
                 *, sectors: bool = False) -> None:
        self.evaluator = evaluator
        self.context: Context = evaluator.context
        self.what = what
        self.signature = signature
        self.scope = scope
        self.sectors = sectors
        self.values: dict[str, Any] = {}
        self.places: dict[str, Span] = {}
        self.flags = tuple(param.name for param in signature if param.kind is Kind.FLAG)
        choices = [choice for param in signature for choice in param.choices]
        self.hints = (*self.flags, *choices)

    def bind(self, args: tuple[ast.Argument, ...], head: Span) -> dict[str, Any] | None:
        """Values by parameter, defaults filled in; ``None`` when something is wrong or not known."""
        for arg in args:
            if arg.key is not None:
                self._named(arg, arg.key)
            else:
                self._positional(arg)
        for param in self.signature:
            if param.name in self.places:
                continue
            if param.required:
                self._missing(param, head)
                self.values[param.key] = UNUSABLE
            else:
                default = param.default
                self.values[param.key] = list(default) if isinstance(default, tuple) else default
        if any(_is_unusable(value) for value in self.values.values()):
            return None
        return {param.key: self.values[param.key] for param in self.signature}

    def _missing(self, param: Param, head: Span) -> None:
        shape = f"`{param.name}`" if param.positional else f"`{param.name}=`"
        self.context.say("DM203", f"{self.what} lacks {shape}", head, self.scope,
                         expected=param.kind.value, help_=self._usage())

    def _usage(self) -> str:
        words = []
        for param in self.signature:
            shape = param.name.upper() + ("..." if param.repeated else "") if param.positional else param.name
            if not param.positional and param.kind is not Kind.FLAG:
                shape += "="
            words.append(shape if param.required else f"[{shape}]")
        return f"arguments: {' '.join(words)}" if words else "it has no arguments"

    def _named(self, arg: ast.Argument, key: ast.Word) -> None:
        param = self.signature.named(key.text)
        if param is None:
            names = [one.name for one in self.signature if one.kind is not Kind.FLAG]
            known = f"arguments with a name are {listed(names)}" if names else "it has no such arguments"
            self.context.say("DM202", f"{self.what} has no argument `{key.text}`", key.span, self.scope,
                             found=f"`{key.text}=`", help_=did_you_mean(key.text, names) or known)
            return
        if param.kind is Kind.FLAG:
            self.context.say("DM206", f"`{param.name}` is a bare word", arg.span, self.scope,
                             found=f"`{key.text}=`", expected=f"`{param.name}`")
            self.places[param.name] = arg.span
            self.values[param.key] = UNUSABLE
            return
        if self._is_new(param, arg.span):
            value = self._value(param, arg.value)
            self.values[param.key] = [value] if param.repeated else value

    def _is_new(self, param: Param, span: Span) -> bool:
        if param.name in self.places:
            self.context.say("DM205", f"`{param.name}` is given twice", span, self.scope)
            return False
        self.places[param.name] = span
        return True

    def _value(self, param: Param, expr: ast.Expression) -> Any:
        bound = self.scope.resolve(expr)
        return UNUSABLE if bound is None else self._bound_value(param, bound)

    def _bound_value(self, param: Param, bound: Bound) -> Any:
        return self.evaluator.value(param, bound, self.hints, sectors=self.sectors)

    def _positional(self, arg: ast.Argument) -> None:
        bound = self.scope.resolve(arg.value)
        if bound is not None and isinstance(bound.expr, ast.Word) and bound.expr.text in self.flags:
            param = self.signature.named(bound.expr.text)
            assert param is not None
            if self._is_new(param, arg.span):
                self.values[param.key] = True
            return
        param = self._next(bound)
        if param is None:
            self._too_many(arg, bound)
            return
        value = UNUSABLE if bound is None else self._bound_value(param, bound)
        self.places.setdefault(param.name, arg.span)
        if param.repeated:
            self.values.setdefault(param.key, []).append(value)
        else:
            self.values[param.key] = value

    def _next(self, bound: Bound | None) -> Param | None:
        """The parameter that a positional argument is for; a table may come without `table=`."""
        table = next((one for one in self.signature if one.kind is Kind.TABLE), None)
        is_table = bound is not None and isinstance(bound.expr, ast.Block | ast.Function)
        if table is not None and is_table and table.name not in self.places:
            return table
        for param in self.signature.positional:
            if param.repeated or param.name not in self.places:
                return param
        if table is not None and bound is not None and isinstance(bound.expr, ast.Text) \
                and table.name not in self.places:
            return table
        return None

    def _too_many(self, arg: ast.Argument, bound: Bound | None) -> None:
        if bound is None:
            return
        others = [param.name for param in self.signature if not param.positional]
        help_ = self._usage()
        if isinstance(bound.expr, ast.Word):
            meant = did_you_mean(bound.expr.text, others)
            help_ = meant or help_ + "; a new statement begins behind a newline or `;`"
        self.context.say("DM204", f"{self.what} takes no further argument here", arg.span, self.scope,
                         found=what_is(bound.expr), help_=help_)
        self.values["?"] = UNUSABLE


def _is_unusable(value: Any) -> bool:
    return value is UNUSABLE or (isinstance(value, list) and any(one is UNUSABLE for one in value))
