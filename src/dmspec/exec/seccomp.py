"""seccomp user notification: the filter, and a listener's calls (seccomp(2), seccomp_unotify(2)).

This is a small binding of our own, since libseccomp (and pyseccomp, which wraps it) has nothing for
SECCOMP_IOCTL_NOTIF_ADDFD, without which no file can be handed over, and so its structures would be needed here
anyway.  The filter does not use WAIT_KILLABLE_RECV: a signal must get a dmeventd thread out of DM_DEV_WAIT.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# System calls of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
OPEN: Final = 2
STAT: Final = 4
FSTAT: Final = 5
LSTAT: Final = 6
IOCTL: Final = 16
EXECVE: Final = 59
CREAT: Final = 85
CHOWN: Final = 92
LCHOWN: Final = 94
MKNOD: Final = 133
OPENAT: Final = 257
MKNODAT: Final = 259
FCHOWNAT: Final = 260
NEWFSTATAT: Final = 262
STATX: Final = 332
OPENAT2: Final = 437
_SECCOMP: Final = 317
_ALWAYS: Final = (OPENAT, NEWFSTATAT, FSTAT, STATX, OPEN, STAT, LSTAT, OPENAT2, CREAT, EXECVE, CHOWN, LCHOWN,
                  FCHOWNAT)

_FILE_TYPE: Final = 0o170000

# The type bytes of ioctls that are about block devices, and one number that stands alone.
DM_TYPE: Final = 0xFD
BLOCK_TYPE: Final = 0x12
HDIO_GETGEO: Final = 0x0301

_AUDIT_ARCH_X86_64: Final = 0xC000003E
_X32_BIT: Final = 0x40000000
_SET_MODE_FILTER: Final = 1
_GET_NOTIF_SIZES: Final = 3
_NEW_LISTENER: Final = 1 << 3
_PR_SET_NO_NEW_PRIVS: Final = 38

_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000

# Classic BPF: load a word, jump if equal, jump if any bit is set, and, return.
_LD: Final = 0x20
_JEQ: Final = 0x15
_JSET: Final = 0x45
_AND: Final = 0x54
_RET: Final = 0x06

# Offsets in struct seccomp_data.
_NR: Final = 0
_ARCH: Final = 4
_ARGS: Final = 16

_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102
_ADDFD: Final = 0x40182103
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1
_ADDFD_SEND: Final = 1 << 1
_CONTINUE: Final = 1
_NOTIF: Final = struct.Struct("<QIIiIQ6Q")
_RESP: Final = struct.Struct("<QqiI")
_ADD: Final = struct.Struct("<QIIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """There is no seccomp user notification here that could be used."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def filter_program() -> bytes:
    """The filter: which calls are handed over, and everything else is allowed."""
    code: list[tuple[int, int | str, str, int]] = []
    marks: dict[str, int] = {}

    def put(operation: int, value: int, yes: str = "", no: str = "") -> None:
        code.append((operation, yes, no, value))

    def load(offset: int) -> None:
        put(_LD, offset)

    load(_ARCH)
    put(_JEQ, _AUDIT_ARCH_X86_64, "", "allow")
    load(_NR)
    put(_JSET, _X32_BIT, "allow", "")
    for number in _ALWAYS:
        put(_JEQ, number, "notify", "")
    put(_JEQ, MKNOD, "mknod", "")
    put(_JEQ, MKNODAT, "mknodat", "")
    put(_JEQ, IOCTL, "", "allow")
    load(_ARGS + 8)
    put(_JEQ, HDIO_GETGEO, "notify", "")
    put(_AND, 0xFF00)
    put(_JEQ, DM_TYPE << 8, "notify", "")
    put(_JEQ, BLOCK_TYPE << 8, "notify", "allow")
    marks["mknod"] = len(code)
    load(_ARGS + 8)
    put(_AND, _FILE_TYPE)
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        put(_JEQ, kind, "notify", "" if kind == stat.S_IFBLK else "allow")
    marks["mknodat"] = len(code)
    load(_ARGS + 16)
    put(_AND, _FILE_TYPE)
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        put(_JEQ, kind, "notify", "" if kind == stat.S_IFBLK else "allow")
    marks["allow"] = len(code)
    put(_RET, _ALLOW)
    marks["notify"] = len(code)
    put(_RET, _NOTIFY)
    out = bytearray()
    for index, (operation, yes, no, value) in enumerate(code):
        jumps = [marks[str(mark)] - index - 1 if mark else 0 for mark in (yes, no)]
        out += struct.pack("<HBBI", operation, *jumps, value)
    return bytes(out)


