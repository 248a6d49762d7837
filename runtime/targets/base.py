"""What a target is: a type, registered once, and an instance for each segment of a table.

A target answers the kernel's own questions (``struct target_type`` in
include/linux/device-mapper.h).  It knows its table, other block devices and the stack that it is
in; it knows no engine, clock, thread or file.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..bio import Bio
from ..block import BlockDevice
from ..errors import DmError
from ..signature import Signature
from ..task import Frame

if TYPE_CHECKING:
    from ..stack import Stack
    from ..table import Table

# What map() answers (DM_MAPIO_*).
SUBMITTED: Final = 0
REMAPPED: Final = 1
KILL: Final = 4

# What end_io() may answer instead of a status: the target keeps the bio (DM_ENDIO_INCOMPLETE).
INCOMPLETE: Final = -2


class Target:
    """One segment of a table.  ``begin`` and ``length`` are in sectors of the mapped device.

    ``discards_supported``: it takes discards whether the devices below do or not.
    ``discard_zeroes``: what was discarded reads as zeros if the devices below see to it.
    ``max_io_sectors`` (0: no limit) cuts bios at multiples of itself, counted from ``begin``;
    ``max_write_sectors`` does so for writes only, counted from the device's start;
    ``max_discard_sectors`` for discards, which ``max_io_sectors`` does not cut.
    ``flush_supported``: flushes mean something to it, whatever the devices below are.
    ``steady``: every read and write of it goes straight, and all are moved by the same distance.
    """

    has_end_io: ClassVar[bool] = False
    num_flush_bios: int = 1
    num_discard_bios: int = 0
    discards_supported: ClassVar[bool] = False
    discard_zeroes: ClassVar[bool] = False
    max_io_sectors: int = 0
    max_write_sectors: int = 0
    max_discard_sectors: int = 0
    flush_supported: bool = False
    steady: ClassVar[bool] = False

    def __init__(self, table: Table, begin: int, length: int) -> None:
        self.table = table
        self.begin = begin
        self.length = length

    @property
    def stack(self) -> Stack:
        return self.table.md.stack

    def construct(self, argv: list[str]) -> Frame | None:
        """Raise :class:`DmError` with the kernel's words; a frame does what needs I/O."""
        raise NotImplementedError

    def map(self, bio: Bio) -> int:
        raise NotImplementedError

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...] | None:
        """Where a read or write goes whose way on is nothing but that: devices and sectors, all of them for a write.

        ``None``: it has to be mapped, and nothing has been changed.  Otherwise the bio counts as mapped, and its
        end is told to :meth:`end_io` as any other's.  Who asks is a live mount, with the stack locked; a target
        answers with its own ``map``, wherever that answers with another place.
        """
        del bio
        return None

    def straight_sectors(self, sector: int, most: int) -> int:
        """From a sector on, how many, though more than a bio's piece has, :meth:`straight` answers for at once."""
        del sector, most
        return 0

    def by_map(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...]:
        """The answer of :meth:`straight` for a bio that :meth:`map` is known to remap."""
        answer = self.map(bio)
        assert answer == REMAPPED, f"{bio!r} was to go straight"
        return ((bio.device, bio.sector),)

    def end_io(self, bio: Bio, status: int) -> int:
        """A status, or :data:`INCOMPLETE`.  Asked only of a type with ``has_end_io``."""
        del bio
        return status

    def presuspend(self) -> Frame | None:
        return None

    def presuspend_undo(self) -> None:
        return None

    def postsuspend(self) -> Frame | None:
        return None

    def preresume(self) -> Frame | None:
        """The frame's value is 0 or a negative errno."""
        return None

    def resume(self) -> Frame | None:
        return None

    def destroy(self) -> Frame | None:
        """The table is going away (``dtr``)."""
        return None

    def message(self, argv: list[str]) -> str:
        del argv
        self.stack.log("err", "device-mapper: ioctl: Target type does not support messages")
        raise DmError(errno.EINVAL)

    def info(self) -> str:
        """``STATUSTYPE_INFO``."""
        return ""

    def parameters(self) -> str:
        """``STATUSTYPE_TABLE``."""
        return ""

    def measurement(self) -> list[str]:
        """``STATUSTYPE_IMA``, behind the target's name and version; most targets say nothing at all."""
        return []

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        """The parts of other devices in use: device, start, length (``iterate_devices``)."""
        return iter(())

    def write_areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        """Those of them that it writes to."""
        return self.areas()

    def compare_areas(self) -> Iterator[list[tuple[BlockDevice, int, int]]]:
        """Groups of areas (device, start, length) that hold the same bytes whenever all is at rest."""
        return iter(())

    def held(self) -> Iterator[str]:
        """What it keeps until somebody acts, in words: "1 write held since leg pv1 failed"."""
        return iter(())

    def get_device(self, path: str, reason: str, *, write: bool = True, read: bool = True) -> BlockDevice:
        """Open a device for this table; failing, raise with the target's own words."""
        try:
            return self.table.get_device(path, write=write, read=read)
        except DmError as error:
            raise DmError(error.errno, reason) from None


@dataclass(frozen=True, slots=True)
class TargetType:
    """One target: its name and version, its short form in a spec, and its class.

    ``params`` turns the short form's arguments into the kernel's parameter words.
    ``natural_length`` says how long a segment is whose length a spec leaves out, given the kernel's
    parameter words and a way to ask for a device's size in sectors (``None``: not known).
    ``assembled`` gives the words with which user space loads the target again after a power cut;
    ``assembled_late``: it resumes such a device after its peers, as LVM does an origin after its snapshots.
    """

    name: str
    version: tuple[int, int, int]
    signature: Signature
    params: Callable[[dict[str, Any]], list[str]]
    doc: str
    create: Callable[[Table, int, int], Target]
    natural_length: Callable[[list[str], Callable[[str], int | None]], int | None] = lambda _argv, _size: None
    wildcard: bool = False
    assembled: Callable[[list[str]], list[str]] = list
    assembled_late: bool = False


def parse_number(text: str, reason: str) -> int:
    """What the kernel's ``sscanf("%llu%c") == 1`` takes: digits only; it wraps at 64 bits."""
    if not text.isascii() or not text.isdigit():
        raise DmError(errno.EINVAL, reason)
    return int(text[-40:]) & 0xFFFFFFFFFFFFFFFF


def parse_u32(text: str, reason: str) -> int:
    """What the kernel's ``kstrtouint`` takes: digits, a plus sign before them, and nothing that is too large."""
    digits = text.removeprefix("+")
    if not digits.isascii() or not digits.isdigit() or len(digits.lstrip("0")) > 10 or int(digits) >= 1 << 32:
        raise DmError(errno.EINVAL, reason)
    return int(digits)


def smallest(pairs: list[tuple[str, int]], size_of: Callable[[str], int | None]) -> int | None:
    """The least that is left of several devices behind their offsets, in sectors."""
    lengths = []
    for name, offset in pairs:
        size = size_of(name)
        if size is None:
            return None
        lengths.append(size - offset)
    return max(min(lengths), 0) if lengths else None
