"""From expressions to the plan's values, by the kind of argument that is due."""

from __future__ import annotations

import errno as _errno
import re
from collections.abc import Callable
from typing import Any, Final

from dmspec.compiler import ast
from dmspec.compiler.diagnostics import did_you_mean, listed
from dmspec.compiler.numbers import Wrong, number
from dmspec.compiler.scope import KEYWORDS, UNUSABLE, Bound, Context, Reference, Scope, statement_operations
from dmspec.compiler.source import Span
from dmspec.runtime.errors import errno_number
from dmspec.runtime.signature import Kind, Param
from dmspec.runtime.units import SECTOR_BYTES

MAX_NAME: Final = 127
# What block devices answer with, which is what is usually meant.
COMMON_ERRORS: Final = (
    "EIO", "ENXIO", "EINVAL", "EBUSY", "ENODEV", "ENOSPC", "EAGAIN", "ENODATA", "EILSEQ", "ETIMEDOUT",
    "EREMOTEIO", "EOPNOTSUPP", "ENOLINK", "ENOMEM", "EPERM",
)
ANY_LEG: Final = "any-leg"

_REFERRING: Final = frozenset({
    Kind.DEVICE, Kind.DISK, Kind.FILESYSTEM, Kind.TARGETABLE, Kind.PROCESS, Kind.LOCK,
})
_WHAT: Final = {
    ast.Word: "a word", ast.Template: "a name", ast.Quantity: "a number", ast.Text: "a text",
    ast.Range: "a range", ast.Located: "a device with an offset", ast.Joined: "joined operations",
    ast.Function: "a function", ast.Block: "a block",
}
TableOf = Callable[[ast.Block, Scope], "list[str] | Any"]


def what_is(expr: ast.Expression) -> str:
    """What an expression is, in words, with its text where that is short."""
    what = _WHAT[type(expr)]
    if isinstance(expr, ast.Block):
        return what
    text = expr.span.text
    return f"{what}, `{text}`" if len(text) <= 40 and "\n" not in text else what


