"""snapshot-origin (kernel: drivers/md/dm-snap.c)."""

from __future__ import annotations

from typing import Any, Final

from ..signature import Kind, pos, signature
from .base import TargetType


def _params(args: dict[str, Any]) -> list[str]:
    return [args["origin"]]


SNAPSHOT_ORIGIN: Final = TargetType("snapshot-origin", (1, 9, 0), signature(pos("origin", Kind.DEVICE)),
                                    _params, "A device that has snapshots.")
