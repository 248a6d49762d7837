"""What a mount answers to those who want its ioctls: `dmspec dmsetup`, and front ends for other programs.

Questions of the control socket (:mod:`~dmspec.runtime.wire`), beside ``ioctl`` with ``nr`` and ``data``:
``blocks`` lists the block devices as sysfs would, ``node`` makes or removes a device's node as libdm does in
/dev/mapper, ``log`` gives the kernel's log lines since the last time.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from . import ioctl_format as form
from . import wire
from .errors import DmspecError
from .ioctl import IoctlCore
from .live import LiveEngine, LiveTask
from .mapped_device import MappedDevice
from .targets.striped import Striped
from .units import SECTOR_BYTES

if TYPE_CHECKING:
    from .block import BlockDevice
    from .stack import Stack

# Commands that may wait: for these somebody watches whether the caller is still there.
_WAITING: Final = frozenset({form.DEV_WAIT, form.DEV_SUSPEND, form.DEV_REMOVE, form.TABLE_LOAD, form.TABLE_CLEAR,
                             form.REMOVE_ALL})
# Commands that depend on how often a device is open, or tell it.
_COUNTING: Final = frozenset({form.DEV_STATUS, form.DEV_REMOVE, form.REMOVE_ALL})


class CallerTask(LiveTask):
    """A program inside an ioctl; its end interrupts what can be interrupted."""

    __slots__ = ("killed",)

    def __init__(self, engine: LiveEngine, name: str) -> None:
        super().__init__(engine, name)
        self.killed = False

    def kill(self) -> None:
        """The program has gone.  To be called with the stack's lock held."""
        self.killed = True
        if self.waiting is not None and self.frames[-1].interruptible:
            self.waiting.latch.waiters.remove(self)
            self.waiting = None
            self.engine.ready(self)


class IoctlDoor:
    """The questions of one mount.

    ``log_read`` is how many lines of the kernel log have been fetched.  ``settle_closes`` waits for closes that have
    happened and are not counted yet.
    """

    def __init__(self, stack: Stack, engine: LiveEngine) -> None:
        self.stack = stack
        self.engine = engine
        self.core = IoctlCore(stack)
        self.log_read = len(stack.log_lines)
        self.settle_closes: Callable[[], None] = lambda: None
        self.questions: Mapping[Any, Callable[[socket.socket, dict[str, Any]], dict[str, Any]]] = {
            "ioctl": self._ioctl, "blocks": self._blocks, "node": self._node, "log": self._log,
            "where": self._where,
        }
        stack.nodes = set()

    def answer(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any] | None:
        """The only answer to a question, or ``None`` when the question is somebody else's."""
        question = request.get("ask")
        known = self.questions.get(question) if isinstance(question, str) else None
        return {"end": True, **known(connection, request)} if known is not None else None

    def _ioctl(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        nr, data = request.get("nr"), request.get("data")
        if not isinstance(nr, int) or not isinstance(data, bytes):
            raise wire.WireError("a command number and a buffer were expected")
        if nr in _COUNTING:
            self.settle_closes()
        frame = self.core.call(nr, data)
        task = CallerTask(self.engine, f"ioctl {nr}")
        if nr in _WAITING:
            with _Watch(connection, self.engine, task):
                error, answer = self.engine.run(frame, task.name, task)
        else:
            error, answer = self.engine.run(frame, task.name, task)
        return {"errno": error, "data": answer}

    def _blocks(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """What sysfs tells of a block device: its number and names, and whether it is set up."""
        def look() -> list[dict[str, Any]]:
            return [self._block(device) for device in self.stack.everything()]

        return {"blocks": self.engine.call(look)}

    def _block(self, device: BlockDevice) -> dict[str, Any]:
        block = {"major": device.major, "minor": device.minor, "kernel": self.stack.kernel_name(device),
                 "sectors": device.sectors, "read_only": device.read_only, "set_up": True, "node": True,
                 "io_min": 512, "io_opt": 0}
        if isinstance(device, MappedDevice):
            block |= {"name": form.encode(device.name), "set_up": device.initialized,
                      "node": self.stack.has_node(device)}
            for target in device.live.targets if device.live is not None else ():
                if isinstance(target, Striped):
                    chunk = target.chunk_sectors * SECTOR_BYTES
                    block |= {"io_min": chunk, "io_opt": chunk * len(target.stripes)}
        return block

    def _node(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        name, there = request.get("name"), bool(request.get("there"))
        if not isinstance(name, bytes):
            raise wire.WireError("the name of a device was expected")

        def change() -> None:
            nodes, text = self.stack.nodes, form.decode(name)
            assert nodes is not None
            if there and text in self.stack.devices:
                nodes.add(text)
            elif not there:
                nodes.discard(text)
        self.engine.call(change)
        return {}

    def _log(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        clear = bool(request.get("clear"))

        def take() -> list[list[str]]:
            lines = [list(line) for line in self.stack.log_lines[self.log_read:]]
            if clear:
                self.log_read = len(self.stack.log_lines)
            return lines
        return {"lines": self.engine.call(take)}

    def _where(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        return {"mountpoint": self.stack.folder}


class _Watch:
    """Kills a task when the other end of its connection is closed."""

    def __init__(self, connection: socket.socket, engine: LiveEngine, task: CallerTask) -> None:
        self.connection = connection
        self.engine = engine
        self.task = task
        self.thread = threading.Thread(target=self._watch, name="dmspec-watch", daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
        self.thread.join()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while self.connection.recv(1 << 16):
                pass
        with contextlib.suppress(DmspecError):
            self.engine.call(lambda: None if self.task.ended else self.task.kill())
