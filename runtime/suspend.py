"""Suspend, swap and resume, in the kernel's order (reference: dm-core.md, sections 4 and 5)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .frames import EachTarget
from .task import DONE, Enter, Frame, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .mapped_device import MappedDevice
    from .table import Table


class Suspend(Frame):
    """``dm_suspend``; the value is 0 or a negative errno."""

    def __init__(self, md: MappedDevice, *, noflush: bool, lockfs: bool) -> None:
        self.md = md
        self.noflush = noflush
        self.lockfs = lockfs

    def start(self, task: Task) -> Outcome:
        md = self.md
        if not md.suspend_lock.take(task):
            return md.suspend_lock.wait()
        if md.suspended:
            md.suspend_lock.release(task)
            return Return(-errno.EINVAL)
        md.stack.engine.note(md.name, "suspend begins" + (", noflush" if self.noflush else "")
                             + ("" if self.lockfs and not self.noflush else ", nolockfs"))
        if self.noflush:
            md.noflush_suspending = True
        targets = md.live.targets if md.live is not None else []
        return Enter(EachTarget(targets, "presuspend"), "lock_filesystem")

    def lock_filesystem(self, task: Task) -> Outcome:
        """The writes that this causes pass through targets that are presuspended already."""
        md = self.md
        if self.lockfs and not self.noflush and md.live is not None:
            frame = md.stack.freeze(md, task)
            if frame is not None:
                return Enter(frame, "locked")
        return self.block(task)

    def locked(self, task: Task) -> Outcome:
        if isinstance(self.result, int) and self.result < 0:
            return self._undo(task, self.result)
        return self.block(task)

    def block(self, task: Task) -> Outcome:
        md = self.md
        md.block_io = True
        md.stack.engine.note(md.name, "new bios wait")
        return self.drain(task)

    def drain(self, task: Task) -> Outcome:
        """Wait for the deferred worker, then for every bio that is in a target."""
        self.at = "drain"
        md = self.md
        if md.work.busy:
            return Wait(md.work.idle, f"for the worker of {md.name}")
        if md.in_flight:
            if task.killed:
                return self._interrupted(task)
            return Wait(md.drained, f"for {md.in_flight} bio{'s' if md.in_flight > 1 else ''} in {md.name}")
        md.suspended = True
        md.noflush_suspending = False
        md.stack.engine.note(md.name, "suspended")
        targets = md.live.targets if md.live is not None else []
        return Enter(EachTarget(targets, "postsuspend"), "finish")

    def finish(self, task: Task) -> Outcome:
        self.md.suspend_lock.release(task)
        return DONE

    @property
    def interruptible(self) -> bool:  # type: ignore[override]
        """Only the wait for bios is: a signal ends it, and the device goes on as before."""
        return self.at == "drain" and not self.md.work.busy

    def _interrupted(self, task: Task) -> Outcome:
        """``were we interrupted ?`` in ``__dm_suspend``."""
        md = self.md
        md.noflush_suspending = False
        md.block_io = False
        md.kick()
        md.stack.engine.note(md.name, "suspend interrupted: bios no longer wait")
        frame = md.stack.thaw(md)
        return Enter(frame, "thawed") if frame is not None else self.thawed(task)

    def thawed(self, task: Task) -> Outcome:
        """What was locked is let go."""
        return self._undo(task, -errno.EINTR)

    def _undo(self, task: Task, error: int) -> Outcome:
        md = self.md
        md.noflush_suspending = False
        if md.live is not None and md.stack.era.presuspend_undo:
            for target in md.live.targets:
                target.presuspend_undo()
        md.suspend_lock.release(task)
        return Return(error)


class Swap(Frame):
    """``dm_swap_table``; the value is the old table (or ``None``), or a negative errno."""

    def __init__(self, md: MappedDevice, table: Table) -> None:
        self.md = md
        self.table = table

    def start(self, task: Task) -> Outcome:
        md = self.md
        if not md.suspend_lock.take(task):
            return md.suspend_lock.wait()
        if not md.suspended or not self.table.check_areas() or md.stack.loops(md, self.table):
            md.suspend_lock.release(task)
            return Return(-errno.EINVAL)
        old = md.live
        md.live = self.table
        if old is not None:
            old.live = False
        self.table.live = True
        md.sectors = self.table.sectors
        md.flush_means = self.table.write_cache
        md.stack.engine.note(md.name, "table swapped in: " + ", ".join(self.table.types))
        md.suspend_lock.release(task)
        return Return(old)


class ResumeDevice(Frame):
    """``dm_resume``; the value is 0 or a negative errno."""

    def __init__(self, md: MappedDevice) -> None:
        self.md = md

    def start(self, task: Task) -> Outcome:
        md = self.md
        if not md.suspend_lock.take(task):
            return md.suspend_lock.wait()
        if not md.suspended or md.live is None:
            md.suspend_lock.release(task)
            return Return(-errno.EINVAL)
        self.each = EachTarget(md.live.targets, "preresume")
        return Enter(self.each, "preresumed")

    def preresumed(self, task: Task) -> Outcome:
        md = self.md
        assert md.live is not None
        if isinstance(self.result, int) and self.result < 0:
            kind = md.live.types[self.each.index - 1]
            md.stack.log("err", f"device-mapper: table: {md.number}: {kind}: preresume failed, error = {self.result}")
            md.suspend_lock.release(task)
            return Return(self.result)
        return Enter(EachTarget(md.live.targets, "resume"), "unblock")

    def unblock(self, task: Task) -> Outcome:
        md = self.md
        md.block_io = False
        md.kick()
        frame = md.stack.thaw(md)
        if frame is not None:
            return Enter(frame, "finish")
        return self.finish(task)

    def finish(self, task: Task) -> Outcome:
        md = self.md
        md.suspended = False
        md.stack.engine.note(md.name, "resumed")
        md.suspend_lock.release(task)
        return DONE


class InternalSuspend(Frame):
    """``dm_internal_suspend_fast``: block bios and drain; the suspend lock stays taken."""

    def __init__(self, md: MappedDevice) -> None:
        self.md = md

    def start(self, task: Task) -> Outcome:
        md = self.md
        if not md.suspend_lock.take(task):
            return md.suspend_lock.wait()
        if md.suspended:
            return DONE
        md.block_io = True
        return self.drain(task)

    def drain(self, task: Task) -> Outcome:
        del task
        self.at = "drain"
        md = self.md
        if md.work.busy:
            return Wait(md.work.idle, f"for the worker of {md.name}")
        if md.in_flight:
            return Wait(md.drained, f"for bios in {md.name}, to suspend it internally")
        return DONE


def internal_resume(md: MappedDevice, task: Task) -> None:
    """``dm_internal_resume_fast``: undo :class:`InternalSuspend`."""
    if not md.suspended:
        md.block_io = False
        md.kick()
    md.suspend_lock.release(task)
