"""Device nodes that are no devices: small files that say which device they stand for.

Nobody needs the right to make them, they can be renamed, linked and removed like any node, and outside they open
nothing.  The stat family's answers about them are made here too (struct stat and struct statx of x86-64).
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TEXT: Final = re.compile(rb"dmspec node ([bc]) (\d{1,9}):(\d{1,9})\n\Z")
_LEAST_BYTES: Final = len("dmspec node b 0:0\n")
MOST_BYTES: Final = 64
"""A file that is longer is no node."""

_STAT: Final = struct.Struct("<3Q4IQ3q6q3q")
_STATX_HEAD: Final = struct.Struct("<2IQ3IHH4Q")
_STATX_TIME: Final = struct.Struct("<qIi")
_STATX_TAIL: Final = struct.Struct("<4I")
_STATX_BYTES: Final = 256
_STATX_BASIC: Final = 0x7FF
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Node:
    """The device that a node stands for."""

    major: int
    minor: int
    is_block: bool = True

    @property
    def number(self) -> str:
        """``major:minor``."""
        return f"{self.major}:{self.minor}"

    @property
    def text(self) -> bytes:
        """What its file contains."""
        return f"dmspec node {'b' if self.is_block else 'c'} {self.number}\n".encode()


CONTROL: Final = Node(10, 236, is_block=False)


def make(path: Path | str, node: Node, mode: int = 0o660, dir_fd: int | None = None) -> None:
    """Make a node; ``FileExistsError`` where something is."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & 0o777, dir_fd=dir_fd)
    try:
        os.write(fd, node.text)
    finally:
        os.close(fd)


def node_of(fd: int, status: os.stat_result) -> Node | None:
    """The node that an open file (``O_PATH`` is enough) of this status is, if it is one."""
    if not stat.S_ISREG(status.st_mode) or not _LEAST_BYTES <= status.st_size <= MOST_BYTES:
        return None
    try:
        content = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        match = _TEXT.match(os.read(content, MOST_BYTES))
    finally:
        os.close(content)
    return Node(int(match[2]), int(match[3]), match[1] == b"b") if match else None


def read_node(path: Path) -> Node | None:
    """The node at a place."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return node_of(fd, os.fstat(fd))
    finally:
        os.close(fd)


def _mode(node: Node, status: os.stat_result) -> int:
    return (stat.S_IFBLK if node.is_block else stat.S_IFCHR) | stat.S_IMODE(status.st_mode)


def _device(node: Node) -> int:
    """``new_encode_dev``."""
    return (node.minor & 0xFF) | (node.major << 8) | ((node.minor & ~0xFF) << 12)


def stat_bytes(node: Node, status: os.stat_result) -> bytes:
    """``struct stat``."""
    times = [part for ns in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns) for part in divmod(ns, _NS)]
    return _STAT.pack(status.st_dev, status.st_ino, status.st_nlink, _mode(node, status), status.st_uid,
                      status.st_gid, 0, _device(node), 0, 4096, 0, *times, 0, 0, 0)


def statx_bytes(node: Node, status: os.stat_result) -> bytes:
    """``struct statx``, with the basic fields."""
    out = _STATX_HEAD.pack(_STATX_BASIC, 4096, 0, status.st_nlink, status.st_uid, status.st_gid,
                           _mode(node, status), 0, status.st_ino, 0, 0, 0)
    for ns in (status.st_atime_ns, 0, status.st_ctime_ns, status.st_mtime_ns):
        out += _STATX_TIME.pack(*divmod(ns, _NS), 0)
    out += _STATX_TAIL.pack(node.major, node.minor, os.major(status.st_dev), os.minor(status.st_dev))
    return out.ljust(_STATX_BYTES, b"\0")
