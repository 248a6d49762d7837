"""Expectations at one point of a process.  ``expect NAME ...`` in a spec is ``expect-NAME`` here.

One that is not met is a violation of the check ``expectation``, which every run has; the process goes on.
A read that fails while an expectation is looked at is an I/O error of the process, as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.byte_io import HashBytes, ReadBytes, sector_words, stream
from dmspec.runtime.control import status_lines
from dmspec.runtime.operations.base import EXPECTATION, NO_IO_ERROR, OperationType
from dmspec.runtime.signature import Kind, opt, pos, signature
from dmspec.runtime.task import DONE, Enter, Frame, Goto, Outcome, Return, Task
from dmspec.runtime.units import MIB, SECTOR_BYTES

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.world import Place

_PIECE_BYTES: Final = MIB


def _not_met(process: ProcessTask, text: str) -> None:
    line = process.code[process.pc].line
    process.world.violated(EXPECTATION, process.root.name, f"line {line}: {text}")


def _range(place: Place, value: list[int] | None) -> tuple[int, int]:
    """A RANGE argument as offset and length on the device; absent, all of the target."""
    offset, length = (0, place.size) if value is None else value
    return place.base + offset, length


class ExpectHash(Frame):
    """Take the sha256 of a range; remember it, or compare it."""

    def __init__(self, process: ProcessTask, place: Place, args: dict[str, Any]) -> None:
        self.process = process
        self.args = args
        self.hash = HashBytes(place.device, *_range(place, args["range"]))

    def start(self, task: Task) -> Outcome:
        """Read the range."""
        del task
        return Enter(self.hash, "done")

    def done(self, task: Task) -> Outcome:
        """Remember or compare."""
        if isinstance(self.result, int):
            return Return(self.result)
        got: str = self.result
        world, args = self.process.world, self.args
        if "as" in args:
            task.engine.note(task.name, f"sha256 {args['target']}: {got}")
            if args["as"] is not None:
                world.digests[args["as"]] = got
            return DONE
        name = args["same_as"]
        if name is not None and name not in world.digests:
            _not_met(self.process, f"nothing was remembered under the name {name}")
        elif name is not None and world.digests[name] != got:
            _not_met(self.process, f"the sha256 of {args['target']} differs from {name}: "
                                   f"{got}, not {world.digests[name]}")
        if args["value"] is not None and args["value"].lower() != got:
            _not_met(self.process, f"the sha256 of {args['target']} is {got}, not {args['value']}")
        return DONE


class ExpectSame(Frame):
    """Read two devices piece by piece; the first difference is reported."""

    def __init__(self, process: ProcessTask, args: dict[str, Any]) -> None:
        self.process = process
        self.names = (args["first"], args["second"])
        self.places = [process.world.place(name) for name in self.names]
        lengths = {_range(place, args["range"])[1] for place in self.places}
        self.offset = 0 if args["range"] is None else args["range"][0]
        self.end = self.offset + min(lengths)
        self.sizes_differ = len(lengths) > 1
        self.data = b""

    def start(self, task: Task) -> Outcome:
        """Read the next piece of the first one."""
        del task
        if self.sizes_differ:
            sizes = " and ".join(f"{place.size // SECTOR_BYTES}" for place in self.places)
            _not_met(self.process, f"{' and '.join(self.names)} have {sizes} sectors")
            return DONE
        if self.offset >= self.end:
            return DONE
        return Enter(self._read(0), "other")

    def _read(self, which: int) -> Frame:
        place = self.places[which]
        return ReadBytes(place.device, place.base + self.offset, min(_PIECE_BYTES, self.end - self.offset))

    def other(self, task: Task) -> Outcome:
        """Read the same piece of the second one."""
        del task
        if isinstance(self.result, int):
            return Return(self.result)
        self.data = self.result
        return Enter(self._read(1), "compare")

    def compare(self, task: Task) -> Outcome:
        """Look for a difference; others may run before the next piece."""
        del task
        if isinstance(self.result, int):
            return Return(self.result)
        first, second, self.data = self.data, self.result, b""
        self.result = None
        for at in range(0, len(first), SECTOR_BYTES):
            one, two = first[at:at + SECTOR_BYTES], second[at:at + SECTOR_BYTES]
            if one != two:
                _not_met(self.process, f"{self.names[0]} and {self.names[1]} differ at byte {self.offset + at}: "
                                       f"{sector_words(one)} and {sector_words(two)}")
                return DONE
        self.offset += len(first)
        return Goto("start")


class ExpectContent(Frame):
    """Read a range and compare it with a pattern, or with zeros.

    The pattern may begin with any sector of its text, so a part of what was written can be looked at.
    """

    def __init__(self, process: ProcessTask, place: Place, args: dict[str, Any]) -> None:
        self.process = process
        self.args = args
        self.read = ReadBytes(place.device, place.base + args["at"], args["size"])

    def start(self, task: Task) -> Outcome:
        """Read it."""
        del task
        return Enter(self.read, "done")

    def done(self, task: Task) -> Outcome:
        """Compare it, sector by sector."""
        del task
        if isinstance(self.result, int):
            return Return(self.result)
        got: bytes = self.result
        pattern = self.args["pattern"]
        wanted = bytes(len(got)) if pattern is None else stream(pattern, _first(got, pattern), len(got))
        for at in range(0, len(got), SECTOR_BYTES):
            one, two = got[at:at + SECTOR_BYTES], wanted[at:at + SECTOR_BYTES]
            if one != two:
                _not_met(self.process, f"{self.args['target']} at byte {self.args['at'] + at} holds "
                                       f"{sector_words(one)}, not {sector_words(two)}")
                break
        return DONE


def _first(got: bytes, pattern: str) -> int:
    """From which byte of the pattern's text on ``got`` might be."""
    number = got[len(pattern.encode()):SECTOR_BYTES].removeprefix(b" sector ").split(b" ", 1)[0]
    return int(number) * SECTOR_BYTES if number.isdigit() and len(number) <= 18 else 0


