"""Another process's memory (process_vm_readv(2)): what cannot be read or written is EFAULT, as in the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_PAGE: Final = 4096
_MOST_PIECES: Final = 1024
PATH_MAX: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _transfer(function: str, thread: int, address: int, buffer: ctypes.Array[ctypes.c_char], length: int) -> int:
    """One call, page by page on the other side, so that what lies before a hole counts; the bytes that went."""
    own = _Piece(ctypes.addressof(buffer), length)
    pieces = []
    at = address
    while at < address + length:
        step = min(_PAGE - at % _PAGE, address + length - at)
        pieces.append(_Piece(at, step))
        at += step
    done = 0
    for first in range(0, len(pieces), _MOST_PIECES):
        some = pieces[first:first + _MOST_PIECES]
        wanted = sum(piece.length for piece in some)
        own = _Piece(ctypes.addressof(buffer) + done, wanted)
        went = getattr(_libc, function)(thread, ctypes.byref(own), ctypes.c_ulong(1), (_Piece * len(some))(*some),
                                        ctypes.c_ulong(len(some)), ctypes.c_ulong(0))
        if went <= 0:
            break
        done += went
        if went < wanted:
            break
    return done


def read_some(thread: int, address: int, length: int) -> bytes:
    """As much as can be read."""
    if length <= 0 or address >= 1 << 47:
        return b""
    buffer = ctypes.create_string_buffer(length)
    done = _transfer("process_vm_readv", thread, address, buffer, length)
    return buffer.raw[:done]


def read(thread: int, address: int, length: int) -> bytes:
    """Exactly so many bytes; ``OSError`` EFAULT otherwise."""
    data = read_some(thread, address, length)
    if len(data) < length:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def read_path(thread: int, address: int) -> bytes | None:
    """A string of at most ``PATH_MAX`` with its end; ``None`` where there is none."""
    data = b""
    while len(data) < PATH_MAX:
        at = address + len(data)
        part = read_some(thread, at, _PAGE - at % _PAGE)
        if not part:
            return None
        end = part.find(b"\0")
        if end >= 0:
            return data + part[:end]
        data += part
    return None


def write(thread: int, address: int, data: bytes) -> None:
    """All of it; ``OSError`` EFAULT where not all of it can be written."""
    buffer = ctypes.create_string_buffer(data, max(len(data), 1))
    done = _transfer("process_vm_writev", thread, address, buffer, len(data)) if address < 1 << 47 else 0
    if done < len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def write_anyway(thread: int, address: int, data: bytes) -> None:
    """The same where the program itself may not write: a constant of its own, say."""
    fd = os.open(f"/proc/{thread}/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, data, address)
    finally:
        os.close(fd)


def read_strings(thread: int, address: int, most: int = 64) -> list[bytes]:
    """What an argv points to, as far as it can be read."""
    found: list[bytes] = []
    while len(found) < most:
        pointer = int.from_bytes(read_some(thread, address + 8 * len(found), 8), "little")
        text = read_path(thread, pointer) if pointer else None
        if text is None:
            break
        found.append(text)
    return found
