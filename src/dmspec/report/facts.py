"""What a page says of a state: for each process, lock, device and disk some facts, each a label and a text.

A fact has a key of three parts, `(kind, name, label)`, so that two states can be compared and a page can hold a
state as its difference from the one before. What is not worth saying (nothing held, nothing deferred) has no fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

Key = tuple[str, str, str]
Facts = dict[Key, str]

# In the order in which a page shows them. A bio is shown where it is: on its device, or on its disk.
KINDS: Final[Mapping[str, str]] = {
    "process": "Processes", "lock": "Locks", "device": "Devices and their bios", "disk": "Disks and their bios",
    "kernel": "Kernel",
}
LABELS: Final = ("state", "at", "line", "holds", "held by", "waiting", "in flight", "held", "deferred",
                 "live table", "next table", "events", "can run")


def facts_of(state: Mapping[str, Any], places: Mapping[str, tuple[str, str]]) -> Facts:
    """Put a snapshot of :mod:`dmspec.runtime.explore.explain` into words; `places`: what and where each process is."""
    ready = _Ready(state)
    facts: Facts = {}
    for process in state["processes"]:
        facts.update(_keyed("process", process["name"], _of_process(process, ready, places)))
    for lock in state["locks"]:
        facts.update(_keyed("lock", lock["name"], {
            "held by": lock["owner"] or "nobody", "waiting": ", ".join(lock["waiters"])}))
    for device in state["devices"]:
        facts.update(_keyed("device", device["name"], _of_device(device)))
    for disk in state["disks"]:
        facts.update(_keyed("disk", disk["name"], {
            "state": "failed" if disk["failed"] else "good", "in flight": "\n".join(ready.bios.get(disk["name"], []))}))
    facts.update(_keyed("kernel", "kernel threads", {"can run": "\n".join(ready.threads) or "none"}))
    return facts


class _Ready:
    """Who can move: processes, bios at a disk (which may complete), and the kernel's own threads."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        processes = {process["name"] for process in state["processes"]}
        disks = {disk["name"] for disk in state["disks"]}
        self.processes: set[str] = set()
        self.bios: dict[str, list[str]] = {}
        self.threads: list[str] = []
        for name in state["ready"]:
            where, colon, bio = name.partition(": ")
            if colon and where in disks:
                self.bios.setdefault(where, []).append(bio)
            elif name in processes:
                self.processes.add(name)
            else:
                self.threads.append(name)


def _keyed(kind: str, name: str, said: Mapping[str, str]) -> Iterator[tuple[Key, str]]:
    for label, text in said.items():
        if text:
            yield (kind, name, label), text


def _of_process(process: Mapping[str, Any], ready: _Ready, places: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    name = process["name"]
    if process["ended"]:
        return {"state": "ended with an error" if process["failed"] else "ended",
                "holds": _locks(process["locks"])}
    if process["waits"]:
        state = f"waits {process['waits']}"
    else:
        state = "can go on" if name in ready.processes else "cannot go on"
    at, line = places.get(name, (process["at"], str(process["line"])))
    return {"state": state, "at": at, "line": line, "holds": _locks(process["locks"])}


def _locks(names: list[str]) -> str:
    return ", ".join(f"lock {name}" for name in names)


def _of_device(device: Mapping[str, Any]) -> dict[str, str]:
    said = {"state": device_state(device), "in flight": _bios(device["in_flight"]),
            "held": "\n".join(device["held"]), "deferred": "\n".join(device["deferred"]),
            "live table": "\n".join(line.strip() for line in device["live"]) or "none",
            "next table": " + ".join(device["inactive"])}
    if device["events"]:
        said["events"] = str(device["events"])
    return said


def device_state(device: Mapping[str, Any]) -> str:
    """Active, on its way to suspended, or suspended."""
    if device["suspended"]:
        return "suspended"
    if device["suspending"]:
        return "suspending, noflush" if device["noflush"] else "suspending: waits for its bios"
    return "active"


def _bios(count: int) -> str:
    return f"{count} bio{'s' if count != 1 else ''}" if count else "no bio"


def in_order(keys: set[Key], names: list[str]) -> list[Key]:
    """Keys as a page shows them: by kind, then by name as `names` has them, then by label."""
    kinds = list(KINDS)
    position = {name: at for at, name in enumerate(names)}
    return sorted(keys, key=lambda key: (kinds.index(key[0]), position.get(key[1], len(position)), key[1],
                                         LABELS.index(key[2])))


def differences(before: Facts, after: Facts, order: list[Key]) -> list[tuple[Key, str | None, str | None]]:
    """What differs, with the text before and after; None is a fact that is not there."""
    return [(key, before.get(key), after.get(key)) for key in order if before.get(key) != after.get(key)]


def words_of_difference(key: Key, before: str | None, after: str | None) -> str:
    """One difference as a line of text."""
    kind, name, label = key
    what = name if kind in ("process", "device", "disk") else f"lock {name}" if kind == "lock" else name
    old, new = (_one_line(text) for text in (before, after))
    if label == "state":
        return f"{what}: {new}" if before is None else f"{what}: {old} → {new}"
    return f"{what}, {label}: {new}" if before is None else f"{what}, {label}: {old} → {new}"


def _one_line(text: str | None) -> str:
    return "none" if text is None else text.replace("\n", "; ")
