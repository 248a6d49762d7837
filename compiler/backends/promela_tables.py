"""What a scenario has, for a Promela model: its names as numbers, its tables as macros.

A table is known by a number, so that a device's live and inactive table are a byte each; what a table is (a
mirror of which legs, a linear one on what) never changes and is a macro of that number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dmspec.compiler.kernel import natural_length
from dmspec.runtime.eras import Era
from dmspec.runtime.plan import Plan

KINDS: Final = ("linear", "snapshot-origin", "snapshot", "mirror", "zero", "error", "raid")
_KIND_WORDS: Final = {"snapshot-origin": "ORIGIN", "raid": "MIRROR"}
MOST_LEGS: Final = 8  # a byte has as many bits
ERA_FLAGS: Final = (
    "holds_failed_writes", "flush_suspend_fails_held", "log_failure_blocks_only_handled", "flushes_reach_legs",
    "snapshot_handover", "empty_device_waits")


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a device or disk that a table writes to; ``end`` is ``None`` where its length is not known."""

    name: str
    start: int
    end: int | None

    def meets(self, other: Area) -> bool:
        """Whether both have a sector in common."""
        return self.name == other.name and (self.end is None or other.start < self.end) and (
            other.end is None or self.start < other.end)


@dataclass(frozen=True, slots=True)
class Table:
    """One table.  ``lower`` is what a linear one, an origin or a snapshot lies on; ``line`` is the kernel's."""

    line: str
    kind: str
    lower: str = ""
    cow: str = ""
    legs: tuple[str, ...] = ()
    log: str = ""
    features: frozenset[str] = frozenset()
    writes: tuple[Area, ...] = ()

    @property
    def below(self) -> list[str]:
        """Every device or disk that it names."""
        return [name for name in (self.lower, self.cow, *self.legs, self.log) if name]


class NotInTheModel(Exception):
    """The text says what a model cannot have."""


def parse_table(lines: Iterable[str], sizes: dict[str, int]) -> Table:
    """Read a table; raises :class:`NotInTheModel`."""
    lines = list(lines)
    if len(lines) != 1:
        raise NotInTheModel(f"a table of {len(lines)} segments: the model has devices of one")
    words = lines[0].split()
    if len(words) < 3 or words[2] not in KINDS:
        target = words[2] if len(words) > 2 else lines[0]
        raise NotInTheModel(f"the target {target!r}: the model has {', '.join(KINDS)}")
    kind, params = words[2], words[3:]
    length = int(words[1]) if words[1].isdigit() else natural_length(kind, params, sizes)
    try:
        return _of_kind(lines[0], kind, params, length)
    except (ValueError, IndexError):
        raise NotInTheModel(f"a table that the kernel would refuse: {lines[0]}") from None


def _of_kind(line: str, kind: str, params: list[str], length: int | None) -> Table:
    def area(name: str, start: int) -> Area:
        return Area(name, start, None if length is None else start + length)

    if kind in ("zero", "error"):
        return Table(line, kind)
    if kind == "linear":
        return Table(line, kind, lower=params[0], writes=(area(params[0], int(params[1])),))
    if kind == "snapshot-origin":
        return Table(line, kind, lower=params[0], writes=(area(params[0], 0),))
    if kind == "snapshot":
        return Table(line, kind, lower=params[0], cow=params[1], writes=(Area(params[1], 0, None),))
    if kind == "raid":
        return _raid(line, params, length)
    count = int(params[1])
    log = params[2] if params[0] == "disk" else ""
    rest = params[2 + count:]
    legs = tuple(rest[1 + 2 * leg] for leg in range(int(rest[0])))
    offsets = [int(rest[2 + 2 * leg]) for leg in range(int(rest[0]))]
    if len(legs) > MOST_LEGS:
        raise NotInTheModel(f"a mirror of {len(legs)} legs: the model has at most {MOST_LEGS}")
    areas = tuple(area(name, start) for name, start in zip(legs, offsets, strict=True))
    return Table(line, kind, legs=legs, log=log, features=frozenset(rest[2 + 2 * len(legs):]), writes=areas)


def _raid(line: str, params: list[str], length: int | None) -> Table:
    """A raid1 is a mirror that drops a leg by itself and holds nothing; its metadata devices are left out."""
    if params[0] != "raid1":
        raise NotInTheModel(f"a raid of level {params[0]}: the model has raid1")
    rest = params[2 + int(params[1]):]
    legs = tuple(rest[2 + 2 * leg] for leg in range(int(rest[0])))
    if "-" in legs or len(legs) > MOST_LEGS:
        raise NotInTheModel(f"a raid that lacks a leg, or has more than {MOST_LEGS}")
    areas = tuple(Area(name, 0, length) for name in legs)
    return Table(line, "raid", legs=legs, features=frozenset({"keep_log"}), writes=areas)


