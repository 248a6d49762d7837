"""Arguments as data: what a target's short form, an operation, a fault, a check or a condition takes.

The compiler checks and converts arguments by these tables, so a new target or operation costs no
grammar and no compiler code.  In a spec an argument is positional (``write vol``), named
(``size=4KiB``) or a bare word (``handle_errors``), which is a :attr:`Kind.FLAG`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final


class Kind(enum.Enum):
    """What an argument is, and how the plan carries it (in brackets)."""

    DEVICE = "a device or disk"                       # [str]
    NEW_NAME = "a new name"                           # [str]
    DEVICE_AT = "a device, with @offset"              # [[str, offset_bytes]]
    DISK = "a disk"                                   # [str]
    FILESYSTEM = "a filesystem"                       # [str]
    TARGETABLE = "a device, disk or filesystem"       # [str]
    PROCESS = "a process"                             # [str]
    LOCK = "a lock"                                   # [str]
    SIZE = "a size, such as 64KiB"                    # [int, bytes]
    RANGE = "a range, such as 1MiB+64KiB"             # [[offset_bytes, length_bytes]]
    COUNT = "a whole number"                          # [int]
    DURATION = "a time, such as 5ms"                  # [int, ns]
    ERRNO = "an error name, such as EIO"              # [str]
    WORD = "a word"                                   # [str]
    TEXT = "a quoted text"                            # [str]
    TABLE = "a table: { ... }, \"...\" or table-of(device)"   # [list[str] | {"table_of": str}]
    POINT = "a point: any, start, a time, or a step"  # [{"any"|"start"|"time_ns"|"step": ...}]
    FLAG = "a bare word"                              # [True]


class _Required(enum.Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Param:
    """One argument.  ``name`` is also its key in the plan, with ``-`` as ``_``."""

    name: str
    kind: Kind
    default: Any = REQUIRED
    positional: bool = False
    repeated: bool = False
    choices: tuple[str, ...] = ()
    doc: str = ""

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Signature:
    """All arguments of one registered thing, positional ones first and in order."""

    params: tuple[Param, ...] = ()

    def __iter__(self) -> Iterator[Param]:
        return iter(self.params)

    @property
    def positional(self) -> tuple[Param, ...]:
        return tuple(p for p in self.params if p.positional)

    def named(self, name: str) -> Param | None:
        for param in self.params:
            if param.name == name:
                return param
        return None


def signature(*params: Param) -> Signature:
    """``signature(pos(...), opt(...), flag(...))``."""
    return Signature(params)


def pos(name: str, kind: Kind, *, default: Any = REQUIRED, repeated: bool = False,
        choices: tuple[str, ...] = (), doc: str = "") -> Param:
    """A positional argument; a ``repeated`` one takes all that follow and is a list."""
    return Param(name, kind, default, True, repeated, choices, doc)


def opt(name: str, kind: Kind, default: Any = None, *, choices: tuple[str, ...] = (), doc: str = "") -> Param:
    """A named argument with a default (``None``: absent)."""
    return Param(name, kind, default, False, False, choices, doc)


def flag(name: str, doc: str = "") -> Param:
    """A bare word; ``False`` when absent."""
    return Param(name, Kind.FLAG, False, False, False, (), doc)
