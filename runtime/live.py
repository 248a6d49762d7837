"""The live engine: threads, real time, disks behind file descriptors.

One lock guards the whole stack while a step runs, so code between two waits is atomic here as it
is in simulation, and every live run is one that the simulator can choose.  The lock is let go
while the bytes of a disk I/O move.

There is no engine thread in the way of a request: the thread that brought a bio runs whatever can
run until that bio has ended, and sleeps only when nothing can.  One background thread runs what is
left over (recovery, deferred bios, timers).
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .bio import Bio
from .block import Disk, DiskIo
from .errors import DmspecError, InternalError
from .task import Frame, Latch, Task


class Abandoned(DmspecError):
    """The engine was told to let go of everything: the mount is being taken down with I/O held."""


class _Waiter:
    """A thread's own end to wait for."""

    __slots__ = ("abandoned", "ended", "event")

    def __init__(self) -> None:
        self.ended = False
        self.abandoned = False
        self.event: threading.Event | None = None

    def bio_done(self, bio: Bio) -> None:
        del bio
        self.end()

    def end(self) -> None:
        self.ended = True
        if self.event is not None:
            self.event.set()


class LiveTask(Task):
    """A task that tells when it has ended; ``on_end`` is called with the stack's lock held."""

    __slots__ = ("on_end", "waiter")

    def __init__(self, engine: LiveEngine, name: str, on_end: Callable[[Task], None] | None = None) -> None:
        super().__init__(engine, name)
        self.waiter = _Waiter()
        self.on_end = on_end

    def finish(self) -> None:
        super().finish()
        self.waiter.end()
        if self.on_end is not None:
            self.on_end(self)


class LiveEngine:
    """See the module.

    ``observer(lane, text)`` and ``after_step()`` are called under the lock.
    """

    def __init__(self, observer: Callable[[str, str], None] | None = None) -> None:
        self.lock = threading.Lock()
        self.observer = observer
        self.runnable: deque[Task] = deque()
        self.timers: list[tuple[int, int, Latch]] = []
        self.timer_count = 0
        self.broken: BaseException | None = None
        self.waiters: list[_Waiter] = []
        self.after_step: Callable[[], None] | None = None
        self.performing = 0
        self._quiet = threading.Condition(self.lock)
        self._left_over = threading.Condition(self.lock)
        self._stopping = False
        self._thread = threading.Thread(target=self._background, name="dmspec-background", daemon=True)
        self._thread.start()

    # What the runtime asks (runtime.task.Engine); the lock is held

    @property
    def now_ns(self) -> int:
        return time.monotonic_ns()

    def ready(self, task: Task) -> None:
        self.runnable.append(task)

    def submit(self, disk: Disk, bio: Bio) -> None:
        io = DiskIo(self, disk, bio)
        delay_ns = disk.delay_of(bio) if disk.faults else 0
        if delay_ns:
            latch = Latch(f"{bio!r} delayed")
            latch.waiters.append(io)
            self.at(self.now_ns + delay_ns, latch)
        else:
            self.runnable.append(io)

    def at(self, time_ns: int, latch: Latch) -> None:
        self.timer_count += 1
        heapq.heappush(self.timers, (time_ns, self.timer_count, latch))
        self._left_over.notify()

    def choose(self, count: int) -> int:
        """A live run has no schedule; where a spec leaves a choice, it is the first."""
        del count
        return 0

    def note(self, lane: str, text: str) -> None:
        if self.observer is not None:
            self.observer(lane, text)

    # What threads ask

    def do_bio(self, bio: Bio) -> int:
        """Submit a bio and return its status when it has ended, however long that takes."""
        waiter = _Waiter()
        bio.owner = waiter
        with self.lock:
            self._check()
            bio.submit()
            self._help(waiter)
        return bio.status

    def run(self, frame: Frame, name: str) -> Any:
        """Run a frame to its end and return its value."""
        task = LiveTask(self, name)
        with self.lock:
            self._check()
            task.start(frame)
            self._help(task.waiter)
        return task.value

    def start(self, task: Task, frame: Frame) -> None:
        """Let the background thread run a frame."""
        with self.lock:
            self._check()
            task.start(frame)
            self._left_over.notify()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run something short with the stack's lock held; what it makes ready is run as well."""
        with self.lock:
            self._check()
            try:
                return function()
            finally:
                if self.runnable:
                    self._left_over.notify()

    def abandon(self, reason: str) -> None:
        """Nothing is run from now on; threads that wait get an error.

        The buffers of their bios are theirs, so first the I/O that is moving bytes has to end.
        """
        with self.lock:
            self.broken = self.broken or Abandoned(reason)
            while self.performing:
                self._quiet.wait()
            for waiter in self.waiters:
                waiter.abandoned = True
                waiter.end()
            self._left_over.notify()

    def stop(self) -> None:
        """End the background thread; nothing is run after that."""
        with self.lock:
            self._stopping = True
            self._left_over.notify()
        self._thread.join()

    def _check(self) -> None:
        if isinstance(self.broken, Abandoned):
            raise self.broken
        if self.broken is not None:
            raise InternalError(f"the emulator has failed: {self.broken!r}") from self.broken

    def _help(self, waiter: _Waiter) -> None:
        """Run what can run until this thread's own thing has ended; sleep when nothing can."""
        while not waiter.ended:
            if self.runnable:
                self._step()
                continue
            waiter.event = threading.Event()
            self.waiters.append(waiter)
            self.lock.release()
            try:
                waiter.event.wait()
            finally:
                self.lock.acquire()
            self.waiters.remove(waiter)
            self._check()
        if self.runnable:
            self._left_over.notify()

    def _step(self) -> None:
        task = self.runnable.popleft()
        try:
            if type(task) is DiskIo:
                self._disk_io(task)
            else:
                task.step()
            if self.after_step is not None:
                self.after_step()
        except Abandoned:
            raise
        except BaseException as error:
            self.broken = error
            for waiter in self.waiters:
                waiter.end()
            raise

    def _disk_io(self, io: DiskIo) -> None:
        disk = io.disk
        if disk.faults or disk.detached:
            io.status = disk.failure_of(io.bio)
            if io.status:
                self.note(disk.name, f"{io.bio!r} FAILED {io.status}")
        if not io.status:
            self.performing += 1
            self.lock.release()
            try:
                io.perform()
            finally:
                self.lock.acquire()
                self.performing -= 1
            if self.broken is not None:
                self._quiet.notify_all()
                self._check()
        io.complete()

    def _background(self) -> None:
        with self.lock:
            while not self._stopping and self.broken is None:
                self._fire_timers()
                if self.runnable:
                    try:
                        self._step()
                    except Exception:  # noqa: BLE001 -- kept in self.broken; every caller gets it from _check
                        return
                    continue
                timeout_s = None
                if self.timers:
                    timeout_s = max(self.timers[0][0] - self.now_ns, 0) / 1e9
                self._left_over.wait(timeout_s)

    def _fire_timers(self) -> None:
        while self.timers and self.timers[0][0] <= self.now_ns:
            _time_ns, _count, latch = heapq.heappop(self.timers)
            latch.release()
