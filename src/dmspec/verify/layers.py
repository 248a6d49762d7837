"""How a disk of the guest fails and heals: it is a device-mapper device of its own, over a part of a real disk.

Healthy, it is one ``linear`` segment.  ``fail`` and ``heal`` load another table and resume, without flush and
lockfs, so that what is under way goes on.  The table has a segment for each range with the same faults:

==============================  ======================================================================
what fails there                the segment
==============================  ======================================================================
nothing                         ``linear``
reads, writes and flushes       ``flakey`` that is never up: it answers everything with EIO
writes and flushes              ``flakey`` that is never up, with ``error_writes``
reads and writes, no flushes    ``error``, which is never asked to flush
reads, or writes, no flushes    ``delay`` of 0 ms, whose read or write device is an ``error`` device
==============================  ======================================================================

This is what the emulator's own faults do to a bio.  Names and minor numbers are fixed, so that whatever the
real ``dmsetup`` lists can be foretold: disks have 200 and up, and devices of the case have 0 and up on both sides.
"""

from __future__ import annotations

import itertools
import shlex
from typing import Any, Final

from dmspec.verify.steps import DiskSpec, Step

FIRST_MINOR: Final = 200
FIRST_BROKEN_MINOR: Final = 230
DISK_MAJOR: Final = 98
DM_MAJOR: Final = 254
ALL: Final = frozenset({"read", "write", "flush"})
_KINDS: Final = {"all": ALL, "reads": frozenset({"read"}), "writes": frozenset({"write", "flush"})}

Segment = tuple[int, int, str, str]


class Layer:
    """One disk of the guest: ``sectors`` of ``/dev/ubda`` from ``offset`` on."""

    def __init__(self, disk: DiskSpec, index: int, offset: int) -> None:
        self.disk = disk
        self.offset = offset
        self.minor = FIRST_MINOR + index
        self.broken_minor = FIRST_BROKEN_MINOR + index
        self.broken = f"{disk.name}.broken"
        self.has_broken = False
        self.faults: list[tuple[frozenset[str], int, int]] = []

    @property
    def number(self) -> str:
        """``major:minor`` of the layer, which is what tables above it name."""
        return f"{DM_MAJOR}:{self.minor}"

    def create(self) -> str:
        """The command that makes it; ``create --concise`` with a minor number is refused by the kernel."""
        [(start, length, kind, params)] = self.segments()
        name, table = shlex.quote(self.disk.name), f"{start} {length} {kind} {params}"
        return f"dmsetup create {name} --major {DM_MAJOR} --minor {self.minor} --table '{table}'"

    def strike(self, step: Step) -> list[str]:
        """The commands for a ``fail`` or a ``heal``."""
        if step.op == "heal":
            self.faults.clear()
        else:
            self.faults.append(self._fault(step.args))
        commands = []
        segments = self.segments()
        if any(kind == "delay" for _start, _length, kind, _params in segments) and not self.has_broken:
            self.has_broken = True
            commands.append(f"dmsetup create {shlex.quote(self.broken)} --major {DM_MAJOR} "
                            f"--minor {self.broken_minor} "
                            f"--table '0 {self.disk.sectors} error'")
        name = shlex.quote(self.disk.name)
        lines = " ".join(shlex.quote(" ".join(str(word) for word in one)) for one in segments)
        commands.append(f"printf '%s\\n' {lines} | dmsetup load {name}")
        commands.append(f"dmsetup resume --noflush --nolockfs {name}")
        return commands

    def _fault(self, args: dict[str, Any]) -> tuple[frozenset[str], int, int]:
        kinds = _KINDS[args["what"]]
        if args["range"] is None:
            return kinds, 0, self.disk.sectors
        first, length = args["range"]
        end = -(-(first + max(length, 1)) // 512)
        return kinds - {"flush"}, first // 512, min(end, self.disk.sectors)

    def segments(self) -> list[Segment]:
        """The layer's table now."""
        edges = {0, self.disk.sectors}
        for _kinds, first, end in self.faults:
            edges |= {first, end}
        places = sorted(edge for edge in edges if edge <= self.disk.sectors)
        made: list[Segment] = []
        for first, end in itertools.pairwise(places):
            failing = frozenset[str]().union(*(kinds for kinds, begin, behind in self.faults
                                               if begin <= first and end <= behind))
            made.append((first, end - first, *self._target(failing, first)))
        return made

    def _target(self, failing: frozenset[str], first: int) -> tuple[str, str]:
        place = f"{DISK_MAJOR}:0 {self.offset + first}"
        broken = f"{DM_MAJOR}:{self.broken_minor} {first}"
        if not failing:
            return "linear", place
        if failing == ALL:
            return "flakey", f"{place} 0 1"
        if failing == {"write", "flush"}:
            return "flakey", f"{place} 0 1 1 error_writes"
        if failing == {"read", "write"}:
            return "error", ""
        return "delay", f"{broken} 0 {place} 0" if failing == {"read"} else f"{place} 0 {broken} 0"

    def info_lines(self, open_count: int) -> dict[str, str]:
        """What ``dmsetup info -c`` prints of the layer, by the device's name."""
        segments = self.segments()
        lines = {self.disk.name: f"{self.disk.name}::{self.minor}:{open_count}:{len(segments)}:0:L--w"}
        if self.has_broken:
            users = int(any(kind == "delay" for _start, _length, kind, _params in segments))
            lines[self.broken] = f"{self.broken}::{self.broken_minor}:{users}:1:0:L--w"
        return lines

    def status_lines(self) -> dict[str, list[str]]:
        """What ``dmsetup status`` prints of it."""
        lines = {self.disk.name: [f"{start} {length} {kind} " + ("0 0 0" if kind == "delay" else "")
                                  for start, length, kind, _params in self.segments()]}
        if self.has_broken:
            lines[self.broken] = [f"0 {self.disk.sectors} error "]
        return lines

    def table_lines(self) -> dict[str, list[str]]:
        """What ``dmsetup table`` prints of it; ``flakey`` always says how many features it has."""
        lines = {self.disk.name: [f"{start} {length} {kind} {self._printed(kind, params)}"
                                  for start, length, kind, params in self.segments()]}
        if self.has_broken:
            lines[self.broken] = [f"0 {self.disk.sectors} error "]
        return lines

    @staticmethod
    def _printed(kind: str, params: str) -> str:
        if kind != "flakey":
            return params
        return f"{params} " if "error_writes" in params else f"{params} 0 "
