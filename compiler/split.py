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
    keyed = {arg.key.text for arg in args if arg.key is not None}
    due = sum(1 for name in required if name not in keyed)
    for index, arg in enumerate(args):
        if arg.key is None:
            head = _new_head(arg.value, lookup, scope)
            if head is not None and due <= 0:
                return args[:index], ast.Call(head, args[index + 1 :], _span(head, args[index + 1 :]))
            due -= 1
    return args, None


def split(call: ast.Call, required: Required, lookup: Lookup, scope: Scope) -> list[ast.Call]:
    """The calls that one statement consists of; all but the last end where the next one begins."""
    calls: list[ast.Call] = []
    rest: ast.Call | None = call
    needs = required
    while rest is not None:
        head = rest.head
        args, following = cut(rest.args, needs, lookup, scope)
        calls.append(ast.Call(head, args, _span(head, args)))
        rest = following
        if following is not None:
            needs = () if isinstance(following.head, ast.Joined) else lookup(following.head.text) or ()
    return calls


def _span(head: ast.Word | ast.Joined, args: tuple[ast.Argument, ...]) -> Span:
    return head.span.to(args[-1].span) if args else head.span


def _new_head(value: ast.Expression, lookup: Lookup, scope: Scope) -> ast.Word | ast.Joined | None:
    if isinstance(value, ast.Joined):
        return value
    if isinstance(value, ast.Word) and value.text not in scope.params and lookup(value.text) is not None:
        return value
    return None
