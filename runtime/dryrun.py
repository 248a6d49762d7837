"""What the kernel would say of a table: the real constructors, on disks that are thrown away."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from . import control
from .backing import SparseMemory
from .eras import Era
from .errors import DmError
from .registry import TARGETS
from .sim import SimEngine
from .stack import Stack
from .table import Table
from .task import Task

TABLE_PREFIX = "device-mapper: table: 254:0: "


def check_table(lines: Sequence[str], sizes: Mapping[str, int | None], era: Era,
                own_name: str = "d") -> list[tuple[int, str, int]]:
    """Every complaint about a table, as ``(index of the line, the kernel's words, errno)``.

    ``sizes`` has every device that the table may name, in sectors; ``None``: a device whose size is
    not known yet, which no range check then asks.  A line that fails is taken for a good one when
    the lines behind it are looked at, so all of them are reported.
    """
    found: list[tuple[int, str, int]] = []
    left = list(lines)
    for _ in range(len(left) + 1):
        complaint = _first_complaint(left, sizes, era, own_name)
        if complaint is None:
            break
        found.append(complaint)
        index = complaint[0]
        try:
            start, length, _kind, _params = control.parse_line(left[index])
        except DmError:
            break
        if complaint[1] == "Gap in table" or start is None or length in (None, 0):
            break
        left[index] = f"{start} {length} error"
    return found


def _first_complaint(lines: list[str], sizes: Mapping[str, int | None], era: Era,
                     own_name: str) -> tuple[int, str, int] | None:
    engine = SimEngine()
    stack = Stack(engine, era, TARGETS)
    for name, sectors in sizes.items():
        if name != own_name:
            stack.add_disk(name, sectors or 0, SparseMemory())
    md = control.create(stack, own_name)
    resolved: list[control.TableLine] = []
    for index, line in enumerate(lines):
        try:
            resolved = control.resolve_lines(stack, lines[:index + 1])
        except DmError as error:
            return _complain_unresolved(stack, line, index, error)
    load = control.Load(md, resolved)
    task = Task(engine, "dry run")
    task.start(load)
    engine.run(limit=1_000_000)
    if not task.ended or task.value == 0:
        return None
    return _complaint(stack, load, -task.value)


def _complain_unresolved(stack: Stack, line: str, index: int, error: DmError) -> tuple[int, str, int] | None:
    """A length that nobody knows is no fault; a line that its target refuses anyway is."""
    try:
        _start, length, kind, params = control.parse_line(line)
    except DmError:
        return index, str(error), error.errno
    if length is not None:
        return index, str(error), error.errno
    md = stack.devices[next(iter(stack.devices))]
    load = control.Load(md, [(0, 1 << 20, kind, params)])
    task = Task(stack.engine, "dry run")
    task.start(load)
    assert isinstance(stack.engine, SimEngine)
    stack.engine.run(limit=1_000_000)
    if task.ended and isinstance(task.value, int) and task.value < 0 and not isinstance(load.result, Table):
        return index, _complaint(stack, load, -task.value)[1], -task.value
    return None


def _complaint(stack: Stack, load: control.Load, error: int) -> tuple[int, str, int]:
    said = [text for _level, text in stack.log_lines if "ioctl:" not in text and "core:" not in text]
    words = said[-1].removeprefix(TABLE_PREFIX) if said else ""
    for noise in (f" (-{errno.errorcode.get(error, error)})",):
        words = words.removesuffix(noise)
    kind, _, rest = words.partition(": ")
    if rest and kind in TARGETS:
        words = rest
    why = [text.partition(": ")[2] for text in said[:-1] if "dirty region log" in text or "snapshot" in text]
    if why:
        words += f" ({why[-1]})"
    index = min(load.load.index, len(load.load.lines) - 1)
    return index, words or errno.errorcode.get(error, str(error)), error
