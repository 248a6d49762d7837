"""A request whose bytes stay where they are, in the pages of the kernel's cache, until they are moved to a file.

Read in the usual way, a write-back is copied twice: into our memory, and from there to a file.  splice(2) takes
references to its pages instead, so that it is copied once.  A pipe gives each byte only once, though, and a mirror has
two legs; so the request stays in a first pipe until its last move, and tee(2) lends its pages to a second one for each
move before that.  If the last move fails, the bytes that it has moved are read back from where they went, since the
ordinary path wants all of them.

A pipe has a place for each page and for the header.  An ordinary user's has 256 places at most, so no request may have
as many pages (`adapter.REQUEST_BYTES`).
"""

import ctypes
import fcntl
import os

PIPE_BYTES = 1 << 20

_tee = ctypes.CDLL(None, use_errno=True).tee
_tee.restype = ctypes.c_ssize_t
_tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    return reader, writer


class Piped:
    """Two pipes, for one request at a time; `export.Pages` for it."""

    def __init__(self) -> None:
        """OSError where this user may not have such pipes, or no more of them."""
        self._nowhere = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._kept, self._fill = _pipe()
            try:
                self._lent, self._lend = _pipe()
            except OSError:
                os.close(self._kept)
                os.close(self._fill)
                raise
        except OSError:
            os.close(self._nowhere)
            raise
        self._memory = memoryview(b"")
        self._kept_bytes = 0
        self._lent_bytes = 0
        self._is_last = False
        self._moved: list[tuple[int, int, int]] = []
        self._in_memory = 0

    def take(self, device: int, head: bytearray, memory: memoryview) -> int:
        """Read a request off the device: its head into `head`, and what follows when it is asked for into `memory`."""
        length = os.splice(device, self._fill, PIPE_BYTES)
        self._memory = memory
        self._in_memory = 0
        self._kept_bytes = length - os.readv(self._kept, (head,))
        return length

    def buffer(self) -> memoryview:
        """The bytes, copied to memory; from then on they are only there."""
        end = self._in_memory
        for descriptor, offset, length in self._moved:
            os.preadv(descriptor, (self._memory[end:end + length],), offset)
            end += length
        self._moved.clear()
        while self._kept_bytes:
            done = os.readv(self._kept, (self._memory[end:end + self._kept_bytes],))
            end += done
            self._kept_bytes -= done
        self._in_memory = end
        return self._memory[:end]

    def rewind(self, *, last: bool) -> None:
        """Have the next `put` begin with the first byte, for the last time or not."""
        self._is_last = last
        if last:
            return
        self._lent_bytes = self._drop(self._lent, self._lent_bytes)
        done = _tee(self._kept, self._lend, self._kept_bytes, 0)
        if done < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._lent_bytes = done

    def put(self, descriptor: int, offset: int, length: int) -> None:
        """Move the next bytes to a file."""
        source = self._kept if self._is_last else self._lent
        while length:
            done = os.splice(source, descriptor, length, offset_dst=offset)
            if self._is_last:
                self._kept_bytes -= done
                self._moved.append((descriptor, offset, done))
            else:
                self._lent_bytes -= done
            offset += done
            length -= done

    def over(self) -> None:
        """Let go of the pages."""
        self._moved.clear()
        self._lent_bytes = self._drop(self._lent, self._lent_bytes)
        self._kept_bytes = self._drop(self._kept, self._kept_bytes)

    def _drop(self, pipe: int, length: int) -> int:
        while length:
            length -= os.splice(pipe, self._nowhere, length)
        return 0

    def close(self) -> None:
        """Close the pipes."""
        for descriptor in (self._kept, self._fill, self._lent, self._lend, self._nowhere):
            os.close(descriptor)
