"""Read what the guest printed, and say where it differs from what the emulator did.

What is not compared, and why:

* the kernel's log: when a line comes is a matter of timing, and ``tests/kernel`` compares it with recordings;
* ``Device X not found`` and a missing ``/dev/mapper/X`` are both ENXIO here: which of them a tool says depends on
  whether it asks device-mapper or opens the node, and the emulator's operations know one answer;
* what a failed read left behind;
* the counts of writes in raid metadata (:data:`MASKED`).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from dmspec.runtime.byte_io import differing_sectors, sector_words
from dmspec.runtime.errors import errno_name
from dmspec.runtime.units import SECTOR_BYTES
from dmspec.verify.layers import Layer
from dmspec.verify.script import Placed, guest_view
from dmspec.verify.steps import Played

AT_END: Final = -1
# Sectors that begin with these words have bytes, from and to, that are not compared.
MASKED: Final = {
    # md counts how often it wrote the superblocks (dm-raid's own, and the bitmap's), and writes them by timers too.
    b"DmRd": (16, 24),
    b"bitm": (24, 40),
}
BITMAP_SIZES: Final = struct.Struct("<QII")
_ERRORS: Final = {os.strerror(number): errno_name(number) for number in errno.errorcode}


@dataclass(frozen=True, slots=True)
class Difference:
    """``step`` is the number of a step, or :data:`AT_END`; ``what`` is what differs."""

    case: str
    step: int
    words: str
    line: int
    what: str
    kernel: str
    ours: str


@dataclass(slots=True)
class Told:
    """What the guest printed about one step.  ``view`` is ``None`` where it was as expected."""

    status: int = 0
    text: list[str] = field(default_factory=list)
    view: list[str] | None = None
    looked: bool = False

    @property
    def error(self) -> str:
        """The errno's name, or what was said where no errno can be found in it."""
        return error_of(self.status, self.text)


@dataclass(slots=True)
class Report:
    """What the guest printed about one case.  ``clean``: it came to its end, and all could be removed."""

    steps: dict[int, Told] = field(default_factory=dict)
    ended: dict[int, Told] = field(default_factory=dict)
    contents: dict[str, Told] = field(default_factory=dict)
    last: Told = field(default_factory=Told)
    before: list[str] = field(default_factory=list)
    complete: bool = False
    clean: bool = False


def error_of(status: int, text: list[str]) -> str:
    """The errno that a tool reports."""
    if not status:
        return ""
    for line in text:
        if line.endswith("not found"):
            return "ENXIO"
        for message, name in _ERRORS.items():
            if line == message or line.endswith(f": {message}"):
                return name
    return f"exit {status}: {' / '.join(text)}"


def parse(output: str) -> dict[int, Report]:
    """The reports by the number of the case."""
    reports: dict[int, Report] = {}
    report = Report()
    told = Told()
    lines: list[str] = report.before
    for line in output.splitlines():
        word, _space, rest = line.partition(" ")
        if word == "@case":
            report = reports[int(rest)] = Report()
            lines = report.before
        elif word == "@step":
            told = report.steps[int(rest)] = Told()
            lines = told.text
        elif word == "@failed":
            told.status = int(rest)
        elif word == "@view":
            told.looked, told.view = True, []
            lines = told.view
        elif word == "@as-expected":
            told.looked = True
        elif word == "@last":
            told = report.last
        elif word == "@ended":
            number, status = rest.split()
            told = report.ended[int(number)] = Told(int(status))
            lines = told.text
        elif word == "@contents":
            told = report.contents[rest] = Told()
            lines = told.text
        elif word in ("@clean", "@dirty"):
            report.complete, report.clean = True, word == "@clean"
        elif not word.startswith("@"):
            lines.append(line)
    return reports


