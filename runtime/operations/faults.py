"""Faults: what goes wrong with a disk."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.bio import Op
from dmspec.runtime.block import Disk, DiskFault
from dmspec.runtime.errors import DmError, errno_number
from dmspec.runtime.operations.base import OperationType
from dmspec.runtime.signature import Kind, flag, opt, pos, signature
from dmspec.runtime.units import SECTOR_BYTES, duration_text

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask

_LATER = "crash testing (volatile caches and power cuts)"
_KINDS: Final = {
    "all": (Op.READ, Op.WRITE, Op.FLUSH, Op.DISCARD),
    "reads": (Op.READ,),
    "writes": (Op.WRITE, Op.FLUSH, Op.DISCARD),
}


def _disk(process: ProcessTask, args: dict[str, Any]) -> Disk:
    disk = process.world.stack.disks.get(args["disk"])
    if disk is None:
        raise DmError(errno.ENXIO)
    return disk


def _fail(process: ProcessTask, args: dict[str, Any]) -> int:
    """A range is a bad spot on the medium, which a flush does not meet."""
    disk = _disk(process, args)
    kinds = _KINDS[args["what"]]
    number = errno_number(args["error"])
    if number is None:
        raise DmError(errno.EINVAL)
    if args["range"] is None:
        fault = DiskFault(kinds, number)
    else:
        offset, length = args["range"]
        fault = DiskFault(tuple(kind for kind in kinds if kind is not Op.FLUSH), number,
                          first_sector=offset // SECTOR_BYTES,
                          last_sector=(offset + max(length, 1) - 1) // SECTOR_BYTES)
    disk.faults.append(fault)
    what = "everything fails" if args["what"] == "all" else f"{args['what']} fail"
    place = "" if args["range"] is None else f" in sectors {fault.first_sector} to {fault.last_sector}"
    process.engine.note(disk.name, f"from now on {what}{place} with {args['error']}")
    return 0


def _heal(process: ProcessTask, args: dict[str, Any]) -> int:
    disk = _disk(process, args)
    disk.faults.clear()
    disk.detached = False
    process.engine.note(disk.name, "healed")
    return 0


def _delay(process: ProcessTask, args: dict[str, Any]) -> int:
    disk = _disk(process, args)
    disk.faults.append(DiskFault(_KINDS[args["what"]], delay_ns=args["time"]))
    process.engine.note(disk.name, f"from now on {duration_text(args['time'])} slower")
    return 0


def _detach(process: ProcessTask, args: dict[str, Any]) -> int:
    disk = _disk(process, args)
    disk.detached = True
    process.engine.note(disk.name, "detached")
    return 0


FAULT_OPERATIONS: Final = (
    OperationType("fail", signature(
        pos("disk", Kind.DISK), pos("what", Kind.WORD, default="all", choices=("all", "reads", "writes")),
        opt("error", Kind.ERRNO, "EIO"), opt("range", Kind.RANGE),
    ), "Answer I/O with an error from now on.", _fail, is_fault=True),
    OperationType("heal", signature(pos("disk", Kind.DISK)), "End every fault of the disk.", _heal, is_fault=True),
    OperationType("delay", signature(
        pos("disk", Kind.DISK), pos("time", Kind.DURATION),
        pos("what", Kind.WORD, default="all", choices=("all", "reads", "writes")),
    ), "Answer I/O later from now on.", _delay, is_fault=True),
    OperationType("detach", signature(pos("disk", Kind.DISK)),
                  "The disk is gone: ENXIO to all I/O, and no table can name it.", _detach, is_fault=True),
    OperationType("corrupt", signature(
        pos("disk", Kind.DISK), opt("at", Kind.SIZE, 0), opt("bits", Kind.COUNT, 1),
    ), "Flip bits at rest.", is_fault=True, later=_LATER),
    OperationType("tear", signature(
        pos("disk", Kind.DISK), flag("next-write"), opt("keep", Kind.SIZE, 512),
    ), "Only a part of the next write arrives.", is_fault=True, later=_LATER),
    OperationType("lose-flush", signature(pos("disk", Kind.DISK)),
                  "The next flush is acknowledged and not done.", is_fault=True, later=_LATER),
    OperationType("misdirect", signature(pos("disk", Kind.DISK)),
                  "The next write lands elsewhere.", is_fault=True, later=_LATER),
    OperationType("power-cut", signature(), "All disks lose what was not flushed.", is_fault=True, later=_LATER),
)
