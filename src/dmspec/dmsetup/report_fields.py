"""The columns of `dmsetup info -c`: their names, headings, widths, and where a value comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dmspec.dmsetup import names
from dmspec.dmsetup.task import Answer, Session, Task
from dmspec.dmsetup.tree import Tree
from dmspec.runtime import ioctl_format as form


@dataclass
class Row:
    """What a line is about: a device, or a name that is only taken apart."""

    session: Session
    answer: Answer | None = None
    split: tuple[str, str, str, str] = ("", "", "", "")
    tree: Tree | None = None
    _deps: list[int] | None = field(default=None)

    @property
    def header(self) -> form.Header:
        """The device's answer to the kernel's question."""
        assert self.answer is not None
        return self.answer.header

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor."""
        return form.decode_dev(self.header.dev)

    def deps(self) -> list[tuple[int, int]]:
        """The numbers of the devices that it uses."""
        if self._deps is None:
            answer = self.session.run(Task("deps", major=self.number[0], minor=self.number[1]))
            size = answer.header.data_size
            self._deps = form.read_deps(answer.data[:size], answer.header.data_start) if size > 312 else []
        return [form.decode_dev(dev) for dev in self._deps]

    def node(self, *, inverted: bool) -> list[tuple[tuple[int, int], str]]:
        """Its neighbours in the tree of dependencies: number and name."""
        assert self.tree is not None
        node = self.tree.nodes[self.number]
        return [(one.number, one.name) for one in (node.used_by if inverted else node.uses)]


@dataclass(frozen=True)
class Field:
    """One column.  ``needs``: what has to be found out first."""

    name: str
    heading: str
    width: int
    value: Callable[[Row], str]
    doc: str
    numeric: bool = False
    needs: str = ""


def split_lvm_name(name: str) -> tuple[str, str, str]:
    """Volume group, logical volume and layer: parts between single hyphens; a doubled one stands for itself."""
    parts = [""]
    position = 0
    while position < len(name):
        char = name[position]
        if char == "-" and position + 1 < len(name) and len(parts) <= 3:
            if name[position + 1] != "-":
                parts.append("")
                position += 1
                continue
            position += 1
        parts[-1] += char
        position += 1
    parts += ["", "", ""]
    return parts[0], parts[1], parts[2]


def read_ahead(session: Session, header: form.Header) -> int | None:
    """What sysfs, else the device's node, says, in sectors; without both the error of opening it is said."""
    number = form.decode_dev(header.dev)
    block = next((one for one in session.blocks() if (one.major, one.minor) == number), None)
    if block is not None and block.set_up:
        return block.read_ahead
    problem = "No such device or address" if block is not None and block.node else "No such file or directory"
    session.error(f"/dev/mapper/{header.name}: open failed: {problem}")
    return None


def _attributes(row: Row) -> str:
    flags = row.header.flags
    letters = ("L" if flags & form.ACTIVE_PRESENT else "-", "I" if flags & form.INACTIVE_PRESENT else "-",
               "s" if flags & form.SUSPEND else "-", "r" if flags & form.READONLY else "w")
    return "".join(letters)


def _tables(row: Row) -> str:
    flags = row.header.flags
    live, inactive = flags & form.ACTIVE_PRESENT, flags & form.INACTIVE_PRESENT
    return "Both" if live and inactive else "Live" if live else "Inactive" if inactive else "None"


def _kernel_name(row: Row, number: tuple[int, int]) -> str:
    return row.session.device_name(*number, kernel=True) or ""


def _numbers(numbers: list[tuple[int, int]]) -> str:
    return ",".join(f"{major}:{minor}" for major, minor in numbers)


def _names(row: Row, *, inverted: bool) -> str:
    return ",".join(name for _number, name in row.node(inverted=inverted) if name)


def _name(row: Row) -> str:
    assert row.answer is not None
    return row.answer.name


def _uuid(row: Row) -> str:
    assert row.answer is not None
    return row.answer.uuid


def _count(number: int) -> str:
    return str(number - (1 << 32) if number >= 1 << 31 else number)