class Evaluator:
    """Turns bound expressions into values, and reports those that do not fit.

    ``device_index`` is set while a declared device's table is read: its names have to be declared before.
    ``any_leg`` is set in properties, where a disk can be `any-leg`.  ``assumed`` are names that exist wherever
    the statement at hand runs, since a condition has asked for them.  ``trying`` counts the blocks around it in
    which an error is expected or allowed.
    """

    def __init__(self, context: Context, table_of: TableOf) -> None:
        self.context = context
        self.table_of = table_of
        self.device_index: int | None = None
        self.any_leg = False
        self.assumed: list[str] = []
        self.trying = 0

    def value(self, param: Param, bound: Bound, hints: tuple[str, ...] = (), *, sectors: bool = False) -> Any:
        """The plan's value of an argument, or UNUSABLE."""
        expr, scope = bound.expr, bound.scope
        kind = param.kind
        if kind in _REFERRING:
            return self._reference(param, expr, scope, hints)
        if kind is Kind.DEVICE_AT:
            return self._located(param, expr, scope, hints)
        if kind in (Kind.SIZE, Kind.DURATION, Kind.COUNT):
            return self._number(kind, expr, scope, sectors=sectors)
        return self._others(param, expr, scope)

    def _others(self, param: Param, expr: ast.Expression, scope: Scope) -> Any:
        kind = param.kind
        if kind is Kind.NEW_NAME:
            return self.new_name(expr, scope)
        if kind is Kind.RANGE:
            return self._range(expr, scope)
        if kind is Kind.ERRNO:
            return self.errno(expr, scope)
        if kind is Kind.WORD:
            return self._word(param, expr, scope)
        if kind is Kind.TEXT:
            return self._text(expr, scope)
        if kind is Kind.TABLE:
            return self._table(expr, scope)
        assert kind is Kind.POINT, kind
        return self.point(expr, scope)

    def mismatch(self, expr: ast.Expression, scope: Scope, expected: str, help_: str = "") -> Any:
        """Report a value of another kind than the one that is due."""
        due = re.split(r"[,:]", expected, maxsplit=1)[0] if ", such as" in expected or ": " in expected else expected
        self.context.say("DM206", f"{due} is due here", expr.span, scope,
                         found=what_is(expr), expected=expected, help_=help_)
        return UNUSABLE

    # ---- names

    def name(self, expr: ast.Expression, scope: Scope, expected: str) -> Any:
        """A plain name, with parameters put in; UNUSABLE for anything else."""
        if isinstance(expr, ast.Word):
            return expr.text
        if not isinstance(expr, ast.Template):
            return self.mismatch(expr, scope, expected)
        pieces = [expr.parts[0]]
        for parameter, literal in zip(expr.parts[1::2], expr.parts[2::2], strict=True):
            piece = self._inserted(parameter, expr, scope)
            if piece is UNUSABLE:
                return UNUSABLE
            pieces += [piece, literal]
        return "".join(pieces)

    def _inserted(self, parameter: str, expr: ast.Template, scope: Scope) -> Any:
        if parameter not in scope.params:
            self.context.say("DM111", f"`{parameter}` is no parameter here", expr.span, scope,
                             help_=did_you_mean(parameter, scope.params)
                             or "only inside a procedure a name can have parameters in it")
            return UNUSABLE
        bound = scope.resolve(ast.Word(parameter, expr.span))
        if bound is None:
            return UNUSABLE
        if not isinstance(bound.expr, ast.Word | ast.Template):
            self.context.say("DM111", f"`{parameter}` stands for {what_is(bound.expr)} here, no name",
                             expr.span, scope, found=what_is(bound.expr), expected="a name")
            return UNUSABLE
        return self.name(bound.expr, bound.scope, "a name")

    def _reference(self, param: Param, expr: ast.Expression, scope: Scope, hints: tuple[str, ...]) -> Any:
        name = self.name(expr, scope, param.kind.value)
        if name is UNUSABLE or name == param.default:
            return name
        if self.any_leg and name == ANY_LEG and param.kind is Kind.DISK:
            return name
        self.refer(name, param.kind, expr.span, scope, hints)
        return name

    def refer(self, name: str, kind: Kind, span: Span, scope: Scope, hints: tuple[str, ...] = ()) -> None:
        """Remember a name to be looked up, unless an `if exists(NAME)` around it vouches for it."""
        if name not in self.assumed:
            self.context.refer(Reference(name, kind, span, scope, hints, self.device_index))

    def _located(self, param: Param, expr: ast.Expression, scope: Scope, hints: tuple[str, ...]) -> Any:
        offset: Any = 0
        named: ast.Expression = expr
        inner = scope
        if isinstance(expr, ast.Located):
            bound = scope.resolve(expr.offset)
            offset = UNUSABLE if bound is None else self._number(
                Kind.SIZE, bound.expr, bound.scope, sectors=True)
            device = scope.resolve(expr.name)
            if device is None:
                return UNUSABLE
            named, inner = device.expr, device.scope
        name = self.name(named, inner, param.kind.value)
        if name is UNUSABLE:
            return UNUSABLE
        self.refer(name, Kind.DEVICE, named.span, inner, hints)
        return UNUSABLE if offset is UNUSABLE else [name, offset]

    def new_name(self, expr: ast.Expression, scope: Scope) -> Any:
        """A name that is given to something."""
        name = self.name(expr, scope, "a new name")
        if name is UNUSABLE or not self.acceptable(name, expr.span, scope):
            return UNUSABLE
        return name

    def acceptable(self, name: str, span: Span, scope: Scope) -> bool:
        """Whether a thing can have this name; says why not."""
        if len(name) > MAX_NAME or name in (".", ".."):
            self.context.say("DM109", f"a name of {len(name)} characters", span, scope,
                             expected=f"at most {MAX_NAME}")
            return False
        meaning = ""
        if name in KEYWORDS:
            meaning = "a word of the language"
        elif name in statement_operations():
            meaning = "an operation"
        elif name in scope.library.procedures:
            meaning = "a procedure"
        if meaning:
            self.context.say("DM103", f"`{name}` is {meaning}, and cannot name anything else", span, scope,
                             help_="choose another name")
        return not meaning

    # ---- numbers

    def _number(self, kind: Kind, expr: ast.Expression, scope: Scope, *, sectors: bool) -> Any:
        if not isinstance(expr, ast.Quantity):
            return self.mismatch(expr, scope, kind.value)
        result = number(expr.text, kind)
        if isinstance(result, Wrong):
            self.context.say(result.code, result.message, expr.span, scope,
                             expected=result.expected, help_=result.help)
            return UNUSABLE
        if sectors and kind is Kind.SIZE and not self.whole_sectors(result, expr.span, scope):
            return UNUSABLE
        return result

    def whole_sectors(self, size: int, span: Span, scope: Scope) -> bool:
        """Whether a size is a multiple of a sector; says so if not."""
        rest = size % SECTOR_BYTES
        if rest:
            lower = size - rest
            near_by = f"{lower} or {lower + SECTOR_BYTES}" if lower else str(SECTOR_BYTES)
            self.context.say("DM209", f"{size} bytes are no whole sectors", span, scope,
                             expected="a multiple of 512 bytes", help_=f"for instance {near_by}")
        return not rest

    def _range(self, expr: ast.Expression, scope: Scope) -> Any:
        if not isinstance(expr, ast.Range):
            return self.mismatch(expr, scope, Kind.RANGE.value)
        offset = self._number(Kind.SIZE, expr.offset, scope, sectors=False)
        length = self._number(Kind.SIZE, expr.length, scope, sectors=False)
        if UNUSABLE in (offset, length):
            return UNUSABLE
        if length == 0:
            return self.mismatch(expr.length, scope, "a length above 0")
        return [offset, length]

    # ---- words and texts

    def errno(self, expr: ast.Expression, scope: Scope) -> Any:
        """An error's name."""
        if not isinstance(expr, ast.Word):
            return self.mismatch(expr, scope, Kind.ERRNO.value)
        if errno_number(expr.text) is None or not expr.text.startswith("E"):
            self.context.say("DM207", f"`{expr.text}` is no error's name", expr.span, scope,
                             expected=Kind.ERRNO.value,
                             help_=did_you_mean(expr.text, COMMON_ERRORS)
                             or did_you_mean(expr.text, _errno.errorcode.values()))
            return UNUSABLE
        return expr.text

    def _word(self, param: Param, expr: ast.Expression, scope: Scope) -> Any:
        expected = listed(param.choices, "or") if param.choices else param.kind.value
        if not isinstance(expr, ast.Word | ast.Template):
            return self.mismatch(expr, scope, expected)
        word = self.name(expr, scope, expected)
        if word is not UNUSABLE and param.choices and word not in param.choices:
            self.context.say("DM207", f"`{word}` is not one of the choices for `{param.name}`", expr.span, scope,
                             found=f"`{word}`", expected=expected, help_=did_you_mean(word, param.choices))
            return UNUSABLE
        return word

    def _text(self, expr: ast.Expression, scope: Scope) -> Any:
        if isinstance(expr, ast.Text):
            return expr.value
        if isinstance(expr, ast.Word | ast.Template):
            return self.name(expr, scope, Kind.TEXT.value)
        return self.mismatch(expr, scope, Kind.TEXT.value)

    # ---- tables and points

    def _table(self, expr: ast.Expression, scope: Scope) -> Any:
        if isinstance(expr, ast.Block):
            return self.table_of(expr, scope)
        if isinstance(expr, ast.Text):
            return self.table_of(ast.Block((ast.Raw(expr, expr.span),), expr.span), scope)
        if isinstance(expr, ast.Function) and expr.name.text == "table-of" and len(expr.args) == 1:
            bound = scope.resolve(expr.args[0])
            if bound is None:
                return UNUSABLE
            name = self.name(bound.expr, bound.scope, "a device")
            if name is UNUSABLE:
                return UNUSABLE
            self.refer(name, Kind.DEVICE, expr.args[0].span, scope)
            return {"table_of": name}
        help_ = ""
        if isinstance(expr, ast.Function):
            help_ = did_you_mean(expr.name.text, ["table-of"])
        return self.mismatch(expr, scope, Kind.TABLE.value, help_)

    def point(self, expr: ast.Expression, scope: Scope) -> Any:
        """A point at which a fault strikes."""
        if isinstance(expr, ast.Word) and expr.text in ("any", "start"):
            return {expr.text: True}
        if isinstance(expr, ast.Word):
            self.context.say("DM207", f"`{expr.text}` is no point", expr.span, scope, found=f"`{expr.text}`",
                             expected=Kind.POINT.value, help_=did_you_mean(expr.text, ["any", "start"]))
            return UNUSABLE
        if not isinstance(expr, ast.Quantity):
            return self.mismatch(expr, scope, Kind.POINT.value)
        kind, key = (Kind.COUNT, "step") if expr.text.isdigit() else (Kind.DURATION, "time_ns")
        value = self._number(kind, expr, scope, sectors=False)
        return UNUSABLE if value is UNUSABLE else {key: value}
