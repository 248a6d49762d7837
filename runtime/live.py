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
from typing import Any, Final

from .bio import Bio
from .block import Disk, DiskIo
from .byte_io import Passage, WriteRanges
from .errors import DmspecError, InternalError
from .task import Frame, Latch, Task

PACE_SECONDS: Final = 0.002


class Abandoned(DmspecError):
    """The engine was told to let go of everything: the mount is being taken down with I/O held."""


class _Waiter:
    """A thread's own end to wait for; ``event`` is there while the thread sleeps."""

    __slots__ = ("ended", "event")

    def __init__(self) -> None:
        self.ended = False
        self.event: threading.Event | None = None

    def bio_done(self, bio: Bio) -> None:
        del bio
        self.end()

    def end(self) -> None:
        self.ended = True
        if self.event is not None:
            self.event.set()


class LiveTask(Task):
    """A task that a thread waits for."""

    __slots__ = ("waiter",)

    def __init__(self, engine: LiveEngine, name: str) -> None:
        super().__init__(engine, name)
        self.waiter = _Waiter()

    def finish(self) -> None:
        super().finish()
        self.waiter.end()


class LiveEngine:
    """See the module.

    ``observer(lane, text)``, ``after_step()`` and ``on_broken()`` are called under the lock and must not wait.
    ``broken`` is set once and for ever: to what a step raised, which is a bug of ours (then ``on_broken`` is
    called), or to :class:`Abandoned`.  From then on no step is taken, and whoever waits or asks gets an error.
    """

    def __init__(self, observer: Callable[[str, str], None] | None = None) -> None:
        self.lock = threading.Lock()
        self.observer = observer
        self.runnable: deque[Task] = deque()
        self.timers: list[tuple[int, int, Latch]] = []
        self.timer_count = 0
        self.broken: BaseException | None = None
        self.waiters: set[_Waiter] = set()
        self.after_step: Callable[[], None] | None = None
        self.on_broken: Callable[[], None] | None = None
        self.performing = 0
        self._pacing = False
        self._in_use = False
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

    def do_bio(self, bio: Bio, ranges: WriteRanges | None = None, passage: Passage | None = None) -> int | None:
        """Submit a bio and return its status when it has ended, however long that takes.

        With ``ranges``: enter ``passage`` there for that time, or return ``None`` at once when it would have
        to wait.
        """
        waiter = _Waiter()
        bio.owner = waiter
        with self.lock:
            self._check()
            if ranges is not None and passage is not None and ranges.enter(passage) is not None:
                return None
            self.used()
            try:
                bio.submit()
            except BaseException as error:
                self.fail(error)
                raise
            self._help(waiter)
            if ranges is not None and passage is not None:
                ranges.leave(passage)
                if self.runnable:
                    self._left_over.notify()
        return bio.status

    def run(self, frame: Frame, name: str, task: LiveTask | None = None) -> Any:
        """Run a frame to its end and return its value; in ``task``, if that has to be another one."""
        task = task if task is not None else LiveTask(self, name)
        with self.lock:
            self._check()
            task.start(frame)
            self._help(task.waiter)
        return task.value

    def call(self, function: Callable[[], Any]) -> Any:
        """Run something short with the stack's lock held; what it makes ready is run as well."""
        with self.lock:
            self._check()
            try:
                return function()
            finally:
                if self.runnable:
                    self._left_over.notify()

    # What the quick way asks (live_straight); the lock is held

    def used(self) -> None:
        """Somebody does I/O: what nobody waits for goes slower for a while."""
        self._in_use = True

    def work_left(self) -> None:
        """Something can run and nobody waits for it: the background thread sees to it, now or within PACE_SECONDS.

        So a stream of requests that each leave a little to do (a region of a mirror that could be called clean)
        does not wake that thread each time.
        """
        if not self._pacing:
            self._pacing = True
            self._left_over.notify()

    def performed(self) -> None:
        """The bytes that ``performing`` was raised for have been moved."""
        self.performing -= 1
        if self.broken is not None:
            self._quiet.notify_all()

    def abandon(self, reason: str) -> None:
        """Nothing is run from now on; threads that wait get an error.

        When this returns, no thread moves the bytes of a disk I/O any more.
        """
        with self.lock:
            if self.broken is None:
                self._break(Abandoned(reason))
            self._wait_until_quiet()

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

    def _break(self, error: BaseException) -> None:
        """Wake everybody; they look at ``broken`` when they have the lock."""
        self.broken = error
        for waiter in self.waiters:
            if waiter.event is not None:
                waiter.event.set()
        self._left_over.notify()
        if self.on_broken is not None and not isinstance(error, Abandoned):
            self.on_broken()

    def fail(self, error: BaseException) -> None:
        """Something was left half done; the first error is the one that is kept."""
        if self.broken is None:
            self._break(error)
        self._wait_until_quiet()

    def _wait_until_quiet(self) -> None:
        """A thread may only leave with an error when no other one moves the bytes of its bios."""
        while self.performing:
            self._quiet.wait()

    def _help(self, waiter: _Waiter) -> None:
        """Run what can run until this thread's own thing has ended; sleep when nothing can."""
        while not waiter.ended:
            if self.broken is not None:
                self._wait_until_quiet()
                self._check()
            if self.runnable:
                self._step()
                continue
            event = waiter.event = threading.Event()
            self.waiters.add(waiter)
            self.lock.release()
            try:
                event.wait()
            finally:
                self.lock.acquire()
                self.waiters.discard(waiter)
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
        except BaseException as error:
            self.fail(error)
            raise

    def _disk_io(self, io: DiskIo) -> None:
        disk = io.disk
        if disk.faults or disk.detached:
            io.meet()
        if not io.status:
            self.performing += 1
            self.lock.release()
            try:
                io.perform()
            finally:
                self.lock.acquire()
                self.performed()
            self._check()
        io.complete()

    def _background(self) -> None:
        made_way = False
        with self.lock:
            while not self._stopping and self.broken is None:
                self._fire_timers()
                if self.runnable:
                    if self._in_use and not made_way and in_background(self.runnable[0]):
                        self._in_use = False
                        made_way = True
                        self._left_over.wait(PACE_SECONDS)
                        continue
                    made_way = False
                    try:
                        self._step()
                    except Exception:  # noqa: BLE001 - kept in self.broken; every caller gets it from _check
                        return
                    continue
                timeout_s = max(self.timers[0][0] - self.now_ns, 0) / 1e9 if self.timers else None
                if self._pacing:
                    self._left_over.wait(PACE_SECONDS if timeout_s is None else min(timeout_s, PACE_SECONDS))
                    self._pacing = bool(self.runnable)
                else:
                    self._left_over.wait(timeout_s)

    def _fire_timers(self) -> None:
        while self.timers and self.timers[0][0] <= self.now_ns:
            _time_ns, _count, latch = heapq.heappop(self.timers)
            latch.release()


def in_background(task: Task) -> bool:
    """Whether it moves bytes for a copy that nobody waits for: a resynchronisation, a merge.

    Such a bio's owner says so; the clones of one that passes mapped devices are owned by what has the bio.
    """
    bio = task.bio if type(task) is DiskIo else None
    while bio is not None:
        if getattr(bio.owner, "in_background", False):
            return True
        bio = getattr(bio.owner, "bio", None)
    return False
