"""Selections (`-S`): comparisons of columns, joined with `&&` or `,`, `||` or `#`, `!` and parentheses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmspec.dmsetup.report_fields import Field, Row

_TOKEN: Final = re.compile(r"""\s*(?:(?P<mark>&&|\|\||[(),#!](?![=~]))
    |(?P<name>[A-Za-z_?]+)\s*(?P<compare>=~|!~|!=|>=|<=|=|>|<)\s*
     (?P<value>"[^"]*"|'[^']*'|\{[^}]*\}|[^\s&|,#()]+)?)""", re.VERBOSE)
_DEEPEST: Final = 100

Test = Callable[["Row"], bool]


class SelectionError(Exception):
    """The selection cannot be understood: why, and from where on (nothing: that is not said).

    ``lists`` says what is listed first: the columns, or also what a selection is made of.
    """

    def __init__(self, rest: str | None, why: str = "", *, lists: str = "") -> None:
        super().__init__(why)
        self.rest = rest
        self.lists = lists


class Selection:
    """A selection, ready to be asked about rows."""

    def __init__(self, text: str, find: Callable[[str], Field | None]) -> None:
        self.text = text
        self.find = find
        self.tokens: list[re.Match[str]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._misread(text[position:].strip())
            self.tokens.append(match)
            position = match.end()
        self.position = 0
        self.matches = self._any(0) if self.tokens else lambda _row: True
        if self.position < len(self.tokens):
            raise SelectionError(self._rest(), "Expecting logical operator")

    @staticmethod
    def _misread(rest: str) -> SelectionError:
        name = re.match(r"[A-Za-z_]+\s*", rest)
        if name is None:
            return SelectionError(rest, "Expecting field name")
        return SelectionError(rest, f"Unrecognised comparison operator: {rest[name.end():]}", lists="operators")

    def _rest(self) -> str:
        at = self.tokens[self.position].start() if self.position < len(self.tokens) else len(self.text)
        return self.text[at:].strip()

    def _mark(self, *marks: str) -> bool:
        if self.position < len(self.tokens) and self.tokens[self.position]["mark"] in marks:
            self.position += 1
            return True
        return False

    def _any(self, depth: int) -> Test:
        tests = [self._all(depth)]
        while self._mark("||", "#"):
            tests.append(self._all(depth))
        return lambda row: any(test(row) for test in tests)

    def _all(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while self._mark("&&", ","):
            tests.append(self._one(depth))
        return lambda row: all(test(row) for test in tests)

    def _one(self, depth: int) -> Test:
        if depth > _DEEPEST:
            raise SelectionError(self._rest(), "Selection is nested too deeply.")
        if self._mark("!"):
            test = self._one(depth + 1)
            return lambda row: not test(row)
        if self._mark("("):
            test = self._any(depth + 1)
            if not self._mark(")"):
                raise SelectionError(None, f"Syntax error: right parenthesis expected at '{self._rest()}'")
            return test
        if self.position >= len(self.tokens) or self.tokens[self.position]["name"] is None:
            raise SelectionError(self._rest(), "Expecting field name")
        token = self.tokens[self.position]
        self.position += 1
        rest = self.text[token.start():].strip()
        return self._comparison(token["name"], token["compare"], token["value"] or "", rest)

    def _comparison(self, name: str, compare: str, value: str, rest: str) -> Test:
        column = self.find(name)
        if column is None:
            raise SelectionError(rest, f"Unrecognised selection field: {name}", lists="columns")
        if len(value) > 1 and value[0] in "\"'{":
            value = value[1:-1]
        if compare in ("=~", "!~"):
            if column.numeric:
                raise SelectionError(None, f"dm_report: incompatible comparison type for selection field {name}")
            if value[:1] in ("[", "{", "(", "'", '"'):
                raise SelectionError(rest, "Missing end quote.\n"
                                           f"Failed to parse regex value for selection field {name}.")
            try:
                pattern = re.compile(value)
            except re.error:
                raise SelectionError(rest, f"dm_report: failed to create matcher for regex {value}.") from None
            return lambda row: bool(pattern.search(column.value(row))) == (compare == "=~")
        if column.numeric:
            if not value.isascii() or not value.isdigit():
                raise SelectionError(rest, f"Failed to parse numeric value for selection field {name}.")
            return _numbers(column, compare, int(value[:30]))
        if compare not in ("=", "!="):
            raise SelectionError(rest, "Operator can be used only with number, size, time or percent fields: " + rest,
                                 lists="operators")
        return lambda row: (column.value(row) == value) == (compare == "=")


def _numbers(column: Field, compare: str, value: int) -> Test:
    tests: dict[str, Callable[[int], bool]] = {
        "=": lambda number: number == value, "!=": lambda number: number != value,
        ">": lambda number: number > value, "<": lambda number: number < value,
        ">=": lambda number: number >= value, "<=": lambda number: number <= value,
    }
    test = tests[compare]
    return lambda row: test(int(column.value(row)))
