"""Block devices: what bios go to.  A disk is the bottom of every stack."""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, Protocol

from .bio import Bio, Op
from .errors import errno_name
from .task import Task
from .units import SECTOR_BYTES

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
    """Where a disk's bytes are.  Offsets in bytes; raises OSError when the host fails.

    ``flush`` makes all that was written durable, ``harden`` at least one range of it.
    """

    def read(self, offset: int, buffer: memoryview) -> None: ...
    def write(self, offset: int, buffer: memoryview) -> None: ...
    def discard(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...
    def harden(self, offset: int, length: int) -> None: ...
    def close(self) -> None: ...


class Mishap(enum.Enum):
    """What a disk does instead of what it says that it has done."""

    LOSE = "lost"
    LOSE_FLUSH = "not flushed"
    TEAR = "torn"
    MISDIRECT = "misdirected"


class DiskFault:
    """One thing that is wrong with a disk.  ``kinds``: which ops it is about.

    It lets the first ``after`` of them pass, and is gone when it has struck ``times`` times (``None``: it
    stays).  ``status`` is an errno to answer with, ``delay_ns`` how much later to answer.  With a ``mishap``
    the answer is that all went well; ``sectors`` is how many of a torn write arrive, or by how many sectors
    what is misdirected misses.
    """

    __slots__ = ("after", "delay_ns", "first_sector", "kinds", "last_sector", "mishap", "sectors", "status", "times")

    def __init__(self, kinds: tuple[Op, ...], status: int = 0, delay_ns: int = 0,
                 first_sector: int = 0, last_sector: int | None = None, *, after: int = 0, times: int | None = None,
                 mishap: Mishap | None = None, sectors: int = 0) -> None:
        self.kinds = kinds
        self.status = status
        self.delay_ns = delay_ns
        self.first_sector = first_sector
        self.last_sector = last_sector
        self.after = after
        self.times = times
        self.mishap = mishap
        self.sectors = sectors

    def hits(self, bio: Bio) -> bool:
        """Whether it is about this I/O."""
        if self.mishap is Mishap.LOSE_FLUSH:
            return bio.op is Op.FLUSH or bio.fua or bio.preflush
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
        """How much later than at once the I/O ends, in ns.  To be asked once for each I/O: the answer counts."""
        return sum(fault.delay_ns for fault in list(self.faults) if fault.delay_ns and fault.hits(bio)
                   and self._acts(fault))

    def strike(self, bio: Bio) -> tuple[int, DiskFault | None]:
        """What an I/O meets: the errno with which the disk answers, or 0; and the fault with a mishap."""
        if self.detached:
            return errno.ENXIO, None
        for fault in self.faults:
            if not (fault.status or fault.mishap) or not fault.hits(bio):
                continue
            if self._acts(fault):
                return fault.status, fault if fault.mishap else None
        return 0, None

    def _acts(self, fault: DiskFault) -> bool:
        """Whether a fault that hits an I/O strikes this time; it counts."""
        if fault.after:
            fault.after -= 1
            return False
        if fault.times is not None:
            fault.times -= 1
            if not fault.times:
                self.faults.remove(fault)
        return True


class DiskIo(Task):
    """One I/O on its way through a disk: ``meet`` what is wrong with it, ``perform``, ``complete``."""

    __slots__ = ("bio", "disk", "fault", "status")

    def __init__(self, engine: Engine, disk: Disk, bio: Bio) -> None:
        super().__init__(engine, disk.name)
        self.disk = disk
        self.bio = bio
        self.fault: DiskFault | None = None
        self.status = 0

    def meet(self) -> None:
        """Let the disk's faults have their say, and say what they do."""
        disk, bio = self.disk, self.bio
        self.status, self.fault = disk.strike(bio)
        if self.status:
            self.engine.note(disk.name, f"{bio!r} FAILED: {errno_name(self.status)}")
        elif self.fault is not None and self.fault.mishap is not None:
            self.engine.note(disk.name, f"{bio!r} is {self.fault.mishap.value}, and nobody is told")

    def perform(self) -> None:
        """Touches only the backing and the bio's buffer, so the live engine runs it unlocked."""
        try:
            if self.fault is not None:
                self._go_wrong(self.fault)
            else:
                self._transfer(self.bio.sector * SECTOR_BYTES, self.bio.bytes, durable=True)
        except OSError as error:
            self.status = error.errno or errno.EIO

    def _transfer(self, offset: int, length: int, *, durable: bool) -> None:
        bio, backing = self.bio, self.disk.backing
        if bio.op is Op.READ:
            backing.read(offset, bio.view())
        elif bio.op is Op.WRITE:
            if bio.preflush and durable:
                backing.flush()
            backing.write(offset, bio.view()[:length])
            if bio.fua and durable:
                backing.harden(offset, length)
        elif bio.op is Op.FLUSH:
            if durable:
                backing.flush()
        else:
            backing.discard(offset, length)

    def _go_wrong(self, fault: DiskFault) -> None:
        """A lost write, a torn one, a misdirected transfer (it goes round at the disk's end), a lost flush."""
        bio = self.bio
        sector, sectors = bio.sector, bio.sectors
        if fault.mishap is Mishap.LOSE:
            return
        if fault.mishap is Mishap.TEAR:
            sectors = min(sectors, fault.sectors)
        elif fault.mishap is Mishap.MISDIRECT:
            sector = (sector + fault.sectors) % max(self.disk.sectors - sectors + 1, 1)
        self._transfer(sector * SECTOR_BYTES, sectors * SECTOR_BYTES, durable=fault.mishap is not Mishap.LOSE_FLUSH)

    def complete(self) -> None:
        self.ended = True
        self.bio.complete(self.status)

    def step(self) -> None:
        disk = self.disk
        if disk.faults or disk.detached:
            self.meet()
        if not self.status:
            self.perform()
            self._tell()
        self.complete()

    def _tell(self) -> None:
        if self.status:
            self.engine.note(self.disk.name, f"{self.bio!r} FAILED: {errno_name(self.status)}")
        elif self.fault is None:
            self.engine.note(self.disk.name, f"{self.bio!r}")
