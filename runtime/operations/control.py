"""Control operations: what ``dmsetup`` does, as a process does it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime import control
from dmspec.runtime.errors import DmError
from dmspec.runtime.frames import InTurn
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.operations.base import OperationType
from dmspec.runtime.signature import Kind, flag, opt, pos, signature
from dmspec.runtime.task import DONE, Enter, Frame, Outcome, Return, Task

if TYPE_CHECKING:
    from dmspec.runtime.block import BlockDevice
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.stack import Stack


def table_lines(stack: Stack, table: list[str] | dict[str, str] | None,
                md: MappedDevice) -> list[control.TableLine]:
    """The lines that a TABLE argument stands for: its own, or those of the device that it names."""
    if table is None:
        raise DmError(errno.EINVAL)
    if isinstance(table, dict):
        source = stack.device(table["table_of"])
        lines = control.status_lines(source, table=True) or \
            control.status_lines(source, table=True, inactive=True)
    else:
        lines = list(table)
    return control.resolve_lines(stack, lines, md)


class CreateDevice(Frame):
    """``dmsetup create``: create; with a table load it and resume, and remove the device if that fails."""

    def __init__(self, stack: Stack, name: str, table: list[str] | dict[str, str] | None, *, uuid: str = "",
                 read_only: bool = False) -> None:
        self.stack = stack
        self.name = name
        self.table = table
        self.uuid = uuid
        self.read_only = read_only
        self.error = 0

    def start(self, task: Task) -> Outcome:
        """Create the device and load its table."""
        try:
            self.md = control.create(self.stack, self.name, uuid=self.uuid)
        except DmError as error:
            return Return(-error.errno)
        if self.table is None:
            return DONE
        try:
            lines = table_lines(self.stack, self.table, self.md)
        except DmError as error:
            return self._revert(task, -error.errno)
        return Enter(control.Load(self.md, lines, read_only=self.read_only), "loaded")

    def loaded(self, task: Task) -> Outcome:
        """Resume it."""
        if self.result < 0:
            return self._revert(task, self.result)
        return Enter(control.DoResume(self.md), "resumed")

    def resumed(self, task: Task) -> Outcome:
        """It is there, unless the resume failed."""
        return self._revert(task, self.result) if self.result < 0 else DONE

    def _revert(self, task: Task, error: int) -> Outcome:
        del task
        self.error = error
        return Enter(control.Remove(self.md), "reverted")

    def reverted(self, task: Task) -> Outcome:
        """Answer with the error that came first."""
        del task
        return Return(self.error)


class ForceRemove(Frame):
    """``dmsetup remove --force``: put an error table of the same size in its place, then remove.

    The replacement is an attempt: its failure is not an error of the removal.
    """

    def __init__(self, md: MappedDevice, *, deferred: bool) -> None:
        self.md = md
        self.deferred = deferred

    def start(self, task: Task) -> Outcome:
        """Load the error table."""
        if not self.md.sectors:
            return self.remove(task)
        return Enter(control.Load(self.md, [(0, self.md.sectors, "error", "")]), "loaded")

    def loaded(self, task: Task) -> Outcome:
        """Swap it in without waiting for a flush or a filesystem."""
        if self.result < 0:
            return self.remove(task)
        return Enter(control.DoResume(self.md, noflush=True, lockfs=False), "remove")

    def remove(self, task: Task) -> Outcome:
        """Remove the device."""
        del task
        return Enter(control.Remove(self.md, deferred=self.deferred), "removed")

    def removed(self, task: Task) -> Outcome:
        """Answer with the removal's outcome."""
        del task
        return Return(self.result)


def _devices(process: ProcessTask, names: Sequence[str]) -> list[MappedDevice]:
    return [process.world.stack.device(name) for name in names]


