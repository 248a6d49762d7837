"""I/O as an application does it, in bytes, at any alignment.

A write or read without ``at`` goes on where the process's last one on the same target ended, and starts
again at 0 where there is no room left.  A write that would pass the end of its target fails with ENOSPC.
Without ``pattern`` the sector at byte 4096 of a device that ``app`` writes with its first write reads
``app#1 sector 00000008 ....``; with it the text is ``PATTERN sector 00000000 ....``, numbered from the
operation's start.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.byte_io import DiscardBytes, FlushDevice, ReadBytes, WriteBytes, stream
from dmspec.runtime.errors import DmError
from dmspec.runtime.filesystem import Freeze, GuardedWrite, WriteJournal
from dmspec.runtime.operations.base import NO_ERROR, NO_IO_ERROR, OperationType
from dmspec.runtime.signature import Kind, flag, opt, pos, signature
from dmspec.runtime.task import DONE, Enter, Frame, Goto, Latch, Outcome, Return, Task, Wait
from dmspec.runtime.units import bytes_text, duration_text

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.world import Place, World, WriteRecord


class Transfers(Frame):
    """``times`` reads or writes, one behind the other; others may run between them.

    Whoever does I/O has its device open meanwhile, so that nobody can remove it.
    """

    def __init__(self, process: ProcessTask, operation: str, args: dict[str, Any]) -> None:
        self.process = process
        self.operation = operation
        self.target: str = args["target"]
        self.at_byte: int | None = args["at"]
        self.first_byte: int | None = None
        self.size: int = args["size"]
        self.left: int = args["times"]
        self.pattern: str | None = args.get("pattern")
        self.fua = bool(args.get("fua"))
        self.record: WriteRecord | None = None
        self.reading: list[Any] = []
        self.result: Any = 0

    def start(self, task: Task) -> Outcome:
        """Do the next one."""
        del task
        if self.left <= 0 or not self.size:
            return DONE
        self.left -= 1
        process = self.process
        try:
            place = process.world.place(self.target)
        except DmError as error:
            return Return(-error.errno)
        offset = self._next_offset(place)
        if self.operation == "write" and place.device.read_only:
            return Return(-errno.EPERM)
        if offset + self.size > place.size and self.operation == "write":
            return Return(-errno.ENOSPC)
        self.open = place.device
        process.world.stack.hold(place.device)
        if self.operation == "read":
            self.reading = process.world.read_begins(place.device, place.base + offset, self.size)
            return Enter(ReadBytes(place.device, place.base + offset, self.size), "done")
        return Enter(self._write(place, place.base + offset), "done")

    def _next_offset(self, place: Place) -> int:
        cursors = self.process.root.cursors
        key = f"{self.operation} {self.target}"
        offset = cursors.get(key, 0) if self.at_byte is None else self.at_byte
        if self.at_byte is None and offset + self.size > place.size:
            offset = 0
        if self.at_byte is None:
            cursors[key] = offset + self.size
        else:
            self.at_byte += self.size
        if self.first_byte is None:
            self.first_byte = offset
        return offset

    def _write(self, place: Place, offset: int) -> Frame:
        root = self.process.root
        root.write_count += 1
        if self.pattern is None:
            label, origin = f"{root.name}#{root.write_count}", 0
        else:
            assert self.first_byte is not None
            label, origin = self.pattern, place.base + self.first_byte
        self.record = root.world.write_begins(root.name, place, offset, self.size, label, origin,
                                              fua=self.fua)
        data = stream(label, offset - origin, self.size)
        write = WriteBytes(place.device, offset, data, fua=self.fua, ranges=root.world.ranges)
        return write if place.filesystem is None else GuardedWrite(place.filesystem, write)

    def done(self, task: Task) -> Outcome:
        """One has ended."""
        self.process.world.stack.release(self.open)
        value, self.result = self.result, 0
        status = -value if isinstance(value, int) and value < 0 else 0
        if self.record is not None:
            self.process.world.write_ends(self.record, status)
        else:
            self.process.world.read_ends(self.reading, value)
        if status:
            return Return(-status)
        if not self.left:
            return DONE
        size, target = bytes_text(self.size), self.target
        task.engine.note(task.name, f"{self.operation} {target}: {size} done, {self.left} more")
        return Goto("start")


class Discard(Frame):
    """A discard, recorded: nobody may rely on what lay there."""

    def __init__(self, process: ProcessTask, place: Place, offset: int, length: int) -> None:
        self.process = process
        self.discard = DiscardBytes(place.device, offset, length)
        self.record = process.world.write_begins(process.root.name, place, offset, length, None, offset)

    def start(self, task: Task) -> Outcome:
        """Send it."""
        del task
        self.process.world.stack.hold(self.discard.device)
        return Enter(self.discard, "done")

    def done(self, task: Task) -> Outcome:
        """It has ended."""
        del task
        self.process.world.stack.release(self.discard.device)
        self.process.world.write_ends(self.record, -self.result)
        return Return(self.result)


class Wipe(Frame):
    """Write zeros, recorded as a discard is: nobody may rely on what lay there."""

    def __init__(self, process: ProcessTask, place: Place, offset: int, length: int) -> None:
        self.process = process
        self.write = WriteBytes(place.device, offset, bytes(length), ranges=process.world.ranges)
        self.record = process.world.write_begins(process.root.name, place, offset, length, None, offset)

    def start(self, task: Task) -> Outcome:
        """Write them."""
        del task
        return Enter(self.write, "done")

    def done(self, task: Task) -> Outcome:
        """It has ended."""
        del task
        status = -self.result if isinstance(self.result, int) and self.result < 0 else 0
        self.process.world.write_ends(self.record, status)
        return Return(-status)


class Sleep(Frame):
    """Wait for a time."""

    interruptible = True

    def __init__(self, time_ns: int) -> None:
        self.time_ns = time_ns
        self.latch = Latch("the end of a sleep")

    def start(self, task: Task) -> Outcome:
        """Set the alarm."""
        self.until_ns = task.engine.now_ns + self.time_ns
        task.engine.at(self.until_ns, self.latch)
        return self.sleep(task)

    def sleep(self, task: Task) -> Outcome:
        """Sleep on, unless it is time."""
        self.at = "sleep"
        if task.killed:
            return Return(-errno.EINTR)
        if task.engine.now_ns < self.until_ns:
            return Wait(self.latch, f"for {duration_text(self.time_ns)} to pass")
        return DONE


class Fsync(Frame):
    """``fsync`` on a filesystem: it commits its journal, unless frozen, when there is nothing to commit."""

    def __init__(self, world: World, place: Place) -> None:
        self.world = world
        self.place = place

    def start(self, task: Task) -> Outcome:
        """Commit and flush."""
        del task
        self.world.stack.hold(self.place.device)
        self.began = self.world.flush_begins(self.place.device)
        filesystem = self.place.filesystem
        if filesystem is None or filesystem.frozen:
            return Enter(FlushDevice(self.place.device), "done")
        return Enter(GuardedWrite(filesystem, WriteJournal(filesystem)), "done")

    def done(self, task: Task) -> Outcome:
        """It has ended."""
        del task
        self.world.stack.release(self.place.device)
        self.world.flush_ends(self.place.device, self.began, -self.result)
        return Return(self.result)


def _write(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return Transfers(process, "write", args)


def _read(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return Transfers(process, "read", args)


def _flush(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return Fsync(process.world, process.world.place(args["target"]))


def _discard(process: ProcessTask, args: dict[str, Any]) -> Frame:
    place = process.world.place(args["target"])
    return Discard(process, place, place.base + args["at"], args["size"])


def _wipe(process: ProcessTask, args: dict[str, Any]) -> Frame:
    place = process.world.place(args["target"])
    if args["at"] + args["size"] > place.size:
        raise DmError(errno.ENOSPC)
    return Wipe(process, place, place.base + args["at"], args["size"])


def _freeze(process: ProcessTask, args: dict[str, Any]) -> Frame:
    filesystem = process.world.filesystems.by_name.get(args["filesystem"])
    if filesystem is None:
        raise DmError(errno.ENXIO)
    return Freeze(filesystem, by_suspend=False)


def _thaw(process: ProcessTask, args: dict[str, Any]) -> int:
    filesystem = process.world.filesystems.by_name.get(args["filesystem"])
    if filesystem is None:
        raise DmError(errno.ENXIO)
    if not filesystem.by_user:
        raise DmError(errno.EINVAL)
    filesystem.by_user = False
    filesystem.unfreeze()
    return 0


def _sleep(process: ProcessTask, args: dict[str, Any]) -> Frame:
    del process
    return Sleep(args["time"])


IO_OPERATIONS: Final = (
    OperationType("write", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE), opt("size", Kind.SIZE, 4096),
        opt("times", Kind.COUNT, 1), opt("pattern", Kind.TEXT), flag("fua"),
    ), "Write; the next `times` go on behind it.  Each write has contents of its own, unless `pattern`.",
        _write, violates=NO_IO_ERROR),
    OperationType("read", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE), opt("size", Kind.SIZE, 4096),
        opt("times", Kind.COUNT, 1),
    ), "Read and forget what was read.", _read, violates=NO_IO_ERROR),
    OperationType("flush", signature(pos("target", Kind.TARGETABLE)),
                  "What fsync comes to: an empty flush.", _flush, violates=NO_IO_ERROR),
    OperationType("discard", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE, 0), opt("size", Kind.SIZE, 4096),
    ), "Tell the device that a range is not needed.", _discard, violates=NO_IO_ERROR),
    OperationType("wipe", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE, 0), opt("size", Kind.SIZE, 4096),
    ), "Write zeros, so that nothing finds there what was there before.", _wipe, violates=NO_IO_ERROR),
    OperationType("freeze", signature(pos("filesystem", Kind.FILESYSTEM)), "fsfreeze -f: journal and stop.",
                  _freeze, violates=NO_ERROR),
    OperationType("thaw", signature(pos("filesystem", Kind.FILESYSTEM)), "fsfreeze -u.",
                  _thaw, violates=NO_ERROR),
    OperationType("sleep", signature(pos("time", Kind.DURATION)), "Let virtual (or real) time pass.", _sleep),
)
