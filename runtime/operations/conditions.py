"""Conditions that ``if`` and ``await`` ask.

What a target says of itself is read from its status words, as userspace does, so no condition knows a
target's class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.block import BlockDevice
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.operations.base import ConditionType
from dmspec.runtime.signature import Kind, flag, opt, pos, signature

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.stack import Stack


def status_words(md: MappedDevice, kind: str) -> Iterator[list[str]]:
    """The status words of each target of one type in the live table."""
    if md.live is not None:
        for name, target in zip(md.live.types, md.live.targets, strict=True):
            if name == kind:
                yield target.info().split()


def sync_counts(md: MappedDevice) -> Iterator[str]:
    """``done/total`` of every mirror and raid in the device or below it, each device once."""
    todo: list[BlockDevice] = [md]
    seen: list[BlockDevice] = []
    while todo:
        device = todo.pop(0)
        if not isinstance(device, MappedDevice) or device.live is None or any(device is one for one in seen):
            continue
        seen.append(device)
        for words in status_words(device, "mirror"):
            yield words[1 + int(words[0])]
        for words in status_words(device, "raid"):
            yield words[3]
        todo.extend(device.live.devices)


def in_sync(stack: Stack, name: str) -> bool:
    """Whether the device has a live table and the in-sync counts of its mirrors and raids are full."""
    md = stack.devices.get(name)
    if md is None or md.live is None:
        return False
    for count in sync_counts(md):
        done, _slash, total = count.partition("/")
        if done != total:
            return False
    return True


def snapshot_is(stack: Stack, name: str, word: str) -> bool:
    """Whether a snapshot target of the device says this one word of itself."""
    md = stack.devices.get(name)
    return md is not None and any(words == [word] for kind in ("snapshot", "snapshot-merge")
                                  for words in status_words(md, kind))


def letters(md: MappedDevice, leg: int | None, *, log: bool) -> str:
    """The status letters of the mirrors and raids of a device: of one leg, of the log, or of all of them."""
    found = ""
    for words in status_words(md, "mirror"):
        count = int(words[0])
        logged = words[-1] if words[count + 5:count + 6] == ["disk"] else ""
        found += _picked(words[count + 3], logged, leg, log=log)
    for words in status_words(md, "raid"):
        found += _picked(words[2], "", leg, log=log)
    return found


def _picked(legs: str, log_letter: str, leg: int | None, *, log: bool) -> str:
    if log:
        return log_letter
    return legs + log_letter if leg is None else legs[leg:leg + 1]


def merge_state(md: MappedDevice) -> str:
    """Of a merging snapshot: ``merging``, ``merged`` (only metadata is left allocated) or ``failed``."""
    for words in status_words(md, "snapshot-merge"):
        if len(words) < 2 or "/" not in words[0]:
            return "failed"
        return "merged" if words[0].partition("/")[0] == words[1] else "merging"
    return ""


def _letter(process: ProcessTask, args: dict[str, Any]) -> bool:
    md = process.world.stack.devices.get(args["device"])
    return md is not None and any(one in args["letters"] for one in letters(md, args["leg"], log=args["log"]))


def _merged(process: ProcessTask, args: dict[str, Any]) -> bool:
    md = process.world.stack.devices.get(args["device"])
    return md is not None and merge_state(md) == "merged"


def _merge_over(process: ProcessTask, args: dict[str, Any]) -> bool:
    md = process.world.stack.devices.get(args["device"])
    return md is not None and merge_state(md) in ("merged", "failed")


def _registered(process: ProcessTask, args: dict[str, Any]) -> bool:
    return args["device"] in process.world.registered


def _event(process: ProcessTask, args: dict[str, Any]) -> bool:
    name = args["device"]
    md = process.world.stack.devices.get(name)
    if md is None or (args["registered"] and name not in process.world.registered):
        return False
    seen = process.world.registered if args["registered"] else process.seen_events
    return md.event_nr != seen.get(name, 0)


def _insync(process: ProcessTask, args: dict[str, Any]) -> bool:
    return in_sync(process.world.stack, args["device"])


def _suspended(process: ProcessTask, args: dict[str, Any]) -> bool:
    md = process.world.stack.devices.get(args["device"])
    return md is not None and md.suspended


def _active(process: ProcessTask, args: dict[str, Any]) -> bool:
    md = process.world.stack.devices.get(args["device"])
    return md is not None and md.live is not None and not md.suspended


def _exists(process: ProcessTask, args: dict[str, Any]) -> bool:
    return args["device"] in process.world.stack.devices


def _failed(process: ProcessTask, args: dict[str, Any]) -> bool:
    disk = process.world.stack.disks.get(args["disk"])
    return disk is not None and (disk.detached or any(fault.status for fault in disk.faults))


def _invalid(process: ProcessTask, args: dict[str, Any]) -> bool:
    return snapshot_is(process.world.stack, args["device"], "Invalid")


def _overflow(process: ProcessTask, args: dict[str, Any]) -> bool:
    return snapshot_is(process.world.stack, args["device"], "Overflow")


def _done(process: ProcessTask, args: dict[str, Any]) -> bool:
    other = process.world.processes.get(args["process"])
    return other is not None and other.ended


CONDITION_TYPES: Final = (
    ConditionType("event", signature(pos("device", Kind.DEVICE), flag("registered")),
                  "The device's event number differs from what this process saw last; `registered`: from what dmeventd "
                  "did, and only while it is registered there.", _event, idle=True),
    ConditionType("registered", signature(pos("device", Kind.DEVICE)), "dmeventd waits for the device's events.",
                  _registered),
    ConditionType("letter", signature(
        pos("device", Kind.DEVICE), pos("letters", Kind.WORD, repeated=True, choices=tuple("ADFSRUa")),
        opt("leg", Kind.COUNT), flag("log"),
    ), "The status of a mirror or raid has one of these letters: for a leg, for the log, or anywhere.", _letter),
    ConditionType("merged", signature(pos("device", Kind.DEVICE)),
                  "Its merging snapshot has nothing left to merge.", _merged),
    ConditionType("merge-over", signature(pos("device", Kind.DEVICE)),
                  "Its merging snapshot does not merge: it is done, or has failed.", _merge_over),
    ConditionType("insync", signature(pos("device", Kind.DEVICE)), "Every region of its mirrors is in sync.",
                  _insync),
    ConditionType("suspended", signature(pos("device", Kind.DEVICE)), "The device is suspended.", _suspended),
    ConditionType("active", signature(pos("device", Kind.NEW_NAME)),
                  "The device is there, has a live table and is not suspended.", _active),
    ConditionType("exists", signature(pos("device", Kind.NEW_NAME)), "A device of that name is there.", _exists),
    ConditionType("failed", signature(pos("disk", Kind.DISK)), "A fault is on the disk.", _failed),
    ConditionType("invalid", signature(pos("device", Kind.DEVICE)), "Its snapshot is invalid.", _invalid),
    ConditionType("overflow", signature(pos("device", Kind.DEVICE)), "Its snapshot has overflowed.", _overflow),
    ConditionType("done", signature(pos("process", Kind.PROCESS)), "That process has ended.", _done),
)
