"""dm-error: every I/O fails (kernel: drivers/md/dm-target.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..bio import Bio
from ..block import BlockDevice
from ..signature import signature
from ..task import Frame
from .base import KILL, Target, TargetType, parse_number


class ErrorTarget(Target):
    """It takes any words; later kernels have exactly two of them name a device, whose limits it takes over."""

    num_flush_bios = 0
    num_discard_bios = 1

    def construct(self, argv: list[str]) -> Frame | None:
        self.device: BlockDevice | None = None
        self.offset = 0
        if len(argv) == 2 and self.stack.era.error_takes_device:
            self.offset = parse_number(argv[1], "Invalid device sector")
            self.device = self.get_device(argv[0], "Device lookup failed")
        return None

    def map(self, bio: Bio) -> int:
        del bio
        return KILL

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        if self.device is not None:
            yield self.device, self.offset, self.length


def _params(args: dict[str, Any]) -> list[str]:
    del args
    return []


ERROR: Final = TargetType("error", (1, 5, 0), signature(), _params, "Every I/O fails.", ErrorTarget, wildcard=True)
