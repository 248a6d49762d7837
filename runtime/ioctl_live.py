"""What a mount answers to those who want its ioctls: `dmspec dmsetup`, and front ends for other programs.

Questions of the control socket (:mod:`~dmspec.runtime.wire`), beside ``ioctl`` with ``nr`` and ``data``:
``blocks`` lists the block devices as sysfs would, ``set`` changes what an ioctl of a block device may change,
``node`` makes or removes a device's node as libdm does in /dev/mapper, ``log`` gives the kernel's log lines since
the last time, ``poll`` waits as poll(2) on /dev/mapper/control does, ``waits`` tells which ioctls are under way,
and what they and the devices' bios wait for.
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
from .ioctl import Ioctl, IoctlCore
from .live import LiveEngine, LiveTask
from .mapped_device import MappedDevice
from .targets.striped import Striped
from .task import Frame, Latch, Outcome, Return, Task, Wait
from .units import SECTOR_BYTES

if TYPE_CHECKING:
    from .block import BlockDevice
    from .live_export import LiveExport
    from .stack import Stack
    from .table import Table

# Commands that may wait: for these somebody watches whether the caller is still there.
_WAITING: Final = frozenset({form.DEV_WAIT, form.DEV_SUSPEND, form.DEV_REMOVE, form.TABLE_LOAD, form.TABLE_CLEAR,
                             form.REMOVE_ALL})
# Commands that count as an event of /dev/mapper/control when they succeed (IOCTL_FLAGS_ISSUE_GLOBAL_EVENT).
_GLOBAL_EVENTS: Final = frozenset({form.REMOVE_ALL, form.DEV_CREATE, form.DEV_REMOVE, form.DEV_RENAME})
# Commands that depend on how often a device is open, or tell it.
_COUNTING: Final = frozenset({form.DEV_STATUS, form.DEV_REMOVE, form.REMOVE_ALL})

# How far the kernel reads ahead where nothing says otherwise; a page is what it counts in.
READ_AHEAD_SECTORS: Final = 256
PAGE_SECTORS: Final = 8


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


class GlobalEvents:
    """What poll(2) on /dev/mapper/control waits for: any table event, and devices that come, go or are renamed."""

    def __init__(self) -> None:
        self.count = 0
        self.latch = Latch("an event of any device")

    def happened(self) -> None:
        """To be called with the stack's lock held."""
        self.count += 1
        self.latch.release()


class WaitGlobalEvent(Frame):
    """Until there have been more events than ``count``; the value is how many there have been."""

    interruptible = True

    def __init__(self, events: GlobalEvents, count: int) -> None:
        self.events = events
        self.count = count

    def start(self, task: Task) -> Outcome:
        if self.events.count > self.count or task.killed:
            return Return(self.events.count)
        return Wait(self.events.latch, "for an event of any device")


