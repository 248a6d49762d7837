"""snapshot (kernel: drivers/md/dm-snap.c)."""

from __future__ import annotations

from typing import Any, Final

from ..signature import Kind, flag, opt, pos, signature
from .base import TargetType


def _params(args: dict[str, Any]) -> list[str]:
    features = [word for word in ("discard_zeroes_cow", "discard_passdown_origin") if args[word]]
    words = [args["origin"], args["cow"], args["store"], str(args["chunk"] // 512)]
    return words + ([str(len(features)), *features] if features else [])


SNAPSHOT: Final = TargetType(
    "snapshot", (1, 16, 0),
    signature(
        pos("origin", Kind.DEVICE), pos("cow", Kind.DEVICE),
        pos("store", Kind.WORD, default="P", choices=("P", "PO", "N")), opt("chunk", Kind.SIZE, 4096),
        flag("discard_zeroes_cow"), flag("discard_passdown_origin"),
    ), _params, "A device as it was, with its changes on another one.")
