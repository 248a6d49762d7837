"""What the kernel would say to a table: its constructors are asked, on nothing but names and sizes."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from dmspec.runtime.dryrun import check_table
from dmspec.runtime.eras import Era
from dmspec.runtime.errors import errno_name
from dmspec.runtime.registry import TARGETS


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line of the table, from 0, the kernel's words for what is wrong with it, and the error's name."""

    line: int
    message: str
    errno: str


def kernel_says(lines: list[str], sizes: Mapping[str, int | None], era: Era,
                own_name: str) -> tuple[list[Refusal], int | None]:
    """Why the kernel would refuse a table, and the device's size in sectors where that is known.

    Some constructors do I/O (a snapshot reads its COW device).  On a device of unknown size that fails here,
    which says nothing of the real one.
    """
    named = {word: sizes[word] for line in lines for word in line.split() if word in sizes}
    said = check_table(lines, named, era, own_name)
    unknown = {name for name, size in named.items() if size is None}
    refusals = [Refusal(line, message, errno_name(error)) for line, message, error in said
                if not (unknown.intersection(lines[line].split()) and _may_be_wrong(lines[line], message, error))]
    return refusals, _size(lines, sizes)


def _may_be_wrong(line: str, message: str, error: int) -> bool:
    """Whether a refusal may be due to a size that is only assumed here."""
    return error == errno.EIO or (line.split()[1:2] == ["*"] and "too small" in message)


def natural_length(target: str, params: list[str], sizes: Mapping[str, int | None]) -> int | None:
    """How long a segment is whose length was left out, where that can be known."""
    try:
        return TARGETS[target].natural_length(params, sizes.get)
    except (KeyError, ValueError, IndexError):  # parameters that the target's constructor refuses
        return None


def _size(lines: list[str], sizes: Mapping[str, int | None]) -> int | None:
    """Where a table ends: its last line says so, or leaves it to the devices below."""
    words = lines[-1].split()
    if len(words) > 2 and words[1] == "*" and words[2] in TARGETS:
        return natural_length(words[2], words[3:], sizes)
    if len(words) < 2 or not all(word.isascii() and word.isdigit() and len(word) < 20 for word in words[:2]):
        return None
    return int(words[0]) + int(words[1])
