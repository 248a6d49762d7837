"""Traces: what happened in a run, and everything that is needed to run it again.

A trace file is a msgpack map of ``magic``, ``version``, ``sha256`` and ``body``; the body is msgpack as well
and holds the plan itself, the scenario, the seed, the schedule and every event.  A replay runs the plan with
the recorded schedule and compares its events with the recorded ones, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from dmspec.runtime.errors import DmspecError

MAGIC: Final = "dmspec-trace"
VERSION: Final = 1


class TraceError(DmspecError):
    """A trace file is damaged, of another version, or not a trace."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened on a lane: a process, a device, a disk, a worker, ``kernel``, ``check``, ``setup``."""

    step: int
    time_ns: int
    lane: str
    text: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """What decides a run: the number picked wherever there was a choice, and when which fault struck.

    A choice of 0 goes on with the same task; when the list is used up, 0 is meant.  Faults are pairs of the
    number of steps taken in the scenario by then and the index of the fault in it.
    """

    choices: list[int] = field(default_factory=list)
    faults: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """One run.  ``verdict`` is ``ok``, ``failed`` or ``crashed``; ``summary`` is what the checks came to."""

    plan: bytes
    scenario: str
    seed: int | None
    step_limit: int
    schedule: Schedule
    events: list[Event]
    verdict: str
    summary: list[str]


class Recorder:
    """An observer that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def note(self, step: int, time_ns: int, lane: str, text: str) -> None:
        """Keep one."""
        self.events.append(Event(step, time_ns, lane, text))


def events_bytes(events: list[Event]) -> bytes:
    """The bytes by which two runs are compared."""
    rows = [[event.step, event.time_ns, event.lane, event.text] for event in events]
    return bytes(msgpack.packb(rows, use_bin_type=True))


def to_bytes(trace: Trace) -> bytes:
    """The same run gives the same bytes, on every Python."""
    body = asdict(trace)
    body["schedule"] = {"choices": trace.schedule.choices, "faults": [list(pair) for pair in trace.schedule.faults]}
    body["events"] = [[event.step, event.time_ns, event.lane, event.text] for event in trace.events]
    packed = bytes(msgpack.packb(body, use_bin_type=True))
    box = {"magic": MAGIC, "version": VERSION, "sha256": hashlib.sha256(packed).digest(), "body": packed}
    return bytes(msgpack.packb(box, use_bin_type=True))


def from_bytes(data: bytes) -> Trace:
    """Raise :class:`TraceError` for anything that is not a whole trace of this version."""
    box = _unpack(data, "not a trace")
    if not isinstance(box, dict) or box.get("magic") != MAGIC:
        raise TraceError("not a trace: the mark at its start is missing")
    if box.get("version") != VERSION:
        raise TraceError(f"a trace of version {box.get('version')!r}; this dmspec reads version {VERSION}")
    body = box.get("body")
    if not isinstance(body, bytes) or hashlib.sha256(body).digest() != box.get("sha256"):
        raise TraceError("the trace is damaged: its checksum is wrong")
    fields = _unpack(body, "the trace is damaged")
    try:
        return _trace(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"the trace is damaged: {type(error).__name__}: {error}") from None


def _unpack(data: bytes, problem: str) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise TraceError(f"{problem}: {error or type(error).__name__}") from None


def _trace(fields: Mapping[str, Any]) -> Trace:
    if set(fields) != set(Trace.__dataclass_fields__):
        raise ValueError(f"its parts are {', '.join(sorted(map(str, fields)))}")
    schedule = fields["schedule"]
    choices = [_whole(one) for one in schedule["choices"]]
    faults = [(_whole(step), _whole(index)) for step, index in schedule["faults"]]
    events = [Event(_whole(step), _whole(time_ns), str(lane), str(text))
              for step, time_ns, lane, text in fields["events"]]
    if not isinstance(fields["plan"], bytes):
        raise TypeError("its plan is not bytes")
    seed = fields["seed"]
    return Trace(fields["plan"], str(fields["scenario"]), None if seed is None else _whole(seed),
                 _whole(fields["step_limit"]), Schedule(choices, faults), events, str(fields["verdict"]),
                 [str(one) for one in fields["summary"]])


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def difference(recorded: list[Event], now: list[Event]) -> str | None:
    """Where two runs part, in words; ``None`` when they are the same."""
    if events_bytes(recorded) == events_bytes(now):
        return None
    for number, (one, other) in enumerate(zip(recorded, now, strict=False), 1):
        if one != other:
            return f"event {number} differs: recorded {_words(one)}; now {_words(other)}"
    count = min(len(recorded), len(now))
    longer = "recorded" if len(recorded) > count else "now"
    extra = (recorded if len(recorded) > count else now)[count]
    return f"after {count} equal events there is one more {longer}: {_words(extra)}"


def _words(event: Event) -> str:
    return f"step {event.step}, {event.lane}: {event.text}"
