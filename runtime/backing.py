"""Where the bytes of disks are: sparse memory, or sparse files.

The only modules of the runtime that touch the operating system are this one, the live engine and
the FUSE adapter.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .errors import StoreError
from .paths import opened_folder
from .units import SECTOR_BYTES

PAGE_BYTES: Final = 4096
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2


class SparseMemory:
    """Pages of a disk that are not all zero, as immutable bytes: cheap to copy and to compare."""

    def __init__(self, pages: dict[int, bytes] | None = None) -> None:
        self.pages: dict[int, bytes] = pages if pages is not None else {}

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseMemory:
        return SparseMemory(dict(self.pages))

    def read(self, offset: int, buffer: memoryview) -> None:
        position = 0
        while position < len(buffer):
            page, within = divmod(offset + position, PAGE_BYTES)
            length = min(PAGE_BYTES - within, len(buffer) - position)
            data = self.pages.get(page)
            buffer[position:position + length] = data[within:within + length] if data else bytes(length)
            position += length

    def write(self, offset: int, buffer: memoryview) -> None:
        position = 0
        while position < len(buffer):
            page, within = divmod(offset + position, PAGE_BYTES)
            length = min(PAGE_BYTES - within, len(buffer) - position)
            if length == PAGE_BYTES:
                data = bytes(buffer[position:position + length])
            else:
                whole = bytearray(self.pages.get(page, bytes(PAGE_BYTES)))
                whole[within:within + length] = buffer[position:position + length]
                data = bytes(whole)
            if any(data):
                self.pages[page] = data
            else:
                self.pages.pop(page, None)
            position += length

    def discard(self, offset: int, length: int) -> None:
        zeros = memoryview(bytes(min(length, 1 << 20)))
        while length:
            part = min(length, len(zeros))
            self.write(offset, zeros[:part])
            offset += part
            length -= part

    def flush(self) -> None:
        return None

    def harden(self, offset: int, length: int) -> None:
        return None

    def close(self) -> None:
        self.pages.clear()


class Overlay:
    """What another backing holds, with all changes kept in memory and thrown away in the end."""

    def __init__(self, below: FileBacking) -> None:
        self.below = below
        self.pages: dict[int, bytes] = {}

    def _page(self, page: int) -> bytes:
        data = self.pages.get(page)
        if data is None:
            data = os.pread(self.below.fd, PAGE_BYTES, page * PAGE_BYTES).ljust(PAGE_BYTES, b"\0")
        return data

    def read(self, offset: int, buffer: memoryview) -> None:
        position = 0
        while position < len(buffer):
            page, within = divmod(offset + position, PAGE_BYTES)
            length = min(PAGE_BYTES - within, len(buffer) - position)
            buffer[position:position + length] = self._page(page)[within:within + length]
            position += length

    def write(self, offset: int, buffer: memoryview) -> None:
        position = 0
        while position < len(buffer):
            page, within = divmod(offset + position, PAGE_BYTES)
            length = min(PAGE_BYTES - within, len(buffer) - position)
            whole = bytearray(self._page(page))
            whole[within:within + length] = buffer[position:position + length]
            self.pages[page] = bytes(whole)
            position += length

    def discard(self, offset: int, length: int) -> None:
        while length:
            part = min(length, 1 << 20)
            self.write(offset, memoryview(bytes(part)))
            offset += part
            length -= part

    def flush(self) -> None:
        return None

    def harden(self, offset: int, length: int) -> None:
        return None

    def close(self) -> None:
        self.pages.clear()


class FileBacking:
    """A sparse file, or memory behind a file descriptor; ``pread`` and ``pwrite`` need no lock."""

    def __init__(self, fd: int, *, durable: bool, name: str = "") -> None:
        self.fd = fd
        self.durable = durable
        self.name = name

    def read(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(self.fd, [buffer], offset)
            if count == 0:
                raise OSError(errno.EIO, "the disk file ends too early")
            buffer = buffer[count:]
            offset += count

    def write(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.pwrite(self.fd, buffer, offset)
            buffer = buffer[count:]
            offset += count

    def discard(self, offset: int, length: int) -> None:
        punch_hole(self.fd, offset, length)

    def flush(self) -> None:
        if self.durable:
            os.fdatasync(self.fd)

    def harden(self, offset: int, length: int) -> None:
        self.flush()

    def close(self) -> None:
        os.close(self.fd)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Free a range so that it reads as zeros; written out as zeros where the host cannot punch."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    flags = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    if libc.fallocate(fd, flags, ctypes.c_long(offset), ctypes.c_long(length)) == 0:
        return
    if ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    zeros = bytes(1 << 20)
    while length:
        count = os.pwrite(fd, zeros[:min(length, len(zeros))], offset)
        offset += count
        length -= count


def memory_file(name: str, sectors: int) -> FileBacking:
    """An anonymous sparse file in memory, for live disks that need not last."""
    try:
        fd = os.memfd_create(f"dmspec-{name}", os.MFD_CLOEXEC)
    except OSError as error:
        raise StoreError(f"disk {name}: {error.strerror}") from None
    try:
        _resize(fd, sectors, f"disk {name}")
    except BaseException:
        os.close(fd)
        raise
    return FileBacking(fd, durable=False, name=f"disk {name}")


def open_file(base: Path, below: Sequence[str], sectors: int, *, create: bool = True) -> FileBacking:
    """Open (or make) a disk file of exactly this size and hold it against other mounts.

    It lies ``below`` a folder that the person named (:mod:`dmspec.runtime.paths`).  Nothing of an existing file is
    changed here; every refusal is a :class:`StoreError`.
    """
    path = os.fspath(base.joinpath(*below))
    with opened_folder(base, below[:-1]) as folder:
        return _open(path, below[-1], folder, sectors, create=create)


def _open(path: str, name: str, folder: int, sectors: int, *, create: bool) -> FileBacking:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    made = False
    try:
        try:
            fd = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            made = True
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path}: a symbolic link; name the disk file itself") from None
        raise StoreError(f"{path}: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path}: not a regular file")
        _hold(fd, path)
        if made:
            _resize(fd, sectors, path)
        elif status.st_size != sectors * SECTOR_BYTES:
            raise StoreError(f"{path}: {status.st_size} bytes, but the spec's disk has {sectors * SECTOR_BYTES}; "
                             "change the spec, or move the file away")
    except BaseException:
        if made:
            os.unlink(name, dir_fd=folder)
        os.close(fd)
        raise
    return FileBacking(fd, durable=True, name=path)


def _resize(fd: int, sectors: int, what: str) -> None:
    try:
        os.ftruncate(fd, sectors * SECTOR_BYTES)
    except OverflowError:
        raise StoreError(f"{what}: {sectors * SECTOR_BYTES} bytes are too many for a file") from None
    except OSError as error:
        raise StoreError(f"{what}: {sectors * SECTOR_BYTES} bytes: {error.strerror}") from None


def _hold(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise StoreError(f"{path}: in use by another mount") from None
        raise StoreError(f"{path}: cannot be locked: {error.strerror}") from None
