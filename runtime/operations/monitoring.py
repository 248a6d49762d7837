"""What LVM asks of dmeventd: to wait for the events of a device, or to stop doing so.

dmeventd has a thread for each registered device, which waits for an event number other than the last one that
it has seen (DM_DEV_WAIT).  A process of a spec is such a thread with ``await event vol registered``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.operations.base import OperationType
from dmspec.runtime.signature import Kind, flag, pos, signature

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask


def _register(process: ProcessTask, args: dict[str, Any]) -> int:
    """The thread's first wait is from the event number of now; in 2010 it was from 0."""
    md = process.world.stack.device(args["device"])
    process.world.registered[md.name] = 0 if args["past"] else md.event_nr
    return 0


def _unregister(process: ProcessTask, args: dict[str, Any]) -> int:
    process.world.registered.pop(args["device"], None)
    return 0


MONITORING_OPERATIONS: Final = (
    OperationType("register", signature(pos("device", Kind.DEVICE), flag("past")),
                  "Have dmeventd wait for the device's events; `past`: those that it has had already count too.",
                  _register),
    OperationType("unregister", signature(pos("device", Kind.DEVICE)),
                  "Have dmeventd wait no longer for the device's events.", _unregister),
)