@dataclass
class Names:
    """Everything that has a number in the model, in the order of the numbers."""

    disks: list[str]
    devices: list[str] = field(default_factory=list)
    filesystems: dict[str, str] = field(default_factory=dict)
    locks: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    macros: dict[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: Plan) -> Names:
        """What the plan declares, without its tables."""
        return cls([disk.name for disk in plan.disks], [device.name for device in plan.devices],
                   {one.name: one.device for one in plan.filesystems}, [lock.name for lock in plan.locks],
                   sizes={disk.name: disk.sectors for disk in plan.disks})

    def add_device(self, name: str) -> None:
        """A device that a process creates."""
        if name not in self.devices:
            self.devices.append(name)

    def add_table(self, device: str, lines: Iterable[str]) -> str:
        """The macro of a table, and note the device's size; the same table has the same number."""
        table = parse_table(lines, self.sizes)
        if table not in self.tables:
            self.tables.append(table)
        words = table.line.split()
        length = int(words[1]) if words[1].isdigit() else natural_length(words[2], words[3:], self.sizes)
        if length is not None:
            self.sizes.setdefault(device, length)
        return f"TABLE_{self.tables.index(table) + 1}"

    def check(self) -> Iterator[str]:
        """What the model cannot have among the tables, in words."""
        for table in self.tables:
            for leg in [*table.legs, table.log]:
                if leg in self.devices:
                    yield f"a mirror whose leg or log {leg} is a mapped device: the model's are disks"
            for name in table.below:
                if name not in self.devices and name not in self.disks:
                    yield f"a table on {name}, which is neither a disk nor a device of this scenario"

    def macro(self, kind: str, name: str) -> str:
        """What a thing is called in the model: ``DEV_VOL_REAL``; never the same for two things."""
        made = self.macros.get((kind, name))
        if made is None:
            plain = "".join(char.upper() if char.isascii() and char.isalnum() else "_" for char in name)
            made = wanted = f"{kind}_{plain}"
            number = 2
            while made in self.macros.values():
                made, number = f"{wanted}_{number}", number + 1
            self.macros[kind, name] = made
        return made

    def device(self, name: str) -> str:
        """The macro of a device."""
        return self.macro("DEV", name)

    def disk(self, name: str) -> str:
        """The macro of a disk."""
        return self.macro("DISK", name)

    def place(self, name: str) -> str:
        """Where a bio can go: a device, or a disk behind the devices."""
        return f"AT({self.disk(name)})" if name in self.disks else self.device(name)


def declarations(names: Names, era: Era, awaited: Iterable[str]) -> str:
    """The macros of one scenario."""
    lines = ["/* ---- What there is " + "-" * 86 + " */", ""]
    lines += _numbers("DEVICES", [names.device(one) for one in names.devices])
    lines += _numbers("DISKS", [names.disk(one) for one in names.disks])
    lines += ["#define AT(disk) (DEVICES + disk)           /* a bio's place: disks come behind the devices */", ""]
    filesystems = list(names.filesystems)
    lines += _numbers("FILESYSTEMS", [names.macro("FS", one) for one in filesystems])
    lines += ["#define NO_FILESYSTEM 255"]
    lines += _choice("MOUNTED(f)", "f", [(names.macro("FS", one), names.place(names.filesystems[one]))
                                         for one in filesystems], "0")
    lines += _choice("FILESYSTEM_ON(d)", "d", [
        (names.device(device), names.macro("FS", one)) for one, device in names.filesystems.items()
        if device in names.devices], "NO_FILESYSTEM")
    lines += ["", *_numbers("LOCKS", [names.macro("LOCK", one) for one in names.locks])]
    lines += [*_tables(names), ""]
    depth = max(len(names.devices), 1)
    lines += [f"#define DEPTH {depth}                              /* of the deepest stack */",
              "#define AWAITED(d) (" + (" || ".join(f"d == {names.device(one)}" for one in awaited) or "false") + ")",
              "", f"/* The kernel: {era.name} */"]
    lines += [f"#define {flag.upper()} {str(bool(getattr(era, flag))).lower()}" for flag in ERA_FLAGS]
    lines += ["", "#define OK 0", *_errnos(), "#define REQUEUE 255", "#define NOFLUSH 1", "#define NOLOCKFS 2",
              "#define READS 1", "#define WRITES 2",
              "#define FAILS(disk, how) (failing[disk] & (how == READ -> READS : WRITES))"]
    return "\n".join(lines)


