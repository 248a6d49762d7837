"""Bios: one I/O request (kernel: include/linux/blk_types.h).

``sector`` and ``sectors`` are in 512-byte sectors.  The data of a bio is ``sectors * 512`` bytes
of ``buf`` from ``offset`` (in bytes); clones and pieces share ``buf``.  A flush has no data.  An
empty flush is an op of its own here (the kernel's is a write of no sectors with PREFLUSH).
"""

from __future__ import annotations

import enum
from typing import Any, Final, Protocol

from .units import SECTOR_BYTES


class Op(enum.IntEnum):
    """What a bio does."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    DISCARD = 3


# Not an errno: a target asks the core to take the bio back (BLK_STS_DM_REQUEUE).
REQUEUE: Final = -1

Buffer = bytes | bytearray | memoryview


class BioOwner(Protocol):
    """Who is told that a bio has ended."""

    def bio_done(self, bio: Bio) -> None: ...


class Bio:
    """``status`` is 0, an errno (positive) or :data:`REQUEUE`.

    ``tag`` belongs to the owner, ``hook`` to the target that maps the bio; ``number`` counts the
    clones that a target gets of one flush or discard; ``first_sector`` is where the bio lay on the
    mapped device before a target moved it.
    """

    __slots__ = ("buf", "device", "first_sector", "fua", "hook", "number", "offset", "op", "owner", "preflush",
                 "readahead", "sector", "sectors", "status", "tag")

    def __init__(self, op: Op, device: Any, sector: int, sectors: int, buf: Buffer = b"", offset: int = 0,
                 owner: BioOwner | None = None, *, fua: bool = False, preflush: bool = False) -> None:
        self.op = op
        self.device = device
        self.sector = sector
        self.sectors = sectors
        self.buf = buf
        self.offset = offset
        self.owner = owner
        self.fua = fua
        self.preflush = preflush
        self.readahead = False
        self.status = 0
        self.tag: Any = None
        self.hook: Any = None
        self.number = 0
        self.first_sector = sector

    @property
    def bytes(self) -> int:
        return self.sectors * SECTOR_BYTES

    def view(self) -> memoryview:
        """The bio's own part of its buffer."""
        return memoryview(self.buf)[self.offset:self.offset + self.sectors * SECTOR_BYTES]

    def clone(self, owner: BioOwner | None) -> Bio:
        """The same I/O, told to somebody else."""
        bio = Bio(self.op, self.device, self.sector, self.sectors, self.buf, self.offset, owner,
                  fua=self.fua, preflush=self.preflush)
        bio.readahead = self.readahead
        return bio

    def piece(self, first: int, sectors: int, owner: BioOwner | None) -> Bio:
        """A clone of ``sectors`` sectors from the bio's sector ``first`` on."""
        bio = self.clone(owner)
        bio.sector += first
        bio.first_sector = bio.sector
        bio.sectors = sectors
        if self.op is Op.READ or self.op is Op.WRITE:
            bio.offset += first * SECTOR_BYTES
        return bio

    def submit(self) -> None:
        """Hand it to its device."""
        self.device.submit(self)

    def complete(self, status: int = 0) -> None:
        self.status = status
        owner = self.owner
        assert owner is not None, f"{self!r} ends and nobody is told"
        owner.bio_done(self)

    def __repr__(self) -> str:
        where = getattr(self.device, "name", "?")
        if self.op is Op.FLUSH:
            return f"flush {where}"
        flags = ("+preflush" if self.preflush else "") + ("+fua" if self.fua else "")
        return f"{self.op.name.lower()}{flags} {where} {self.sector}+{self.sectors}"
