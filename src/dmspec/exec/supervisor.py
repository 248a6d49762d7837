"""The process that answers the calls of a program and of everything that descends from it.

Threads take calls from the listener, and there is always one that waits for the next: an answer that takes long (a
suspend, a DM_DEV_WAIT) keeps nobody else waiting.  The main thread sees to ends: of the program, of the last
process that has the filter, and of the mount.  When this process is killed, the calls that wait and all later ones
fail with ENOSYS, which is what the kernel does; nothing hangs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmspec.exec.answers import Answers

_IDLE_THREADS: Final = 4
_TERM_SECONDS: Final = 3.0


class Supervisor:
    """``program`` is its process id; ``on_exit`` gets its wait status, once; ``on_bug`` what went wrong here."""

    def __init__(self, answers: Answers, program: int, lock: Path, on_exit: Callable[[int], None],
                 on_bug: Callable[[BaseException], None]) -> None:
        self.answers = answers
        self.program = program
        self.lock = lock
        self.on_exit = on_exit
        self.on_bug = on_bug
        self.idle = 0
        self.counting = threading.Lock()

    def serve(self, *, keep_daemons: bool) -> None:
        """Until nothing is left of the program, or the mount has ended.

        Without ``keep_daemons`` what has outlived the program is ended.
        """
        mount_ended, tell_ended = os.pipe()
        wake, waker = os.pipe()
        for fd in (waker, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._thread(self._receive)
        self._thread(self._watch_mount, tell_ended)
        poll = select.poll()
        poll.register(self.answers.listener.fd, 0)  # only that nobody has the filter any more
        poll.register(wake, select.POLLIN)
        poll.register(mount_ended, select.POLLIN)
        while True:
            is_running = self._reap()
            if not is_running and not keep_daemons:
                break
            ready = {fd for fd, _event in poll.poll()}
            if self.answers.listener.fd in ready:
                self._bury_all()
                return
            if mount_ended in ready:
                break
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 1 << 12)
        self._end_all()

    def _thread(self, work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name="dmspec-exec", daemon=True).start()

    def _receive(self) -> None:
        with self.counting:
            self.idle += 1
        while True:
            try:
                call = self.answers.listener.receive()
            except OSError:
                return
            if call is None:
                continue
            with self.counting:
                self.idle -= 1
                is_last = not self.idle
            if is_last:
                self._thread(self._receive)
            try:
                self.answers.answer(call)
            except Exception as error:  # noqa: BLE001 - the caller got EIO; the bug is reported, others go on
                self.on_bug(error)
            with self.counting:
                if self.idle >= _IDLE_THREADS:
                    return
                self.idle += 1

    def _watch_mount(self, tell: int) -> None:
        """The mount's server holds a lock as long as it lives."""
        with contextlib.suppress(OSError), open(self.lock, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_SH)
        os.write(tell, b"x")

    def _reap(self) -> bool:
        """Bury the dead, of whom orphans are ours too; whether the program still runs."""
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                if dead[0] == self.program:
                    self.program = 0
                    self.on_exit(dead[1])
        return bool(self.program)

    def _end_all(self) -> None:
        """End every descendant, the gentle way first."""
        until = time.monotonic() + _TERM_SECONDS
        while descendants := descendants_of(os.getpid()):
            number = signal.SIGTERM if time.monotonic() < until else signal.SIGKILL
            for process in descendants:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            time.sleep(0.02)
            self._reap()
        self._bury_all()

    def _bury_all(self) -> None:
        """Everything that had the filter is dead, or just dying: leave no zombie to an init that may not care."""
        until = time.monotonic() + _TERM_SECONDS
        while self._reap() or (self._has_children() and time.monotonic() < until):
            time.sleep(0.001)

    @staticmethod
    def _has_children() -> bool:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True


def descendants_of(ancestor: int) -> list[int]:
    """The processes below one, except those that are dead already."""
    parents: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if words[0] not in "ZX":
                parents[int(process.name)] = int(words[1])
    found = {ancestor}
    grown = True
    while grown:
        more = {process for process, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found - {ancestor})
