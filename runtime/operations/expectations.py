"""Expectations at one point of a process.  ``expect NAME ...`` in a spec is ``expect-NAME`` here."""

from __future__ import annotations

from typing import Final

from ..signature import Kind, opt, pos, signature
from .base import OperationType

EXPECTATION_OPERATIONS: Final = (
    OperationType("sha256", signature(
        pos("target", Kind.TARGETABLE), pos("range", Kind.RANGE, default=None), opt("as", Kind.WORD),
    ), "Read a range and remember its sha256 under a name."),
    OperationType("expect-sha256", signature(
        pos("target", Kind.TARGETABLE), pos("range", Kind.RANGE, default=None),
        opt("same-as", Kind.WORD), opt("value", Kind.TEXT),
    ), "The sha256 of a range equals a remembered or a given one."),
    OperationType("expect-same", signature(
        pos("first", Kind.TARGETABLE), pos("second", Kind.TARGETABLE), pos("range", Kind.RANGE, default=None),
    ), "Two devices have the same contents in a range."),
    OperationType("expect-content", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE, 0), opt("size", Kind.SIZE, 512),
        opt("pattern", Kind.TEXT),
    ), "A range was filled with this pattern; no pattern: zeros."),
    OperationType("expect-status", signature(
        pos("device", Kind.DEVICE), pos("text", Kind.TEXT),
    ), "The device's status line; names stand for major:minor."),
    OperationType("expect-table", signature(
        pos("device", Kind.DEVICE), pos("text", Kind.TEXT),
    ), "The device's table line; names stand for major:minor."),
    OperationType("expect-state", signature(
        pos("device", Kind.DEVICE), pos("state", Kind.WORD, choices=("ACTIVE", "SUSPENDED", "ABSENT")),
    ), "What `dmsetup info` calls the device's state."),
    OperationType("expect-events", signature(
        pos("device", Kind.DEVICE), pos("count", Kind.COUNT),
    ), "The device's event number."),
)
