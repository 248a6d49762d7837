"""The lanes over time: a column for each process, device and disk, a row for each step.

A cell has two halves. The upper one shows how its lane stood before the step, the lower one how it stands
afterwards, so a bar begins and ends at the step's mark. How a lane stands is a set of words, which the page's
style sheet draws: `line`, `dots` (waits), `bar` (holds a lock), `hatched` (suspending), `full` (suspended),
`ladder` (a target holds bios back) and `dashes` (a failed disk).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dmspec.runtime.explore.explain import Counterexample, Step
    from dmspec.runtime.plan import Plan

EVENT: Final = "●"
QUIET: Final = "○"  # it moved, and nothing of it is worth a line
END: Final = "■"
FAILED: Final = "✕"
FAULT: Final = "▲"
VIOLATION: Final = "◆"
_RANKS: Final = (QUIET, EVENT, END, FAILED, FAULT, VIOLATION)


@dataclass(frozen=True, slots=True)
class Lane:
    """A column; `kind` is process, fault, filesystem, device, disk or other."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Cell:
    """How a lane stood before a step and after it, and the mark of what happened there."""

    before: str
    after: str
    mark: str


def lanes_of(plan: Plan, example: Counterexample) -> list[Lane]:
    """Processes, faults, filesystems, devices, disks; then what else something happened to, such as a kernel thread."""
    processes = {one["name"].partition(".")[0] for step in example.steps for one in step.state["processes"]}
    filesystems = [one.name for one in plan.filesystems]
    devices = _names(example, "devices")
    disks = _names(example, "disks")
    happened = [lane.partition(".")[0] if lane.partition(".")[0] in processes else lane
                for step in example.steps for lane, _ in step.events]
    made = [name for name in example.lanes if name in processes and "." not in name]
    lanes = [Lane(name, "process") for name in made]
    lanes += [Lane("fault", "fault")] if "fault" in example.lanes or "fault" in happened else []
    lanes += [Lane(name, "filesystem") for name in filesystems]
    lanes += [Lane(name, "device") for name in devices]
    lanes += [Lane(name, "disk") for name in disks]
    known = {lane.name for lane in lanes}
    return lanes + [Lane(name, "other") for name in dict.fromkeys(happened) if name not in known]


def _names(example: Counterexample, what: str) -> list[str]:
    return list(dict.fromkeys(one["name"] for step in example.steps for one in step.state[what]))


def rows_of(lanes: list[Lane], steps: list[Step]) -> list[list[Cell]]:
    """The cells of every step, the first one being how everything stood in the beginning."""
    stood: dict[str, str] = {}
    rows = []
    for at, step in enumerate(steps):
        stands = {lane.name: _stands(lane, step.state) for lane in lanes}
        marks = _marks(lanes, step) if at else {}
        rows.append([Cell(stood.get(lane.name, ""), stands[lane.name], marks.get(lane.name, "")) for lane in lanes])
        stood = stands
    return rows


def _stands(lane: Lane, state: Mapping[str, Any]) -> str:
    if lane.kind == "process":
        return _process_stands(lane.name, state)
    if lane.kind == "device":
        device = next((one for one in state["devices"] if one["name"] == lane.name), None)
        if device is None:
            return ""
        words = ["full" if device["suspended"] else "hatched" if device["suspending"] else "line"]
        return " ".join(words + (["ladder"] if device["held"] else []))
    if lane.kind == "disk":
        failed = any(one["failed"] for one in state["disks"] if one["name"] == lane.name)
        return "dashes" if failed else "line"
    return "line" if lane.kind == "filesystem" else ""


def _process_stands(name: str, state: Mapping[str, Any]) -> str:
    """A process and its branches share a column: it waits when all of them do."""
    mine = [one for one in state["processes"] if one["name"].partition(".")[0] == name]
    locks = ["bar"] if any(one["locks"] for one in mine) else []
    alive = [one for one in mine if not one["ended"]]
    if not alive:
        return " ".join(locks)
    return " ".join([("dots" if all(one["waits"] for one in alive) else "line"), *locks])


def lane_of(name: str, lanes: list[Lane]) -> str | None:
    """The column of an event's lane or of a mover: `app.1` is in app's, and `kmirrord vol` in vol's."""
    known = {lane.name for lane in lanes}
    for candidate in (name, name.partition(".")[0], name.rpartition(" ")[2], name.partition(":")[0]):
        if candidate in known:
            return candidate
    return None


def _marks(lanes: list[Lane], step: Step) -> dict[str, str]:
    marks: dict[str, str] = {}
    for name, text in step.events:
        lane = lane_of(name, lanes)
        if lane is not None:
            mark = _mark(name, text)
            marks[lane] = max(marks.get(lane, mark), mark, key=_RANKS.index)
    if not step.events:
        lane = lane_of(step.mover, lanes)
        if lane is not None:
            marks[lane] = QUIET
    return marks


def _mark(lane: str, text: str) -> str:
    if text.startswith("VIOLATION"):
        return VIOLATION
    if lane == "fault":
        return FAULT
    if "FAILED" in text or text.endswith(": EIO") or text.startswith(("freeze failed", "ended with")):
        return FAILED
    return END if text in ("ended", "removed") else EVENT
