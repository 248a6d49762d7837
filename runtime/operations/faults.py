"""Faults: what goes wrong with a disk."""

from __future__ import annotations

from typing import Final

from ..signature import Kind, flag, opt, pos, signature
from .base import OperationType

_LATER = "crash testing (volatile caches and power cuts)"

FAULT_OPERATIONS: Final = (
    OperationType("fail", signature(
        pos("disk", Kind.DISK), pos("what", Kind.WORD, default="all", choices=("all", "reads", "writes")),
        opt("error", Kind.ERRNO, "EIO"), opt("range", Kind.RANGE),
    ), "Answer I/O with an error from now on.", is_fault=True),
    OperationType("heal", signature(pos("disk", Kind.DISK)), "End every fault of the disk.", is_fault=True),
    OperationType("delay", signature(
        pos("disk", Kind.DISK), pos("time", Kind.DURATION),
        pos("what", Kind.WORD, default="all", choices=("all", "reads", "writes")),
    ), "Answer I/O later from now on.", is_fault=True),
    OperationType("detach", signature(pos("disk", Kind.DISK)),
                  "The disk is gone: ENXIO to all I/O, and no table can name it.", is_fault=True),
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
