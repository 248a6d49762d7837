"""/dev/mapper/control: a program's binary ioctls on their way to the mount's control core, and back."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmspec.dmsetup.door import NoMountError
from dmspec.exec import memory
from dmspec.runtime import ioctl_format as form
from dmspec.runtime import wire

if TYPE_CHECKING:
    from dmspec.exec.answers import Answers
    from dmspec.exec.seccomp import Call

# Commands that do something, so that their answer may not get lost; after some there is more or less in /dev or /sys.
_CHANGES: Final = frozenset({form.REMOVE_ALL, form.DEV_CREATE, form.DEV_REMOVE, form.DEV_RENAME, form.DEV_SUSPEND,
                             form.TABLE_LOAD, form.TABLE_CLEAR, form.TARGET_MSG})
_COMES_OR_GOES: Final = frozenset({form.REMOVE_ALL, form.DEV_REMOVE, form.TABLE_LOAD})
# What may wait, so that somebody has to look whether the caller still does.
_LOOK_SECONDS: Final = 0.02
# A buffer of more bytes is one for which there is no memory; libdm begins with 16 KiB and doubles that when it has to.
_MOST_BYTES: Final = 8 << 20
_VERSION_BYTES: Final = 1024
_SIZE_OF_HEADER: Final = form.HEADER_BYTES
_HAS_PARAMETERS: Final = frozenset({form.DEV_RENAME, form.TABLE_LOAD, form.TABLE_DEPS, form.TABLE_STATUS,
                                    form.DEV_WAIT, form.LIST_DEVICES, form.LIST_VERSIONS, form.TARGET_MSG,
                                    form.DEV_SET_GEOMETRY, form.GET_TARGET_VERSION})


class Turns:
    """One call of a thread at a time: a signal may let it call again while its first call is still being done."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.locks: dict[int, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, thread: int) -> Iterator[None]:
        with self.guard:
            lock, count = self.locks.get(thread, (threading.Lock(), 0))
            self.locks[thread] = (lock, count + 1)
        try:
            with lock:
                yield
        finally:
            with self.guard:
                lock, count = self.locks.pop(thread)
                if count > 1:
                    self.locks[thread] = (lock, count - 1)


@dataclass(frozen=True, slots=True)
class Lost:
    """A request and its answer, of which the caller was not told."""

    nr: int
    data: bytes
    error: int
    back: bytes

    @property
    def overwritten(self) -> bytes:
        """What the caller's buffer holds if the answer has reached it."""
        return self.back + self.data[len(self.back):]