def _create(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return CreateDevice(process.world.stack, args["name"], args["table"], uuid=args["uuid"],
                        read_only=args["read_only"])


class Section(Frame):
    """A resume, with the end of the section that the suspend began.

    Between its suspend and the end of its resume a device belongs to one process: anybody else who suspends,
    resumes or loads it meanwhile is noted for the check `no-race`.
    """

    def __init__(self, process: ProcessTask, devices: list[MappedDevice], resume: Frame) -> None:
        self.process = process
        self.devices = devices
        self.resume = resume

    def start(self, task: Task) -> Outcome:
        """Note who swaps in a table that somebody else has loaded, and resume."""
        del task
        for md in self.devices:
            meddles(self.process, md, "resumes")
            loader = self.process.world.loaders.pop(md.name, self.process.root.name)
            if md.inactive is not None and loader != self.process.root.name:
                self.process.world.races.append(
                    f"{self.process.root.name} swaps in the table of {md.name} that {loader} has loaded")
        return Enter(self.resume, "done")

    def done(self, task: Task) -> Outcome:
        """The section ends; see whether two live tables write to one place now."""
        del task
        world = self.process.world
        for md in self.devices:
            if world.inside.get(md.name) == self.process.root.name:
                del world.inside[md.name]
        overlap = two_writers(world.stack)
        if overlap:
            world.races.append(overlap)
        return Return(self.result)


def meddles(process: ProcessTask, md: MappedDevice, verb: str) -> None:
    """Note it when somebody else is between suspend and resume of the device."""
    owner = process.world.inside.get(md.name)
    if owner is not None and owner != process.root.name:
        process.world.races.append(f"{process.root.name} {verb} {md.name} while {owner} is between suspend and resume "
                                   "of it")


def two_writers(stack: Stack) -> str:
    """Two devices that are not suspended and whose live tables write to one range of a device."""
    seen: list[tuple[str, BlockDevice, int, int]] = []
    for md in stack.devices.values():
        if md.live is None or md.suspended:
            continue
        mine = [(md.name, device, start, start + length) for target in md.live.targets
                for device, start, length in target.write_areas()]
        for name, device, start, end in mine:
            for other, other_device, other_start, other_end in seen:
                if device is other_device and start < other_end and other_start < end:
                    return f"the live tables of {other} and {name} both write to {device.name}"
        seen += mine
    return ""


def _load(process: ProcessTask, args: dict[str, Any]) -> Frame:
    [md] = _devices(process, [args["device"]])
    meddles(process, md, "loads a table into")
    process.world.loaders[md.name] = process.root.name
    return control.Load(md, table_lines(process.world.stack, args["table"], md), read_only=args["read_only"])


def _clear(process: ProcessTask, args: dict[str, Any]) -> Frame:
    [md] = _devices(process, [args["device"]])
    return control.Clear(md)


def _suspend(process: ProcessTask, args: dict[str, Any]) -> Frame:
    devices = _devices(process, args["device"])
    for md in devices:
        meddles(process, md, "suspends")
        process.world.inside.setdefault(md.name, process.root.name)
        if not md.suspended:
            process.world.suspenders[md.name] = process.name
    return InTurn(control.DoSuspend(md, noflush=args["noflush"], lockfs=not args["nolockfs"]) for md in devices)


def _resume(process: ProcessTask, args: dict[str, Any]) -> Frame:
    devices = _devices(process, args["device"])
    return Section(process, devices, InTurn(
        control.DoResume(md, noflush=args["noflush"], lockfs=not args["nolockfs"]) for md in devices))


def _remove(process: ProcessTask, args: dict[str, Any]) -> Frame:
    devices = _devices(process, args["device"])
    if args["force"]:
        return InTurn(ForceRemove(md, deferred=args["deferred"]) for md in devices)
    return InTurn(control.Remove(md, deferred=args["deferred"]) for md in devices)


def _rename(process: ProcessTask, args: dict[str, Any]) -> Frame:
    [md] = _devices(process, [args["device"]])
    return control.Rename(md, name=args["new_name"], uuid=args["uuid"])


def _message(process: ProcessTask, args: dict[str, Any]) -> int:
    [md] = _devices(process, [args["device"]])
    answer = control.message(md, args["sector"], args["text"])
    if answer:
        process.engine.note(md.name, f"answers: {answer}")
    return 0


CONTROL_OPERATIONS: Final = (
    OperationType("create", signature(
        pos("name", Kind.NEW_NAME), opt("table", Kind.TABLE), opt("uuid", Kind.TEXT, ""),
        flag("read-only"),
    ), "Create a device; with a table: load it and resume, as `dmsetup create` does.", _create),
    OperationType("load", signature(
        pos("device", Kind.DEVICE), opt("table", Kind.TABLE), flag("read-only"),
    ), "Load a table into the inactive slot.", _load),
    OperationType("clear", signature(pos("device", Kind.DEVICE)), "Destroy the inactive table.", _clear),
    OperationType("suspend", signature(
        pos("device", Kind.DEVICE, repeated=True), flag("noflush"), flag("nolockfs"),
    ), "Suspend, with flush and lockfs unless the words say otherwise.", _suspend),
    OperationType("resume", signature(
        pos("device", Kind.DEVICE, repeated=True), flag("noflush"), flag("nolockfs"),
    ), "Resume, swapping in the inactive table if there is one.", _resume),
    OperationType("remove", signature(
        pos("device", Kind.DEVICE, repeated=True), flag("force"), flag("deferred"),
    ), "Remove a device.", _remove),
    OperationType("rename", signature(
        pos("device", Kind.DEVICE), pos("new-name", Kind.NEW_NAME, default=None), opt("uuid", Kind.TEXT, ""),
    ), "Give a device another name, or a uuid if it has none.", _rename),
    OperationType("message", signature(
        pos("device", Kind.DEVICE), pos("text", Kind.TEXT), opt("sector", Kind.COUNT, 0),
    ), "Send a message to the target at a sector.", _message),
)
