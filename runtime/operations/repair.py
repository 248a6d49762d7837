"""``lvm-repair``: what ``lvconvert --repair`` does to the mirror of a volume that has lost a leg or its log.

As user space does, it goes by the status line: legs and a log whose letter is not ``A`` are left out.  What is
left of a mirror of two is linear; a lost log becomes a core log.  Where the volume is an origin, only the
device below it is reloaded, and always noflush, so that held writes are issued again (reference:
lvm-sequences.md, section 7).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime import control
from dmspec.runtime.errors import DmError
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.operations.base import OperationType
from dmspec.runtime.signature import Kind, pos, signature
from dmspec.runtime.task import Enter, Frame, Outcome, Return, Task

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask

_LAYERS: Final = ("snapshot-origin", "snapshot-merge", "linear")


class Repair(Frame):
    """The value is 0, also when there is nothing to repair, or a negative errno."""

    def __init__(self, md: MappedDevice) -> None:
        self.md = _mirror_below(md)

    def start(self, task: Task) -> Outcome:
        """Load what is left."""
        md = self.md
        engine = md.stack.engine
        if len(control.status_lines(md)) != 1:
            return Return(-errno.EINVAL)
        try:
            lines = without_failed(control.status_lines(md)[0], control.status_lines(md, table=True)[0])
        except DmError as error:
            return Return(-error.errno)
        if not lines:
            engine.note(task.name, f"{md.name} is consistent: nothing to repair")
            return Return(0)
        return Enter(control.Load(md, control.resolve_lines(md.stack, lines, md)), "loaded")

    def loaded(self, task: Task) -> Outcome:
        """Suspend, so that held writes come back."""
        del task
        if self.result < 0:
            return Return(self.result)
        return Enter(control.DoSuspend(self.md, noflush=True, lockfs=False), "suspended")

    def suspended(self, task: Task) -> Outcome:
        """Swap it in."""
        del task
        if self.result < 0:
            return Return(self.result)
        return Enter(control.DoResume(self.md), "resumed")

    def resumed(self, task: Task) -> Outcome:
        """Answer."""
        del task
        return Return(self.result)


def _mirror_below(md: MappedDevice) -> MappedDevice:
    while md.live is not None and len(md.live.types) == 1 and md.live.types[0] in _LAYERS:
        below = [device for device in md.live.devices if isinstance(device, MappedDevice)]
        if len(below) != 1 and md.live.types[0] == "linear":
            break
        if not below:
            break
        md = below[-1]
    if md.live is None or md.live.types != ["mirror"]:
        raise DmError(errno.EINVAL)
    return md


def without_failed(status: str, table: str) -> list[str]:
    """The table without what has failed; empty when nothing has.  Raises ``EIO`` when nothing is left."""
    words = status.split()[3:]
    count = int(words[0])
    done, _slash, total = words[1 + count].partition("/")
    letters, log_letter = words[3 + count], words[-1]
    start, length, _kind, params = control.parse_line(table)
    argv = params.split()
    log_count = int(argv[1])
    log, legs = argv[:2 + log_count], argv[3 + log_count:3 + log_count + 2 * count]
    rest = argv[3 + log_count + 2 * count:]
    good = [legs[2 * at:2 * at + 2] for at, letter in enumerate(letters) if letter == "A"]
    log_lost = argv[0] == "disk" and log_letter != "A"
    if len(good) == count and not log_lost:
        return []
    if not good:
        raise DmError(errno.EIO)
    if len(good) == 1:
        return [f"{start} {length} linear {good[0][0]} {good[0][1]}"]
    if log_lost:
        region = log[3]
        log = ["core", "2", region, "nosync"] if done == total else ["core", "1", region]
    words = [*log, str(len(good)), *(word for leg in good for word in leg), *rest]
    return [f"{start} {length} mirror {' '.join(words)}"]


def _repair(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return Repair(process.world.stack.device(args["device"]))


REPAIR_OPERATIONS: Final = (
    OperationType("lvm-repair", signature(pos("device", Kind.DEVICE)),
                  "Reload a mirror without what has failed, as `lvconvert --repair` does.", _repair),
)