class IoctlDoor:
    """The questions of one mount.  ``log_read`` is how many lines of the kernel log have been fetched.

    ``chosen`` has what somebody set for a device: its read-ahead, or that it is read-only, which is remembered but
    keeps nobody from writing (a table takes a disk that is set read-only; recorded case f-control, section 9).
    ``settle_closes`` waits for closes that have happened and are not counted yet.
    """

    def __init__(self, stack: Stack, engine: LiveEngine, export: LiveExport | None = None) -> None:
        self.stack = stack
        self.engine = engine
        self.export = export
        self.chosen: dict[tuple[str, str], tuple[BlockDevice | Table | None, int]] = {}
        self.under_way: list[tuple[CallerTask, Ioctl]] = []
        self.events = GlobalEvents()
        stack.on_event = self.events.happened
        self.core = IoctlCore(stack)
        self.log_read = len(stack.log_lines)
        self.settle_closes: Callable[[], None] = lambda: None
        self.questions: Mapping[Any, Callable[[socket.socket, dict[str, Any]], dict[str, Any]]] = {
            "ioctl": self._ioctl, "blocks": self._blocks, "node": self._node, "log": self._log,
            "where": self._where, "set": self._set, "poll": self._poll,
            "waits": self._waits,
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
        who = request.get("who")
        task = CallerTask(self.engine, who if isinstance(who, str) else f"ioctl {nr}")
        if nr in _WAITING:
            self.engine.call(lambda: self.under_way.append((task, frame)))
            try:
                with _Watch(connection, self.engine, task):
                    error, answer = self.engine.run(frame, task.name, task)
            finally:
                self.under_way.remove((task, frame))
        else:
            error, answer = self.engine.run(frame, task.name, task)
        if not error and nr in _GLOBAL_EVENTS:
            self.engine.call(self.events.happened)
        return {"errno": error, "data": answer}

    def _waits(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            return {"calls": [self._call_under_way(task, frame) for task, frame in list(self.under_way)],
                    "devices": [self._bios_under_way(md) for md in self.stack.devices.values()]}

        found: dict[str, Any] = self.engine.call(look)
        return found

    def _call_under_way(self, task: CallerTask, frame: Ioctl) -> dict[str, Any]:
        waiting = task.waiting
        return {"who": task.name, "nr": frame.nr, "flags": frame.header.flags,
                "device": frame.md.name if frame.md is not None else "",
                "why": waiting.why if waiting is not None else ""}

    @staticmethod
    def _bios_under_way(md: MappedDevice) -> dict[str, Any]:
        table = md.live
        return {"name": md.name, "suspended": md.suspended, "in_flight": md.in_flight, "deferred": len(md.deferred),
                "held": [words for target in (table.targets if table else ()) for words in target.held()],
                "below": [device.name for device in (table.devices if table else ())]}

    def _poll(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """Without ``after``, how many events there have been; with it, wait until there are more."""
        after = request.get("after")
        if not isinstance(after, int):
            return {"count": self.engine.call(lambda: self.events.count)}
        task = CallerTask(self.engine, "poll")
        with _Watch(connection, self.engine, task):
            return {"count": self.engine.run(WaitGlobalEvent(self.events, after), task.name, task)}

    def _blocks(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """What sysfs tells of a block device: its number and names, and whether it is set up."""
        def look() -> list[dict[str, Any]]:
            return [self._block(device) for device in self.stack.everything()]

        return {"blocks": self.engine.call(look)}

    def _block(self, device: BlockDevice) -> dict[str, Any]:
        files = self.export.opened.values() if self.export is not None else ()
        opens = sum(count for opened, count in files if opened is device)
        block: dict[str, Any] = {"major": device.major, "minor": device.minor, "kernel": self.stack.kernel_name(device),
                 "sectors": device.sectors, "set_up": True, "node": True, "io_min": 512, "io_opt": 0,
                 "read_only": bool(self._chosen(device, "read_only", int(device.read_only))),
                 "read_ahead": READ_AHEAD_SECTORS, "opens": opens,
                 "held": device.open_count > opens, "deps": []}
        if isinstance(device, MappedDevice):
            table = device.live
            block |= {"name": form.encode(device.name), "uuid": form.encode(device.uuid),
                      "set_up": device.initialized, "node": self.stack.has_node(device),
                      "suspended": device.suspended,
                      "deps": [[one.major, one.minor] for one in table.devices] if table is not None else []}
            for target in table.targets if table is not None else ():
                if isinstance(target, Striped):
                    chunk = target.chunk_sectors * SECTOR_BYTES
                    block |= {"io_min": chunk, "io_opt": chunk * len(target.stripes)}
        usual = max(READ_AHEAD_SECTORS, 2 * block["io_opt"] // SECTOR_BYTES)
        block["read_ahead"] = self._chosen(device, "read_ahead", usual)
        return block

    @staticmethod
    def _subject(device: BlockDevice, what: str) -> BlockDevice | Table | None:
        """What is set stays so for: a device, but a mapped one's read-ahead is set anew when a table is swapped in."""
        return device.live if what == "read_ahead" and isinstance(device, MappedDevice) else device

    def _chosen(self, device: BlockDevice, what: str, usual: int) -> int:
        chosen, value = self.chosen.get((device.number, what), (None, 0))
        return value if chosen is not None and chosen is self._subject(device, what) else usual

    def _set(self, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
        """``read_only`` or ``read_ahead`` (in sectors; it counts in pages) of the device with a ``number``."""
        def change() -> None:
            for device in self.stack.everything():
                for what in ("read_only", "read_ahead"):
                    value = request.get(what)
                    if device.number == request.get("number") and isinstance(value, int):
                        value = value // PAGE_SECTORS * PAGE_SECTORS if what == "read_ahead" else value
                        self.chosen[device.number, what] = (self._subject(device, what), value)
        self.engine.call(change)
        return {}

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
