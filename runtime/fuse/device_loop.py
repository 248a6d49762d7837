"""Serves /dev/fuse itself for reads and writes, and leaves all else to libfuse.

libfuse hands every request to whichever of its threads woke first, so a stream of requests finds no thread's memory
warm, and each passes through a C callback into Python.  Here one thread, the leader, reads requests off the device,
moves the bytes of those that go straight (`export.Straight`) in its own memory, answers, and reads on; no other thread
takes part.  A read or write that may have to wait takes the ordinary path in that same thread, after it has made
another one the leader; so does an fsync.

Every other request goes to libfuse as it came.  libfuse's own descriptor is turned into one end of a socket for that
(nothing in its interface is needed, so no version of it matters), and what it answers is passed on to the device.

The numbers are those of the kernel's include/uapi/linux/fuse.h.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from time import perf_counter

from dmspec.runtime.fuse.adapter import IDLE_THREADS, REQUEST_BYTES, Files

_IN_HEADER = struct.Struct("=IIQQIIII")
_TRANSFER = struct.Struct("=IIQQIIIIQQII")  # the header, then fuse_read_in or fuse_write_in as far as we look at it
_OUT_HEADER = struct.Struct("=IiQ")
_WRITE_OUT = struct.Struct("=IiQII")
_HEAD_BYTES = 80
_FORGET, _READ, _WRITE, _FSYNC, _INTERRUPT = 2, 15, 16, 20, 36
_FROM_PAGE_CACHE = 1
_CLONE = 0x8004E500
_MESSAGE_BYTES = 1 << 18
_ENDED = (errno.ENODEV, errno.ECONNABORTED, errno.EBADF)

# How long the leader asks the device again and again before it sleeps: waking up costs more than most requests.
SPIN_SECONDS = 50e-6

# Nobody waits for one write-back, only for all of them, so large ones are worth a second thread.
SHARED_BYTES = 262144
MOST_SHARING = max((os.cpu_count() or 1) - 1, 0)


def _clone(descriptor: int) -> int:
    """Open the device again for the same connection, so that its being non-blocking is nothing to libfuse's threads."""
    clone = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(clone, _CLONE, struct.pack("=I", descriptor))
    except BaseException:
        os.close(clone)
        raise
    return clone


