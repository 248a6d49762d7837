"""Control operations: what ``dmsetup`` does, as a process does it."""

from __future__ import annotations

from typing import Final

from ..signature import Kind, flag, opt, pos, signature
from .base import OperationType

CONTROL_OPERATIONS: Final = (
    OperationType("create", signature(
        pos("name", Kind.NEW_NAME), opt("table", Kind.TABLE), opt("uuid", Kind.TEXT, ""),
        flag("read-only"),
    ), "Create a device; with a table: load it and resume, as `dmsetup create` does."),
    OperationType("load", signature(
        pos("device", Kind.DEVICE), opt("table", Kind.TABLE), flag("read-only"),
    ), "Load a table into the inactive slot."),
    OperationType("clear", signature(pos("device", Kind.DEVICE)), "Destroy the inactive table."),
    OperationType("suspend", signature(
        pos("device", Kind.DEVICE, repeated=True), flag("noflush"), flag("nolockfs"),
    ), "Suspend, with flush and lockfs unless the words say otherwise."),
    OperationType("resume", signature(
        pos("device", Kind.DEVICE, repeated=True), flag("noflush"), flag("nolockfs"),
    ), "Resume, swapping in the inactive table if there is one."),
    OperationType("remove", signature(
        pos("device", Kind.DEVICE, repeated=True), flag("force"), flag("deferred"),
    ), "Remove a device."),
    OperationType("rename", signature(
        pos("device", Kind.DEVICE), pos("new-name", Kind.NEW_NAME, default=None), opt("uuid", Kind.TEXT, ""),
    ), "Give a device another name, or a uuid if it has none."),
    OperationType("message", signature(
        pos("device", Kind.DEVICE), pos("text", Kind.TEXT), opt("sector", Kind.COUNT, 0),
    ), "Send a message to the target at a sector."),
)
