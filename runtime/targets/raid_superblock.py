"""What raid1 has on each metadata device: a superblock in its first block, a write-intent bitmap from byte 4096 on.

The superblock is dm-raid's (reference: targets.md, section 6; recording: h-others), the bitmap md's: a header of 256
bytes, then one bit for each region, lowest bit first, 1 = the legs may differ there.  Both are little-endian.

What a bitmap says in memory is more than that one bit:

=======  =============================================================================================
needed   the legs that count as in sync may differ (never synchronised, or written when the power failed)
stale    a leg that is missing, faulty or being rebuilt has missed something
pending  writes under way
shown    the bit on disk: whatever is needed, stale or pending, and what was not long ago
=======  =============================================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ..dirty_log import Bits
from ..units import SECTOR_BYTES

MAX_SECTOR: Final = (1 << 64) - 1
MAGIC: Final = 0x64526D44
SUPPORTS_V190: Final = 1
LAYOUT: Final = struct.Struct("<IIIIQQQQIIIIQIIIIQQQQQQQI")

BITMAP_SECTOR: Final = 8
BITMAP_MAGIC: Final = 0x6D746962
BITMAP_VERSION: Final = 4
BITMAP_STALE: Final = 1 << 1
BITMAP_HEADER: Final = struct.Struct("<II16sQQQIIIIII")
BITS_OFFSET: Final = 256
DEFAULT_DAEMON_SLEEP_S: Final = 5


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields that mean something to a raid1; ``failed`` has a bit for each leg."""

    num_devices: int
    position: int
    events: int
    failed: int
    recovery_offset: int
    resync_offset: int
    array_sectors: int
    sectors: int
    level: int = 1
    compat: int = SUPPORTS_V190
    incompat: int = 0

    def pack(self, size: int) -> bytes:
        """The first block of the metadata device."""
        words = [self.failed >> shift & MAX_SECTOR for shift in (0, 64, 128, 192)]
        return LAYOUT.pack(
            MAGIC, self.compat, self.num_devices, self.position, self.events, words[0], self.recovery_offset,
            self.resync_offset, self.level, 0, 0, 0, MAX_SECTOR, self.level, 0, 0, 0, self.array_sectors, 0, 0,
            self.sectors, words[1], words[2], words[3], self.incompat).ljust(size, b"\0")

    @classmethod
    def unpack(cls, block: bytes | bytearray) -> Superblock | None:
        """``None``: there is none.  Without the later fields, as before 1.9, the sizes are 0."""
        (magic, compat, num_devices, position, events, failed, recovery_offset, resync_offset, level, *_geometry,
         array_sectors, _offset, _new_offset, sectors, second, third, fourth, incompat) = LAYOUT.unpack_from(block)
        if magic != MAGIC:
            return None
        if compat != SUPPORTS_V190:
            array_sectors = sectors = second = third = fourth = incompat = 0
        failed |= second << 64 | third << 128 | fourth << 192
        return cls(num_devices, position, events, failed, recovery_offset, resync_offset, array_sectors, sectors,
                   level, compat, incompat)


@dataclass(frozen=True, slots=True)
class StoredBitmap:
    """A bitmap as it was read: its regions may have another size, and there may be fewer of them."""

    events: int
    region_sectors: int
    sectors: int
    stale: bool
    bits: bytes

    @classmethod
    def unpack(cls, data: bytes | bytearray) -> StoredBitmap | None:
        """``None``: there is none."""
        (magic, version, _uuid, events, _cleared, sectors, state, chunk_bytes,
         *_tuning) = BITMAP_HEADER.unpack_from(data)
        region_sectors = chunk_bytes // SECTOR_BYTES
        if magic != BITMAP_MAGIC or version != BITMAP_VERSION or not region_sectors:
            return None
        return cls(events, region_sectors, sectors, bool(state & BITMAP_STALE), bytes(data[BITS_OFFSET:]))

    def marked(self) -> list[tuple[int, int]]:
        """What is marked: first sector and length."""
        count = min(-(-self.sectors // self.region_sectors), len(self.bits) * 8)
        return [(index * self.region_sectors, self.region_sectors) for index in range(count)
                if self.bits[index >> 3] >> (index & 7) & 1]


class WriteIntent:
    """See the module.  ``sectors`` is the size of the array."""

    def __init__(self, sectors: int, region_sectors: int) -> None:
        self.sectors = sectors
        self.region_sectors = region_sectors
        self.count = -(-sectors // region_sectors)
        self.needed = Bits(self.count)
        self.stale = Bits(self.count)
        self.shown = Bits(self.count)
        self.pending: dict[int, int] = {}

    @property
    def disk_sectors(self) -> int:
        """How much of a metadata device the bitmap takes: whole pages, as md reads and writes it."""
        return -(-(BITS_OFFSET + (self.count + 7) // 8) // 4096) * 8

    def regions(self, first: int, sectors: int) -> range:
        """The regions that a range of sectors touches, those behind the end left out."""
        return range(first // self.region_sectors,
                     min((first + sectors - 1) // self.region_sectors + 1, self.count))

    def begin(self, regions: range) -> bool:
        """A write is about to be made; whether its regions have to be marked on disk first."""
        marked = True
        for region in regions:
            self.pending[region] = self.pending.get(region, 0) + 1
            marked = marked and self.shown.test(region)
            self.shown.set(region)
        return not marked

    def end(self, regions: range) -> None:
        """A write has ended."""
        for region in regions:
            self.pending[region] -= 1
            if not self.pending[region]:
                del self.pending[region]

    def differs(self, regions: range) -> None:
        """Not every leg has what was written."""
        for region in regions:
            self.stale.set(region)
            self.shown.set(region)

    def quiet(self, region: int) -> bool:
        """Whether the legs are equal there, and stay so for now."""
        return not (self.needed.test(region) or self.stale.test(region) or region in self.pending)

    def idle(self) -> list[int]:
        """Regions whose mark on disk is not needed any more."""
        if not any(self.shown.raw()):
            return []
        return [region for region in range(self.count) if self.shown.test(region) and self.quiet(region)]

    def mark_all(self) -> None:
        """Nothing is known of the legs."""
        for bits in (self.needed, self.shown):
            for region in range(self.count):
                bits.set(region)

    def load(self, stored: StoredBitmap) -> None:
        """Take over what is marked on disk; which kind of mark it was is not known any more."""
        for first, sectors in stored.marked():
            for region in self.regions(first, sectors):
                for bits in (self.needed, self.stale, self.shown):
                    bits.set(region)

    def pack(self, events: int, daemon_sleep_s: int, write_behind: int) -> bytes:
        """The bitmap as it is to be on disk."""
        header = BITMAP_HEADER.pack(BITMAP_MAGIC, BITMAP_VERSION, bytes(16), events, events, self.sectors, 0,
                                    self.region_sectors * SECTOR_BYTES, daemon_sleep_s, write_behind, 0, 0)
        used = (self.count + 7) // 8
        bits = int.from_bytes(self.shown.raw()[:used], "little") | ((1 << 8 * used) - (1 << self.count))
        written = header.ljust(BITS_OFFSET, b"\0") + bits.to_bytes(used, "little")
        to_sector = -(-len(written) // SECTOR_BYTES) * SECTOR_BYTES
        return written.ljust(to_sector, b"\xff").ljust(self.disk_sectors * SECTOR_BYTES, b"\0")