NAME_FIELDS: Final = (
    Field("name", "Name", 16, _name, "What the device is called."),
    Field("mangled_name", "MangledName", 16, lambda row: names.mangle(row.header.name, "name", "auto"),
          "Its name as udev takes it, other characters encoded."),
    Field("unmangled_name", "UnmangledName", 16, lambda row: names.unmangle(row.header.name, "auto"),
          "Its name with the encoded characters as they are meant."),
    Field("uuid", "UUID", 32, _uuid, "Its uuid, where it has one."),
    Field("mangled_uuid", "MangledUUID", 32, lambda row: names.mangle(row.header.uuid, "UUID", "auto"),
          "Its uuid, other characters encoded."),
    Field("unmangled_uuid", "UnmangledUUID", 32, lambda row: names.unmangle(row.header.uuid, "auto"),
          "Its uuid with the encoded characters as they are meant."),
    Field("read_ahead", "RAhead", 6, lambda row: str(read_ahead(row.session, row.header) or 0),
          "How far reads run ahead, in sectors.", numeric=True),
)

INFO_FIELDS: Final = (
    Field("blkdevname", "BlkDevName", 16, lambda row: _kernel_name(row, row.number), "What the kernel calls it: dm-N."),
    Field("attr", "Stat", 4, _attributes,
          "Four letters: a live table L, an inactive one I, suspended s, r or w."),
    Field("tables_loaded", "Tables", 6, _tables, "Which tables it has."),
    Field("suspended", "Suspended", 9, lambda row: "Suspended" if row.header.flags & form.SUSPEND else "Active",
          "Suspended or active."),
    Field("readonly", "Read-only", 9,
          lambda row: "Read-only" if row.header.flags & form.READONLY else "Writeable",
          "Read-only or writeable."),
    Field("devno", "DevNo", 5, lambda row: _numbers([row.number]), "Its number, MAJOR:MINOR."),
    Field("major", "Maj", 3, lambda row: str(row.number[0]), "The first part of its number.", numeric=True),
    Field("minor", "Min", 3, lambda row: str(row.number[1]), "The second part of its number.", numeric=True),
    Field("open", "Open", 4, lambda row: str(row.header.open_count),
          "How often it is open, by programs and by devices.", numeric=True),
    Field("segments", "Targ", 4, lambda row: _count(row.header.target_count),
          "How many segments the live table has.", numeric=True),
    Field("events", "Event", 6, lambda row: str(row.header.event_nr), "How many events there have been.", numeric=True),
)

DEPS_FIELDS: Final = (
    Field("device_count", "#Devs", 5, lambda row: str(len(row.deps())), "How many devices it lies on.",
          numeric=True),
    Field("devs_used", "DevNamesUsed", 16, lambda row: _names(row, inverted=False),
          "The mapped devices that it lies on, by name.", needs="tree"),
    Field("devnos_used", "DevNosUsed", 16, lambda row: _numbers(row.deps()),
          "The devices that it lies on, by number."),
    Field("blkdevs_used", "BlkDevNamesUsed", 16,
          lambda row: ",".join(_kernel_name(row, number) for number in row.deps()),
          "The devices that it lies on, by the kernel's names."),
    Field("device_ref_count", "#Refs", 5, lambda row: str(len(row.node(inverted=True))),
          "How many mapped devices lie on it.", numeric=True, needs="tree"),
    Field("names_using_dev", "RefNames", 8, lambda row: _names(row, inverted=True),
          "The mapped devices that lie on it, by name.", needs="tree"),
    Field("devnos_using_dev", "RefDevNos", 9,
          lambda row: _numbers([number for number, _name in row.node(inverted=True) if any(number)]),
          "The mapped devices that lie on it, by number.", needs="tree"),
)

SPLIT_FIELDS: Final = (
    Field("subsystem", "Subsys", 6, lambda row: row.split[0], "Who has made it, as its uuid says.",
          needs="split"),
    Field("vg_name", "VG", 4, lambda row: row.split[1], "The volume group, from an LVM name.", needs="split"),
    Field("lv_name", "LV", 4, lambda row: row.split[2], "The logical volume, from an LVM name.", needs="split"),
    Field("lv_layer", "LVLayer", 7, lambda row: row.split[3], "The layer below a logical volume, from an LVM name.",
          needs="split"),
)

FIELDS: Final = {one.name: one for one in (*NAME_FIELDS, *INFO_FIELDS, *DEPS_FIELDS, *SPLIT_FIELDS)}
GROUPS: Final = {"name_all": NAME_FIELDS, "info_all": INFO_FIELDS,
                 "deps_all": tuple(one for one in DEPS_FIELDS if not one.needs),
                 "tree_all": tuple(one for one in DEPS_FIELDS if one.needs), "splitname_all": SPLIT_FIELDS}
