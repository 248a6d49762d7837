"""The control socket of a mount: what `dmspec do`, `dmspec dmsetup`, `umount` and the like ask, and the answers."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from . import wire
from .errors import DmspecError, InternalError, PlanError
from .live import Abandoned
from .plan import Plan, from_bytes, to_bytes

if TYPE_CHECKING:
    from .server import MountServer

BUSY_SECONDS: Final = 0.1
MOST_NOTES: Final = 10_000


class ControlSocket:
    """Answers commands about a mount, each connection in a thread of its own."""

    def __init__(self, server: MountServer, mountpoint: Path, stop: Callable[[], None]) -> None:
        self.server = server
        self.stop = stop
        self.closing = threading.Event()
        self.path = wire.socket_path(mountpoint)
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        os.fchmod(self.listener.fileno(), 0o600)  # the file gets this mode when it is bound
        with wire.short_name(self.path) as name:
            self.listener.bind(name)
        self.listener.listen(16)
        self.thread = threading.Thread(target=self._accept, name="dmspec-control", daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self.listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    return
                self.closing.wait(BUSY_SECONDS)  # out of descriptors: whoever asks waits, too
                continue
            threading.Thread(target=self._serve, args=(connection,), name="dmspec-request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            try:
                request = wire.receive(connection)
                if request is None:
                    return
                if request.get("dmspec") != wire.PROTOCOL:
                    raise wire.WireError(f"this mount speaks version {wire.PROTOCOL} of the protocol")
                for answer in self._answers(connection, request):
                    wire.send(connection, answer)
            except InternalError as error:
                wire.send(connection, {"end": False, "internal": True, "problem": str(error)})
            except DmspecError as error:
                wire.send(connection, {"end": False, "problem": str(error)})
            except Exception as error:
                wire.send(connection, {"end": False, "internal": True, "problem": repr(error)})
                raise

    def _answers(self, connection: socket.socket, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        question = request.get("ask")
        if question == "plan":
            yield {"end": True, "plan": to_bytes(self.server.plan)}
        elif question == "status":
            yield {"end": True, "devices": self.server.status(), "processes": self.server.live.states()}
        elif question == "start":
            yield self.server.live.begin_named(request.get("names", []))
        elif question == "stop":
            if request.get("force"):
                self.server.give_up()
            try:
                yield {"end": True, "waiting": self.server.waiting()}
            finally:
                self.stop()
        elif question == "run":
            data = request.get("plan")
            if not isinstance(data, bytes):
                raise PlanError("a plan was expected")
            yield from Doing(self.server, connection, from_bytes(data)).answers()
        elif (answer := self.server.ioctls.answer(connection, request)) is not None:
            yield answer
        else:
            raise wire.WireError(f"no such question: {question!r}")


class Doing:
    """A process `do` and whoever wants it.

    What the process does is noted with the stack's lock held, so nothing is sent from there: a client that
    does not read would stop the whole mount.  The process runs in a thread of its own, and another watches
    for the client going away, which kills the process.
    """

    def __init__(self, server: MountServer, connection: socket.socket, plan: Plan) -> None:
        self.server = server
        self.connection = connection
        self.queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.process = server.begin_process(plan, self._note)

    def answers(self) -> Iterator[dict[str, Any]]:
        """Notes, then what came of it; they end early when the client has gone."""
        threading.Thread(target=self._run, name="dmspec-do", daemon=True).start()
        watching = threading.Thread(target=self._watch, name="dmspec-watch", daemon=True)
        watching.start()
        try:
            while (answer := self.queue.get()) is not None:
                yield answer
                if "end" in answer:
                    return
        finally:
            self.server.kill(self.process)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RD)
            watching.join()

    def _note(self, lane: str, text: str) -> None:
        if (lane in ("kernel", "do") or lane.startswith("do.")) and self.queue.qsize() < MOST_NOTES:
            self.queue.put({"note": [lane, text]})

    def _run(self) -> None:
        try:
            answer = self.server.run_process(self.process, self._note)
        except Abandoned as error:
            self.queue.put({"end": False, "problem": str(error)})
        except Exception as error:  # noqa: BLE001 - the engine keeps it, and the mount ends with it
            self.queue.put({"end": False, "internal": True, "problem": f"the emulator has failed: {error!r}"})
        else:
            self.queue.put({"end": True, **answer})

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while self.connection.recv(1 << 16):
                pass
        self.queue.put(None)