def _sha256(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return ExpectHash(process, process.world.place(args["target"]), args)


def _expect_same(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return ExpectSame(process, args)


def _expect_content(process: ProcessTask, args: dict[str, Any]) -> Frame:
    return ExpectContent(process, process.world.place(args["target"]), args)


def _expect_lines(process: ProcessTask, args: dict[str, Any], *, table: bool) -> int:
    """Compare lines word by word: names stand for numbers, and blanks do not count."""
    stack = process.world.stack
    md = stack.devices.get(args["device"])
    what = "table" if table else "status"
    if md is None:
        _not_met(process, f"there is no device {args['device']}")
        return 0
    numbers = {device.name: device.number for device in stack.everything()}
    got = status_lines(md, table=table)
    wanted = [line.split() for line in args["text"].splitlines() if line.strip()]
    wanted = [line[:3] + [numbers.get(word, word) for word in line[3:]] for line in wanted]
    if [line.split() for line in got] != wanted:
        shown = "; ".join(process.world.with_names(line) for line in got) or "empty"
        _not_met(process, f"the {what} of {args['device']} is `{shown}`, not `{args['text']}`")
    return 0


def _expect_status(process: ProcessTask, args: dict[str, Any]) -> int:
    return _expect_lines(process, args, table=False)


def _expect_table(process: ProcessTask, args: dict[str, Any]) -> int:
    return _expect_lines(process, args, table=True)


def _expect_state(process: ProcessTask, args: dict[str, Any]) -> int:
    md = process.world.stack.devices.get(args["device"])
    state = "ABSENT" if md is None else "SUSPENDED" if md.suspended else "ACTIVE"
    if state != args["state"]:
        _not_met(process, f"{args['device']} is {state}, not {args['state']}")
    return 0


def _expect_events(process: ProcessTask, args: dict[str, Any]) -> int:
    md = process.world.stack.devices.get(args["device"])
    if md is None:
        _not_met(process, f"there is no device {args['device']}")
    elif md.event_nr != args["count"]:
        _not_met(process, f"the event number of {args['device']} is {md.event_nr}, not {args['count']}")
    return 0


EXPECTATION_OPERATIONS: Final = (
    OperationType("sha256", signature(
        pos("target", Kind.TARGETABLE), pos("range", Kind.RANGE, default=None), opt("as", Kind.WORD),
    ), "Read a range and remember its sha256 under a name.", _sha256, violates=NO_IO_ERROR),
    OperationType("expect-sha256", signature(
        pos("target", Kind.TARGETABLE), pos("range", Kind.RANGE, default=None),
        opt("same-as", Kind.WORD), opt("value", Kind.TEXT),
    ), "The sha256 of a range equals a remembered or a given one.", _sha256, violates=NO_IO_ERROR),
    OperationType("expect-same", signature(
        pos("first", Kind.TARGETABLE), pos("second", Kind.TARGETABLE), pos("range", Kind.RANGE, default=None),
    ), "Two devices have the same contents in a range.", _expect_same, violates=NO_IO_ERROR),
    OperationType("expect-content", signature(
        pos("target", Kind.TARGETABLE), opt("at", Kind.SIZE, 0), opt("size", Kind.SIZE, 512),
        opt("pattern", Kind.TEXT),
    ), "A range was filled with this pattern; no pattern: zeros.", _expect_content, violates=NO_IO_ERROR),
    OperationType("expect-status", signature(
        pos("device", Kind.DEVICE), pos("text", Kind.TEXT),
    ), "The device's status line; names stand for major:minor.", _expect_status),
    OperationType("expect-table", signature(
        pos("device", Kind.DEVICE), pos("text", Kind.TEXT),
    ), "The device's table line; names stand for major:minor.", _expect_table),
    OperationType("expect-state", signature(
        pos("device", Kind.DEVICE), pos("state", Kind.WORD, choices=("ACTIVE", "SUSPENDED", "ABSENT")),
    ), "What `dmsetup info` calls the device's state.", _expect_state),
    OperationType("expect-events", signature(
        pos("device", Kind.DEVICE), pos("count", Kind.COUNT),
    ), "The device's event number.", _expect_events),
)