def check() -> None:
    """:class:`Unavailable`, with the reason, where :func:`install` could not work."""
    if platform.machine() != "x86_64" or struct.calcsize("P") != 8:
        raise Unavailable(f"it knows the system calls of x86-64 only; this machine is {platform.machine()}")
    sizes = (ctypes.c_ushort * 3)()
    if _libc.syscall(_SECCOMP, _GET_NOTIF_SIZES, 0, ctypes.byref(sizes)):
        raise Unavailable(f"seccomp user notification: {os.strerror(ctypes.get_errno())}")
    if sizes[0] != _NOTIF.size or sizes[1] != _RESP.size:
        raise Unavailable("this kernel's seccomp notifications have another size")
    release = platform.release().split(".")
    if release[1:] and (int(release[0]), int("".join(c for c in release[1] if c.isdigit()) or 0)) < (5, 14):
        raise Unavailable(f"Linux {platform.release()} cannot hand over a file with the answer; 5.14 can")


def install() -> int:
    """Install the filter in this process for good, and return the listener's file descriptor."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Unavailable(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    code = filter_program()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    listener = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        number = ctypes.get_errno()
        why = "another supervisor has a filter on this program already" if number == errno.EBUSY else \
            os.strerror(number)
        raise Unavailable(f"seccomp user notification: {why}")
    return int(listener)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that waits for its answer.  ``thread``: the caller's thread id."""

    id: int
    thread: int
    number: int
    args: Sequence[int]

    def signed(self, index: int) -> int:
        """An argument that is an int."""
        value = self.args[index] & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value


class Listener:
    """The other end of a filter.  Answers to a caller that has gone, or was interrupted, return false."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # Caller and answerer take turns, so the wake-up need not look for an idle processor (Linux 6.6).
        _quietly(fd, _SET_FLAGS, _SYNC_WAKE_UP)

    def receive(self) -> Call | None:
        """The next call, however long that takes; ``None`` when a caller was interrupted meanwhile."""
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self.fd, _RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, thread, _flags, nr, _arch, _ip, *args = _NOTIF.unpack(buffer)
        return Call(number, thread, nr, args)

    def is_valid(self, call: Call) -> bool:
        """Whether the caller still waits, so that what was read in its memory was its own."""
        return _quietly(self.fd, _ID_VALID, struct.pack("<Q", call.id))

    def go_on(self, call: Call) -> bool:
        """Let the kernel do the call as if nobody had looked."""
        return _quietly(self.fd, _SEND, _RESP.pack(call.id, 0, 0, _CONTINUE))

    def succeed(self, call: Call, value: int = 0) -> bool:
        """The call returns this value."""
        return _quietly(self.fd, _SEND, _RESP.pack(call.id, value, 0, 0))

    def fail(self, call: Call, number: int) -> bool:
        """The call fails with this errno."""
        return _quietly(self.fd, _SEND, _RESP.pack(call.id, 0, -number, 0))

    def hand_over(self, call: Call, fd: int, *, close_on_exec: bool) -> bool:
        """The call returns a new file descriptor of the caller's, for the same open file as ``fd``."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        return _quietly(self.fd, _ADDFD, _ADD.pack(call.id, _ADDFD_SEND, fd, 0, flags))


def _quietly(fd: int, request: int, argument: bytes | int) -> bool:
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL, errno.EINPROGRESS):
            return False
        raise
    return True
