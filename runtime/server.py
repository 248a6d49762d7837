"""A mounted stack: disks behind file descriptors, the live engine, FUSE, and the control socket.

Bringing it up changes nothing before it is known to go well: the disk files are opened and held, the
plan is built once over copies in memory of what is on them, and only then over the files.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import control, wire
from .backing import FileBacking, Overlay, memory_file, open_file
from .build import BuildError, SetUp, furnish, prepare
from .errors import DmspecError, PlanError, StoreError, errno_name
from .live import Abandoned, LiveEngine
from .live_export import LiveExport
from .lockfs import LiveFreezer
from .plan import Disk, Plan, from_bytes
from .process import ProcessTask
from .registry import TARGETS
from .sim import SimEngine
from .task import Frame, Outcome, Return, Task, Wait
from .world import World

class Disks:
    """The disk files of a plan, held as long as this lives; those without a file are in memory."""

    def __init__(self, plan: Plan, spec_folder: Path, store: Path | None) -> None:
        self.backings: dict[str, FileBacking] = {}
        self.made: list[Path] = []
        try:
            self._open(plan, spec_folder, store)
        except BaseException:
            self.close(undo=True)
            raise

    def _open(self, plan: Plan, spec_folder: Path, store: Path | None) -> None:
        """Files that are there come first, so that a refusal leaves no new ones behind."""
        paths = {disk.name: _path(disk, spec_folder, store) for disk in plan.disks}
        missing = []
        for disk in plan.disks:
            path = paths[disk.name]
            if path is None:
                self.backings[disk.name] = memory_file(disk.name, disk.sectors)
            elif os.path.lexists(path):
                self.backings[disk.name] = open_file(os.fspath(path), disk.sectors, create=False)
            else:
                missing.append(disk)
        for disk in missing:
            path = paths[disk.name]
            assert path is not None
            self.backings[disk.name] = open_file(os.fspath(path), disk.sectors)
            self.made.append(path)

    def close(self, *, undo: bool = False) -> None:
        """Let go of the files; ``undo`` removes those that were made here."""
        for backing in self.backings.values():
            backing.close()
        self.backings.clear()
        for path in self.made if undo else ():
            path.unlink(missing_ok=True)


def _path(disk: Disk, spec_folder: Path, store: Path | None) -> Path | None:
    if store is not None:
        return store / f"{disk.name}.img"
    if disk.file is None:
        return None
    path = Path(disk.file)
    if path.is_absolute() or ".." in path.parts:
        raise StoreError(f"disk {disk.name}: {disk.file}: a spec may only name files beside it or below")
    return spec_folder / path


class MountServer:
    """One mounted plan.  ``serve`` blocks until it is unmounted; ``close`` lets everything go."""

    def __init__(self, plan: Plan, *, spec_folder: Path, store: Path | None = None) -> None:
        # The plan's filesystems are simulated ones, for runs; on a mount there are real ones.
        plan = self.plan = replace(plan, filesystems=[])
        self.listeners: list[Callable[[str, str], None]] = []
        if store is not None:
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.disks = Disks(plan, spec_folder, store)
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
        self.freezer = LiveFreezer(self.engine)
        self.stack.freezer = self.freezer
        self.engine.after_step = self.world.settle
        self.export = LiveExport(self.stack, self.engine)

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

    def serve(self, mountpoint: Path, *, binding: Any = "auto", on_ready: Callable[[], None]) -> None:
        """Mount, answer on the control socket, and return when the mount is gone."""
        from .fuse import Mount, serve

        doors: list[ControlSocket] = []

        def ready(mount: Mount) -> None:
            self.freezer.directory = os.fspath(mount.mountpoint)
            doors.append(ControlSocket(self, mountpoint, mount.stop))
            on_ready()

        try:
            serve(self.export, mountpoint, binding=binding, on_ready=ready,
                  on_give_up=lambda: self.engine.abandon("unmounted while bios were held"))
        finally:
            self.freezer.directory = None
            for door in doors:
                door.close()

    def close(self) -> None:
        """Suspend what can be suspended, so that logs are written, and close the disks."""
        if self.engine.broken is None:
            self.engine.after_step = None
            for name in reversed(list(self.stack.devices)):
                self._take_down(name)
        self.engine.stop()
        for backing in self.disks.backings.values():
            backing.flush()
        self.disks.close()

    def _take_down(self, name: str) -> None:
        """Remove a device, as at a machine's orderly end; one that is in use stays as it is."""
        with contextlib.suppress(Abandoned):
            if not self.stack.devices[name].deferred:
                self.engine.run(control.Remove(self.stack.devices[name]), f"remove {name}")

    def run_process(self, plan: Plan, note: Callable[[str, str], None]) -> dict[str, Any]:
        """Run the process ``do`` of a plan on this stack; what came of it."""
        world = World(plan, self.engine, self.stack)
        world.filesystems = self.world.filesystems
        self.stack.freezer = self.freezer
        world.locks = self.world.locks
        world.awaiting = self.world.awaiting
        process = ProcessTask(world, plan.process("do"))
        self.listeners.append(note)
        try:
            self.engine.run(RunProcess(process), "do")
        finally:
            self.listeners.remove(note)
            self.engine.call(lambda: None if process.ended else process.end())
        error = -process.value if isinstance(process.value, int) and process.value < 0 else 0
        return {"error": errno_name(error) if error else "",
                "violations": [[violation.check, violation.text] for violation in world.violations]}

    def status(self) -> list[dict[str, Any]]:
        """Each device as ``info``, ``table`` and ``status`` have it."""
        def look() -> list[dict[str, Any]]:
            found = []
            for name, md in sorted(self.stack.devices.items()):
                found.append({
                    "name": name, "number": md.number, "suspended": md.suspended, "events": md.event_nr,
                    "open": md.open_count, "sectors": md.sectors, "inactive": md.inactive is not None,
                    "table": [self.world.with_names(line) for line in control.status_lines(md, table=True)],
                    "status": [self.world.with_names(line) for line in control.status_lines(md)],
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


class ControlSocket:
    """Answers commands about a mount, each connection in a thread of its own."""

    def __init__(self, server: MountServer, mountpoint: Path, stop: Callable[[], None]) -> None:
        self.server = server
        self.stop = stop
        self.path = wire.socket_path(mountpoint)
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        old = os.umask(0o177)
        try:
            self.listener.bind(os.fspath(self.path))
        finally:
            os.umask(old)
        self.listener.listen(16)
        self.thread = threading.Thread(target=self._accept, name="dmspec-control", daemon=True)
        self.thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self.listener.accept()
            except OSError:
                return
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
            except DmspecError as error:
                wire.send(connection, {"end": False, "problem": str(error)})

    def _answers(self, connection: socket.socket, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        from .plan import to_bytes

        question = request.get("ask")
        if question == "plan":
            yield {"end": True, "plan": to_bytes(self.server.plan)}
        elif question == "status":
            yield {"end": True, "devices": self.server.status()}
        elif question == "stop":
            yield {"end": True}
            self.stop()
        elif question == "run":
            data = request.get("plan")
            if not isinstance(data, bytes):
                raise PlanError("a plan was expected")
            yield {"end": True, **self._run(connection, from_bytes(data))}
        else:
            raise wire.WireError(f"no such question: {question!r}")

    def _run(self, connection: socket.socket, plan: Plan) -> dict[str, Any]:
        names = {process.name for process in plan.processes}
        if names != {"do"}:
            raise PlanError("a plan with the one process `do` was expected")

        def note(lane: str, text: str) -> None:
            if lane == "kernel" or lane == "do" or lane.startswith("do."):
                with contextlib.suppress(OSError):
                    wire.send(connection, {"note": [lane, text]})

        return self.server.run_process(plan, note)

