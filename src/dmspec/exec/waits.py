"""Who waits for whom around a mounted stack: processes of its spec, ioctls under way, bios, LVM2's file locks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmspec.exec.story import command_of, who_is
from dmspec.runtime import ioctl_format as form
from dmspec.runtime import wire
from dmspec.runtime.explore.explain import Edge

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Door

# "1: FLOCK  ADVISORY  WRITE 4321 fe:00:123456 0 EOF", and "1: -> FLOCK ..." for one that waits.
_LOCK: Final = re.compile(r"(\d+): (-> )?FLOCK +\S+ +\S+ +(\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")


def edges(door: Door, mountpoint: str) -> list[Edge]:
    """The graph as it is now."""
    answer = door.ask("waits")
    locks = list(_file_locks(wire.view_folder(mountpoint) / "run" / "lock" / "lvm"))
    devices = {device["name"]: device for device in answer["devices"]}
    found = [edge for call in answer["calls"] for edge in _of_call(call, devices)]
    found += [Edge(*edge) for edge in answer["edges"]]
    known = {(edge.waiter, edge.holder) for edge in found}
    for device in devices.values():
        found += [edge for edge in _of_bios(device, devices, locks) if (edge.waiter, edge.holder) not in known]
    return found + locks


def _of_call(call: Mapping[str, Any], devices: Mapping[str, Any]) -> Iterator[Edge]:
    name, command = call["device"], command_of(call["nr"], call["flags"])
    if not call["why"] or call["nr"] == form.DEV_WAIT or name not in devices:
        return
    yield Edge(call["who"], f"bios of {name}", f"in {command} {name}: {call['why']}")


def _of_bios(device: Mapping[str, Any], devices: Mapping[str, Any], locks: list[Edge]) -> Iterator[Edge]:
    me = f"bios of {device['name']}"
    if device["in_flight"]:
        for name in device["below"]:
            below = devices.get(name)
            if below is not None and (below["in_flight"] or below["deferred"]):
                yield Edge(me, f"bios of {name}", f"they are in {name}")
    for words in device["held"]:
        repairers = [edge.waiter for edge in locks if edge.why.startswith("waits")]
        for repairer in repairers or ["nobody"]:
            yield Edge(me, repairer, f"{words}; only a suspend of {device['name']} ends that")
    if device["deferred"] and device["suspended"]:
        yield Edge(me, "a resume", f"{device['name']} is suspended")


def _file_locks(folder: Path) -> Iterator[Edge]:
    """Processes that wait for a lock file, and who has it."""
    files = {path.stat().st_ino: path.name for path in folder.glob("*")} if folder.is_dir() else {}
    owners: dict[str, int] = {}
    for line in Path("/proc/locks").read_text().splitlines():
        match = _LOCK.match(line)
        if match is None or int(match[4]) not in files:
            continue
        if not match[2]:
            owners[match[1]] = int(match[3])
            continue
        lock = f"lock {files[int(match[4])]}"
        yield Edge(who_is(int(match[3])), lock, f"waits for {lock}")
        if match[1] in owners:
            owner = who_is(owners[match[1]])
            yield Edge(lock, owner, f"held by {owner}")