def _errnos() -> Iterator[str]:
    import errno

    for name in ("EIO", "ENXIO", "EBUSY", "EINVAL", "ETIME"):
        yield f"#define {name} {getattr(errno, name)}"


def _numbers(total: str, macros: list[str]) -> list[str]:
    """Numbers from 0; an array has at least one element, also where there is nothing."""
    return [*(f"#define {macro} {number}" for number, macro in enumerate(macros)),
            f"#define {total} {max(len(macros), 1)}"]


def _choice(head: str, on: str, cases: list[tuple[str, str]], otherwise: str) -> list[str]:
    """A macro that answers by cases."""
    if not cases:
        return [f"#define {head} {otherwise}"]
    lines = [f"#define {head} \\"]
    lines += [f"    (({on}) == {case} -> {answer} : \\" for case, answer in cases]
    return [*lines, f"    {otherwise}" + ")" * len(cases)]


def _tables(names: Names) -> Iterator[str]:
    """The tables and what there is to know of each."""
    yield ""
    yield "#define NO_TABLE 0"
    for number, table in enumerate(names.tables, 1):
        yield f"#define TABLE_{number} {number}    /* {table.line.replace('*/', '')} */"
    for number, word in enumerate(dict.fromkeys(_word(kind) for kind in KINDS), 1):
        yield f"#define {word} {number}"
    yield "#define NO_DISK 255"

    def cases(value: Callable[[Table], Any]) -> list[tuple[str, str]]:
        found = [(f"TABLE_{number}", value(table)) for number, table in enumerate(names.tables, 1)]
        return [(name, str(one)) for name, one in found if one]

    yield from _choice("KIND(t)", "t", cases(lambda one: _word(one.kind)), "0")
    yield from _choice("LOWER(t)", "t", cases(lambda one: one.lower and names.place(one.lower)), "0")
    yield from _choice("COW(t)", "t", cases(lambda one: one.cow and names.place(one.cow)), "0")
    yield from _choice("ALL_LEGS(t)", "t", cases(lambda one: (1 << len(one.legs)) - 1), "0")
    yield from _choice("LOG(t)", "t", cases(lambda one: one.log and names.disk(one.log)), "NO_DISK")
    yield from _choice("HANDLES_ERRORS(t)", "t", cases(lambda one: "handle_errors" in one.features and "true"), "false")
    yield from _choice("STOPS_RECOVERY(t)", "t", cases(lambda one: one.kind == "mirror" and "true"), "false")
    yield from _choice("KEEPS_LOG(t)", "t", cases(lambda one: "keep_log" in one.features and "true"), "false")
    yield from _choice("BELOW_EXISTS(t)", "t", cases(lambda one: _exist(names, one)), "true")
    yield _either("NAMES(t, d)", [
        f"((t) == TABLE_{number} && (d) == {names.device(one)})" for number, table in enumerate(names.tables, 1)
        for one in table.below if one in names.devices])
    legs = [f"((t) == TABLE_{number} && (leg) == {leg} && FAILS({names.disk(disk)}, how))"
            for number, table in enumerate(names.tables, 1) for leg, disk in enumerate(table.legs)]
    yield _either("LEG_FAILS(t, leg, how)", legs)
    yield _either("OVERLAP(t, u)", [
        f"((t) == TABLE_{one} && (u) == TABLE_{other})" for one, first in enumerate(names.tables, 1)
        for other, second in enumerate(names.tables, 1)
        if any(area.meets(there) for area in first.writes for there in second.writes)])
    snapshots = any(table.kind == "snapshot" for table in names.tables)
    yield _either("COPIES_FOR(o)", [
        f"(KIND(live[{names.device(device)}]) == SNAPSHOT && LOWER(live[{names.device(device)}]) == (o))"
        for device in names.devices] if snapshots else [])


def _word(kind: str) -> str:
    return _KIND_WORDS.get(kind, kind.upper())


def _exist(names: Names, table: Table) -> str:
    return " && ".join(f"exists[{names.device(one)}]" for one in table.below if one in names.devices)


def _either(head: str, cases: list[str]) -> str:
    if not cases:
        return f"#define {head} false"
    return f"#define {head} \\\n    (" + " || \\\n     ".join(cases) + ")"
