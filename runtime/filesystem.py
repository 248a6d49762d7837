"""A simulated journalling filesystem: as much of one as suspending a device beneath it meets.

Its first 4 KiB are the journal, the rest is data.  A freeze stops new writes, waits for those in flight,
writes the journal through the device and flushes it, as ``freeze_super`` and ext4 do; so it meets whatever
is wrong with the device.  It is frozen by ``fsfreeze`` (an operation of a spec) or by a suspend with lockfs,
and thaws when both have let go.
"""

from __future__ import annotations

import errno
from typing import Final

from dmspec.runtime.block import BlockDevice
from dmspec.runtime.byte_io import FlushDevice, WriteBytes, stream
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.task import DONE, Engine, Enter, Frame, Latch, Outcome, Return, Task, Wait
from dmspec.runtime.units import SECTOR_BYTES

JOURNAL_AREA_BYTES: Final = 4096
JOURNAL_SECTORS: Final = 2


class Filesystem:
    """``base`` and ``size``: where its data is on the device, in bytes."""

    __slots__ = ("by_suspend", "by_user", "commits", "device", "engine", "freezing", "name", "quiet", "settled",
                 "thawed", "writers")

    def __init__(self, engine: Engine, name: str, device: BlockDevice) -> None:
        self.engine = engine
        self.name = name
        self.device = device
        self.writers = 0
        self.commits = 0
        self.by_user = False
        self.by_suspend = False
        self.freezing = False
        self.thawed = Latch(f"thaw of {name}")
        self.quiet = Latch(f"writes in {name}")
        self.settled = Latch(f"freeze of {name}")

    @property
    def base(self) -> int:
        """Data begins behind the journal."""
        return JOURNAL_AREA_BYTES

    @property
    def size(self) -> int:
        """What is left for data."""
        return max(self.device.sectors * SECTOR_BYTES - JOURNAL_AREA_BYTES, 0)

    @property
    def frozen(self) -> bool:
        """Whether new writes have to wait."""
        return self.freezing or self.by_user or self.by_suspend

    def enter(self, task: Task) -> Wait | None:
        """Begin a write, or say what it has to wait for."""
        if self.frozen:
            self.engine.note(task.name, f"waits: {self.name} is frozen")
            return Wait(self.thawed, f"for filesystem {self.name}, which is frozen")
        self.writers += 1
        return None

    def leave(self) -> None:
        """A write has ended."""
        self.writers -= 1
        if not self.writers:
            self.quiet.release()

    def unfreeze(self) -> None:
        """Let writers in again, unless it is still frozen for another reason."""
        if not self.frozen:
            self.engine.note(self.name, "thawed")
            self.thawed.release()


class GuardedWrite(Frame):
    """A write through the filesystem: it waits while that is frozen.  The value is that of the write."""

    def __init__(self, filesystem: Filesystem, write: Frame) -> None:
        self.filesystem = filesystem
        self.write = write

    def start(self, task: Task) -> Outcome:
        """Enter the filesystem."""
        wait = self.filesystem.enter(task)
        return wait if wait is not None else Enter(self.write, "done")

    def done(self, task: Task) -> Outcome:
        """Leave it."""
        del task
        self.filesystem.leave()
        return Return(self.result)


class WriteJournal(Frame):
    """Commit: journal sectors, then a flush.  The value is 0 or a negative errno."""

    def __init__(self, filesystem: Filesystem) -> None:
        self.filesystem = filesystem

    def start(self, task: Task) -> Outcome:
        """Write the journal."""
        del task
        filesystem = self.filesystem
        filesystem.commits += 1
        text = stream(f"{filesystem.name} journal {filesystem.commits}", 0, JOURNAL_SECTORS * SECTOR_BYTES)
        filesystem.engine.note(filesystem.name, f"journal written through {filesystem.device.name}")
        return Enter(WriteBytes(filesystem.device, 0, text), "flush")

    def flush(self, task: Task) -> Outcome:
        """Flush what was written."""
        del task
        if self.result < 0:
            return Return(self.result)
        return Enter(FlushDevice(self.filesystem.device), "done")

    def done(self, task: Task) -> Outcome:
        """Answer with the flush's error."""
        del task
        return Return(self.result)


class Freeze(Frame):
    """Freeze it; the value is 0 or a negative errno."""

    def __init__(self, filesystem: Filesystem, *, by_suspend: bool) -> None:
        self.filesystem = filesystem
        self.by_suspend = by_suspend

    def start(self, task: Task) -> Outcome:
        """Stop new writes.  What is frozen already has nothing more to write."""
        filesystem = self.filesystem
        if filesystem.freezing:
            return Wait(filesystem.settled, f"for filesystem {filesystem.name}, which is being frozen")
        if filesystem.frozen:
            if not self.by_suspend and filesystem.by_user:
                return Return(-errno.EBUSY)
            return self._frozen()
        filesystem.freezing = True
        filesystem.engine.note(filesystem.name, "freezing: new writes wait")
        return self.drain(task)

    def drain(self, task: Task) -> Outcome:
        """Wait for the writes in flight."""
        del task
        self.at = "drain"
        filesystem = self.filesystem
        count = filesystem.writers
        if count:
            return Wait(filesystem.quiet, f"for {count} write{'s' if count > 1 else ''} in {filesystem.name}")
        return Enter(WriteJournal(filesystem), "written")

    def written(self, task: Task) -> Outcome:
        """It is frozen, or, when the journal could not be written, thawed again."""
        del task
        filesystem = self.filesystem
        filesystem.freezing = False
        filesystem.settled.release()
        if self.result < 0:
            filesystem.engine.note(filesystem.name, f"freeze failed: {errno.errorcode.get(-self.result, self.result)}")
            filesystem.unfreeze()
            return Return(self.result)
        filesystem.engine.note(filesystem.name, "frozen")
        return self._frozen()

    def _frozen(self) -> Outcome:
        if self.by_suspend:
            self.filesystem.by_suspend = True
        else:
            self.filesystem.by_user = True
        return DONE


class Filesystems:
    """All that are mounted; a suspend with lockfs asks it (:class:`~dmspec.runtime.stack.Freezer`)."""

    def __init__(self) -> None:
        self.by_name: dict[str, Filesystem] = {}

    def on(self, device: BlockDevice) -> Filesystem | None:
        """The filesystem that is mounted from a device."""
        for filesystem in self.by_name.values():
            if filesystem.device is device:
                return filesystem
        return None

    def freeze(self, device: MappedDevice, task: Task) -> Frame | None:
        """``bdev_freeze``."""
        del task
        filesystem = self.on(device)
        return Freeze(filesystem, by_suspend=True) if filesystem is not None else None

    def thaw(self, device: MappedDevice) -> Frame | None:
        """``bdev_thaw``: without effect on what no suspend has frozen."""
        filesystem = self.on(device)
        if filesystem is not None and filesystem.by_suspend:
            filesystem.by_suspend = False
            filesystem.unfreeze()
        return None
