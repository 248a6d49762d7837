"""dm-zero: reads zeros, forgets writes (kernel: drivers/md/dm-zero.c)."""

from __future__ import annotations

import errno
from typing import Any, Final

from ..bio import Bio, Op
from ..errors import DmError
from ..signature import signature
from ..task import Frame
from .base import KILL, SUBMITTED, Target, TargetType


class Zero(Target):
    """Flushes are not sent to it; a discard is a success."""

    num_flush_bios = 0
    num_discard_bios = 1
    discard_zeroes = True

    def construct(self, argv: list[str]) -> Frame | None:
        if argv:
            raise DmError(errno.EINVAL, "No arguments required")
        return None

    def map(self, bio: Bio) -> int:
        if bio.op is Op.READ:
            if bio.readahead:
                return KILL
            bio.view()[:] = bytes(bio.bytes)
        bio.complete(0)
        return SUBMITTED


def _params(args: dict[str, Any]) -> list[str]:
    del args
    return []


ZERO: Final = TargetType("zero", (1, 1, 0), signature(), _params, "Reads zeros, forgets writes.", Zero)
