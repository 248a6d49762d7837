"""What the ioctls of a block device answer (kernel: block/ioctl.c, drivers/md/dm.c)."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from dmspec.exec import memory
from dmspec.runtime.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Block

HDIO_GETGEO: Final = 0x0301
BLKROSET: Final = 0x125D
BLKRRPART: Final = 0x125F
BLKFLSBUF: Final = 0x1261
BLKRASET: Final = 0x1262
BLKFRASET: Final = 0x1264
BLKDISCARD: Final = 0x1277
BLKSECDISCARD: Final = 0x127D
BLKZEROOUT: Final = 0x127F
BLKBSZSET: Final = 0x40081271

_PIECE_BYTES: Final = 1 << 20
_PUNCH_HOLE: Final = 0x02 | 0x01  # with KEEP_SIZE

# Number to how the answer is packed and what it is.
QUERIES: Final[Mapping[int, tuple[str, Callable[[Block], int]]]] = {
    0x125E: ("i", lambda block: int(block.read_only)),  # BLKROGET
    0x1260: ("Q", lambda block: block.sectors),  # BLKGETSIZE
    0x1263: ("q", lambda block: block.read_ahead),  # BLKRAGET
    0x1265: ("q", lambda block: block.read_ahead),  # BLKFRAGET
    0x1267: ("H", lambda _block: 2048),  # BLKSECTGET: how much one request may move
    0x1268: ("i", lambda _block: SECTOR_BYTES),  # BLKSSZGET
    0x80081270: ("i", lambda _block: 4096),  # BLKBSZGET
    0x80081272: ("Q", lambda block: block.sectors * SECTOR_BYTES),  # BLKGETSIZE64
    0x1278: ("I", lambda block: block.io_min),  # BLKIOMIN
    0x1279: ("I", lambda block: block.io_opt),  # BLKIOOPT
    0x127A: ("i", lambda _block: 0),  # BLKALIGNOFF
    0x127B: ("I", lambda _block: SECTOR_BYTES),  # BLKPBSZGET
    0x127C: ("I", lambda _block: 0),  # BLKDISCARDZEROES: the kernel says 0 whatever the device does
    0x127E: ("H", lambda _block: 0),  # BLKROTATIONAL
    0x80081280: ("Q", lambda block: block.minor + 1),  # BLKGETDISKSEQ
}


def fail(number: int) -> OSError:
    """An errno to be raised."""
    return OSError(number, os.strerror(number))


def read_range(thread: int, address: int, block: Block) -> tuple[int, int]:
    """The two 64-bit words of BLKDISCARD and BLKZEROOUT: whole sectors within the device."""
    start, length = struct.unpack("<2Q", memory.read(thread, address, 16))
    if start % SECTOR_BYTES or length % SECTOR_BYTES:
        raise fail(errno.EINVAL)
    if start + length > block.sectors * SECTOR_BYTES:
        raise fail(errno.EINVAL)
    return start, length


def discard(fd: int, start: int, length: int) -> None:
    """Punch a hole, which is a discard on the mount's files."""
    if length:
        _fallocate(fd, start, length)


def _fallocate(fd: int, start: int, length: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_long(start), ctypes.c_long(length)):
        raise fail(ctypes.get_errno())


def zero_out(fd: int, start: int, length: int) -> None:
    """Write zeros past the page cache; ``fd`` is open with ``O_DIRECT``."""
    with mmap.mmap(-1, _PIECE_BYTES) as zeros:
        at = start
        while at < start + length:
            with memoryview(zeros)[:min(_PIECE_BYTES, start + length - at)] as piece:
                at += os.pwrite(fd, piece, at)


def flush(fd: int) -> None:
    """Write back what the page cache holds, and let go of it."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
