"""snapshot-origin (kernel: drivers/md/dm-snap.c), and what all snapshots of a machine share.

An origin and its snapshots know of each other only through the device that the origin lies on, so the
kernel keeps lists beside the mapped devices; here they are in ``stack.shared``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..signature import Kind, pos, signature
from ..task import Frame, Latch, Wait
from .base import REMAPPED, SUBMITTED, Target, TargetType

if TYPE_CHECKING:
    from ..mapped_device import MappedDevice
    from ..stack import Stack
    from .snapshot import Snapshot
    from .snapshot_merge import SnapshotMerge


class Snapshots:
    """The kernel's two lists.

    ``by_origin`` has, for each origin device, its snapshots with the largest chunks first, those of
    one size in the order of their registration.  ``origins`` are the snapshot-origin targets in use.
    ``settled`` is released whenever a copy for any snapshot has been settled.
    """

    def __init__(self) -> None:
        self.by_origin: list[tuple[BlockDevice, list[Snapshot]]] = []
        self.origins: list[SnapshotOrigin] = []
        self.settled = Latch("a copy for a snapshot")

    def of(self, origin: BlockDevice) -> list[Snapshot]:
        for device, snapshots in self.by_origin:
            if device is origin:
                return snapshots
        return []

    def insert(self, snapshot: Snapshot) -> None:
        snapshots = self.of(snapshot.origin)
        if not snapshots:
            self.by_origin.append((snapshot.origin, snapshots))
        place = 0
        while place < len(snapshots) and snapshots[place].chunk_sectors >= snapshot.chunk_sectors:
            place += 1
        snapshots.insert(place, snapshot)

    def remove(self, snapshot: Snapshot) -> None:
        snapshots = self.of(snapshot.origin)
        if snapshot in snapshots:
            snapshots.remove(snapshot)
        if not snapshots:
            self.by_origin = [pair for pair in self.by_origin if pair[0] is not snapshot.origin]

    def sharing_cow(self, snapshot: Snapshot) -> tuple[Snapshot | None, Snapshot | None, int]:
        """``__find_snapshots_sharing_cow``: a source and a destination of a handover, and how many there are."""
        same = [one for one in self.of(snapshot.origin) if one.cow is snapshot.cow]
        active = [one for one in same if one.active]
        waiting = [one for one in same if not one.active]
        return active[-1] if active else None, waiting[-1] if waiting else None, len(same)

    def merging(self, origin: BlockDevice) -> SnapshotMerge | None:
        """The merging snapshot of an origin; of several the last one counts."""
        found = [one for one in self.of(origin) if one.merging]
        return cast("SnapshotMerge", found[-1]) if found else None

    def mapped_origin(self, origin: BlockDevice) -> MappedDevice | None:
        """The mapped device through which the origin is written, if one is in use."""
        for target in self.origins:
            if target.device is origin:
                return target.table.md
        return None

    def smallest_chunk(self, origin: BlockDevice) -> int:
        """In sectors, of all snapshots that are loaded, in use or not; 0 when there is none."""
        return min((one.chunk_sectors for one in self.of(origin) if one.chunk_sectors), default=0)


def snapshots_of(stack: Stack) -> Snapshots:
    """The lists of this machine, made when they are first asked for."""
    shared: Snapshots = stack.shared.setdefault("snapshot", Snapshots())
    return shared


def write_origin(stack: Stack, origin: BlockDevice, bio: Bio, *, limited: bool) -> int:
    """``do_origin``: have every snapshot keep what the bio is about to overwrite.

    ``REMAPPED``: nothing stands in its way.  Else it waits, on one of the copies that are being made or
    on a snapshot that cannot take part yet, and comes through here again, until every snapshot has its
    copy.  A bio that waits on a copy is told of the others only then: so it is the copy that it waits
    on which is started last.  ``limited``: it also waits while a snapshot has too many copies under way.
    """
    snapshots = snapshots_of(stack).of(origin)
    if limited:
        for snapshot in snapshots:
            if snapshot.has_too_many_copies:
                snapshot.park(bio, from_origin=True)
                return SUBMITTED
    last = None
    queued = False
    for snapshot in snapshots:
        if not _wants_copy(snapshot, bio.sector):
            continue
        if snapshot.invalidating and queued:
            continue
        chunk = bio.sector // snapshot.chunk_sectors
        pending = None if snapshot.invalidating else snapshot.pending.get(chunk)
        if pending is None and not snapshot.invalidating:
            if chunk in snapshot.complete:
                continue
            pending = snapshot.new_pending(chunk)
            if pending is None:
                snapshot.invalidate(errno.ENOMEM)
        if pending is None:
            # Its header has to say so before the data is overwritten that it needed.
            if not queued:
                snapshot.park(bio, from_origin=True)
                return SUBMITTED
        elif not queued:
            queued = True
            pending.origin_bios.append(bio)
            last = pending
        else:
            pending.start_copy()
    if last is not None:
        last.start_copy()
    return SUBMITTED if queued else REMAPPED


def all_have(stack: Stack, origin: BlockDevice, bio: Bio) -> bool:
    """Whether every snapshot has what a bio is about to overwrite, so that :func:`write_origin` lets it pass."""
    for snapshot in snapshots_of(stack).of(origin):
        if snapshot.has_too_many_copies:
            return False
        if _wants_copy(snapshot, bio.sector):
            chunk = bio.sector // snapshot.chunk_sectors
            if snapshot.invalidating or chunk in snapshot.pending or chunk not in snapshot.complete:
                return False
    return True


def _wants_copy(snapshot: Snapshot, sector: int) -> bool:
    """Whether a snapshot takes part at all; a merging one has in effect been deleted."""
    return not snapshot.merging and sector < snapshot.table.sectors and snapshot.valid and snapshot.active


def keep_extent(merge: Snapshot, first: int, sectors: int) -> Wait | None:
    """``origin_write_extent``: have every other snapshot keep what a merge is about to overwrite.

    ``None``: all of them have it.  Else it is to be asked again after the wait.  It goes in steps of the
    smallest chunk that there was when the merging table was resumed.
    """
    snapshots = snapshots_of(merge.stack)
    wait = None
    for sector in range(first, first + sectors, merge.max_io_sectors or sectors):
        for snapshot in snapshots.of(merge.origin):
            if not _wants_copy(snapshot, sector):
                continue
            chunk = sector // snapshot.chunk_sectors
            pending = None if snapshot.invalidating else snapshot.pending.get(chunk)
            if pending is None and not snapshot.invalidating:
                if chunk in snapshot.complete:
                    continue
                pending = snapshot.new_pending(chunk)
                if pending is None:
                    snapshot.invalidate(errno.ENOMEM)
            if pending is None:
                return Wait(snapshot.invalidated, "for a snapshot's header to be written as invalid")
            pending.start_copy()
            wait = Wait(snapshots.settled, "for other snapshots of the origin to have copies")
    return wait


class SnapshotOrigin(Target):
    """Reads and flushes pass; writes first go round the snapshots."""

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) != 1:
            raise DmError(errno.EINVAL, "origin: incorrect number of arguments")
        self.device = self.get_device(argv[0], "Cannot get target device")
        return None

    def map(self, bio: Bio) -> int:
        bio.device = self.device
        if bio.op is not Op.WRITE:
            return REMAPPED
        return write_origin(self.stack, self.device, bio, limited=True)

    def straight(self, bio: Bio) -> tuple[tuple[BlockDevice, int], ...] | None:
        if bio.op is Op.WRITE and not all_have(self.stack, self.device, bio):
            return None
        return self.by_map(bio)

    def resume(self) -> Frame | None:
        """Writes are cut at the smallest chunk that there is now; a snapshot made later is not noticed."""
        snapshots = snapshots_of(self.stack)
        self.max_write_sectors = snapshots.smallest_chunk(self.device)
        snapshots.origins.append(self)
        return None

    def postsuspend(self) -> Frame | None:
        self._leave()
        return None

    def destroy(self) -> Frame | None:
        self._leave()
        return None

    def _leave(self) -> None:
        origins = snapshots_of(self.stack).origins
        if self in origins:
            origins.remove(self)

    def parameters(self) -> str:
        return self.device.number

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        yield self.device, 0, self.length


def _params(args: dict[str, Any]) -> list[str]:
    return [args["origin"]]


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return size_of(argv[0])


SNAPSHOT_ORIGIN: Final = TargetType(
    "snapshot-origin", (1, 9, 0), signature(pos("origin", Kind.DEVICE)),
    _params, "A device that has snapshots.", SnapshotOrigin, _natural_length, assembled_late=True)
