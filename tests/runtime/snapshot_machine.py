"""A machine with disks for the tests of snapshots and mirrors, and the tools of the recorded cases.

The recordings (shell cases run on Linux 6.1) use a few helpers: ``put`` writes a pattern in pieces, ``first``
shows the start of a sector, ``sum`` a digest, ``hd`` a dump.  They have the same names here, so that a test
reads like the case that it repeats.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from dmspec.runtime import control
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import BlockDevice, Disk
from dmspec.runtime.eras import ERAS
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.sim import Chooser, SeededChooser, SimEngine
from dmspec.runtime.stack import Stack
from dmspec.runtime.targets.base import Target, TargetType
from dmspec.runtime.targets.error import ERROR
from dmspec.runtime.targets.linear import LINEAR
from dmspec.runtime.targets.mirror import MIRROR
from dmspec.runtime.targets.snapshot import SNAPSHOT, Snapshot
from dmspec.runtime.targets.snapshot_origin import SNAPSHOT_ORIGIN
from dmspec.runtime.task import Frame, Task

TYPES: Mapping[str, TargetType] = {
    one.name: one for one in (LINEAR, ERROR, MIRROR, SNAPSHOT, SNAPSHOT_ORIGIN)
}
DISK_SECTORS = 2048
SNAP = "0 2048 snapshot /dev/loop0 /dev/mapper/cow"


def pattern(seed: str, count: int, first: int = 0) -> bytes:
    """Sectors that differ from each other: text that fills 511 characters, and a line's end."""
    lines = (f"{seed} sector {number:08d} ".ljust(511, ".") + "\n" for number in range(first, first + count))
    return "".join(lines).encode()


def unit(count: int) -> int:
    """How many sectors the recorded cases move at once."""
    if count <= 256:
        return count
    return 256 if count % 256 == 0 else 8 if count % 8 == 0 else 1


def dump(data: bytes) -> str:
    """``hexdump -C``."""
    lines: list[str] = []
    previous: bytes | None = None
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        if row == previous:
            if lines[-1] != "*":
                lines.append("*")
            continue
        previous = row
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        halves = row[:8].hex(" "), row[8:].hex(" ")
        lines.append(f"{offset:08x}  {halves[0]}  {halves[1]}  |{text}|")
    return "\n".join([*lines, f"{len(data):08x}"])


