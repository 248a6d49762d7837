"""I/O as an application does it, in bytes, at any alignment."""

from __future__ import annotations

from typing import Final

from ..signature import Kind, flag, opt, pos, signature
from .base import OperationType

IO_OPERATIONS: Final = (
    OperationType("write", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE), opt("size", Kind.SIZE, 4096),
        opt("times", Kind.COUNT, 1), opt("pattern", Kind.TEXT), flag("fua"),
    ), "Write; the next `times` go on behind it.  Each write has contents of its own, unless `pattern`."),
    OperationType("read", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE), opt("size", Kind.SIZE, 4096),
        opt("times", Kind.COUNT, 1),
    ), "Read and forget what was read."),
    OperationType("flush", signature(pos("target", Kind.TARGETABLE)), "What fsync comes to: an empty flush."),
    OperationType("discard", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE, 0), opt("size", Kind.SIZE, 4096),
    ), "Tell the device that a range is not needed."),
    OperationType("freeze", signature(pos("filesystem", Kind.FILESYSTEM)), "fsfreeze -f: journal and stop."),
    OperationType("thaw", signature(pos("filesystem", Kind.FILESYSTEM)), "fsfreeze -u."),
    OperationType("sleep", signature(pos("time", Kind.DURATION)), "Let virtual (or real) time pass."),
)
