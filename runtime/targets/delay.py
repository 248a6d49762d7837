"""dm-delay: bios that are passed on later (kernel: drivers/md/dm-delay.c).

The facts are those of the reference (targets.md, section 9) and of the recordings h-others and f2-invalid-tables
(Linux 6.1, version 1.3.0 of the driver).  Reads, writes and flushes have a device, an offset and a time each.  A bio
whose time is 0 goes on at once; another one is held, and when its time has come the worker passes on all that are
due, in the order in which they came.  A presuspend switches delaying off and passes everything on, so a delay never
makes a suspend wait; the next resume switches it on again.  This kernel has no undo: after a suspend that was broken
off, nothing is delayed until a resume.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..frames import WaitForWork
from ..signature import Kind, opt, pos, signature
from ..task import DONE, Frame, Latch, Outcome, Task, Wait, Work
from ..units import NS_PER_MS
from .base import REMAPPED, SUBMITTED, Target, TargetType, parse_number, smallest

_U32: Final = 0xFFFFFFFF


class Path:
    """Where one class of bios goes and how much later; ``count`` is how many are held."""

    __slots__ = ("count", "device", "ms", "offset")

    def __init__(self, device: BlockDevice, offset: int, ms: int) -> None:
        self.device = device
        self.offset = offset
        self.ms = ms
        self.count = 0

    @property
    def words(self) -> str:
        return f"{self.device.number} {self.offset} {self.ms}"


class Held:
    """A bio, its class, and when it is due."""

    __slots__ = ("bio", "due_ns", "path")

    def __init__(self, bio: Bio, path: Path, due_ns: int) -> None:
        self.bio = bio
        self.path = path
        self.due_ns = due_ns


class Delay(Target):
    """``queue`` is in the order of arrival; ``delaying`` is off from presuspend to resume."""

    num_discard_bios = 1
    discard_zeroes = True

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) not in (3, 6, 9):
            raise DmError(errno.EINVAL, "Requires exactly 3, 6 or 9 arguments")
        self.triples = len(argv) // 3
        self.read_path = self._path(argv[:3])
        self.write_path = self._path(argv[3:6] or argv)
        self.flush_path = self._path(argv[6:9] or argv[3:6] or argv)
        self.delaying = True
        self.queue: list[Held] = []
        name = self.table.md.name
        self.timer = Latch(f"the time of the next bio that {name} delays")
        self.work = Work(self.stack.engine, f"kdelayd {name}", Kdelayd(self))
        return None

    def _path(self, words: list[str]) -> Path:
        offset = parse_number(words[1], "Invalid device sector")
        ms = parse_number(words[2], "Invalid delay") & _U32
        return Path(self.get_device(words[0], "Device lookup failed"), offset, ms)

    def map(self, bio: Bio) -> int:
        if bio.op is Op.READ:
            path = self.read_path
        elif bio.op is Op.FLUSH or bio.preflush:
            path = self.flush_path
        else:
            path = self.write_path
        bio.device = path.device
        if bio.op is not Op.FLUSH:
            bio.sector += path.offset - self.begin
        if not path.ms or not self.delaying:
            return REMAPPED
        engine = self.stack.engine
        path.count += 1
        self.queue.append(Held(bio, path, engine.now_ns + path.ms * NS_PER_MS))
        if self.work.busy:
            self.timer.release()
        else:
            self.work.queue()
        return SUBMITTED

    def pass_on(self, now_ns: int | None) -> None:
        """Submit what is due, or everything, in the order of arrival."""
        due = [held for held in self.queue if now_ns is None or held.due_ns <= now_ns]
        self.queue = [held for held in self.queue if now_ns is not None and held.due_ns > now_ns]
        for held in due:
            held.path.count -= 1
        for held in due:
            held.bio.submit()

    def presuspend(self) -> Frame | None:
        self.delaying = False
        self.pass_on(None)
        self.timer.release()
        return None

    def resume(self) -> Frame | None:
        self.delaying = True
        return None

    def destroy(self) -> Frame | None:
        self.timer.release()
        return WaitForWork(self.work)

    def info(self) -> str:
        return f"{self.read_path.count} {self.write_path.count} {self.flush_path.count}"

    def parameters(self) -> str:
        paths = (self.read_path, self.write_path, self.flush_path)
        return " ".join(path.words for path in paths[:self.triples])

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        for path in (self.read_path, self.write_path, self.flush_path):
            yield path.device, path.offset, self.length


class Kdelayd(Frame):
    """The timer and the worker in one: pass on what is due, then wait for what is due next.

    A bio that comes meanwhile wakes it too, since its time may come before that of all others.  ``armed_ns`` is the
    time for which the engine has been asked, so that a wait that was cut short does not ask for it twice.
    """

    def __init__(self, delay: Delay) -> None:
        self.delay = delay
        self.armed_ns: int | None = None

    def start(self, task: Task) -> Outcome:
        delay = self.delay
        now_ns = task.engine.now_ns
        delay.pass_on(now_ns)
        if not delay.queue:
            return DONE
        due_ns = min(held.due_ns for held in delay.queue)
        if self.armed_ns is None or self.armed_ns <= now_ns or due_ns < self.armed_ns:
            self.armed_ns = due_ns
            task.engine.at(due_ns, delay.timer)
        return Wait(delay.timer, f"to pass on {len(delay.queue)} of the bios that it delays")


def _params(args: dict[str, Any]) -> list[str]:
    """One triple when ``all`` says it, else two, and a third for a flush that is not treated as a write.

    Times are in whole milliseconds for the kernel: a part of one counts as one.
    """
    name, offset_bytes = args["device"]
    if args["read"] is None and args["write"] is None and args["flush"] is None and \
            args["write_to"] is None and args["flush_to"] is None:
        return [name, str(offset_bytes // 512), _ms(args["all"])]
    write_name, write_offset = args["write_to"] or [name, offset_bytes]
    words = [name, str(offset_bytes // 512), _ms(args["all"] if args["read"] is None else args["read"])]
    write_ns = args["all"] if args["write"] is None else args["write"]
    words += [write_name, str(write_offset // 512), _ms(write_ns)]
    if args["flush"] is not None or args["flush_to"] is not None:
        flush_name, flush_offset = args["flush_to"] or [write_name, write_offset]
        words += [flush_name, str(flush_offset // 512), _ms(write_ns if args["flush"] is None else args["flush"])]
    return words


def _ms(ns: int) -> str:
    return str(-(-ns // NS_PER_MS))


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return smallest([(argv[first], int(argv[first + 1])) for first in range(0, len(argv), 3)], size_of)


DELAY: Final = TargetType(
    "delay", (1, 3, 0),
    signature(
        pos("device", Kind.DEVICE_AT), opt("all", Kind.DURATION, 0), opt("read", Kind.DURATION),
        opt("write", Kind.DURATION), opt("flush", Kind.DURATION), opt("write-to", Kind.DEVICE_AT),
        opt("flush-to", Kind.DEVICE_AT),
    ), _params, "Bios that are passed on later.", Delay, _natural_length)
