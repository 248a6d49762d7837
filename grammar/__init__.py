"""The grammar, as Lark reads it, and the one place that makes a parser of it."""

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lark import Lark

START: Final = ("file", "statements")


def text() -> str:
    """The grammar's text."""
    return files("dmspec.grammar").joinpath("dm.lark").read_text(encoding="utf-8")


@cache
def parser() -> "Lark":
    """The parser, made once a process: making it takes longer than parsing most specs.

    LALR with a contextual lexer, so that a word is a keyword only where one can stand.
    """
    from lark import Lark

    return Lark(text(), parser="lalr", start=list(START), propagate_positions=True, maybe_placeholders=False)