class Comparison:
    """One case: the emulator's side, and the guest's report.  ``read`` gives bytes of ubdc."""

    def __init__(self, placed: Placed, report: Report, read: Callable[[int, int], bytes]) -> None:
        self.placed = placed
        self.played: Played = placed.played
        self.report = report
        self.read = read
        self.layers = [Layer(disk, index, placed.disks[disk.name] // SECTOR_BYTES)
                       for index, disk in enumerate(self.played.case.disks)]

    def differences(self) -> list[Difference]:
        """All of them, in the order of the steps."""
        found = [self._difference(AT_END, "the guest's preparation", line, "") for line in self.report.before]
        for number in range(len(self.played.steps)):
            if self.played.steps[number].op in ("fail", "heal"):
                self._layer(number)
            found += self._step(number)
            if number not in self.report.steps or not self.report.steps[number].looked:
                return found
        if self.report.last.view is not None:
            found += self._views(AT_END, self.report.last.view, self.played.last)
        if self.report.complete:
            found += self._contents()
        return found

    def _layer(self, number: int) -> None:
        step = self.played.steps[number]
        next(one for one in self.layers if one.disk.name == step.args["disk"]).strike(step)

    def _difference(self, number: int, what: str, kernel: str, ours: str) -> Difference:
        if number == AT_END:
            return Difference(self.played.case.name, AT_END, "at the end", 0, what, kernel, ours)
        step = self.played.steps[number]
        return Difference(self.played.case.name, number, str(step), step.line, what, kernel, ours)

    def _step(self, number: int) -> Iterator[Difference]:
        seen = self.played.seen[number]
        told = self.report.steps.get(number)
        if told is None:
            yield self._difference(number, "the guest", "it did not come to this step", str(seen.outcome))
            return
        ours = str(seen.outcome)
        kernel = told.error or "done"
        if f"{number}:-" in seen.view:
            ended = self.report.ended.get(number)
            kernel = "blocked" if ended is None else ended.error or "done"
        if not told.looked:
            kernel = "blocked: the guest did not come further"
        if kernel != ours:
            yield self._difference(number, "outcome", kernel, ours)
        elif number in self.placed.reads and kernel == "done" and seen.outcome.data is not None:
            data = self.read(self.placed.reads[number], len(seen.outcome.data))
            yield from self._bytes(number, "what was read", data, seen.outcome.data)
        if told.view is not None:
            yield from self._views(number, told.view, seen.view)

    def _views(self, number: int, kernel: list[str], ours: list[str]) -> Iterator[Difference]:
        """Two views, line by line: lines that only one of them has."""
        expected = guest_view(ours, self.layers).splitlines()
        names = _names(kernel) | _names(expected)
        for section, theirs, own in _sections(kernel, expected):
            only_kernel = [line for line in theirs if line not in own]
            only_ours = [line for line in own if line not in theirs]
            for index in range(max(len(only_kernel), len(only_ours))):
                pair = [_with_names(lines[index], names) if index < len(lines) else "(nothing)"
                        for lines in (only_kernel, only_ours)]
                yield self._difference(number, section, *pair)

    def _contents(self) -> Iterator[Difference]:
        for name, (ours, error) in self.played.contents.items():
            told = self.report.contents.get(name, Told(1, ["it was not read"]))
            if (told.error or "") != error:
                yield self._difference(AT_END, f"reading {name}", told.error or "done", error or "done")
            else:
                yield from self._bytes(AT_END, f"contents of {name}",
                                       self.read(self.placed.contents[name], len(ours)), ours)

    def _bytes(self, number: int, what: str, kernel: bytes, ours: bytes) -> Iterator[Difference]:
        differing = [] if kernel == ours else [
            sector for sector in differing_sectors(kernel, ours)
            if _masked(kernel, sector * SECTOR_BYTES) != _masked(ours, sector * SECTOR_BYTES)]
        if differing:
            at = differing[0] * SECTOR_BYTES
            place = f"{what}, {len(differing)} sectors differ, the first is {differing[0]}"
            yield self._difference(number, place, *_unlike(_masked(kernel, at), _masked(ours, at)))


def _masked(data: bytes, at: int) -> bytes:
    """A sector without what is not compared in it."""
    sector = bytearray(data[at:at + SECTOR_BYTES])
    first, end = MASKED.get(bytes(sector[:4]), (0, 0))
    sector[first:end] = bytes(end - first)
    if sector.startswith(b"bitm"):
        # md clears the marks of regions by a timer (daemon_sleep, 5 s), so which are left depends on when one looks.
        array_sectors, _state, region_bytes = BITMAP_SIZES.unpack_from(sector, 40)
        regions = -(-array_sectors * SECTOR_BYTES // max(region_bytes, 1))
        sector[256:256 + -(-regions // 8)] = bytes(min(-(-regions // 8), SECTOR_BYTES - 256))
    return bytes(sector)


def _unlike(kernel: bytes, ours: bytes) -> tuple[str, str]:
    """Two sectors in words; where those are the same, from the byte on at which they differ."""
    if sector_words(kernel) != sector_words(ours):
        return sector_words(kernel), sector_words(ours)
    at = next(at for at in range(len(kernel)) if kernel[at] != ours[at])
    return tuple(f"from byte {at} on 0x{one[at:at + 16].hex()}" for one in (kernel, ours))  # type: ignore[return-value]


def _names(view: list[str]) -> dict[str, str]:
    """Device numbers and the names they have in a view."""
    found: dict[str, str] = {}
    for section, lines, _none in _sections(view, []):
        if section == "info":
            found |= {f"254:{line.split(':')[2]}": line.split(":")[0] for line in lines if line.count(":") >= 6}
    return found


def _with_names(line: str, names: dict[str, str]) -> str:
    return " ".join(names.get(word, word) for word in line.split(" ")).rstrip()


def _sections(first: list[str], second: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    parts = [_split(view) for view in (first, second)]
    for section in ("status", "info", "table", "inactive", "steps"):
        yield section, parts[0].get(section, []), parts[1].get(section, [])


def _split(view: list[str]) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in view:
        if line in ("status", "info", "table", "inactive", "steps"):
            lines = parts[line] = []
        else:
            lines.append(line)
    return parts