DEFAULT: Final = "name,major,minor,attr,open,segments,events,uuid"
SPLITNAME: Final = "vg_name,lv_name,lv_layer"

# Columns of statistics are listed by the help and nowhere else: nothing here counts I/O.
STATISTICS: Final = (
    "read_count", "reads_merged_count", "read_sector_count", "read_time", "write_count", "writes_merged_count",
    "write_sector_count", "write_time", "in_progress_count", "io_ticks", "queue_ticks", "read_ticks", "write_ticks",
    "reads_merged_per_sec", "writes_merged_per_sec", "reads_per_sec", "writes_per_sec", "read_size_per_sec",
    "write_size_per_sec", "avg_request_size", "queue_size", "await", "read_await", "write_await", "throughput",
    "service_time", "util", "hist_count", "hist_count_bounds", "hist_count_ranges", "hist_percent",
    "hist_percent_bounds", "hist_percent_ranges", "interval_ns", "interval",
)
REGIONS: Final = (
    "region_id", "region_start", "region_len", "area_id", "area_start", "area_len", "area_offset", "area_count",
    "group_id", "program_id", "user_data", "precise", "hist_bins", "hist_bounds", "hist_ranges", "stats_name",
    "obj_type",
)
_SIZES: Final = frozenset({"region_start", "region_len", "area_start", "area_len", "area_offset"})
_TEXTS: Final = frozenset({"program_id", "user_data", "precise", "stats_name", "obj_type"})


def _described(fields: tuple[Field, ...]) -> list[tuple[str, str, str]]:
    return [(one.name, one.doc, "number" if one.numeric else "string") for one in fields]


def _not_counted(fields: tuple[str, ...]) -> list[tuple[str, str, str]]:
    return [(name, "Of `dmsetup stats`, which is not emulated.",
             "size" if name in _SIZES else "string" if name in _TEXTS or name.startswith("hist_") else "number")
            for name in fields]


def help_lines(*, selecting: bool = False) -> list[str]:
    """What `-o help` prints; with ``selecting`` what `-S` can compare, and as what."""
    lines: list[str] = []
    unselectable = "unselectable number"
    sections = (
        ("Mapped Device Name", "name_all", _described(NAME_FIELDS)),
        ("Mapped Device Information", "info_all", _described(INFO_FIELDS)),
        ("Mapped Device Relationship Information", "deps_all", _described(DEPS_FIELDS)),
        ("Mapped Device Name Components", "splitname_all", _described(SPLIT_FIELDS)),
        ("Mapped Device Statistics", "stats_all", _not_counted(STATISTICS)),
        ("Mapped Device Statistics Region Information", "region_all", _not_counted(REGIONS)),
        ("Special", "", [("selected", "1 for what the selection wants, else 0.", "number"),
                         ("help", "This list.", unselectable), ("?", "This list.", unselectable)]),
    )
    for title, group, fields in sections:
        lines += [f"{title} Fields", "-" * len(f"{title} Fields")]
        if group and not selecting:
            lines.append(f"  {group:21} - All of these.")
        lines += [f"  {name:21} - {doc}{f' [{kind}]' if selecting else ''}" for name, doc, kind in fields]
        lines.append(" ")
    return lines


def selection_help_lines() -> list[str]:
    """What a selection is made of, below the list of columns."""
    return [
        "Selection operands", "------------------",
        "  field               - One of these columns.",
        "  number              - Digits.",
        "  string              - Text, in ' or \" where it has blanks.",
        "  regular expression  - Text, in ' or \" where it has blanks.",
        " ",
        "Selection operators", "-------------------",
        "  Comparison operators:",
        "        =~  - The text has this in it. [regex]",
        "        !~  - The text does not have this in it. [regex]",
        "         =  - The same. [number, string]",
        "        !=  - Another. [number, string]",
        *(f"{compare:>10}  - {word}. [number]" for compare, word in (
            (">=", "Not less"), (">", "More"), ("<=", "Not more"), ("<", "Less"))),
        " ",
        "  Logical and grouping operators:",
        *(f"{mark:>8}  - {word}" for mark, word in (
            ("&&", "Both are to hold"), (",", "Both are to hold"), ("||", "One of them is to hold"),
            ("#", "One of them is to hold"), ("!", "It is not to hold"), ("(", "What comes first"),
            (")", "The end of that"))),
        " ",
    ]
