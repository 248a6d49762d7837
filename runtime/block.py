"""Block devices: what bios go to.  A disk is the bottom of every stack."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from .bio import Bio, Op
from .errors import errno_name
from .task import Task

if TYPE_CHECKING:
    from .task import Engine

DISK_MAJOR = 7
DM_MAJOR = 254


class BlockDevice:
    """Anything that a table can name.  ``sectors`` may change while it lives."""

    __slots__ = ("minor", "name", "open_count", "read_only", "sectors")

    major = 0

    def __init__(self, name: str, minor: int, sectors: int) -> None:
        self.name = name
        self.minor = minor
        self.sectors = sectors
        self.open_count = 0
        self.read_only = False

    @property
    def number(self) -> str:
        """``major:minor``, as tables print it."""
        return f"{self.major}:{self.minor}"

    @property
    def write_cache(self) -> bool:
        """Whether flushes mean anything to it."""
        return False

    @property
    def supports_discard(self) -> bool:
        return False

    @property
    def discard_zeroes(self) -> bool:
        """Whether what was discarded reads as zeros."""
        return False

    @property
    def logical_block_sectors(self) -> int:
        return 1

    def submit(self, bio: Bio) -> None:
        raise NotImplementedError


class Backing(Protocol):
    """Where a disk's bytes are.  Offsets in bytes; raises OSError when the host fails."""

    def read(self, offset: int, buffer: memoryview) -> None: ...
    def write(self, offset: int, buffer: memoryview) -> None: ...
    def discard(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class DiskFault:
    """One thing that is wrong with a disk.  ``kinds``: which ops it is about."""

    __slots__ = ("delay_ns", "first_sector", "kinds", "last_sector", "status")

    def __init__(self, kinds: tuple[Op, ...], status: int = 0, delay_ns: int = 0,
                 first_sector: int = 0, last_sector: int | None = None) -> None:
        self.kinds = kinds
        self.status = status
        self.delay_ns = delay_ns
        self.first_sector = first_sector
        self.last_sector = last_sector

    def hits(self, bio: Bio) -> bool:
        if bio.op not in self.kinds:
            return False
        if bio.op is Op.FLUSH or self.last_sector is None:
            return True
        return bio.sector <= self.last_sector and bio.sector + bio.sectors > self.first_sector


class Disk(BlockDevice):
    """An emulated disk.  The engine decides when its I/O takes effect."""

    __slots__ = ("backing", "detached", "engine", "faults")

    major = DISK_MAJOR

    def __init__(self, engine: Engine, name: str, minor: int, sectors: int, backing: Backing) -> None:
        super().__init__(name, minor, sectors)
        self.engine = engine
        self.backing = backing
        self.faults: list[DiskFault] = []
        self.detached = False

    @property
    def write_cache(self) -> bool:
        return True

    @property
    def supports_discard(self) -> bool:
        return True

    @property
    def discard_zeroes(self) -> bool:
        return True

    def submit(self, bio: Bio) -> None:
        if bio.sector + bio.sectors > self.sectors:
            bio.complete(errno.EIO)
            return
        self.engine.submit(self, bio)

    def delay_of(self, bio: Bio) -> int:
        """How much later than at once the I/O ends, in ns."""
        return sum(fault.delay_ns for fault in self.faults if fault.hits(bio))

    def failure_of(self, bio: Bio) -> int:
        """The errno with which the disk answers, or 0."""
        if self.detached:
            return errno.ENXIO
        for fault in self.faults:
            if fault.status and fault.hits(bio):
                return fault.status
        return 0


class DiskIo(Task):
    """One I/O on its way through a disk: ``perform`` moves the bytes, ``complete`` tells."""

    __slots__ = ("bio", "disk", "status")

    def __init__(self, engine: Engine, disk: Disk, bio: Bio) -> None:
        super().__init__(engine, disk.name)
        self.disk = disk
        self.bio = bio
        self.status = 0

    def perform(self) -> None:
        """Touches only the backing and the bio's buffer, so the live engine runs it unlocked."""
        bio = self.bio
        backing = self.disk.backing
        offset = bio.sector * 512
        try:
            if bio.op is Op.READ:
                backing.read(offset, bio.view())
            elif bio.op is Op.WRITE:
                if bio.preflush:
                    backing.flush()
                backing.write(offset, bio.view())
                if bio.fua:
                    backing.flush()
            elif bio.op is Op.FLUSH:
                backing.flush()
            else:
                backing.discard(offset, bio.sectors * 512)
        except OSError as error:
            self.status = error.errno or errno.EIO

    def complete(self) -> None:
        self.ended = True
        self.bio.complete(self.status)

    def step(self) -> None:
        self.status = self.disk.failure_of(self.bio)
        if not self.status:
            self.perform()
        what = f"{self.bio!r}"
        self.engine.note(self.disk.name, what if not self.status else f"{what} FAILED: {errno_name(self.status)}")
        self.complete()