class Control:
    """``lost`` has, by thread, an answer that a signal kept from its caller, with the request.

    Such a call is usually made again by the kernel itself when the signal has been handled; it then gets that
    answer, and so nothing is done twice.  The signal may come when the answer is in the caller's buffer already: the
    request that is made again is then what the answer has left there.
    """

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.turns = Turns()
        self.lost: dict[int, Lost] = {}

    def ioctl(self, call: Call, number: int) -> bool:
        """Run one command."""
        with self.turns.of(call.thread):
            return self._ioctl(call, number & 0xFF)

    def _ioctl(self, call: Call, nr: int) -> bool:
        if nr == form.DEV_ARM_POLL:
            self._arm(call)
        data = self._buffer(call, nr)
        if not self.answers.listener.is_valid(call):
            return False
        lost = self.lost.pop(call.thread, None)
        if lost is not None and lost.nr == nr and data in (lost.data, lost.overwritten[:len(data)]):
            return self._finish(call, nr, lost.data, lost.error, lost.back)
        who = self.answers.story.before(call.thread, nr, data)
        error, back = self._run(call, who, nr, data)
        self.answers.story.after(who, nr, data, error)
        if not error and nr in _COMES_OR_GOES:
            self.answers.refresh()
        return self._finish(call, nr, data, error, back)

    def load_module(self, kind: str) -> None:
        """What the kernel does when somebody asks for a target type."""
        self.answers.door.ioctl(form.GET_TARGET_VERSION, form.Header(name=kind, data_size=_VERSION_BYTES).write()
                                .ljust(_VERSION_BYTES, b"\0"))

    def _finish(self, call: Call, nr: int, data: bytes, error: int, back: bytes) -> bool:
        listener = self.answers.listener
        told = False
        if listener.is_valid(call):
            try:
                memory.write(call.thread, call.args[2], back)
                number = error
            except OSError:
                number = error or errno.EFAULT
            told = listener.fail(call, number) if number else listener.succeed(call)
        if not told and nr in _CHANGES and error != errno.EINTR:
            self.lost[call.thread] = Lost(nr, data, error, back)
        return told

    def _buffer(self, call: Call, nr: int) -> bytes:
        """As much of the caller's buffer as it says there is and can be read; the core says what is wrong with it."""
        data = memory.read_some(call.thread, call.args[2], _SIZE_OF_HEADER)
        if len(data) == _SIZE_OF_HEADER and nr in _HAS_PARAMETERS:
            size = form.Header.read(data).data_size
            if _SIZE_OF_HEADER < size <= form.LARGEST_BYTES:
                wanted = min(size, _MOST_BYTES)
                data += memory.read_some(call.thread, call.args[2] + _SIZE_OF_HEADER, wanted - _SIZE_OF_HEADER)
            if _MOST_BYTES == len(data) < size:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return data

    def _run(self, call: Call, who: str, nr: int, data: bytes) -> tuple[int, bytes]:
        error, back = self._ask(call, who, nr, data)
        number = self._busy(nr, data, error, back)
        if number and self.answers.settle(number):
            error, back = self._ask(call, who, nr, data)
        return error, back

    def _busy(self, nr: int, data: bytes, error: int, back: bytes) -> str:
        """The number of a device about whose openings this answer may be late; empty if it isn't."""
        if nr == form.DEV_STATUS and not error and len(back) >= _SIZE_OF_HEADER:
            header = form.Header.read(back)
            major, minor = form.decode_dev(header.dev)
            return f"{major}:{minor}" if header.open_count else ""
        if nr == form.DEV_REMOVE and error == errno.EBUSY:
            wanted = form.Header.read(data)
            for block in self.answers.door.blocks():
                if block.name and (block.name == wanted.name or (wanted.uuid and block.uuid == wanted.uuid)
                                   or form.encode_dev(block.major, block.minor) == wanted.dev):
                    return block.number
        return ""

    def _ask(self, call: Call, who: str, nr: int, data: bytes) -> tuple[int, bytes]:
        """Ask the mount; when the caller is no longer there, what can be interrupted in the mount is."""
        with self._connected() as connection:
            wire.send(connection, {"dmspec": wire.PROTOCOL, "ask": "ioctl", "nr": nr, "data": data,
                                   "who": who})
            while not select.select([connection], [], [], _LOOK_SECONDS)[0]:
                if not self.answers.listener.is_valid(call):
                    connection.shutdown(socket.SHUT_WR)
                    break
            answer = self._received(connection)
        return int(answer["errno"]), bytes(answer["data"])

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            try:
                with wire.short_name(self.answers.door.path) as name:
                    connection.connect(name)
                yield connection
            except (OSError, wire.WireError) as error:
                raise NoMountError(f"the mount does not answer: {error}") from None

    @staticmethod
    def _received(connection: socket.socket) -> dict[str, Any]:
        answer = wire.receive(connection)
        if answer is None or "problem" in answer:
            raise NoMountError(str((answer or {}).get("problem", "the mount has ended")))
        return answer

    def _arm(self, call: Call) -> None:
        """Let poll(2) on this open control node return at the next event.

        The eventfd is the caller's; a copy lives here until then, or until the caller has gone.
        """
        pidfd = os.pidfd_open(_process_of(call.thread))
        try:
            fd = _take_fd(pidfd, call.signed(0))
        except OSError:
            os.close(pidfd)
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        count = self.answers.door.ask("poll")["count"]
        threading.Thread(target=self._signal, args=(pidfd, fd, count), name="dmspec-poll", daemon=True).start()

    def _signal(self, pidfd: int, fd: int, count: int) -> None:
        try:
            with contextlib.suppress(NoMountError), self._connected() as connection:
                wire.send(connection, {"dmspec": wire.PROTOCOL, "ask": "poll", "after": count})
                if connection.fileno() in select.select([connection.fileno(), pidfd], [], [])[0]:
                    self._received(connection)
                    os.eventfd_write(fd, 1)
        finally:
            os.close(fd)
            os.close(pidfd)


def _process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Tgid:"))


def _take_fd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    taken = libc.syscall(438, pidfd, fd, 0)
    if taken < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return int(taken)
