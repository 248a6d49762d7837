"""Sizes, times and numbers: from their text to a whole number, or to the reason why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dmspec.runtime.signature import Kind
from dmspec.runtime.units import GIB, KIB, MIB, SECTOR_BYTES, TIB

LIMIT: Final = 2**63

_SIZE_UNITS: Final = {"": 1, "B": 1, "s": SECTOR_BYTES, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_TIME_UNITS: Final = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_UNITS: Final[Mapping[Kind, Mapping[str, int]]] = {
    Kind.SIZE: _SIZE_UNITS, Kind.DURATION: _TIME_UNITS, Kind.COUNT: {"": 1},
}
_WHAT: Final = {Kind.SIZE: "a size", Kind.DURATION: "a time", Kind.COUNT: "a whole number"}
_LIKE: Final = {
    "k": "KiB", "kb": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB", "mib": "MiB", "g": "GiB", "gb": "GiB",
    "gib": "GiB", "t": "TiB", "tb": "TiB", "tib": "TiB", "b": "B", "bytes": "B", "sectors": "s", "sector": "s",
    "sec": "s", "second": "s", "seconds": "s", "msec": "ms", "usec": "us", "nsec": "ns",
}


@dataclass(frozen=True, slots=True)
class Wrong:
    """Why a text is no number of the wanted kind: a code, a message, what was expected, and help."""

    code: str
    message: str
    expected: str
    help: str = ""


def number(text: str, kind: Kind) -> int | Wrong:
    """A size in bytes, a time in nanoseconds, or a count."""
    what, units = _WHAT[kind], _UNITS[kind]
    wanted = f"{what}, such as " + {Kind.SIZE: "64KiB", Kind.DURATION: "5ms", Kind.COUNT: "3"}[kind]
    match = re.fullmatch(r"([0-9]+)((?:\.[0-9]+)*)([A-Za-z_][A-Za-z0-9_]*)?", text)
    if match is None:
        return Wrong("DM208", f"`{_short(text)}` is not {what}", wanted)
    digits, point, unit = match[1], match[2], match[3] or ""
    if point:
        return Wrong("DM208", f"`{_short(text)}` is not a whole number", wanted, _without_point(text, kind))
    if unit not in units:
        if unit == "" and int(digits[:20]) == 0:
            return 0
        return Wrong("DM208", _no_unit(text, unit, what), wanted, _unit_help(digits, unit, units))
    if len(digits.lstrip("0")) > 19 or int(digits.lstrip("0") or "0") * units[unit] >= LIMIT:
        return Wrong("DM210", f"`{_short(text)}` is too large", f"{what} below 2^63"
                     + {Kind.SIZE: " bytes", Kind.DURATION: "ns", Kind.COUNT: ""}[kind])
    return int(digits) * units[unit]


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _no_unit(text: str, unit: str, what: str) -> str:
    if not unit:
        return f"`{_short(text)}` is {what} without a unit"
    return f"`{_short(unit)}` is no unit of {what}"


def _unit_help(digits: str, unit: str, units: Mapping[str, int]) -> str:
    like = _LIKE.get(unit.lower(), "")
    if like in units and like:
        return f"did you mean `{_short(digits)}{like}`?"
    known = [f"`{name}`" for name in units if name]
    return "units are " + ", ".join(known) if known else "it has no unit"


def _without_point(text: str, kind: Kind) -> str:
    """1.5GiB is 1536MiB: say so where it comes out even."""
    match = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,6})([A-Za-z]+)", text)
    smaller = {"TiB": "GiB", "GiB": "MiB", "MiB": "KiB", "KiB": "B", "s": "ms", "ms": "us", "us": "ns"}
    units = _UNITS[kind]
    if match is None or match[3] not in units or match[3] not in smaller or smaller[match[3]] not in units:
        return ""
    factor = units[match[3]] // units[smaller[match[3]]]
    scale = 10 ** len(match[2])
    amount = int(match[1] + match[2]) * factor
    return f"did you mean `{amount // scale}{smaller[match[3]]}`?" if amount % scale == 0 else ""
