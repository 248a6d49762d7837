"""Units: a sector is 512 bytes everywhere, as in the kernel; time is in nanoseconds."""

from __future__ import annotations

from typing import Final

SECTOR_BYTES: Final = 512
SECTOR_SHIFT: Final = 9

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000


def bytes_text(count: int) -> str:
    """A size as a spec writes it: ``bytes_text(65536) == "64KiB"``."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def duration_text(ns: int) -> str:
    """A duration as a spec writes it: ``duration_text(5_000_000) == "5ms"``."""
    for unit, name in ((NS_PER_S, "s"), (NS_PER_MS, "ms"), (1000, "us")):
        if ns and ns % unit == 0:
            return f"{ns // unit}{name}"
    return f"{ns}ns"
