"""What devices hold, for checks: read on a copy of the world, so that a check changes nothing.

Only a world that nobody will run any more (``over``) is read itself, which is a good deal quicker.
In the copy processes stop before their next operation; what is under way goes on, as far as a read needs it.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Iterator
from typing import Final

from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.block import BlockDevice, Disk
from dmspec.runtime.byte_io import ReadBytes
from dmspec.runtime.sim import FirstChooser, SimEngine
from dmspec.runtime.task import Task
from dmspec.runtime.units import MIB, SECTOR_BYTES
from dmspec.runtime.world import World

PIECE_BYTES: Final = MIB
_MOST_STEPS: Final = 1_000_000
# Who draws thousands of small runs does not want to wait so long for a read that never ends.
_MOST_STEPS_OVER: Final = 20_000


class Peek:
    """A copy of the world to read from; ``healed``: its disks answer whatever is wrong with them."""

    def __init__(self, world: World, *, healed: bool = False) -> None:
        self.world = world if world.over else _copy_to_read(world)
        self.world.halted = True
        assert isinstance(self.world.engine, SimEngine)
        self.engine = self.world.engine
        self.engine.chooser = FirstChooser()
        if healed:
            for disk in self.world.stack.disks.values():
                disk.faults.clear()
                disk.detached = False

    def read(self, device: BlockDevice, offset: int, length: int) -> bytes | int:
        """Read a device of the copy: bytes, or a negative errno; ETIMEDOUT when the read never ends."""
        task = Task(self.engine, "check")
        task.start(ReadBytes(device, offset, length))
        limit = self.engine.steps + (_MOST_STEPS_OVER if self.world.over else _MOST_STEPS)
        while not task.ended:
            if self.engine.steps >= limit or not self.engine.step():
                task.end()
                return -errno.ETIMEDOUT
        value = task.value
        assert isinstance(value, bytes | int)
        return value

    def device(self, name: str) -> BlockDevice | None:
        """The copy's device or disk of a name."""
        return self.world.stack.devices.get(name) or self.world.stack.disks.get(name)


def _copy_to_read(world: World) -> World:
    """A copy without the history, which no read needs."""
    watches, writes, lines = world.io_watches, world.writes, world.stack.log_lines
    world.io_watches, world.writes, world.stack.log_lines = [], [], []
    try:
        return copy.deepcopy(world)
    finally:
        world.io_watches, world.writes, world.stack.log_lines = watches, writes, lines


def whole(world: World, name: str) -> SparseMemory | int:
    """All that a device holds, or a negative errno."""
    if not world.order and name in world.at_first:
        return world.at_first[name]
    peek = Peek(world)
    device = peek.device(name)
    if device is None:
        return -errno.ENXIO
    kept = SparseMemory()
    for offset, length in pieces(0, device.sectors * SECTOR_BYTES):
        data = peek.read(device, offset, length)
        if isinstance(data, int):
            return data
        kept.write(offset, memoryview(data))
    return kept


def pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """A range in pieces of at most :data:`PIECE_BYTES`."""
    for at in range(offset, offset + length, PIECE_BYTES):
        yield at, min(PIECE_BYTES, offset + length - at)


def of_memory(memory: SparseMemory, offset: int, length: int) -> bytes:
    """A range of a sparse memory."""
    buffer = bytearray(length)
    memory.read(offset, memoryview(buffer))
    return bytes(buffer)


def differences(areas: list[tuple[BlockDevice, int, int]], peek: Peek | None,
                ) -> Iterator[tuple[str, int, bytes, str, int, bytes]]:
    """Where areas that should be equal differ: twice a device, a sector and what it holds.

    What disks hold is looked at directly, beneath whatever is wrong with them; other devices are read
    in ``peek``, whose devices the areas then are.
    """
    first_device, first_start, sectors = areas[0]
    for at, length in pieces(0, sectors * SECTOR_BYTES):
        first = _piece(first_device, first_start * SECTOR_BYTES + at, length, peek)
        for device, start, _sectors in areas[1:]:
            other = _piece(device, start * SECTOR_BYTES + at, length, peek)
            if first is None or other is None or first == other:
                continue
            for step in range(0, length, SECTOR_BYTES):
                one, two = first[step:step + SECTOR_BYTES], other[step:step + SECTOR_BYTES]
                sector = (at + step) // SECTOR_BYTES
                if one != two:
                    yield first_device.name, first_start + sector, one, device.name, start + sector, two


def _piece(device: BlockDevice, offset: int, length: int, peek: Peek | None) -> bytes | None:
    if isinstance(device, Disk):
        buffer = bytearray(length)
        device.backing.read(offset, memoryview(buffer))
        return bytes(buffer)
    assert peek is not None
    data = peek.read(device, offset, length)
    return None if isinstance(data, int) else data
