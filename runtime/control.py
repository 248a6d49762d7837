"""The control core: device-mapper's ioctls (kernel: drivers/md/dm-ioctl.c).

Immediate calls raise :class:`DmError` with the ioctl's errno.  Calls that may wait are frames whose
value is 0 or a negative errno.  The command line, the language and the mount are layers over this.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .block import BlockDevice
from .errors import DmError
from .frames import EachTarget, InTurn
from .mapped_device import MappedDevice
from .suspend import ResumeDevice, Suspend, Swap
from .table import DestroyTable, LoadTable, Table, split_args
from .task import DONE, Enter, Frame, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .stack import Stack

NAME_MAX_BYTES = 127
UUID_MAX_BYTES = 128
TableLine = tuple[int, int, str, str]

_LINE = re.compile(r"\s*(-?\d{1,40}|\*)\s+(-?\d{1,40}|\*)\s+(\S+)(?:\s+(.*?))?\s*\Z", re.ASCII | re.DOTALL)
_U64 = (1 << 64) - 1


def parse_line(line: str) -> tuple[int | None, int | None, str, str]:
    """``start length type params``; ``*`` (not known, for :func:`resolve_lines`) is ``None``."""
    match = _LINE.match(line)
    if match is None:
        raise DmError(errno.EINVAL, f"Invalid format of table line: {line!r}")
    start, length = (None if word == "*" else _unsigned(word) for word in match.group(1, 2))
    return start, length, match[3], match[4] or ""


def _unsigned(word: str) -> int:
    """What ``strtoull`` makes of a number: it saturates, and a minus sign wraps around."""
    number = int(word)
    return number & _U64 if number < 0 else min(number, _U64)


def resolve_lines(stack: Stack, lines: Sequence[str], md: MappedDevice | None = None) -> list[TableLine]:
    """Give every segment its start and length.

    A length that is left out is what the segment's devices have (the target says how), or, where
    that is not known, the present size of the device that the table is for.
    """
    resolved: list[TableLine] = []
    for line in lines:
        start, length, kind, params = parse_line(line)
        if start is None:
            start = resolved[-1][0] + resolved[-1][1] if resolved else 0
        if length is None:
            length = _natural_length(stack, kind, params)
        if length is None and md is not None and md.sectors:
            length = md.sectors - start
        if length is None or length < 0:
            raise DmError(errno.EINVAL, f"how long is the segment {line!r}?")
        resolved.append((start, length, kind, params))
    return resolved


def _natural_length(stack: Stack, kind: str, params: str) -> int | None:
    target_type = stack.target_types.get(kind)
    if target_type is None:
        return None

    def size_of(path: str) -> int | None:
        try:
            device = stack.lookup(path)
        except DmError:
            return None
        if not device.sectors and isinstance(device, MappedDevice) and device.inactive is not None:
            return device.inactive.sectors
        return device.sectors or None

    try:
        return target_type.natural_length(split_args(params), size_of)
    except (ValueError, IndexError):
        return None


def _bytes(text: str) -> int:
    """How long a name is to the kernel; one that is no UTF-8 came in as surrogates."""
    return len(text.encode("utf-8", "surrogateescape"))


def check_name(stack: Stack, name: str) -> None:
    """``EINVAL`` for a name that device-mapper does not take, with its log line."""
    if not name:
        stack.log("err", "device-mapper: ioctl: name not supplied when creating device")
        raise DmError(errno.EINVAL)
    is_taken = stack.era.refuses_taken_names and name in (".", "..", "control")
    if "/" in name or is_taken or _bytes(name) > NAME_MAX_BYTES:
        stack.log("err", "device-mapper: ioctl: invalid device name")
        raise DmError(errno.EINVAL)


def by_uuid(stack: Stack, uuid: str) -> MappedDevice | None:
    """The device with this uuid."""
    return next((md for md in stack.devices.values() if md.uuid == uuid), None)


def by_number(stack: Stack, major: int, minor: int) -> MappedDevice | None:
    """The device with this number."""
    return next((md for md in stack.devices.values() if (md.major, md.minor) == (major, minor)), None)


def create(stack: Stack, name: str, *, uuid: str = "", minor: int | None = None) -> MappedDevice:
    """``DM_DEV_CREATE``: not suspended, no table."""
    check_name(stack, name)
    if _bytes(uuid) > UUID_MAX_BYTES:
        raise DmError(errno.EINVAL)
    if minor is not None and any(device.minor == minor for device in stack.devices.values()):
        raise DmError(errno.ENXIO)
    if name in stack.devices or (uuid and by_uuid(stack, uuid) is not None):
        raise DmError(errno.EBUSY)
    md = MappedDevice(stack, name, stack.free_minor() if minor is None else minor, uuid)
    stack.devices[name] = md
    stack.engine.note(name, f"created ({md.number})")
    return md


class Load(Frame):
    """``DM_TABLE_LOAD``."""

    def __init__(self, md: MappedDevice, lines: Sequence[TableLine], *, read_only: bool = False) -> None:
        self.md = md
        self.load = LoadTable(md, lines, read_only=read_only)

    def start(self, task: Task) -> Outcome:
        del task
        return Enter(self.load, "built")

    def built(self, task: Task) -> Outcome:
        """The first table of a device is measured at once, later ones only at resume."""
        del task
        md = self.md
        table = self.result
        if not isinstance(table, Table):
            assert isinstance(table, int)
            return Return(table)
        if md.stack.devices.get(md.name) is not md:
            return Enter(DestroyTable(table), "gone")
        if not md.initialized and not table.check_areas():
            md.stack.log("err", "device-mapper: core: Cannot calculate initial queue limits")
            md.stack.log("err", "device-mapper: ioctl: unable to set up device queue for new table.")
            return Enter(DestroyTable(table), "refused")
        md.initialized = True
        old, md.inactive = md.inactive, table
        md.stack.engine.note(md.name, "table loaded: " + ", ".join(table.types))
        return Enter(DestroyTable(old), "done") if old is not None else DONE

    def refused(self, task: Task) -> Outcome:
        del task
        return Return(-errno.EINVAL)

    def gone(self, task: Task) -> Outcome:
        del task
        self.md.stack.log("err", "device-mapper: ioctl: device has been removed from the dev hash table.")
        return Return(-errno.ENXIO)

    def done(self, task: Task) -> Outcome:
        del task
        return DONE


class Clear(Frame):
    """``DM_TABLE_CLEAR``: succeeds if there is none."""

    def __init__(self, md: MappedDevice) -> None:
        self.md = md

    def start(self, task: Task) -> Outcome:
        del task
        table, self.md.inactive = self.md.inactive, None
        return Enter(DestroyTable(table), "done") if table is not None else DONE

    def done(self, task: Task) -> Outcome:
        del task
        return DONE


class DoSuspend(Frame):
    """``DM_DEV_SUSPEND`` with the suspend flag: already suspended is a success."""

    def __init__(self, md: MappedDevice, *, noflush: bool = False, lockfs: bool = True) -> None:
        self.md = md
        self.suspend = Suspend(md, noflush=noflush, lockfs=lockfs)

    def start(self, task: Task) -> Outcome:
        del task
        if self.md.suspended:
            return DONE
        return Enter(self.suspend, "done")

    def done(self, task: Task) -> Outcome:
        del task
        return Return(self.result)


class DoResume(Frame):
    """``DM_DEV_SUSPEND`` without the suspend flag: swap the inactive table in, then resume.

    ``uevent`` says afterwards whether udev was told, which only a resume that did something does.
    """

    def __init__(self, md: MappedDevice, *, noflush: bool = False, lockfs: bool = True) -> None:
        self.md = md
        self.noflush = noflush
        self.lockfs = lockfs
        self.old: Table | None = None
        self.error = 0
        self.uevent = False

    def start(self, task: Task) -> Outcome:
        self.table, self.md.inactive = self.md.inactive, None
        if self.table is None:
            return self.resume(task)
        if not self.md.suspended:
            return Enter(Suspend(self.md, noflush=self.noflush, lockfs=self.lockfs), "swap")
        return self.swap(task)

    def swap(self, task: Task) -> Outcome:
        del task
        assert self.table is not None
        if self.md.stack.era.old_table_destroyed_first and self.md.live is not None and self.md.suspended:
            old, self.md.live = self.md.live, None
            return Enter(InTurn([DestroyTable(old), Swap(self.md, self.table)]), "swapped")
        return Enter(Swap(self.md, self.table), "swapped")

    def swapped(self, task: Task) -> Outcome:
        if isinstance(self.result, int) and self.result < 0:
            self.error = self.result
            assert self.table is not None
            return Enter(DestroyTable(self.table), "finish")
        self.old = self.result if isinstance(self.result, Table) else None
        assert self.table is not None
        self.md.read_only = self.table.read_only
        return self.resume(task)

    def resume(self, task: Task) -> Outcome:
        if self.md.suspended:
            return Enter(ResumeDevice(self.md), "resumed")
        return self.finish(task)

    def resumed(self, task: Task) -> Outcome:
        self.error = self.result
        self.uevent = not self.error
        if self.old is not None:
            return Enter(DestroyTable(self.old), "finish")
        return self.finish(task)

    def finish(self, task: Task) -> Outcome:
        del task
        return Return(self.error)


class Remove(Frame):
    """``DM_DEV_REMOVE``."""

    def __init__(self, md: MappedDevice, *, deferred: bool = False) -> None:
        self.md = md
        self.deferred = deferred

    def start(self, task: Task) -> Outcome:
        del task
        md = self.md
        stack = md.stack
        if stack.devices.get(md.name) is not md:
            return Return(-errno.ENXIO)
        if md.open_count:
            if self.deferred:
                md.deferred_remove = True
                return DONE
            stack.engine.note(md.name, "remove: the device is in use")
            return Return(-errno.EBUSY)
        del stack.devices[md.name]
        md.deferred_remove = False
        if stack.nodes is not None:
            stack.nodes.discard(md.name)
        if md.live is not None:
            md.event()
        md.events.release()
        stack.engine.note(md.name, "removed")
        if md.live is not None and not md.suspended:
            return Enter(EachTarget(md.live.targets, "presuspend"), "postsuspend")
        return self.destroy(_task=None)

    def postsuspend(self, task: Task) -> Outcome:
        del task
        assert self.md.live is not None
        return Enter(EachTarget(self.md.live.targets, "postsuspend"), "suspended")

    def suspended(self, task: Task) -> Outcome:
        return self.destroy(task)

    def destroy(self, _task: Task | None) -> Outcome:
        md = self.md
        tables = [table for table in (md.inactive, md.live) if table is not None]
        md.inactive = md.live = None
        md.work.end()
        for bio in list(md.deferred):
            bio.complete(errno.EIO)
        md.deferred.clear()
        return Enter(InTurn(DestroyTable(table) for table in tables), "done")

    def done(self, task: Task) -> Outcome:
        del task
        return DONE


class RemoveAll(Frame):
    """``DM_REMOVE_ALL``: what nobody uses goes, from the first name on again after each (``dm_hash_remove_all``).

    ``deferred`` marks the others, which go when they are closed.
    """

    def __init__(self, stack: Stack, *, deferred: bool = False) -> None:
        self.stack = stack
        self.deferred = deferred

    def start(self, task: Task) -> Outcome:
        del task
        skipped = 0
        for _name, md in sorted(self.stack.devices.items()):
            if not md.open_count:
                return Enter(Remove(md), "start")
            skipped += 1
            md.deferred_remove = md.deferred_remove or self.deferred
        if skipped:
            self.stack.log("warning", f"device-mapper: ioctl: remove_all left {skipped} open device(s)")
        return DONE


class WaitEvent(Frame):
    """``DM_DEV_WAIT``: until the event number is another than ``event_nr``, or the device is gone.

    The value is 0, or ``-EINTR`` when the waiter was killed.
    """

    interruptible = True

    def __init__(self, md: MappedDevice, event_nr: int) -> None:
        self.md = md
        self.event_nr = event_nr

    def start(self, task: Task) -> Outcome:
        md = self.md
        if md.event_nr != self.event_nr or md.stack.devices.get(md.name) is not md:
            return DONE
        if task.killed:
            return Return(-errno.EINTR)
        return Wait(md.events, f"for an event of {md.name} after number {self.event_nr}")


class Rename(Frame):
    """``DM_DEV_RENAME``: another name, or a uuid for a device that has none; counts as an event."""

    def __init__(self, md: MappedDevice, *, name: str | None = None, uuid: str = "") -> None:
        self.md = md
        self.name = name
        self.uuid = uuid

    def start(self, task: Task) -> Outcome:
        del task
        try:
            rename(self.md, name=self.name, uuid=self.uuid)
        except DmError as error:
            return Return(-error.errno)
        return DONE


def rename(md: MappedDevice, *, name: str | None = None, uuid: str = "") -> None:
    """What :class:`Rename` does, at once."""
    stack = md.stack
    prefix = "device-mapper: ioctl: Unable to change"
    if name is not None:
        check_name(stack, name)
        if name in stack.devices:
            stack.log("err", f"{prefix} name on mapped device {md.name} to one that already exists: {name}")
            raise DmError(errno.EBUSY)
        del stack.devices[md.name]
        if stack.nodes is not None and md.name in stack.nodes:
            stack.nodes.remove(md.name)
            stack.nodes.add(name)
        stack.engine.note(md.name, f"is now called {name}")
        md.name = name
        stack.devices[name] = md
    else:
        if by_uuid(stack, uuid) is not None:
            stack.log("err", f"{prefix} uuid on mapped device {md.name} to one that already exists: {uuid}")
            raise DmError(errno.EBUSY)
        if md.uuid:
            stack.log("err", f"{prefix} uuid of mapped device {md.name} to {uuid} "
                             f"because uuid is already set to {md.uuid}")
            raise DmError(errno.EINVAL)
        if not uuid or _bytes(uuid) > UUID_MAX_BYTES:
            raise DmError(errno.EINVAL)
        md.uuid = uuid
    if md.live is not None:
        md.live.event()


def rename_by_name(stack: Stack, old: str, *, name: str | None = None, uuid: str = "") -> MappedDevice:
    """``dm_hash_rename``: the new name is looked at before the device is looked for."""
    md = stack.devices.get(old)
    if md is not None:
        rename(md, name=name, uuid=uuid)
        return md
    new = uuid if name is None else name
    if name is not None:
        check_name(stack, name)
    if (by_uuid(stack, uuid) is not None) if name is None else (name in stack.devices):
        kind = "uuid" if name is None else "name"
        stack.log("err", f"device-mapper: ioctl: Unable to change {kind} on mapped device {old} to one that "
                         f"already exists: {new}")
        raise DmError(errno.EBUSY)
    stack.log("err", f"device-mapper: ioctl: Unable to rename non-existent device, {old} to "
                     f"{'uuid ' if name is None else ''}{new}")
    raise DmError(errno.ENXIO)


def message(md: MappedDevice, sector: int, text: str) -> str:
    """``DM_TARGET_MSG``; the answer is the target's text, mostly empty."""
    stack = md.stack
    words = split_args(text)
    if not words:
        stack.log("err", "device-mapper: ioctl: Empty message received.")
        raise DmError(errno.EINVAL)
    if words[0].startswith("@"):
        if words[0].lower() == "@cancel_deferred_remove":
            if len(words) != 1:
                stack.log("err", "device-mapper: ioctl: Invalid arguments for @cancel_deferred_remove")
                raise DmError(errno.EINVAL)
            md.deferred_remove = False
            return ""
        stack.log("err", f"device-mapper: ioctl: Unsupported message sent to DM core: {words[0]}")
        raise DmError(errno.EINVAL)
    if md.live is None:
        return ""
    if sector >= md.live.sectors:
        stack.log("err", "device-mapper: ioctl: Target message sector outside device.")
        raise DmError(errno.EINVAL)
    return md.live.find(sector).message(words)


def status_lines(md: MappedDevice, *, table: bool = False, inactive: bool = False) -> list[str]:
    """``DM_TABLE_STATUS``: one line per target, ``start length type params``."""
    which = md.inactive if inactive else md.live
    if which is None:
        return []
    return [f"{target.begin} {target.length} {kind} {target.parameters() if table else target.info()}"
            for kind, target in zip(which.types, which.targets, strict=True)]


def dependencies(md: MappedDevice) -> list[BlockDevice]:
    """``DM_TABLE_DEPS``, of the live table, else of the inactive one."""
    which = md.live or md.inactive
    return list(which.devices) if which is not None else []
