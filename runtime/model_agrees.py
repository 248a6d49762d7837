"""The check ``model-agrees``: everything that a read answers is what the model allows.

It hears all I/O of processes, tells the model (:mod:`dmspec.runtime.model`), and asks it about every answer
and, at rest, about all that the devices hold.  Which volumes there are it reads from tables, as user space
does: a device keeps its volume whatever table it gets (a repair changes no contents), a ``snapshot-origin``
is the volume below it, a ``snapshot`` one of its own, known by its COW device, and a ``snapshot-merge`` is the
volume of the snapshot that it merges.

Errors have to be explained too: by a fault, by a table that answers errors, or by a COW device that may be full.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.backing import PAGE_BYTES
from dmspec.runtime.block import BlockDevice, Disk
from dmspec.runtime.byte_io import sector_words
from dmspec.runtime.checks import Watch
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.model import Clock, Flush, Read, Volume, Write
from dmspec.runtime.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmspec.runtime.table import Table
    from dmspec.runtime.world import World, WriteRecord

# Tables that answer with errors of their own.
_FAILING: Final = ("error", "flakey", "dust")
_ENTRY_BYTES: Final = 16


class Taken:
    """A snapshot: its volume, and how many chunks of its COW device may be in use.

    ``merging``: a merge has taken its exceptions over, so the snapshot device itself answers with errors.
    """

    def __init__(self, volume: Volume, chunk_bytes: int, room: int, *, persistent: bool) -> None:
        self.volume = volume
        self.chunk_bytes = chunk_bytes
        self.room = room
        self.persistent = persistent
        self.merging = False
        self.chunks: set[int] = set()

    def touch(self, offset: int, length: int) -> None:
        """These bytes are to be written, in the snapshot or in its origin."""
        self.chunks.update(range(offset // self.chunk_bytes, (offset + length - 1) // self.chunk_bytes + 1))

    @property
    def may_be_full(self) -> bool:
        """Whether an error can be explained by that."""
        return len(self.chunks) > self.room


class ModelAgrees(Watch):
    """See the module.  ``volumes`` by device name, ``taken`` snapshots by the number of their COW device."""

    judges_steps = True
    reads_devices = True

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.clock = Clock()
        self.volumes: dict[str, Volume] = {}
        self.tables: dict[str, Table] = {}
        self.taken: dict[str, Taken] = {}
        self.places: dict[str, Volume] = {}
        self.open_writes: dict[int, Write] = {}
        self.wrong = ""
        self.world: World | None = None

    def attach(self, world: World) -> None:
        """Listen from now on; the devices are as they were built."""
        self.world = world
        world.io_watches.append(self)
        self.after_step(world)
        if any(disk.file is not None for disk in world.plan.disks):
            self._read_initial(world)

    def _read_initial(self, world: World) -> None:
        """Disks that come from files hold something in the beginning."""
        from dmspec.runtime.contents import of_memory, whole

        for name, volume in self.volumes.items():
            contents = whole(world, name)
            if isinstance(contents, int):
                volume.anything = True
                continue
            for page in contents.pages:
                data = of_memory(contents, page * PAGE_BYTES, PAGE_BYTES)
                for at in range(0, PAGE_BYTES, SECTOR_BYTES):
                    volume.initial[(page * PAGE_BYTES + at) // SECTOR_BYTES] = data[at:at + SECTOR_BYTES]

    # Which volumes there are

    def after_step(self, world: World) -> str | None:
        """Look for tables that are new, and tell what was found wrong."""
        tables = self.tables
        for name, md in world.stack.devices.items():
            table = md.live
            if table is not tables.get(name) and table is not None and not md.suspended:
                tables[name] = table
                self._new_table(md, table)
            elif md.inactive is not None and md.inactive.types == ["snapshot"]:
                self._loaded(md.inactive)
        return self.wrong or None

    def volume(self, name: str) -> Volume:
        """The volume of a device, made when it is first asked for."""
        found = self.volumes.get(name)
        if found is None:
            found = self.volumes[name] = Volume(self.clock, name)
        return found

    def _loaded(self, table: Table) -> None:
        """A snapshot is about to be taken: what is written to its origin from now on may or may not be in it."""
        origin, cow, store, _chunk = table.targets[0].parameters().split()[:4]
        if cow not in self.taken:
            self._take(table, origin, cow, store)

    def _take(self, table: Table, origin: str, cow: str, store: str) -> Taken:
        assert self.world is not None
        devices = {device.number: device for device in self.world.stack.everything()}
        volume = self._below(devices[origin]).snapshot(table.md.name)
        chunk = int(table.targets[0].parameters().split()[3]) or 1
        taken = Taken(volume, chunk * SECTOR_BYTES, _room(devices[cow].sectors, chunk, store),
                      persistent=store != "N")
        self.taken[cow] = taken
        return taken

    def _below(self, device: BlockDevice) -> Volume:
        return self.volume(device.name)

    def _new_table(self, md: MappedDevice, table: Table) -> None:
        assert self.world is not None
        kind = table.types[0]
        words = table.targets[0].parameters().split()
        below = {device.number: device for device in self.world.stack.everything()}
        if len(table.types) > 1 or not words:
            self.volume(md.name)
        elif kind == "snapshot-origin":
            self._is(md.name, self._below(below[words[0]]))
        elif kind == "snapshot":
            taken = self.taken.get(words[1]) or self._take(table, words[0], words[1], words[2])
            if taken.volume.being_taken:
                taken.volume.now_taken()
            taken.chunk_bytes = int(words[3]) * SECTOR_BYTES
            taken.room = _room(below[words[1]].sectors, int(words[3]), words[2])
            self._is(md.name, taken.volume)
        elif kind == "snapshot-merge":
            taken = self.taken.get(words[1]) or self._take(table, words[0], words[1], words[2])
            taken.volume.being_taken = False
            taken.merging = True
            self._is(md.name, taken.volume)
        elif kind == "linear" and isinstance(below[words[0]], MappedDevice) and words[1] == "0" \
                and below[words[0]].sectors == table.sectors:
            self._is(md.name, self._below(below[words[0]]))
        elif kind == "linear" and md.name not in self.volumes:
            self._is(md.name, self.places.setdefault(" ".join(words), self.volume(md.name)))
        elif kind == "zero":
            self._is(md.name, Volume(self.clock, md.name))
            self.volume(md.name).anything = True
        else:
            self.volume(md.name)

    def _is(self, name: str, volume: Volume) -> None:
        """A device shows this volume from now on; what is under way to it goes there."""
        old = self.volumes.get(name)
        self.volumes[name] = volume
        if old is None or old is volume:
            return
        for write in old.writes:
            volume.may_get(write)
        for read in old.reads:
            volume.answers_too(read)

    # What happens (IoWatch)

    def write_begins(self, record: WriteRecord) -> None:
        assert self.world is not None
        if record.device in self.world.stack.disks:
            self._unsure(self.world.stack.disks[record.device])
            return
        volume = self.volume(record.device)
        data = record.bytes(record.offset, record.length)
        if data is None:
            first = -(-record.offset // SECTOR_BYTES)
            write = volume.begin_discard(first, max(record.end // SECTOR_BYTES - first, 0))
        else:
            write = volume.begin_write(record.offset, data, fua=record.fua)
        self.open_writes[record.began] = write
        for taken in self.taken.values():
            if record.length and (taken.volume is volume or taken.volume in volume.snapshots):
                taken.touch(record.offset, record.length)

    def write_ends(self, record: WriteRecord) -> None:
        write = self.open_writes.pop(record.began, None)
        if write is None:
            return
        if record.status == 0 and record.label is not None:
            write.volume.acknowledged(write)
        else:
            write.volume.not_acknowledged(write)
            self._explain(record.device, record.status or 0, f"a write to {record.device}", record.end)

    def read_begins(self, device: BlockDevice, offset: int, length: int) -> tuple[str, int, Read] | None:
        if isinstance(device, Disk):
            return None
        return device.name, offset, self.volume(device.name).begin_read(offset, length)

    def read_ends(self, read: tuple[str, int, Read] | None, data: bytes | None, status: int) -> None:
        if read is None:
            return
        name, offset, reading = read
        if data is None:
            self._forget(reading)
            self._explain(name, status, f"a read of {name}", offset)
            return
        self._forget(reading)
        found = reading.volume.answered(reading, offset, data)
        if found is not None:
            self._say(name, found, "a read of sector", "answers")

    def _forget(self, reading: Read) -> None:
        for volume in self._all():
            volume.forget(reading)

    def flush_begins(self, device: BlockDevice) -> Flush | None:
        return None if isinstance(device, Disk) else self.volume(device.name).begin_flush()

    def flush_ends(self, flush: Flush | None, status: int) -> None:
        if flush is not None and not status:
            flush.volume.flushed(flush)

    def disk_lied(self, disk: Disk, what: str) -> None:
        self._unsure(disk, flush_only=what == "lose-flush")

    def power_cut(self) -> None:
        """A transient snapshot is not there any more; it is taken anew from what its origin is then."""
        for volume in self._all():
            volume.power_cut()
        self.open_writes.clear()
        self.tables.clear()
        for cow, taken in list(self.taken.items()):
            if not taken.persistent:
                del self.taken[cow]

    def _all(self) -> list[Volume]:
        found: list[Volume] = []
        for volume in [*self.volumes.values(), *(taken.volume for taken in self.taken.values())]:
            if not any(volume is one for one in found):
                found.append(volume)
        return found

    def _unsure(self, disk: Disk, *, flush_only: bool = False) -> None:
        """Nobody can say any more what lies on this disk, or whether it is durable there.

        A snapshot that is taken on it later is a new one.
        """
        assert self.world is not None
        if not flush_only:
            self.taken.pop(disk.number, None)
        for md in self.world.stack.devices.values():
            if disk in _beneath(md):
                volume = self.volume(md.name)
                for one in (volume, *volume.snapshots):
                    one.no_flush = True
                    one.anything = one.anything or not flush_only

    # What is wrong

    def _say(self, name: str, found: tuple[int, bytes, set[bytes]], what: str, verb: str) -> None:
        sector, said, legal = found
        right = " or ".join(sorted(sector_words(one) for one in legal)) or "nothing"
        if not self.wrong and not self._exempt(name, sector):
            self.wrong = f"{what} {sector} of {name} {verb} {sector_words(said)}, but the model allows {right}"

    def _exempt(self, name: str, sector: int) -> bool:
        """A mounted filesystem writes its journal, of which the model hears nothing."""
        assert self.world is not None
        volume = self.volumes.get(name)
        return any(self.volumes.get(one.device.name) is volume and sector * SECTOR_BYTES < one.base
                   for one in self.world.filesystems.by_name.values())

    def _explain(self, name: str, status: int, what: str, end: int) -> None:
        """An I/O error that nothing explains is wrong."""
        world = self.world
        assert world is not None
        md = world.stack.devices.get(name)
        if self.wrong or world.faulty or status != errno.EIO or md is None:
            return
        if end > md.sectors * SECTOR_BYTES or any(one.may_be_full for one in self.taken.values()):
            return
        if md.live is not None and md.live.types == ["snapshot"] and any(
                one.merging and one.volume is self.volumes.get(name) for one in self.taken.values()):
            return
        tables = [one.live for one in (md, *_beneath(md)) if isinstance(one, MappedDevice)]
        if any(table is None or any(kind in _FAILING for kind in table.types) for table in tables):
            return
        self.wrong = f"{what} fails with EIO, although nothing has failed"

    def at_rest(self, world: World) -> str | None:
        """Read all that the devices hold."""
        from dmspec.runtime.contents import Peek, pieces

        wrong = self.after_step(world)
        if wrong:
            return wrong
        peek = Peek(world)
        for name in self.args["device"] or _on_top(world):
            device = peek.device(name)
            volume = self.volumes.get(name)
            md = world.stack.devices.get(name)
            if device is None or volume is None or md is None:
                continue
            if volume.anything or md.suspended:
                continue
            for offset, length in pieces(0, device.sectors * SECTOR_BYTES):
                data = peek.read(device, offset, length)
                if isinstance(data, int):
                    self._explain(name, -data, f"reading all of {name}", 0)
                    break
                found = volume.wrong(offset // SECTOR_BYTES, data)
                if found is not None:
                    self._say(name, found, "in the end sector", "holds")
        return self.wrong or None


def _on_top(world: World) -> list[str]:
    """The devices that no other one's table uses: what lies below them holds metadata as well."""
    used = [below for md in world.stack.devices.values() if md.live is not None for below in md.live.devices]
    return [md.name for md in world.stack.devices.values() if not any(md is one for one in used)]


def _beneath(md: MappedDevice) -> list[BlockDevice]:
    """Every device that a device lies on."""
    found: list[BlockDevice] = []
    todo: list[BlockDevice] = [md]
    while todo:
        device = todo.pop()
        if isinstance(device, MappedDevice) and device.live is not None:
            for below in device.live.devices:
                if not any(below is one for one in found):
                    found.append(below)
                    todo.append(below)
    return found


def _room(cow_sectors: int, chunk_sectors: int, store: str) -> int:
    """How many chunks surely fit on a COW device (a store that fills its very last chunk may be lost)."""
    chunks = cow_sectors // max(chunk_sectors, 1)
    if store == "N":
        return chunks
    entries = max(chunk_sectors, 1) * SECTOR_BYTES // _ENTRY_BYTES
    return sum(chunk % (entries + 1) != 1 for chunk in range(2, chunks)) - 1
