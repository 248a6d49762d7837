"""What the kernel would say to a table: its constructors are asked, on nothing but names and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from dmspec.runtime.eras import Era
from dmspec.runtime.errors import errno_name
from dmspec.runtime.registry import TARGETS

_CheckTable = Callable[[list[str], Mapping[str, "int | None"], Era, str], list[tuple[int, str, int]]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line of the table, from 0, the kernel's words for what is wrong with it, and the error's name."""

    line: int
    message: str
    errno: str


def kernel_says(lines: list[str], sizes: Mapping[str, int | None], era: Era,
                own_name: str) -> tuple[list[Refusal], int | None]:
    """Why the kernel would refuse a table, and else the device's size in sectors where that is known."""
    check_table = _check_table()
    said = [] if check_table is None else check_table(lines, sizes, era, own_name)
    return [Refusal(line, message, errno_name(abs(errno))) for line, message, errno in said], _size(lines, sizes)


def _check_table() -> _CheckTable | None:
    try:
        module = import_module("dmspec.runtime.dryrun")
    except ModuleNotFoundError:
        return None
    return cast(_CheckTable, module.check_table)


def _size(lines: list[str], sizes: Mapping[str, int | None]) -> int | None:
    """Where a table ends: its last line says so, or leaves it to the devices below."""
    words = lines[-1].split()
    if len(words) > 2 and words[1] == "*" and words[2] in TARGETS:
        return TARGETS[words[2]].natural_length(words[3:], sizes.get)
    if len(words) < 2 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in words[:2]):
        return None
    return int(words[0]) + int(words[1])
