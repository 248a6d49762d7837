"""dm-stripe (kernel: drivers/md/dm-stripe.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..frames import WaitForWork
from ..signature import Kind, opt, pos, signature
from ..task import DONE, Frame, Outcome, Task, Work
from .base import REMAPPED, SUBMITTED, Target, TargetType, parse_number, parse_u32, smallest

# The kernel stops raising events for a stripe after this many errors (DM_IO_ERROR_THRESHOLD).
ERROR_THRESHOLD: Final = 15


class TriggerEvent(Frame):
    """Raising an event has a work item of its own, so the errors of one I/O are mostly one event."""

    def __init__(self, striped: Striped) -> None:
        self.striped = striped

    def start(self, task: Task) -> Outcome:
        """Raise it."""
        del task
        self.striped.table.event()
        return DONE


class Striped(Target):
    """Chunk ``c`` of the target lies on stripe ``c % n``."""

    has_end_io = True
    discard_zeroes = True

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) < 2:
            raise DmError(errno.EINVAL, "Not enough arguments")
        count = parse_u32(argv[0], "Invalid stripe count")
        if not count:
            raise DmError(errno.EINVAL, "Invalid stripe count")
        chunk = parse_u32(argv[1], "Invalid chunk_size")
        if not chunk:
            raise DmError(errno.EINVAL, "Invalid chunk_size")
        if self.length % count:
            raise DmError(errno.EINVAL, "Target length not divisible by number of stripes")
        if self.length // count % chunk:
            raise DmError(errno.EINVAL, "Target length not divisible by chunk size")
        if len(argv) != 2 + 2 * count:
            raise DmError(errno.EINVAL, "Not enough destinations specified")
        self.chunk_sectors = self.max_io_sectors = chunk
        self.stripes: list[tuple[BlockDevice, int]] = []
        for index in range(count):
            reason = "Couldn't parse stripe destination"
            offset = parse_number(argv[3 + 2 * index], reason)
            self.stripes.append((self.get_device(argv[2 + 2 * index], reason), offset))
        self.error_counts = [0] * count
        self.trigger = Work(self.stack.engine, f"stripe event {self.table.md.name}", TriggerEvent(self))
        self.num_flush_bios = self.num_discard_bios = count
        return None

    def map(self, bio: Bio) -> int:
        if bio.op is Op.FLUSH:
            bio.device = self.stripes[bio.number][0]
            return REMAPPED
        if bio.op is Op.DISCARD:
            return self._map_discard(bio)
        stripe, sector = self._place(bio.sector - self.begin)
        bio.device = self.stripes[stripe][0]
        bio.sector = self.stripes[stripe][1] + sector
        return REMAPPED

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...]:
        return self.by_map(bio)

    def _place(self, offset: int) -> tuple[int, int]:
        chunk, within = divmod(offset, self.chunk_sectors)
        row, stripe = divmod(chunk, len(self.stripes))
        return stripe, row * self.chunk_sectors + within

    def _map_discard(self, bio: Bio) -> int:
        """Clone k is cut down to what lies on stripe k; nothing there is a success."""
        first = self._on_stripe(bio.sector - self.begin, bio.number)
        end = self._on_stripe(bio.sector - self.begin + bio.sectors, bio.number)
        if first >= end:
            bio.complete(0)
            return SUBMITTED
        bio.device, offset = self.stripes[bio.number]
        bio.sector = offset + first
        bio.sectors = end - first
        return REMAPPED

    def _on_stripe(self, offset: int, wanted: int) -> int:
        """How far the stripe is filled by all that lies before ``offset`` of the target."""
        chunk, within = divmod(offset, self.chunk_sectors)
        row, stripe = divmod(chunk, len(self.stripes))
        if wanted < stripe:
            return (row + 1) * self.chunk_sectors
        return row * self.chunk_sectors + (within if wanted == stripe else 0)

    def end_io(self, bio: Bio, status: int) -> int:
        if status <= 0 or bio.readahead or status == errno.EOPNOTSUPP:
            return status
        for index, (device, _offset) in enumerate(self.stripes):
            if device is bio.device:
                self.error_counts[index] += 1
                if self.error_counts[index] < ERROR_THRESHOLD:
                    self.trigger.queue()
        return status

    def destroy(self) -> Frame | None:
        return WaitForWork(self.trigger)

    def info(self) -> str:
        devices = " ".join(device.number for device, _offset in self.stripes)
        letters = "".join("D" if count else "A" for count in self.error_counts)
        return f"{len(self.stripes)} {devices} 1 {letters}"

    def measurement(self) -> list[str]:
        words = [f"stripes={len(self.stripes)}", f"chunk_size={self.chunk_sectors}"]
        for index, ((device, offset), errors) in enumerate(zip(self.stripes, self.error_counts, strict=True)):
            words += [f"stripe_{index}_device_name={device.number}", f"stripe_{index}_physical_start={offset}",
                      f"stripe_{index}_status={'D' if errors else 'A'}"]
        return words

    def parameters(self) -> str:
        places = " ".join(f"{device.number} {offset}" for device, offset in self.stripes)
        return f"{len(self.stripes)} {self.chunk_sectors} {places}"

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        for device, offset in self.stripes:
            yield device, offset, self.length // len(self.stripes)


def _params(args: dict[str, Any]) -> list[str]:
    words = [str(len(args["devices"])), str(args["chunk"] // 512)]
    for name, offset_bytes in args["devices"]:
        words += [name, str(offset_bytes // 512)]
    return words


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    """As many whole chunks as the smallest of the devices has room for, times the devices."""
    count, chunk = int(argv[0]), int(argv[1])
    places = [(argv[2 + 2 * index], int(argv[3 + 2 * index])) for index in range(count)]
    least = smallest(places, size_of)
    return None if least is None else least // chunk * chunk * count


STRIPED: Final = TargetType(
    "striped", (1, 6, 0),
    signature(pos("devices", Kind.DEVICE_AT, repeated=True), opt("chunk", Kind.SIZE, 65536)),
    _params, "Chunks laid over several devices in turn.", Striped, _natural_length)
