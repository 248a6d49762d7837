"""Faults: what goes wrong with a disk."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.bio import Op
from dmspec.runtime.block import Disk, DiskFault, Mishap
from dmspec.runtime.errors import DmError, errno_number
from dmspec.runtime.operations.base import OperationType
from dmspec.runtime.power import LOSE_FLUSH, PowerCut
from dmspec.runtime.signature import Kind, flag, opt, pos, signature
from dmspec.runtime.units import SECTOR_BYTES, duration_text
from dmspec.runtime.volatile import KEEPS

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.task import Frame

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
    fault = DiskFault(kinds, number, after=args["after"], times=args["times"])
    if args["times"] == 0:
        raise DmError(errno.EINVAL)
    if args["range"] is not None:
        offset, length = args["range"]
        fault.kinds = tuple(kind for kind in kinds if kind is not Op.FLUSH)
        fault.first_sector = offset // SECTOR_BYTES
        fault.last_sector = (offset + max(length, 1) - 1) // SECTOR_BYTES
    disk.faults.append(fault)
    process.world.faulty = True
    what = "everything fails" if args["what"] == "all" else f"{args['what']} fail"
    place = "" if args["range"] is None else f" in sectors {fault.first_sector} to {fault.last_sector}"
    begin = f"after {args['after']} more" if args["after"] else "from now on"
    often = "" if args["times"] is None else f", {args['times']} times"
    process.engine.note(disk.name, f"{begin} {what}{place} with {args['error']}{often}")
    return 0


def _heal(process: ProcessTask, args: dict[str, Any]) -> int:
    disk = _disk(process, args)
    disk.faults.clear()
    disk.detached = False
    process.engine.note(disk.name, "healed")
    return 0


def _delay(process: ProcessTask, args: dict[str, Any]) -> int:
    disk = _disk(process, args)
    if args["times"] == 0:
        raise DmError(errno.EINVAL)
    disk.faults.append(DiskFault(_KINDS[args["what"]], delay_ns=args["time"], times=args["times"]))
    often = "" if args["times"] is None else f", {args['times']} times"
    process.engine.note(disk.name, f"from now on {duration_text(args['time'])} slower{often}")
    return 0


def _detach(process: ProcessTask, args: dict[str, Any]) -> int:
    disk = _disk(process, args)
    disk.detached = True
    process.world.faulty = True
    process.engine.note(disk.name, "detached")
    return 0


def _next(process: ProcessTask, disk: Disk, fault: DiskFault, kind: str, text: str) -> int:
    """Arm a mishap of the next I/O that it is about."""
    disk.faults.append(fault)
    process.world.disk_lied(disk, kind)
    process.engine.note(disk.name, text)
    return 0


def _tear(process: ProcessTask, args: dict[str, Any]) -> int:
    keep = args["keep"] // SECTOR_BYTES
    return _next(process, _disk(process, args), DiskFault((Op.WRITE,), times=1, mishap=Mishap.TEAR, sectors=keep),
                 "tear", f"of the next write only {keep} sector{'s' if keep != 1 else ''} will arrive")


def _lose_write(process: ProcessTask, args: dict[str, Any]) -> int:
    return _next(process, _disk(process, args), DiskFault((Op.WRITE,), times=1, mishap=Mishap.LOSE),
                 "lose-write", "the next write will be lost")


def _lose_flush(process: ProcessTask, args: dict[str, Any]) -> int:
    return _next(process, _disk(process, args), DiskFault((Op.FLUSH,), times=1, mishap=Mishap.LOSE_FLUSH),
                 LOSE_FLUSH, "the next flush will be lost")


def _misdirect(process: ProcessTask, args: dict[str, Any]) -> int:
    kinds = (Op.READ,) if args["what"] == "reads" else (Op.WRITE,)
    by = args["by"] // SECTOR_BYTES
    fault = DiskFault(kinds, times=1, mishap=Mishap.MISDIRECT, sectors=by)
    return _next(process, _disk(process, args), fault, "misdirect",
                 f"the next {args['what'].removesuffix('s')} will miss by {by} sectors")


def _corrupt(process: ProcessTask, args: dict[str, Any]) -> int:
    """Flip the lowest ``bits`` bits from a byte on, in the medium and in what is cached of it."""
    disk = _disk(process, args)
    length = -(-args["bits"] // 8)
    if not args["bits"] or args["at"] + length > disk.sectors * SECTOR_BYTES:
        raise DmError(errno.EINVAL)
    buffer = bytearray(length)
    disk.backing.read(args["at"], memoryview(buffer))
    mask = (1 << args["bits"]) - 1
    flipped = (int.from_bytes(buffer, "little") ^ mask).to_bytes(length, "little")
    disk.backing.write(args["at"], memoryview(flipped))
    disk.backing.harden(args["at"], length)
    process.world.disk_lied(disk, "corrupt")
    process.engine.note(disk.name, f"{args['bits']} bit{'s' if args['bits'] > 1 else ''} flipped at byte {args['at']}")
    return 0


def _power_cut(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return PowerCut(process.world, args["keep"])


_WHAT: Final = pos("what", Kind.WORD, default="all", choices=("all", "reads", "writes"))

FAULT_OPERATIONS: Final = (
    OperationType("fail", signature(
        pos("disk", Kind.DISK), _WHAT, opt("error", Kind.ERRNO, "EIO"), opt("range", Kind.RANGE),
        opt("after", Kind.COUNT, 0), opt("times", Kind.COUNT),
    ), "Answer I/O with an error from now on; after so many good ones; so many times.", _fail, is_fault=True,
        felt_in_io=True),
    OperationType("heal", signature(pos("disk", Kind.DISK)), "End every fault of the disk.", _heal, is_fault=True),
    OperationType("delay", signature(
        pos("disk", Kind.DISK), pos("time", Kind.DURATION), _WHAT, opt("times", Kind.COUNT),
    ), "Answer I/O later from now on; so many times.", _delay, is_fault=True),
    OperationType("detach", signature(pos("disk", Kind.DISK)),
                  "The disk is gone: ENXIO to all I/O, and no table can name it.", _detach, is_fault=True),
    OperationType("corrupt", signature(
        pos("disk", Kind.DISK), opt("at", Kind.SIZE, 0), opt("bits", Kind.COUNT, 1),
    ), "Flip bits at rest.", _corrupt, is_fault=True),
    OperationType("tear", signature(
        pos("disk", Kind.DISK), flag("next-write"), opt("keep", Kind.SIZE, 512),
    ), "Only a part of the next write arrives, and nobody is told.", _tear, is_fault=True,
        felt_in_io=True),
    OperationType("lose-write", signature(pos("disk", Kind.DISK)),
                  "The next write is acknowledged and not done.", _lose_write, is_fault=True,
        felt_in_io=True),
    OperationType("lose-flush", signature(pos("disk", Kind.DISK)),
                  "The next flush is acknowledged and not done.", _lose_flush, is_fault=True,
        felt_in_io=True),
    OperationType("misdirect", signature(
        pos("disk", Kind.DISK), pos("what", Kind.WORD, default="writes", choices=("reads", "writes")),
        opt("by", Kind.SIZE, 4096),
    ), "The next write (or read) goes elsewhere, and nobody is told.", _misdirect, is_fault=True,
        felt_in_io=True),
    OperationType("power-cut", signature(opt("keep", Kind.WORD, "any", choices=("any", *KEEPS))),
                  "All disks lose some of what was not flushed; then the machine boots.", _power_cut, is_fault=True),
)
