"""A mounted stack: disks behind file descriptors, the live engine, FUSE, and the control socket.

Bringing it up changes nothing before it is known to go well: the disk files are opened and held, the
plan is built once over copies in memory of what is on them, and only then over the files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from . import control, wire
from .backing import FileBacking, Overlay, memory_file, open_file
from .build import BuildError, SetUp, furnish, prepare
from .errors import DmspecError, InternalError, PlanError, StoreError, errno_name
from .explore.explain import wait_edges
from .ioctl_live import IoctlDoor
from .live import Abandoned, LiveEngine
from .live_export import LiveExport, control_node, name_of_number
from .live_processes import LiveProcesses, processes_named
from .lockfs import LiveFreezer
from .paths import place
from .plan import Disk, Plan, from_bytes
from .process import ProcessTask
from .registry import TARGETS
from .sim import SimEngine
from .task import DONE, Enter, Frame, Outcome, Return, Task, Wait
from .world import World, with_names

if TYPE_CHECKING:
    from .fuse import Mount
    from .mapped_device import MappedDevice
    from .stack import Stack

GAVE_UP: Final = "unmounted while I/O was held; that I/O has failed"
TAKE_DOWN_SECONDS: Final = 10.0
BUSY_SECONDS: Final = 0.1
MOST_NOTES: Final = 10_000


class Disks:
    """The disk files of a plan, held as long as this lives; those without a file are in memory.

    ``allowed`` are folders outside the spec's own that its disks may lie in.
    """

    def __init__(self, plan: Plan, spec_folder: Path, store: Path | None, allowed: Sequence[Path] = ()) -> None:
        self.backings: dict[str, FileBacking] = {}
        self.made: list[Path] = []
        self.spec_folder = spec_folder
        self.store = store
        self.allowed = allowed
        try:
            if store is not None:
                self._make_folder(store)
            self._open(plan)
        except BaseException:
            self.close(undo=True)
            raise

    def _make_folder(self, store: Path) -> None:
        missing = [folder for folder in (store, *store.parents) if not os.path.lexists(folder)]
        try:
            for folder in reversed(missing):
                folder.mkdir(mode=0o700)
                self.made.append(folder)
        except OSError as error:
            raise StoreError(f"{store}: {error.strerror}") from None
        if not store.is_dir():
            raise StoreError(f"{store}: not a folder")

    def _place(self, disk: Disk) -> tuple[Path, tuple[str, ...]] | None:
        """A folder and the way from there; ``None``: in memory."""
        if self.store is not None:
            return self.store, (f"{disk.name}.img",)
        return None if disk.file is None else place(disk.file, self.spec_folder, self.allowed)

    def _open(self, plan: Plan) -> None:
        """Files that are there come first, so that a refusal leaves no new ones behind."""
        missing = []
        for disk in plan.disks:
            where = self._place(disk)
            if where is None:
                self.backings[disk.name] = memory_file(disk.name, disk.sectors)
            elif os.path.lexists(where[0].joinpath(*where[1])):
                self.backings[disk.name] = open_file(*where, disk.sectors, create=False)
            else:
                missing.append((disk, where))
        for disk, where in missing:
            self.backings[disk.name] = open_file(*where, disk.sectors)
            self.made.append(where[0].joinpath(*where[1]))

    def flush(self) -> None:
        """Make everything durable."""
        problems = []
        for backing in self.backings.values():
            try:
                backing.flush()
            except OSError as error:
                problems.append(f"{backing.name}: {error.strerror}")
        if problems:
            raise StoreError("; ".join(problems))

    def close(self, *, undo: bool = False) -> None:
        """Let go of the files; ``undo`` removes those that were made here."""
        for backing in self.backings.values():
            backing.close()
        self.backings.clear()
        for path in reversed(self.made) if undo else ():
            with contextlib.suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()


class MountServer:
    """One mounted plan.  ``serve`` blocks until it is unmounted; ``close`` lets everything go.

    ``gave_up`` says after that whether held I/O had to fail for the mount to end.
    """

    def __init__(self, plan: Plan, *, spec_folder: Path, store: Path | None = None, show_disks: str = "",
                 allowed: Sequence[Path] = ()) -> None:
        # The plan's filesystems are simulated ones, for runs; on a mount there are real ones.
        self.spec = plan
        plan = self.plan = replace(plan, filesystems=[])
        self.listeners: list[Callable[[str, str], None]] = []
        self.processes: set[ProcessTask] = set()
        self.gave_up = False
        self.disks = Disks(plan, spec_folder, store, allowed)
        try:
            self._try_out()
            self.engine = LiveEngine(observer=self._note)
            self.world = furnish(plan, self.engine, disk_factory=self._backing, target_types=TARGETS)
            problem = self.engine.run(SetUp(self.world), "setup")
            if problem:
                raise BuildError(problem)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.stop()
            self.disks.close(undo=True)
            raise
        self.stack = self.world.stack
        self.stack.waits_for_workers = True
        self.export = LiveExport(self.stack, self.engine, self.world.ranges)
        self.stack.freezer = self.freezer = LiveFreezer(self.engine, self.export.names_of)
        self.sizes = {md.number: md.sectors for md in self.stack.devices.values()}
        self.engine.after_step = self.world.settle
        if show_disks:
            self.export.disks = self.stack.disks
        if show_disks == "hidden":
            self.export.list_disks = False
            self.export.control = control_node()
        self.ioctls = IoctlDoor(self.stack, self.engine, self.export)
        self.ioctls.edges = lambda: [(edge.waiter, edge.holder, edge.why) for edge in wait_edges(self.world)]
        self.live = LiveProcesses(self)

    def _backing(self, disk: Disk) -> FileBacking:
        return self.disks.backings[disk.name]

    def _try_out(self) -> None:
        """Build the plan over copies: what goes wrong goes wrong here, with nothing changed."""
        engine = SimEngine()
        world = prepare(self.plan, engine, disk_factory=lambda disk: Overlay(self._backing(disk)),
                        target_types=TARGETS)
        assert world.setup is not None
        while not world.setup.ended:
            if not engine.step():
                waiting = world.setup.waiting
                raise BuildError(f"the devices cannot be made: {waiting.why if waiting else 'nothing moves'}")
        if world.setup.value:
            raise BuildError(str(world.setup.value))

    def _note(self, lane: str, text: str) -> None:
        for listener in self.listeners:
            listener(lane, text)

    def serve(self, mountpoint: Path, *, binding: Any = "auto", allow_other: bool = False,
              on_ready: Callable[[], None]) -> None:
        """Mount, answer on the control socket, and return when the mount is gone."""
        from .fuse import MountStuck, serve

        doors: list[ControlSocket] = []

        def ready(mount: Mount) -> None:
            self.freezer.directory = self.stack.folder = os.fspath(mount.mountpoint)
            self.freezer.on_resume = lambda device: self._resumed(device, mount)
            self.engine.on_broken = mount.stop
            self.ioctls.settle_closes = mount.settle_closes
            doors.append(ControlSocket(self, mountpoint, mount.stop))
            on_ready()
            if self.engine.broken is not None:
                mount.stop()

        try:
            serve(self.export, mountpoint, binding=binding, on_ready=ready, allow_other=allow_other,
                  on_give_up=lambda: self.engine.abandon(GAVE_UP))
        except MountStuck:
            self.engine.abandon(GAVE_UP)
        finally:
            self.freezer.directory = self.freezer.on_resume = self.engine.on_broken = None
            for door in doors:
                door.close()
            if self._broken_by_bug():
                raise InternalError(f"the emulator has failed: {self.engine.broken!r}") from self.engine.broken

    def _broken_by_bug(self) -> bool:
        return self.engine.broken is not None and not isinstance(self.engine.broken, Abandoned)

    def _resumed(self, device: MappedDevice, mount: Mount) -> None:
        """Under the stack's lock: the kernel has to learn another size, which may wait for I/O."""
        if self.sizes.setdefault(device.number, device.sectors) != device.sectors:
            self.sizes[device.number] = device.sectors
            by_number = name_of_number(device.major, device.minor)
            for name in (device.name, *({by_number} & self.export.numbered)):
                threading.Thread(target=mount.refresh, args=(name,), name="dmspec-size", daemon=True).start()

    def close(self, *, undo: bool = False) -> None:
        """Suspend what can be suspended, so that logs are written, and close the disks.

        ``undo`` removes the disk files that were made here: the mount has never been there.
        """
        try:
            deadline = threading.Timer(TAKE_DOWN_SECONDS, self.engine.abandon, [GAVE_UP])
            deadline.start()
            try:
                with contextlib.suppress(DmspecError):
                    self.engine.call(self._end_processes)
                    self.export.close_all()
                    self.engine.run(TakeDown(self.stack), "take down")
            finally:
                deadline.cancel()
                deadline.join()
            self.freezer.thaw_all()
            self.gave_up = isinstance(self.engine.broken, Abandoned)
            self.engine.abandon("the mount has ended")
            self.export.helper.stop()
            self.engine.stop()
            self.disks.flush()
        finally:
            self.disks.close(undo=undo)

    def _end_processes(self) -> None:
        self.engine.after_step = None
        for process in self.processes:
            process.kill()

    def begin_process(self, plan: Plan, note: Callable[[str, str], None]) -> ProcessTask:
        """The process ``do`` of a plan, ready for :meth:`run_process`; what it does is told to ``note``."""
        if {process.name for process in plan.processes} != {"do"}:
            raise PlanError("a plan with the one process `do` was expected")
        if not {lock.name for lock in plan.locks} <= set(self.world.locks):
            raise PlanError("the plan has locks that the mounted one has not")

        def begin() -> ProcessTask:
            freezer, on_removed = self.stack.freezer, self.stack.on_removed
            world = World(plan, self.engine, self.stack)
            self.stack.freezer, self.stack.on_removed = freezer, on_removed
            world.filesystems = self.world.filesystems
            world.locks = self.world.locks
            world.awaiting = self.world.awaiting
            world.ranges = self.world.ranges
            world.suspenders = self.world.suspenders
            world.registered = self.world.registered
            process = ProcessTask(world, plan.process("do"))
            self.processes.add(process)
            self.listeners.append(note)
            return process

        process: ProcessTask = self.engine.call(begin)
        return process

    def run_process(self, process: ProcessTask, note: Callable[[str, str], None]) -> dict[str, Any]:
        """Run it to its end on this stack; what came of it."""
        try:
            self.engine.run(RunProcess(process), "do")
        finally:
            def forget() -> None:
                self.listeners.remove(note)
                self.processes.discard(process)

            with contextlib.suppress(DmspecError):
                self.engine.call(forget)
        error = -process.value if isinstance(process.value, int) and process.value < 0 else 0
        return {"error": errno_name(error) if error else "",
                "violations": [[violation.check, violation.text] for violation in process.world.violations]}

    def kill(self, process: ProcessTask) -> None:
        """Whoever wanted this process has gone."""
        with contextlib.suppress(DmspecError):
            self.engine.call(lambda: None if process.ended else process.kill())

    def waiting(self) -> list[str]:
        """The suspended devices that I/O waits for."""
        found: list[str] = []
        with contextlib.suppress(DmspecError):
            self.engine.call(lambda: found.extend(
                name for name, md in self.stack.devices.items() if md.suspended and md.deferred))
        return sorted(found)

    def status(self) -> list[dict[str, Any]]:
        """Each device as ``info``, ``table`` and ``status`` have it."""
        def look() -> list[dict[str, Any]]:
            found = []
            names = self.world.names()
            for name, md in sorted(self.stack.devices.items()):
                found.append({
                    "name": name, "number": md.number, "suspended": md.suspended, "events": md.event_nr,
                    "open": md.open_count, "sectors": md.sectors, "inactive": md.inactive is not None,
                    "table": [with_names(line, names) for line in control.status_lines(md, table=True)],
                    "status": [with_names(line, names) for line in control.status_lines(md)],
                })
            return found
        answer: list[dict[str, Any]] = self.engine.call(look)
        return answer