def is_connected(descriptor: int) -> bool:
    """Whether the kernel still has the connection of a descriptor of /dev/fuse."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return not any(event & (select.POLLERR | select.POLLNVAL) for _fd, event in poll.poll(0))


class DeviceLoop:
    """Takes libfuse's place at a mounted connection; `on_end` is called once, when the connection has ended."""

    def __init__(self, files: Files, libfuse_fd: int, on_end: Callable[[], None]) -> None:
        self._files = files
        self._libfuse_fd = libfuse_fd
        self._on_end = on_end
        self._original = os.dup(libfuse_fd)
        self._device = _clone(libfuse_fd)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES)
        os.dup2(theirs.fileno(), libfuse_fd, inheritable=False)
        theirs.close()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._idle: list[threading.Lock] = []
        self._count = threading.Lock()
        self._workers: set[threading.Thread] = set()
        self._sharing = 0
        self._closing = False
        threading.Thread(target=self._pass_answers, name="fuse-answers", daemon=True).start()
        self._add_worker()

    def finish(self) -> None:
        """Return when no thread works on a request any more; libfuse's loop must have ended."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        with self._count:
            for gate in self._idle:
                gate.release()
        while True:
            with self._count:
                worker = next(iter(self._workers), None)
            if worker is None:
                break
            worker.join()
        self._ours.close()
        for descriptor in (self._original, self._device, self._wake):
            os.close(descriptor)

    def is_connected(self) -> bool:
        """Whether the kernel still has the connection, although its mount may be gone from here."""
        return not self._closing and is_connected(self._device)

    def _add_worker(self) -> None:
        """Start another thread, which is the leader."""
        worker = threading.Thread(target=self._work, name="fuse-device", daemon=True)
        with self._count:
            self._workers.add(worker)
        worker.start()

    def _work(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        try:
            request = _Request(self, memoryview(mmap.mmap(-1, REQUEST_BYTES + mmap.PAGESIZE)))
            while True:
                request.lead()
                with self._count:
                    if self._closing or len(self._idle) >= IDLE_THREADS:
                        return
                    self._idle.append(gate)
                gate.acquire()
        finally:
            with self._count:
                self._workers.discard(threading.current_thread())

    def hand_over(self) -> None:
        """Make another thread the leader: the one that worked last, whose memory is the warmest, or a new one."""
        with self._count:
            gate = self._idle.pop() if self._idle else None
        if gate is not None:
            gate.release()
        else:
            self._add_worker()

    def shares(self) -> bool:
        """Whether a large write-back is worth a thread beside the leader: there may be as many as processors."""
        with self._count:
            if self._sharing >= MOST_SHARING:
                return False
            self._sharing += 1
            return True

    def has_shared(self) -> None:
        """That write-back has ended."""
        with self._count:
            self._sharing -= 1

    def wait(self) -> None:
        """Sleep until there is a request, or the end."""
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        poll.poll()

    def end(self) -> None:
        """The connection has ended: give libfuse its descriptor back, and a request to wake up by."""
        if self._closing:
            return
        self._closing = True
        os.dup2(self._original, self._libfuse_fd, inheritable=False)
        self._on_end()
        with contextlib.suppress(OSError):
            self._ours.send(_IN_HEADER.pack(48, _FORGET, 0, 1, 0, 0, 0, 0) + bytes(8))

    def _pass_answers(self) -> None:
        memory = memoryview(bytearray(_MESSAGE_BYTES))
        with contextlib.suppress(OSError):
            while length := self._ours.recv_into(memory):
                self._pass_answer(memory[:length])

    def _pass_answer(self, answer: memoryview) -> None:
        """What was asked through one descriptor is answered through the same.

        libfuse has read the first request before there was a clone, and one of its threads may have waited for another.
        """
        try:
            os.write(self._device, answer)
        except OSError as problem:
            if problem.errno == errno.ENOENT:
                with contextlib.suppress(OSError):
                    os.write(self._original, answer)

    def answer(self, *parts: bytes | bytearray | memoryview) -> None:
        """Answer a request; who asked may have gone."""
        with contextlib.suppress(OSError):
            os.writev(self._device, parts)


class _Request:
    """A worker's memory, and the request that is in it."""

    def __init__(self, loop: DeviceLoop, data: memoryview) -> None:
        self.loop = loop
        self.leading = False
        self.head = bytearray(_HEAD_BYTES)
        self.data = data
        self.parts = (self.head, data)
        self.out = bytearray(_WRITE_OUT.size)
        self.files = loop._files
        self.device = loop._device
        self.spin_until = 0.0

    def lead(self) -> None:
        """Take requests until another thread is the leader, or the connection has ended."""
        self.leading = True
        while self.leading and not self.loop._closing:
            self.next()

    def next(self) -> None:
        """Take the next request and answer it."""
        try:
            length = os.readv(self.device, self.parts)
        except BlockingIOError:
            if perf_counter() > self.spin_until:
                self.loop.wait()
            return
        except OSError as problem:
            if problem.errno in _ENDED:
                self.loop.end()
            return
        _, opcode, unique, _, _, _, _, _, handle, offset, size, flags = _TRANSFER.unpack_from(self.head)
        if opcode == _WRITE:
            self.write(unique, handle, offset, size, bool(flags & _FROM_PAGE_CACHE))
        elif opcode == _READ:
            self.read(unique, handle, offset, size)
        elif opcode == _FSYNC:
            self.sync(unique, handle)
        elif opcode == _INTERRUPT:
            self.fail(unique, errno.ENOSYS)
            return
        else:
            self.pass_on(length)
            return
        self.spin_until = perf_counter() + SPIN_SECONDS

    def pass_on(self, length: int) -> None:
        """Let libfuse do it."""
        message = (memoryview(self.head)[:length], self.data[:max(length - _HEAD_BYTES, 0)])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.loop._ours.sendmsg(message)

    def read(self, unique: int, handle: int, offset: int, size: int) -> None:
        buffer = self.data[:size]
        try:
            straight = self.files.straight(handle)
            if straight is None or not straight.read(offset, buffer):
                self.wait_for_it()
                size = self.files.read(handle, offset, buffer)
        except BaseException as problem:  # noqa: BLE001 - what is no OSError goes on to serve()
            self.refuse(unique, problem)
        else:
            _OUT_HEADER.pack_into(self.out, 0, _OUT_HEADER.size + size, 0, unique)
            self.loop.answer(memoryview(self.out)[:_OUT_HEADER.size], self.data[:size])

    def write(self, unique: int, handle: int, offset: int, size: int, from_page_cache: bool) -> None:
        buffer = self.data[:size]
        shares = from_page_cache and size >= SHARED_BYTES and self.loop.shares()
        if shares:
            self.wait_for_it()
        try:
            straight = self.files.straight(handle)
            if straight is None or not straight.write(offset, buffer):
                self.wait_for_it()
                size = self.files.write(handle, offset, buffer, from_page_cache=from_page_cache)
        except BaseException as problem:  # noqa: BLE001 - what is no OSError goes on to serve()
            self.refuse(unique, problem)
        else:
            _WRITE_OUT.pack_into(self.out, 0, _WRITE_OUT.size, 0, unique, size, 0)
            self.loop.answer(self.out)
        finally:
            if shares:
                self.loop.has_shared()

    def sync(self, unique: int, handle: int) -> None:
        self.wait_for_it()
        try:
            self.files.fsync(None, 0, handle)
        except BaseException as problem:  # noqa: BLE001 - what is no OSError goes on to serve()
            self.refuse(unique, problem)
        else:
            self.fail(unique, 0)

    def refuse(self, unique: int, problem: BaseException) -> None:
        """Answer with what went wrong; a bug of ours is raised by serve(), after unmounting."""
        if isinstance(problem, OSError):
            self.fail(unique, problem.errno or errno.EIO)
        else:
            self.fail(unique, errno.EIO)
            self.files._bug(problem)

    def fail(self, unique: int, number: int) -> None:
        self.loop.answer(_OUT_HEADER.pack(_OUT_HEADER.size, -number, unique))

    def wait_for_it(self) -> None:
        """Let another thread lead meanwhile, since the present request may take long."""
        if self.leading:
            self.leading = False
            self.loop.hand_over()
