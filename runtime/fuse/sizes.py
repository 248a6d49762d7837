"""Keeps the kernel's idea of our files' sizes true, which the writeback cache makes a task of its own.

Under the writeback cache a program may write past the end of a device and be told that all is well, since
the kernel takes a longer file for granted and asks nobody. `dd if=/dev/zero of=volume` would then never end.
What a block device says is "No space left on device", and this is how ours says it. While a file is being
written the kernel asks for its attributes ten times a second, and each time its idea of the size is looked
at. When that is too big, or a write-back reaches beyond the end, the file is truncated to its true size, and
the next write(2), made to ask for the attributes, gets ENOSPC for an answer. fsync(2) and close(2) report it
in any case. So a program learns it late, as with every error of a buffered write; an O_DIRECT write learns
it at once.
"""

import contextlib
import threading
from collections.abc import Callable

from dmspec.runtime.fuse.helper import Guardian

_SETTLE_SECONDS = 0.1


class KernelSizes:
    """What each file's size is in the kernel's eyes, and the two ways to put it right.

    `forget_attributes` makes the kernel ask for an inode's attributes again; it is given by the binding
    whose kernel cache needs all this, and without it nothing here does anything but remember.
    """

    def __init__(self, guardian: Guardian, size_bytes: Callable[[str], int]) -> None:
        self._guardian = guardian
        self._size_bytes = size_bytes
        self._told: dict[str, int] = {}
        self._overrun: set[str] = set()
        self._repeat: dict[tuple[str, str], bool] = {}
        self._settled = threading.Condition()
        self.forget_attributes: Callable[[int], None] | None = None

    def told(self, name: str, size_bytes: int) -> None:
        """Note a size that an answer to the kernel contained; a changed one must be enforced."""
        if self._told.setdefault(name, size_bytes) != size_bytes:
            self._told[name] = size_bytes
            self._start(name, self.refresh)

    def check(self, name: str) -> None:
        """Find out soon whether the page cache holds data beyond the end of a file."""
        self._start(name, self._look)

    def overrun(self, name: str) -> None:
        """Note that the page cache held data beyond the end of a file."""
        if self.forget_attributes is not None:
            self._overrun.add(name)
            self._start(name, self.refresh)

    def has_overrun(self, name: str) -> bool:
        """Tell the same without taking it back."""
        return name in self._overrun

    def take_overrun(self, name: str) -> bool:
        """Tell whether a writer is still to hear that it ran over the end; asking counts as telling."""
        if name not in self._overrun:
            return False
        self._overrun.discard(name)
        return True

    def refresh(self, name: str) -> None:
        """Make the kernel use a device's present size, also for programs that have the file open.

        This waits for write-backs under way, so it must not be called while the device is suspended.
        """
        with contextlib.suppress(OSError, KeyError):
            size_bytes = self._size_bytes(name)
            self._told[name] = size_bytes
            inode = self._guardian.truncate(name, size_bytes)
            if self.forget_attributes is not None:
                self.forget_attributes(inode)

    def settle(self, name: str) -> None:
        """Wait for a look at the file to end, for while it lasts an umount(8) would find the mount busy.

        The time is limited since a single-threaded server keeps that look waiting.
        """
        with self._settled:
            self._settled.wait_for(lambda: (name, self._look.__name__) not in self._repeat, _SETTLE_SECONDS)

    def _look(self, name: str) -> None:
        with contextlib.suppress(OSError, KeyError):
            if self._guardian.size(name) > self._size_bytes(name):
                self._overrun.add(name)
                self.refresh(name)

    def _start(self, name: str, work: Callable[[str], None]) -> None:
        """Work in a thread of its own: truncate(2) may wait for the very request being answered."""
        job = (name, work.__name__)
        with self._settled:
            if self.forget_attributes is None:
                return
            is_running = job in self._repeat
            self._repeat[job] = is_running
            if is_running:
                return
        threading.Thread(target=self._run, args=(job, work), name=f"size of {name}", daemon=True).start()

    def _run(self, job: tuple[str, str], work: Callable[[str], None]) -> None:
        repeat = True
        while repeat:
            work(job[0])
            with self._settled:
                repeat = self._repeat.pop(job)
                if repeat:
                    self._repeat[job] = False
                self._settled.notify_all()
