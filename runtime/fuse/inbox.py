"""Events and signals for one waiting thread.

A thread that waits for a lock or a queue can sleep through a signal: when another thread of the process happens to
take it, Python only notes it, and runs the handler once the main thread moves again. So the waiting thread here
waits for a pipe, to which Python writes each signal's number whichever thread has taken it.
"""

import contextlib
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from time import monotonic

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Event(Enum):
    """What can happen to a session."""

    MOUNTED = auto()
    STOP = auto()
    SIGNAL = auto()
    ENDED = auto()


class Inbox:
    """A queue of events; signals join it while `signals` is entered."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._events: deque[Event] = deque()
        self._lock = threading.Lock()
        self._is_closed = False

    def put(self, event: Event) -> None:
        """Add an event, from any thread."""
        with self._lock:
            if not self._is_closed:
                self._events.append(event)
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"\0")

    def get(self, seconds: float | None = None) -> Event | None:
        """Wait for the next event; None when the time is over."""
        deadline = None if seconds is None else monotonic() + seconds
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while not self._events:
            left = None if deadline is None else max(0.0, deadline - monotonic()) * 1000
            if not poll.poll(left):
                return None
            for number in os.read(self._reader, 4096):
                if number in _SIGNALS:
                    self._events.append(Event.SIGNAL)
        return self._events.popleft()

    def close(self) -> None:
        """Take no more events."""
        with self._lock:
            self._is_closed = True
            os.close(self._reader)
            os.close(self._writer)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Take the signals that ask for an end. One that is ignored stays so, as under nohup.

        Only the main thread may do this; in any other, signals remain what they were.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        try:
            for number, handler in handlers.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, lambda *_: None)
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
