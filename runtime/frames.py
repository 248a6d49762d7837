"""Frames that many use: submit bios and wait for all of them; run a list of frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .bio import Bio
from .task import DONE, Enter, Frame, Latch, Outcome, Return, Task, Wait, Work

if TYPE_CHECKING:
    from .targets.base import Target


class WaitForBios(Frame):
    """Submit bios together and wait for all; the value is the list of their statuses."""

    def __init__(self, bios: Sequence[Bio], why: str) -> None:
        self.bios = list(bios)
        self.why = why
        self.pending = len(self.bios)
        self.latch = Latch(why)
        self.submitted = False

    def start(self, task: Task) -> Outcome:
        del task
        if not self.submitted:
            self.submitted = True
            for bio in self.bios:
                bio.owner = self
                bio.submit()
        if self.pending:
            return Wait(self.latch, f"for {self.why}")
        return Return([bio.status for bio in self.bios])

    def bio_done(self, bio: Bio) -> None:
        del bio
        self.pending -= 1
        if not self.pending:
            self.latch.release()


class WaitForWork(Frame):
    """Wait until a work item has nothing to do."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def start(self, task: Task) -> Outcome:
        del task
        return Wait(self.work.idle, f"for {self.work.name}") if self.work.busy else DONE


class InTurn(Frame):
    """Run frames one after the other; the first negative value ends it and is its value."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self.frames = list(frames)

    def start(self, task: Task) -> Outcome:
        del task
        if isinstance(self.result, int) and self.result < 0:
            return Return(self.result)
        if not self.frames:
            return Return(self.result)
        return Enter(self.frames.pop(0), "start")


class EachTarget(Frame):
    """Call one hook of each target in table order, each when the one before it is through.

    The first negative value ends it and is its value.
    """

    def __init__(self, targets: Sequence[Target], hook: str) -> None:
        self.targets = targets
        self.hook = hook
        self.index = 0

    def start(self, task: Task) -> Outcome:
        del task
        if isinstance(self.result, int) and self.result < 0:
            return Return(self.result)
        while self.index < len(self.targets):
            self.index += 1
            frame = getattr(self.targets[self.index - 1], self.hook)()
            if frame is not None:
                return Enter(frame, "start")
        return DONE
