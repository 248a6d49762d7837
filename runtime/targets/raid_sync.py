"""The sync thread of a raid1: resync, recover, check and repair (kernel: md.c, raid1.c).

It goes through the array in windows.  Over the present one there is a barrier: writes to it wait, and those under
way end first.  A resync or a recovery reads the first leg that can be read and writes the others; a check reads all
legs and counts the sectors of windows that differ, a repair writes them as well.  Where the bitmap says that nothing
is to do, nothing is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..bio import Bio, Op
from ..frames import WaitForBios
from ..task import DONE, Enter, Frame, Goto, Outcome, Task, Wait
from .raid_superblock import MAX_SECTOR

if TYPE_CHECKING:
    from .raid import Raid, RaidLeg

WINDOW_SECTORS: Final = 128
WORDS: Final = {"resync": "resync", "recover": "recovery", "check": "data-check", "repair": "requested-resync"}


class SyncPass(Frame):
    """One pass of the array.  ``legs`` are those of the present window's I/O, ``sources`` what can still be tried."""

    def __init__(self, raid: Raid) -> None:
        self.raid = raid
        self.rebuilt: list[RaidLeg] = []
        self.sources: list[RaidLeg] = []
        self.legs: list[RaidLeg] = []
        self.sector = 0
        self.window = range(0)
        self.bios: list[Bio] = []

    def start(self, task: Task) -> Outcome:
        raid = self.raid
        raid.action = raid.next_action()
        if not raid.action:
            return DONE
        raid.interrupt = False
        raid.last_action = raid.action
        raid.completed = self.sector = 0
        self.rebuilt = raid.rebuilding() if raid.action == "recover" else []
        if raid.action != "recover":
            raid.mismatches = 0
        raid.stack.log("info", f"md: {WORDS[raid.action]} of RAID array mdX")
        return self.next(task)

    def next(self, task: Task) -> Outcome:
        """Find the next window and put a barrier over it."""
        raid = self.raid
        if raid.interrupt or raid.stopped or raid.frozen:
            return self._interrupted(task)
        while self.sector < raid.length and not self._wanted(self.sector):
            self._region_done(self.sector, copied=False)
            self.sector = self._region_end(self.sector)
        raid.completed = min(self.sector, raid.length)
        if self.sector >= raid.length:
            return self._finished(task)
        end = min(self.sector + WINDOW_SECTORS, self._region_end(self.sector))
        self.window = range(self.sector, end)
        raid.barriers.append(self.window)
        return self.quiet(task)

    def _region_end(self, sector: int) -> int:
        size = self.raid.intent.region_sectors
        return min((sector // size + 1) * size, self.raid.length)

    def _wanted(self, sector: int) -> bool:
        """Whether the region has to be gone through."""
        raid = self.raid
        region = sector // raid.intent.region_sectors
        if raid.action in ("check", "repair"):
            return True
        if len([leg for leg in raid.legs if leg.alive]) < 2:
            return False
        if raid.action == "resync":
            return raid.intent.needed.test(region)
        return (raid.intent.needed.test(region) or raid.intent.stale.test(region)
                or any(not leg.partial and leg.recovery_offset < self._region_end(sector) for leg in self.rebuilt))

    def quiet(self, task: Task) -> Outcome:
        self.at = "quiet"
        raid = self.raid
        if raid.busy(self.window):
            return Wait(raid.quiet, f"for writes to sectors {self.window.start} to {self.window.stop - 1} "
                                    f"of {raid.table.md.name}, to synchronise them")
        self.sources = raid.sources()
        if raid.action in ("check", "repair"):
            return self.compare(task)
        return self.read(task)

    def _bios(self, op: Op, legs: list[RaidLeg], data: bytes | bytearray | None = None) -> list[Bio]:
        self.legs = legs
        size = len(self.window)
        return [Bio(op, leg.data, self.window.start, size, bytearray(size * 512) if data is None else data)
                for leg in legs]

    def _why(self) -> str:
        return f"the {WORDS[self.raid.action]} of {self.raid.table.md.name}"

    # Resync and recovery

    def read(self, task: Task) -> Outcome:
        """The next leg that can be tried."""
        if not self.sources:
            return self._unreadable(task)
        self.bios = self._bios(Op.READ, [self.sources.pop(0)])
        return Enter(WaitForBios(self.bios, self._why()), "have_read")

    def have_read(self, task: Task) -> Outcome:
        if self.result[0]:
            return self.read(task)
        raid = self.raid
        source = self.legs[0]
        both = raid.action == "resync" or raid.intent.needed.test(self.window.start // raid.intent.region_sectors)
        targets = [leg for leg in raid.legs if leg.alive and leg is not source and (both or not leg.in_sync)]
        return self._write(task, targets, self.bios[0].buf)

    def _write(self, task: Task, targets: list[RaidLeg], data: bytes | bytearray | memoryview) -> Outcome:
        if not targets:
            return self._window_done(task)
        return Enter(WaitForBios(self._bios(Op.WRITE, targets, bytes(data)), self._why()), "written")

    def written(self, task: Task) -> Outcome:
        for leg, status in zip(self.legs, self.result, strict=True):
            if status:
                self.raid.fail_leg(leg)
        return self._window_done(task)

    def _unreadable(self, task: Task) -> Outcome:
        """No leg can be read there: what was begun is given up until somebody asks for it again."""
        raid = self.raid
        leg = raid.legs[0]
        name = raid.stack.kernel_name(leg.data) if leg.data is not None else "mdX"
        raid.log_md("crit", f"{name}: unrecoverable I/O read error for block {self.window.start}")
        raid.gave_up = raid.interrupt = True
        raid.lower(self.window)
        return self._interrupted(task)

    # Check and repair

    def compare(self, task: Task) -> Outcome:
        del task
        self.bios = self._bios(Op.READ, self.sources)
        return Enter(WaitForBios(self.bios, self._why()), "compared")

    def compared(self, task: Task) -> Outcome:
        """A leg that cannot be read is written in a repair, as one that differs is."""
        raid = self.raid
        good = [bio for bio, status in zip(self.bios, self.result, strict=True) if not status]
        if not good:
            return self._unreadable(task)
        first = bytes(good[0].buf)
        differing = [leg for leg, bio, status in zip(self.legs, self.bios, self.result, strict=True)
                     if status or bytes(bio.buf) != first]
        raid.mismatches += len(self.window) * sum(bytes(bio.buf) != first for bio in good)
        return self._write(task, differing if raid.action == "repair" else [], first)

    # The end of a window, and of the pass

    def _window_done(self, task: Task) -> Outcome:
        del task
        raid = self.raid
        raid.lower(self.window)
        if raid.interrupt:
            return Goto("next")
        self.sector = self.window.stop
        if self.sector in (raid.length, self._region_end(self.window.start)):
            self._region_done(self.window.start, copied=raid.action != "check")
        raid.completed = self.sector
        return Goto("next")

    def _region_done(self, sector: int, *, copied: bool) -> None:
        """The legs that are alive are equal there, or there is but one; whoever is missing lacks it."""
        raid = self.raid
        region = sector // raid.intent.region_sectors
        if (copied or raid.action == "resync") and raid.intent.needed.test(region):
            raid.intent.needed.clear(region)
            if raid.degraded:
                raid.intent.stale.set(region)

    def _finished(self, task: Task) -> Outcome:
        raid = self.raid
        raid.completed = raid.length
        for leg in self.rebuilt:
            leg.in_sync = True
            leg.partial = False
            leg.recovery_offset = MAX_SECTOR
        if not raid.degraded:
            raid.intent.stale.fill(False)
        if not any(raid.intent.needed.raw()):
            raid.recovery_cp = MAX_SECTOR
        if raid.action == raid.wanted:
            raid.wanted = ""
        return self._over(task, "done")

    def _interrupted(self, task: Task) -> Outcome:
        """What was done so far need not be done again, if the array is stopped now."""
        raid = self.raid
        if raid.action == "resync":
            raid.recovery_cp = raid.completed
        for leg in self.rebuilt:
            if leg.alive:
                leg.recovery_offset = max(leg.recovery_offset, raid.completed) if not leg.partial else 0
        if raid.action == raid.wanted:
            raid.wanted = ""
        raid.interrupt = False
        return self._over(task, "interrupted")

    def _over(self, task: Task, how: str) -> Outcome:
        """``md_reap_sync_thread``: the superblocks are written, an event is raised, and perhaps there is more."""
        del task
        raid = self.raid
        raid.stack.log("info", f"md: mdX: {WORDS[raid.action]} {how}.")
        raid.action = ""
        if how == "done":
            raid.completed = 0
        self.window = range(0)
        self.bios = []
        raid.clean_wanted = True
        raid.work.queue()
        raid.event.queue()
        raid.start_sync()
        return DONE
