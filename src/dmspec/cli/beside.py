"""What runs beside a mount: processes of its spec, a watchdog, and the log of both."""

import os
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TextIO

import click

from dmspec.cli.output import EXIT_USAGE, die

if TYPE_CHECKING:
    from dmspec.runtime.live_processes import Watchdog
    from dmspec.runtime.plan import Plan, Process
    from dmspec.runtime.server import MountServer


class Beside:
    """``log_path`` is appended to; in the foreground, without one, the lines go to stderr."""

    def __init__(self, plan: "Plan", names: tuple[str, ...], log_path: str | None, watchdog_s: float | None, *,
                 foreground: bool) -> None:
        from dmspec.runtime.errors import PlanError
        from dmspec.runtime.live_processes import processes_named

        self.watchdog_s = watchdog_s
        self.foreground = foreground
        self.watchdog: Watchdog | None = None
        self.writer: threading.Thread | None = None
        self.queue: SimpleQueue[tuple[float, str, str] | None] = SimpleQueue()
        try:
            self.processes: list[Process] = processes_named(plan, names)
        except PlanError as error:
            die(EXIT_USAGE, str(error))
        self.log = self._opened(log_path)

    @staticmethod
    def _opened(log_path: str | None) -> TextIO | None:
        if log_path is None:
            return None
        try:
            descriptor = os.open(Path(log_path).resolve(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            die(EXIT_USAGE, f"{log_path}: {error.strerror}")
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def tell(self, name: str, text: str) -> None:
        """Put a line into the log, without waiting."""
        self.queue.put((time.time(), name, text))

    def begin(self, server: "MountServer") -> None:
        """The mount is there."""
        from dmspec.runtime.live_processes import Watchdog

        self.writer = threading.Thread(target=self._write, name="dmspec-log", daemon=True)
        self.writer.start()
        server.live.tell = self.tell
        if self.processes:
            server.live.begin(self.processes)
        if self.watchdog_s is not None:
            self.watchdog = Watchdog(server, self.watchdog_s, self.tell)

    def end(self) -> None:
        """The mount goes away: nobody needs to be told any more what stands still."""
        if self.watchdog is not None:
            self.watchdog.stop()

    def close(self) -> None:
        """Write what is left."""
        if self.writer is not None:
            self.queue.put(None)
            self.writer.join()
        if self.log is not None:
            self.log.close()

    def _write(self) -> None:
        while (line := self.queue.get()) is not None:
            when, name, text = line
            clock = time.strftime("%H:%M:%S", time.localtime(when))
            said = f"{clock}.{int(when * 1000) % 1000:03} {name:9} {text}"
            if self.log is not None:
                self.log.write(said + "\n")
                self.log.flush()
            elif self.foreground:
                click.echo(said, err=True)
