"""dm-linear: a range of another device (kernel: drivers/md/dm-linear.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import Bio
from ..block import BlockDevice
from ..errors import DmError
from ..signature import Kind, pos, signature
from ..task import Frame
from .base import REMAPPED, Target, TargetType, parse_number, smallest


class Linear(Target):
    """Every bio goes to the same place of another device, shifted."""

    num_discard_bios = 1
    discard_zeroes = True
    steady = True

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) != 2:
            raise DmError(errno.EINVAL, "Invalid argument count")
        self.offset = parse_number(argv[1], "Invalid device sector")
        self.device = self.get_device(argv[0], "Device lookup failed")
        self.shift = self.offset - self.begin
        return None

    def map(self, bio: Bio) -> int:
        bio.device = self.device
        bio.sector += self.shift
        return REMAPPED

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...]:
        return self.by_map(bio)

    def parameters(self) -> str:
        return f"{self.device.number} {self.offset}"

    def measurement(self) -> list[str]:
        return [f"device_name={self.device.number}", f"start={self.offset}"]

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        yield self.device, self.offset, self.length


def _params(args: dict[str, Any]) -> list[str]:
    name, offset_bytes = args["device"]
    return [name, str(offset_bytes // 512)]


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return smallest([(argv[0], int(argv[1]))], size_of)


LINEAR: Final = TargetType("linear", (1, 4, 0), signature(pos("device", Kind.DEVICE_AT)), _params,
                           "A range of another device.", Linear, _natural_length)
