"""How commands speak to a mount: messages over a unix socket that only its owner can reach.

A message is its length (u32, little-endian) and a msgpack map.  A request is ``{"dmspec": 1, "ask":
NAME, ...}``; answers follow until one has ``"end"``.  The socket lies in a folder of the user's own
(mode 0700) under a name that is made of the mountpoint's path.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

from .errors import DmspecError

PROTOCOL: Final = 1
MOST_BYTES: Final = 16 * 1024 * 1024
_LENGTH: Final = struct.Struct("<I")


class WireError(DmspecError):
    """The other side said something that is no message, or has gone."""


def folder() -> Path:
    """Where sockets and logs of mounts are; made on demand, and refused unless it is the user's own."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / "dmspec" if base else Path(tempfile.gettempdir()) / f"dmspec-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise WireError(f"{path} is not a folder of this user alone; remove it, or set XDG_RUNTIME_DIR")
    return path


def socket_path(mountpoint: str | os.PathLike[str]) -> Path:
    """Where the mount at this place listens."""
    real = os.path.realpath(mountpoint)
    return folder() / f"{hashlib.sha256(real.encode()).hexdigest()[:20]}.sock"


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    data = msgpack.packb(message, use_bin_type=True)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; ``None`` when the other side has closed."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MOST_BYTES:
        raise WireError(f"a message of {length} bytes is too long")
    data = _exactly(connection, length)
    if data is None:
        raise WireError("the connection ended within a message")
    try:
        message = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError):
        raise WireError("a message is not msgpack") from None
    if not isinstance(message, dict):
        raise WireError("a message is not a map")
    return message


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 16))
        if not part:
            if data:
                raise WireError("the connection ended within a message")
            return None
        data += part
    return bytes(data)


def ask(mountpoint: str | os.PathLike[str], question: str, **more: Any) -> Iterator[dict[str, Any]]:
    """Ask the mount at this place; the answers, the one with ``end`` included."""
    path = socket_path(mountpoint)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect(os.fspath(path))
        except OSError as error:
            raise WireError(f"nothing of dmspec is mounted at {os.fspath(mountpoint)}") from error
        send(connection, {"dmspec": PROTOCOL, "ask": question, **more})
        while True:
            answer = receive(connection)
            if answer is None:
                raise WireError("the mount has ended")
            yield answer
            if "end" in answer:
                return


def wait_gone(mountpoint: str | os.PathLike[str]) -> None:
    """Return when the mount at this place has ended: its server holds a lock for as long as it lives."""
    import fcntl

    path = lock_path(mountpoint)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def lock_path(mountpoint: str | os.PathLike[str]) -> Path:
    """A file that the mount's server has locked."""
    return socket_path(mountpoint).with_suffix(".lock")
