"""Conditions that ``if`` and ``await`` ask."""

from __future__ import annotations

from typing import Final

from ..signature import Kind, pos, signature
from .base import ConditionType

CONDITION_TYPES: Final = (
    ConditionType("event", signature(pos("device", Kind.DEVICE)),
                  "The device's event number differs from what this process saw last."),
    ConditionType("insync", signature(pos("device", Kind.DEVICE)), "Every region of its mirrors is in sync."),
    ConditionType("suspended", signature(pos("device", Kind.DEVICE)), "The device is suspended."),
    ConditionType("exists", signature(pos("device", Kind.NEW_NAME)), "A device of that name is there."),
    ConditionType("failed", signature(pos("disk", Kind.DISK)), "A fault is on the disk."),
    ConditionType("invalid", signature(pos("device", Kind.DEVICE)), "Its snapshot is invalid."),
    ConditionType("overflow", signature(pos("device", Kind.DEVICE)), "Its snapshot has overflowed."),
    ConditionType("done", signature(pos("process", Kind.PROCESS)), "That process has ended."),
)
