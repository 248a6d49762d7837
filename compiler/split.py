"""Several statements in one line.

``read a  read b`` parses as one statement, for the grammar knows no operation by name.  Here, the registry's
word decides: once a statement has what it needs, a bare word that is an operation's or a procedure's name
begins the next one.
"""

from __future__ import annotations

from collections.abc import Callable

from dmspec.compiler import ast
from dmspec.compiler.scope import Scope
from dmspec.compiler.source import Span
from dmspec.runtime.signature import Kind, Signature

Required = tuple[str, ...]
Lookup = Callable[[str], Required | None]


def required_names(signature: Signature) -> Required:
    """The names of what a call cannot do without."""
    return tuple(param.name for param in signature if param.required and param.kind is not Kind.FLAG)


def cut(args: tuple[ast.Argument, ...], required: Required, lookup: Lookup,
        scope: Scope) -> tuple[tuple[ast.Argument, ...], ast.Call | None]:
    """The arguments that belong to a call, and the call that begins behind them."""
    end = _end(args, 0, required, lookup, scope)
    if end == len(args):
        return args, None
    head = args[end].value
    assert isinstance(head, ast.Word | ast.Joined)
    return args[:end], ast.Call(head, args[end + 1 :], _span(head, args[end + 1 :]))


def split(call: ast.Call, required: Required, lookup: Lookup, scope: Scope) -> list[ast.Call]:
    """The calls that one statement consists of; all but the last end where the next one begins."""
    calls: list[ast.Call] = []
    head, start, needs = call.head, 0, required
    while True:
        end = _end(call.args, start, needs, lookup, scope)
        args = call.args[start:end]
        calls.append(ast.Call(head, args, _span(head, args)))
        if end == len(call.args):
            return calls
        next_head = call.args[end].value
        assert isinstance(next_head, ast.Word | ast.Joined)
        head, start = next_head, end + 1
        needs = () if isinstance(head, ast.Joined) else lookup(head.text) or ()


def _end(args: tuple[ast.Argument, ...], start: int, required: Required, lookup: Lookup, scope: Scope) -> int:
    """Where the arguments end that belong to a call: at the head of the next one, or at the end of all."""
    missing = set(required)
    due = len(required)
    for index in range(start, len(args)):
        arg = args[index]
        if arg.key is None:
            if due <= 0 and _is_head(arg.value, lookup, scope):
                return index
            due -= 1
        elif arg.key.text in missing:
            missing.remove(arg.key.text)
            due -= 1
    return len(args)


def _span(head: ast.Word | ast.Joined, args: tuple[ast.Argument, ...]) -> Span:
    return head.span.to(args[-1].span) if args else head.span


def _is_head(value: ast.Expression, lookup: Lookup, scope: Scope) -> bool:
    if isinstance(value, ast.Joined):
        return True
    return isinstance(value, ast.Word) and value.text not in scope.params and lookup(value.text) is not None