class Notes:
    """An observer that keeps what happens, without what the schedule has to do with it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, step: int, time_ns: int, lane: str, text: str) -> None:
        del step, time_ns
        self.lines.append(f"{lane}: {text}")

    def place(self, part: str) -> int:
        """Where the first line is that has this in it."""
        return next(place for place, line in enumerate(self.lines) if part in line)


class Machine:
    """Disks ``loop0``, ``loop1``, ...; every call runs the engine until it has ended."""

    def __init__(self, chooser: Chooser | None = None, era: str = "now", disks: int = 3) -> None:
        self.notes = Notes()
        self.engine = SimEngine(chooser, self.notes)
        self.stack = Stack(self.engine, ERAS[era], dict(TYPES))
        for number in range(disks):
            self.stack.add_disk(f"loop{number}", DISK_SECTORS, SparseMemory())
        self.logged = 0

    # Control

    def begin(self, frame: Frame, name: str = "process") -> Task:
        task = Task(self.engine, name)
        task.start(frame)
        return task

    def call(self, frame: Frame) -> object:
        task = self.begin(frame)
        self.engine.run(self.engine.steps + 1_000_000)
        assert task.ended, task.waiting
        return task.value

    def device(self, name: str) -> MappedDevice:
        return self.stack.device(name)

    def load(self, name: str, *lines: str) -> object:
        device = self.device(name)
        return self.call(control.Load(device, control.resolve_lines(self.stack, lines, device)))

    def resume(self, name: str) -> object:
        return self.call(control.DoResume(self.device(name)))

    def suspend(self, name: str) -> object:
        return self.call(control.DoSuspend(self.device(name)))

    def remove(self, name: str) -> object:
        return self.call(control.Remove(self.device(name)))

    def create(self, name: str, *lines: str) -> object:
        """Like ``dmsetup create``: when the table is refused the device goes away again."""
        control.create(self.stack, name)
        error = self.load(name, *lines) or self.resume(name)
        if error:
            self.remove(name)
            return error
        return 0

    def status(self, name: str, *, inactive: bool = False) -> str:
        return "\n".join(control.status_lines(self.device(name), inactive=inactive))

    def table(self, name: str, *, inactive: bool = False) -> str:
        return "\n".join(control.status_lines(self.device(name), table=True, inactive=inactive))

    def statuses(self) -> str:
        """``dmsetup status``."""
        return "\n".join(f"{name}: {self.status(name)}" for name in sorted(self.stack.devices))

    def events(self) -> str:
        return "\n".join(f"{name}:{self.device(name).event_nr}" for name in sorted(self.stack.devices))

    def kernel(self) -> list[str]:
        """What the kernel logged since the last time."""
        lines = [f"{level}: {text}" for level, text in self.stack.log_lines[self.logged :]]
        self.logged = len(self.stack.log_lines)
        return lines

    def target(self, name: str) -> Target:
        table = self.device(name).live
        assert table is not None
        return table.targets[0]

    def snapshot(self, name: str) -> Snapshot:
        target = self.target(name)
        assert isinstance(target, Snapshot)
        return target

    # Data

    def named(self, name: str) -> BlockDevice:
        return self.stack.lookup(name)

    def disk(self, number: int) -> Disk:
        return self.stack.disks[f"loop{number}"]

    def io(self, bios: Sequence[Bio]) -> list[int]:
        answer = self.call(WaitForBios(bios, "the test's own I/O"))
        assert isinstance(answer, list)
        return answer

    def writing(self, name: str, sector: int, data: bytes) -> Bio:
        return Bio(Op.WRITE, self.named(name), sector, len(data) // 512, data)

    def reading(self, name: str, sector: int, count: int) -> Bio:
        return Bio(Op.READ, self.named(name), sector, count, bytearray(count * 512))

    def write(self, name: str, sector: int, data: bytes) -> int:
        return self.io([self.writing(name, sector, data)])[0]

    def put(self, name: str, sector: int, seed: str, count: int) -> int:
        """Piece by piece; the first failure ends it."""
        data = pattern(seed, count)
        for start in range(0, count, unit(count)):
            status = self.write(name, sector + start, data[start * 512 : (start + unit(count)) * 512])
            if status:
                return status
        return 0

    def read(self, name: str, sector: int, count: int) -> bytes | None:
        bio = self.reading(name, sector, count)
        return bytes(bio.buf) if not self.io([bio])[0] else None

    def first(self, name: str, sector: int) -> str:
        data = self.read(name, sector, 1)
        return "EIO" if data is None else data[:24].replace(b"\0", b"0").decode()

    def sum(self, name: str, sector: int, count: int) -> str:
        data = self.read(name, sector, count)
        assert data is not None
        return hashlib.sha256(data).hexdigest()

    def hd(self, name: str, sector: int, count: int) -> str:
        data = self.read(name, sector, count)
        assert data is not None
        return dump(data)

    def raw(self, number: int, sector: int, count: int) -> bytes:
        """What is on a disk, without an I/O."""
        data = bytearray(count * 512)
        self.disk(number).backing.read(sector * 512, memoryview(data))
        return bytes(data)

    def poke(self, number: int, offset: int, data: bytes) -> None:
        self.disk(number).backing.write(offset, memoryview(data))

    # The recorded cases' own beginnings

    def fresh(self, cow_sectors: int) -> None:
        self.poke(0, 0, pattern("A", DISK_SECTORS))
        assert self.create("cow", f"0 {cow_sectors} linear /dev/loop1 0") == 0

    def with_origin(self, snapshot_table: str) -> None:
        """The snapshot is there when the origin is resumed, so the origin cuts its writes for it."""
        assert self.create("org", "0 2048 snapshot-origin /dev/loop0") == 0
        assert self.suspend("org") == 0
        assert self.create("snap", snapshot_table) == 0
        assert self.resume("org") == 0


def machine(table: str = "P 8", cow_sectors: int = 512, *, seed: int | None = None) -> Machine:
    """An origin with one snapshot, both in use; from here on the schedule is that of the seed."""
    found = Machine()
    found.fresh(cow_sectors)
    found.with_origin(f"{SNAP} {table}")
    if seed is not None:
        found.engine.chooser = SeededChooser(seed)
    found.notes.lines.clear()
    return found


class Tree:
    """Picks along a path and keeps how many there were to pick from, so that the next path can be told."""

    def __init__(self, path: list[int]) -> None:
        self.path = path
        self.counts: list[int] = []

    def choose(self, count: int) -> int:
        place = len(self.counts)
        self.counts.append(count)
        return self.path[place] if place < len(self.path) else 0

    def next_path(self) -> list[int] | None:
        """The next path in the order of a dictionary; ``None`` behind the last."""
        path = [*self.path, *[0] * (len(self.counts) - len(self.path))]
        while path:
            path[-1] += 1
            if path[-1] < self.counts[len(path) - 1]:
                return path
            path.pop()
        return None


def every_schedule(limit: int) -> Iterator[Tree]:
    """A chooser for each way in which a case can go; the case has to use it up before it asks for the next."""
    path: list[int] | None = []
    for _ in range(limit):
        if path is None:
            return
        tree = Tree(path)
        yield tree
        path = tree.next_path()
    assert path is None, f"more than {limit} schedules"
