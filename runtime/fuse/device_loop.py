"""Serves /dev/fuse itself for reads and writes, and leaves all else to libfuse.

libfuse hands every request to whichever of its threads woke first, so a stream of requests finds no thread's memory
warm, and each passes through a C callback into Python.  Here one thread, the leader, reads requests off the device,
moves the bytes of those that go straight (`export.Straight`) in its own memory, answers, and reads on; no other thread
takes part.  A read or write that may have to wait takes the ordinary path in that same thread, after it has made
another one a leader; so does an fsync, a discard or a flush at a close.  Large write-backs, which come in numbers, are
read by several leaders, and moved as the pages that they are (`piped`).

Every other request goes to libfuse as it came.  libfuse's own descriptor is turned into one end of a socket for that
(nothing in its interface is needed, so no version of it matters), and what it answers is passed on to the device.
One of libfuse's threads waits in read(2) for a request already when that is done, and takes the one that comes next.
It must not be a large read, whose answer no socket of an ordinary user takes in one piece.  So the first leader begins
when that thread has answered something; before that nobody can have opened a file.

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
from dmspec.runtime.fuse.export import Straight
from dmspec.runtime.fuse.piped import Piped

_IN_HEADER = struct.Struct("=IIQQIIII")
_TRANSFER = struct.Struct("=IIQQIIIIQQII")  # the header, then fuse_read_in or fuse_write_in as far as we look at it
_OUT_HEADER = struct.Struct("=IiQ")
_WRITE_OUT = struct.Struct("=IiQII")
_HEAD_BYTES = 80
_FORGET, _SETATTR, _READ, _WRITE, _RELEASE, _FSYNC, _FLUSH, _INTERRUPT, _FALLOCATE = 2, 4, 15, 16, 18, 20, 25, 36, 43
_FALLOCATION = struct.Struct("=QQQI")
_CHANGE = struct.Struct("=IIQ")
_OF_HANDLE, _NO_TIMES = 64, ~(16 | 32 | 64 | 128 | 256 | 512 | 1024)
_ATTRIBUTES = struct.Struct("=IiQQII6Q10I")
_NS = 10**9
_NOTIFICATION = struct.Struct("=IiQQqq")
_FORGET_PAGES = 2
_FROM_PAGE_CACHE = 1
_CLONE = 0x8004E500
_MESSAGE_BYTES = 1 << 18
_ENDED = (errno.ENODEV, errno.ECONNABORTED, errno.EBADF)

# A libfuse whose threads do not wait for a request so early has nothing to answer.
START_SECONDS = 1.0

# How long a leader asks the device again and again before it sleeps, since waking up costs more than most requests.  It
# does so only where request after request has followed the last answer closely, asleep or awake: what it asks in vain
# takes the processor from whoever makes the requests.
SPIN_SECONDS = 50e-6
CLOSE_SECONDS = 100e-6
ENOUGH_TRUST = 8
MOST_TRUST = 16

# Nobody waits for one write-back, only for all of them, so large ones are worth a leader for each processor; but a file
# takes one write at a time, and each leader's pipes are five descriptors.
SHARED_BYTES = 262144
MOST_LEADERS = min(os.cpu_count() or 1, 4)


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
        self._began = False
        self._leaders = 0
        self.expects_pages = False
        self._pipes: list[Piped] = []
        self._pipes_to_make = MOST_LEADERS
        self._closing = False
        self._start = threading.Timer(START_SECONDS, self._begin)
        self._start.daemon = True
        self._start.start()
        threading.Thread(target=self._pass_answers, name="fuse-answers", daemon=True).start()

    def finish(self) -> None:
        """Return when no thread works on a request any more; libfuse's loop must have ended."""
        self._closing = True
        self._start.cancel()
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
        for piped in self._pipes:
            piped.close()
        for descriptor in (self._original, self._device, self._wake):
            os.close(descriptor)

    def is_connected(self) -> bool:
        """Whether the kernel still has the connection, although its mount may be gone from here."""
        return not self._closing and is_connected(self._device)

    def _begin(self) -> None:
        """Have the first leader, once."""
        with self._count:
            if self._closing or self._began:
                return
            self._began = True
        self._start.cancel()
        self._call_leader()

    def _add_worker(self) -> None:
        """Start another thread, which leads."""
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
        """Lead no more; where no other thread does, another one is woken."""
        with self._count:
            self._leaders -= 1
            if self._leaders:
                return
        self._call_leader()

    def share(self) -> None:
        """Have one more thread lead, if it is worth one."""
        with self._count:
            if self._leaders >= MOST_LEADERS:
                return
        self._call_leader()

    def _call_leader(self) -> None:
        """Make another thread a leader: the one that worked last, whose memory is the warmest, or a new one."""
        with self._count:
            self._leaders += 1
            gate = self._idle.pop() if self._idle else None
        if gate is not None:
            gate.release()
        else:
            self._add_worker()

    def leaves_it(self) -> bool:
        """Whether one that finds nothing to do may stop leading, since another leads."""
        with self._count:
            if self._leaders == 1:
                return False
            self._leaders -= 1
            return True

    def borrow_pipes(self) -> Piped | None:
        """Pipes for a request that is expected to be large, if there are some to spare."""
        with self._count:
            if self._pipes:
                return self._pipes.pop()
            if not self._pipes_to_make:
                return None
            self._pipes_to_make -= 1
        try:
            return Piped()
        except OSError:
            self._pipes_to_make = 0
            return None

    def give_back_pipes(self, piped: Piped) -> None:
        """They must be empty."""
        with self._count:
            self._pipes.append(piped)

    def forget_pages(self, inode: int) -> None:
        """Have the kernel drop the cached pages of a file; it waits for those that are being written or read."""
        with contextlib.suppress(OSError):
            os.write(self._device, _NOTIFICATION.pack(_NOTIFICATION.size, _FORGET_PAGES, 0, inode, 0, 0))

    def poll(self) -> select.poll:
        """What ends its sleep when there is a request, or the end."""
        poll = select.poll()
        for descriptor in (self._device, self._wake):
            poll.register(descriptor, select.POLLIN)
        return poll

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
        """The first one is to the kernel's greeting; the second one is that of the thread that waited, so begin."""
        memory = memoryview(bytearray(_MESSAGE_BYTES))
        answers = 0
        with contextlib.suppress(OSError):
            while length := self._ours.recv_into(memory):
                self._pass_answer(memory[:length])
                answers += 1
                if answers == 2:
                    self._begin()

    def _pass_answer(self, answer: memoryview) -> None:
        """What was asked through one descriptor is answered through it: libfuse has had requests before we began."""
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
        self.poll = loop.poll()
        self.files = loop._files
        self.device = loop._device
        self.trust = 0
        self.answered = 0.0
        self.piped: Piped | None = None

    def lead(self) -> None:
        """Take requests until others are to do so, or the connection has ended."""
        self.leading = True
        self.trust = 0
        while self.leading and not self.loop._closing:
            self.next()

    def next(self) -> None:
        """Take the next request and answer it."""
        try:
            length = self.take()
        except BlockingIOError:
            if self.trust < ENOUGH_TRUST or perf_counter() - self.answered > SPIN_SECONDS:
                if self.loop.leaves_it():
                    self.leading = False
                else:
                    self.poll.poll()
            return
        except OSError as problem:
            if problem.errno in _ENDED:
                self.loop.end()
            return
        if perf_counter() - self.answered < CLOSE_SECONDS:
            self.trust = min(self.trust + 1, MOST_TRUST)
        else:
            self.trust = max(self.trust - ENOUGH_TRUST, 0)
        _, opcode, unique, inode, _, _, _, _, handle, offset, size, flags = _TRANSFER.unpack_from(self.head)
        if self.piped is not None and (opcode != _WRITE or size < SHARED_BYTES):
            self.unpipe()
            self.loop.expects_pages = False
        if opcode == _WRITE:
            self.write(unique, handle, offset, size, bool(flags & _FROM_PAGE_CACHE))
        elif opcode == _READ:
            self.read(unique, handle, offset, size)
        elif opcode == _FSYNC:
            self.do(unique, self.files.fsync, None, 0, handle)
        elif opcode == _FLUSH:
            self.do(unique, self.files.flush, None, handle)
        elif opcode == _FALLOCATE:
            _, offset, more, mode = _FALLOCATION.unpack_from(self.head, _IN_HEADER.size)
            self.do(unique, self.files.fallocate, None, mode, offset, more, handle)
        elif opcode == _INTERRUPT:
            self.fail(unique, errno.ENOSYS)
            return
        elif opcode != _SETATTR or not self.set_times(unique, inode):
            if opcode == _RELEASE:
                self.files.note_inode(handle, inode)
            self.pass_on(length)
            return
        self.answered = perf_counter()

    def take(self) -> int:
        """Read the next request, and tell its length."""
        piped = self.loop.borrow_pipes() if self.loop.expects_pages else None
        if piped is None:
            return os.readv(self.device, self.parts)
        try:
            length = piped.take(self.device, self.head, self.data)
        except BaseException:
            self.loop.give_back_pipes(piped)
            raise
        self.piped = piped
        return length

    def unpipe(self) -> None:
        """Have the request in memory."""
        piped, self.piped = self.piped, None
        if piped is not None:
            piped.buffer()
            piped.over()
            self.loop.give_back_pipes(piped)

    def pass_on(self, length: int) -> None:
        """Let libfuse do it."""
        message = (memoryview(self.head)[:length], self.data[:max(length - _HEAD_BYTES, 0)])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.loop._ours.sendmsg(message)

    def set_times(self, unique: int, inode: int) -> bool:
        """Answer what comes with most fsyncs; False: it is more than that."""
        changes, _, handle = _CHANGE.unpack_from(self.head, _IN_HEADER.size)
        if not changes & _OF_HANDLE or changes & _NO_TIMES:
            return False
        try:
            said = self.files.set_times(handle)
        except OSError as problem:
            self.refuse(unique, problem)
            return True
        if said is None:
            return False
        times = [said[name] for name in ("st_atime", "st_mtime", "st_ctime")]
        self.loop.answer(_ATTRIBUTES.pack(
            _ATTRIBUTES.size, 0, unique, 0, 0, 0, inode, said["st_size"], said["st_blocks"],
            *(time // _NS for time in times), *(time % _NS for time in times), said["st_mode"], said["st_nlink"],
            said["st_uid"], said["st_gid"], 0, said["st_blksize"], 0))
        return True

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
        is_large = from_page_cache and size >= SHARED_BYTES
        self.loop.expects_pages = is_large
        if is_large:
            self.loop.share()
        try:
            if not self.write_straight(self.files.straight(handle), offset, size):
                self.wait_for_it()
                size = self.files.write(handle, offset, self.data[:size], from_page_cache=from_page_cache)
        except BaseException as problem:  # noqa: BLE001 - what is no OSError goes on to serve()
            self.refuse(unique, problem)
        else:
            _WRITE_OUT.pack_into(self.out, 0, _WRITE_OUT.size, 0, unique, size, 0)
            self.loop.answer(self.out)
        finally:
            self.unpipe()

    def write_straight(self, straight: Straight | None, offset: int, size: int) -> bool:
        """Where it does not go straight the bytes are in memory afterwards."""
        if self.piped is None:
            return straight is not None and straight.write(offset, self.data[:size])
        if straight is not None and straight.write_pages(offset, size, self.piped):
            self.piped.over()
            return True
        self.unpipe()
        return False

    def do(self, unique: int, operation: Callable[..., int], *arguments: int | None) -> None:
        """Do what may take long and has no other answer than that it is done."""
        self.wait_for_it()
        try:
            operation(*arguments)
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
        """Have another thread lead meanwhile, since the present request may take long."""
        if self.leading:
            self.leading = False
            self.loop.hand_over()
