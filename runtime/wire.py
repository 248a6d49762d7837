"""How commands speak to a mount: messages over a unix socket that only its owner can reach.

A message is its length (u32, little-endian) and a msgpack map.  A request is ``{"dmspec": 1, "ask":
NAME, ...}``; answers follow until one has ``"end"``.  The socket lies in a folder of the user's own
(mode 0700) under a name that is made of the mountpoint's path.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

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
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise WireError(f"{path}: {error.strerror}; set XDG_RUNTIME_DIR to a folder of this user") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise WireError(f"{path} is not a folder of this user alone; remove it, or set XDG_RUNTIME_DIR")
    return path


def socket_path(mountpoint: str | os.PathLike[str]) -> Path:
    """Where the mount at this place listens."""
    real = os.fsencode(os.path.realpath(mountpoint))
    return folder() / f"{hashlib.sha256(real).hexdigest()[:20]}.sock"


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Another name of a socket, for bind and connect, which take no more than 107 bytes."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message, however long the other side takes to read it.

    A device's name may be no text (device-mapper takes any bytes); it is sent in a form that is.
    """
    data = msgpack.packb(message, use_bin_type=True, unicode_errors="backslashreplace")
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


def ask(mountpoint: str | os.PathLike[str], question: str, *, within_s: float | None = None,
        **more: Any) -> Iterator[dict[str, Any]]:
    """Ask the mount at this place; the answers, the one with ``end`` included.

    With ``within_s`` an answer that takes longer is a :class:`WireError`, as is any other trouble.
    """
    path = socket_path(mountpoint)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(within_s)
        try:
            with short_name(path) as name:
                connection.connect(name)
        except OSError as error:
            raise WireError(f"nothing of dmspec is mounted at {os.fspath(mountpoint)}") from error
        try:
            send(connection, {"dmspec": PROTOCOL, "ask": question, **more})
        except OSError as error:
            raise WireError(f"the mount has ended: {error.strerror or error}") from error
        while True:
            try:
                answer = receive(connection)
            except TimeoutError:
                raise WireError("the mount does not answer") from None
            except OSError as error:
                raise WireError(f"the mount has ended: {error.strerror or error}") from error
            if answer is None:
                raise WireError("the mount has ended")
            yield answer
            if "end" in answer:
                return


class Lock:
    """What the server of a mountpoint holds as long as it lives: only one can, and others wait for its end.

    It is a lock on a file that holds the server's process id.  A forked process shares it.
    """

    def __init__(self, mountpoint: str | os.PathLike[str]) -> None:
        self.path = lock_path(mountpoint)
        while True:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(self.fd), self.path.stat()):
                    shutil.rmtree(self.path.with_suffix(".view"), ignore_errors=True)  # of a server that was killed
                    break
            except BlockingIOError:
                os.close(self.fd)
                raise WireError(f"a stack is mounted at {os.fspath(mountpoint)} already") from None
            except FileNotFoundError:
                pass
            os.close(self.fd)  # whoever held it has removed the file
        self.name_holder()

    def name_holder(self) -> None:
        """Say that the present process is the server."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """The mount has ended: leave no file behind."""
        shutil.rmtree(self.path.with_suffix(".view"), ignore_errors=True)
        self.path.unlink(missing_ok=True)
        os.close(self.fd)

    def leave_to_child(self) -> None:
        """A forked process holds it now."""
        os.close(self.fd)


def lock_path(mountpoint: str | os.PathLike[str]) -> Path:
    """The file that the mount's server has locked."""
    return socket_path(mountpoint).with_suffix(".lock")


def view_folder(mountpoint: str | os.PathLike[str]) -> Path:
    """Where `dmspec exec` keeps the files that its programs find; it goes with the mount."""
    return socket_path(mountpoint).with_suffix(".view")


def holder(mountpoint: str | os.PathLike[str]) -> int | None:
    """The process id of the mount's server, if there is one."""
    try:
        fd = os.open(lock_path(mountpoint), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.pread(fd, 20, 0).strip()
        return int(said) if said.isdigit() else None
    finally:
        os.close(fd)
    return None


def wait_gone(mountpoint: str | os.PathLike[str], within_s: float | None = None) -> bool:
    """Wait until the server of the mount at this place has ended; false: it has not in that time."""
    try:
        fd = os.open(lock_path(mountpoint), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True

    def wait() -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    waiting = threading.Thread(target=wait, name="dmspec-wait", daemon=True)
    waiting.start()
    waiting.join(within_s)
    return not waiting.is_alive()
