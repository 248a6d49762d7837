"""Trace files: what is written is read again, and anything else is refused in words."""

import re
from dataclasses import replace

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmspec.runtime import trace as traces
from dmspec.runtime.runner import replay
from dmspec.runtime.trace import Event, Recorder, Schedule, Trace, TraceError, difference, from_bytes, to_bytes

from .hand import op, run

EVENTS = [Event(0, 0, "setup", "begins"), Event(3, 5_000_000, "p", "write d: it's done")]
TRACE = Trace(b"a plan", "s", 7, 1000, Schedule([0, 1, 2], [(4, 0)]), EVENTS, "ok", ["always no-error: holds"])


def packed(**changes: object) -> bytes:
    """A trace file with other parts in its body, and a right checksum."""
    box = msgpack.unpackb(to_bytes(TRACE))
    body = msgpack.packb(msgpack.unpackb(box["body"]) | changes)
    import hashlib

    return bytes(msgpack.packb(box | {"body": body, "sha256": hashlib.sha256(body).digest()}))


@pytest.mark.parametrize("trace", [TRACE, replace(TRACE, seed=None, events=[], schedule=Schedule(), summary=[])])
def test_what_is_written_is_read_again(trace: Trace) -> None:
    assert from_bytes(to_bytes(trace)) == trace


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_trace_error(data: bytes) -> None:
    with pytest.raises(TraceError):
        from_bytes(data)


@given(st.data())
def test_any_damaged_byte_is_found(data: st.DataObject) -> None:
    whole = bytearray(to_bytes(TRACE))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TraceError):
        from_bytes(bytes(whole))


@pytest.mark.parametrize("length", [0, 1, 20, 60, -1])
def test_a_truncated_file(length: int) -> None:
    with pytest.raises(TraceError):
        from_bytes(to_bytes(TRACE)[:length])


def test_another_version() -> None:
    box = msgpack.unpackb(to_bytes(TRACE))
    with pytest.raises(TraceError, match="a trace of version 2; this dmspec reads version 1"):
        from_bytes(msgpack.packb(box | {"version": 2}))
    with pytest.raises(TraceError, match="not a trace: the mark at its start is missing"):
        from_bytes(msgpack.packb(box | {"magic": "dmspec-plan"}))
    with pytest.raises(TraceError, match="its checksum is wrong"):
        from_bytes(msgpack.packb(box | {"sha256": b""}))


@pytest.mark.parametrize("changes", [
    {"events": [[1, 2, "p"]]}, {"events": 5}, {"events": [["x", 0, "p", "t"]]}, {"seed": "7"}, {"seed": -1},
    {"schedule": {"choices": [1]}}, {"schedule": {"choices": [True], "faults": []}}, {"schedule": None},
    {"schedule": {"choices": [], "faults": [[1]]}}, {"plan": "text"}, {"step_limit": None}, {"surplus": 1},
    {"summary": 3},
])
def test_a_body_that_makes_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(TraceError, match="damaged"):
        from_bytes(packed(**changes))


def test_a_plan_inside_that_is_none() -> None:
    with pytest.raises(TraceError, match="the plan inside of the trace: not a plan"):
        replay(TRACE)


def test_the_difference_between_two_runs_is_said() -> None:
    assert difference(EVENTS, list(EVENTS)) is None
    other = [EVENTS[0], replace(EVENTS[1], text="read")]
    assert difference(EVENTS, other) == \
        "event 2 differs: recorded step 3, p: write d: it's done; now step 3, p: read"
    assert difference(EVENTS, EVENTS[:1]) == \
        "after 1 equal events there is one more recorded: step 3, p: write d: it's done"
    assert difference([], EVENTS) == "after 0 equal events there is one more now: step 0, setup: begins"


def test_a_replay_says_where_it_differs() -> None:
    trace = run(("p", [op("write", target="d")])).trace
    assert replay(trace)[1] is None
    changed = replace(trace, events=[*trace.events[:-1], replace(trace.events[-1], text="ended otherwise")])
    said = replay(changed)[1]
    assert said is not None
    assert re.search(r"p: ended otherwise; now step \d+, p: ended$", said)
    assert replay(replace(trace, verdict="failed"))[1] == "the verdict differs: recorded failed, now ok"


def test_a_recorder_keeps_everything_in_order() -> None:
    recorder = Recorder()
    recorder.note(1, 2, "p", "one")
    recorder.note(1, 2, "q", "two")
    assert recorder.events == [Event(1, 2, "p", "one"), Event(1, 2, "q", "two")]
    assert traces.events_bytes(recorder.events) != traces.events_bytes(recorder.events[::-1])
