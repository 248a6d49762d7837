"""Syntax errors in words: what was found, what could have been there, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from lark import Token, UnexpectedInput, UnexpectedToken

from dmspec import grammar
from dmspec.compiler.diagnostics import Diagnostic, near
from dmspec.compiler.source import Source, Span

_WORDS: Final = {
    "NAME": "a name", "KEY": "an argument", "TEXT": 'a text in "quotes"', "QUANTITY": "a number",
    "DECIMAL": "", "TEMPLATE": "", "_NL": "the end of the line", "SEMICOLON": "", "$END": "",
}
_STATEMENT: Final = frozenset({"WITH", "PARALLEL", "CHOOSE", "REPEAT", "IF", "AWAIT"})
_STATEMENT_WORDS: Final = _STATEMENT | {"EXPECT", "ALLOW", "OR", "ELSE"}
_HINTS: Final = {
    "'": 'texts stand in "double quotes"',
    "/": "`#` begins a comment",
    "-": "numbers are not negative here",
    ",": "arguments are separated by spaces; commas are for parentheses",
    ":": "an argument with a name is written `name=value`",
    "=": "an argument with a name is written `name=value`",
    "[": "blocks stand in `{ }`",
    "]": "blocks stand in `{ }`",
}


def explain(error: UnexpectedInput, source: Source, place: int) -> Diagnostic:
    """A parser's error as a diagnostic at ``place``."""
    if not isinstance(error, UnexpectedToken):
        return _strange_character(source, place)
    token = error.token
    accepted = {str(name) for name in error.accepts or error.expected}
    found, length = _found(token, source, place)
    if token.type == "_NL":
        place = _end_of_words(source.text, place)
    span = Span(source, place, place + length)
    keywords = {_pattern(name) for name in accepted}
    meant = near(str(token), {word for word in keywords if word.isalpha()}) if token.type == "NAME" else ""
    help_ = f"did you mean `{meant}`?" if meant else _HINTS.get(str(token), "")
    return Diagnostic("DM006", f"{found} cannot stand here", span, found=found,
                      expected=expectation(accepted), help=help_)


def _end_of_words(text: str, end: int) -> int:
    """Where the words of a line end that ends at ``end``: before a comment and the blanks around it."""
    start = text.rfind("\n", 0, end) + 1
    words = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^"#])*').match(text, start, end)
    assert words is not None
    return start + len(words[0].rstrip()) if words[0].strip() else end


def _strange_character(source: Source, place: int) -> Diagnostic:
    char = source.text[place : place + 1]
    if not char:
        return Diagnostic("DM006", "the file ends too early", Span(source, place, place))
    if char.isascii():
        message, help_ = f"`{char}` cannot stand here", _HINTS.get(char, "")
    else:
        message = f"`{char}` (U+{ord(char):04X}) cannot stand here"
        help_ = "names are made of A-Z, a-z, 0-9, `_`, `-` and `.`; any character may stand in a text or comment"
    return Diagnostic("DM006", message, Span(source, place, place + 1), found=f"`{char}`", help=help_)


def _found(token: Token, source: Source, place: int) -> tuple[str, int]:
    if token.type == "$END" or place >= len(source.text):
        return "the end of the file", 0
    if token.type == "_NL":
        return "the end of the line", 0
    text = str(token)
    shown = text if len(text) <= 40 else text[:37] + "..."
    return (shown if token.type == "TEXT" else f"`{shown}`"), len(text)


def expectation(accepted: Iterable[str]) -> str:
    """What the parser would accept, in words: "a name, `{` or the end of the line"."""
    names = set(accepted)
    words: list[str] = []
    if names >= _STATEMENT:
        if "_NL" in names and "KEY" in names:
            words.append("an argument")
            names -= {"NAME", "KEY", "TEXT", "QUANTITY"}
        elif "_NL" in names:
            words.append("a statement")
            names -= {"NAME", "TEXT", "QUANTITY", "_NL"}
        names -= _STATEMENT_WORDS
    names -= {"EXPECT"} if {"ALWAYS", "RUN"} <= names else set()
    if {"NAME", "KEY"} <= names:
        words.append("an argument")
        names -= {"NAME", "KEY", "TEXT", "QUANTITY"}
    for name in sorted(names, key=_order):
        word = _WORDS[name] if name in _WORDS else f"`{_pattern(name)}`"
        if word and word not in words:
            words.append(word)
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + f" or {words[-1]}"


def _order(name: str) -> tuple[int, str]:
    ranks = {"NAME": 0, "TEXT": 1, "QUANTITY": 1, "KEY": 2, "LBRACE": 8, "RBRACE": 9, "_NL": 10}
    return ranks.get(name, 5), name


def _pattern(terminal: str) -> str:
    """A terminal's own text, if it is one; `WITH` is `with`."""
    if terminal in _WORDS:
        return ""
    try:
        return str(grammar.parser().get_terminal(terminal).pattern.value)
    except KeyError:
        return terminal.lower()