class RunProcess(Frame):
    """Run a process and wait for its end."""

    def __init__(self, process: ProcessTask) -> None:
        self.process = process
        self.begun = False

    def start(self, task: Task) -> Outcome:
        del task
        if not self.begun:
            self.begun = True
            self.process.run()
        return Return(self.process.value) if self.process.ended else Wait(self.process.over, "for its end")


class TakeDown(Frame):
    """Remove every device, as at a machine's orderly end: users first.

    What is still in use, or has I/O waiting for a resume, stays as it is; its disks are as after a power cut.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.todo: list[MappedDevice] = []
        self.removed_some = True

    def start(self, task: Task) -> Outcome:
        """Begin a round, unless the last one has brought nothing."""
        if not self.removed_some:
            return DONE
        self.removed_some = False
        self.todo = list(self.stack.devices.values())
        return self.next(task)

    def next(self, task: Task) -> Outcome:
        """Remove the next one that can be removed."""
        while self.todo:
            md = self.todo.pop()
            if self.stack.devices.get(md.name) is md and not md.open_count and not md.deferred:
                self.removed_some = True
                return Enter(control.Remove(md), "next")
        return self.start(task)


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
        from .plan import to_bytes

        question = request.get("ask")
        if question == "plan":
            yield {"end": True, "plan": to_bytes(self.server.plan)}
        elif question == "status":
            yield {"end": True, "devices": self.server.status(), "processes": self.server.live.states()}
        elif question == "start":
            self.server.live.begin(processes_named(self.server.spec, request.get("names", [])))
            yield {"end": True}
        elif question == "stop":
            if request.get("force"):
                self.server.engine.abandon(GAVE_UP)
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
