"""The columns of `dmsetup info -c`: their names, headings, widths, and where a value comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dmspec.dmsetup import names
from dmspec.dmsetup.task import Answer, Session, Task
from dmspec.dmsetup.tree import Tree
from dmspec.runtime import ioctl_format as form

READ_AHEAD_SECTORS: Final = 256


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
    """What sysfs, else the device's node, says; without both the error of opening it is said."""
    number = form.decode_dev(header.dev)
    block = next((one for one in session.blocks() if (one.major, one.minor) == number), None)
    if block is not None and block.set_up:
        return READ_AHEAD_SECTORS
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
    Field("name", "Name", 16, _name, "Name of mapped device."),
    Field("mangled_name", "MangledName", 16, lambda row: names.mangle(row.header.name, "name", "auto"),
          "Mangled name of mapped device."),
    Field("unmangled_name", "UnmangledName", 16, lambda row: names.unmangle(row.header.name, "auto"),
          "Unmangled name of mapped device."),
    Field("uuid", "UUID", 32, _uuid, "Unique (optional) identifier for mapped device."),
    Field("mangled_uuid", "MangledUUID", 32, lambda row: names.mangle(row.header.uuid, "UUID", "auto"),
          "Mangled unique (optional) identifier for mapped device."),
    Field("unmangled_uuid", "UnmangledUUID", 32, lambda row: names.unmangle(row.header.uuid, "auto"),
          "Unmangled unique (optional) identifier for mapped device."),
    Field("read_ahead", "RAhead", 6, lambda row: str(read_ahead(row.session, row.header) or 0), "Read ahead value.",
          numeric=True),
)

INFO_FIELDS: Final = (
    Field("blkdevname", "BlkDevName", 16, lambda row: _kernel_name(row, row.number), "Name of block device."),
    Field("attr", "Stat", 4, _attributes,
          "(L)ive, (I)nactive, (s)uspended, (r)ead-only, read-(w)rite."),
    Field("tables_loaded", "Tables", 6, _tables, "Which of the live and inactive table slots are filled."),
    Field("suspended", "Suspended", 9, lambda row: "Suspended" if row.header.flags & form.SUSPEND else "Active",
          "Whether the device is suspended."),
    Field("readonly", "Read-only", 9,
          lambda row: "Read-only" if row.header.flags & form.READONLY else "Writeable",
          "Whether the device is read-only or writeable."),
    Field("devno", "DevNo", 5, lambda row: _numbers([row.number]), "Device major and minor numbers"),
    Field("major", "Maj", 3, lambda row: str(row.number[0]), "Block device major number.", numeric=True),
    Field("minor", "Min", 3, lambda row: str(row.number[1]), "Block device minor number.", numeric=True),
    Field("open", "Open", 4, lambda row: str(row.header.open_count),
          "Number of references to open device, if requested.", numeric=True),
    Field("segments", "Targ", 4, lambda row: _count(row.header.target_count),
          "Number of segments in live table, if present.", numeric=True),
    Field("events", "Event", 6, lambda row: str(row.header.event_nr), "Number of most recent event.", numeric=True),
)

DEPS_FIELDS: Final = (
    Field("device_count", "#Devs", 5, lambda row: str(len(row.deps())), "Number of devices used by this one.",
          numeric=True),
    Field("devs_used", "DevNamesUsed", 16, lambda row: _names(row, inverted=False),
          "List of names of mapped devices used by this one.", needs="tree"),
    Field("devnos_used", "DevNosUsed", 16, lambda row: _numbers(row.deps()),
          "List of device numbers of devices used by this one."),
    Field("blkdevs_used", "BlkDevNamesUsed", 16,
          lambda row: ",".join(_kernel_name(row, number) for number in row.deps()),
          "List of names of block devices used by this one."),
    Field("device_ref_count", "#Refs", 5, lambda row: str(len(row.node(inverted=True))),
          "Number of mapped devices referencing this one.", numeric=True, needs="tree"),
    Field("names_using_dev", "RefNames", 8, lambda row: _names(row, inverted=True),
          "List of names of mapped devices using this one.", needs="tree"),
    Field("devnos_using_dev", "RefDevNos", 9,
          lambda row: _numbers([number for number, _name in row.node(inverted=True) if any(number)]),
          "List of device numbers of mapped devices using this one.", needs="tree"),
)

SPLIT_FIELDS: Final = (
    Field("subsystem", "Subsys", 6, lambda row: row.split[0], "Userspace subsystem responsible for this device.",
          needs="split"),
    Field("vg_name", "VG", 4, lambda row: row.split[1], "LVM Volume Group name.", needs="split"),
    Field("lv_name", "LV", 4, lambda row: row.split[2], "LVM Logical Volume name.", needs="split"),
    Field("lv_layer", "LVLayer", 7, lambda row: row.split[3], "LVM device layer.", needs="split"),
)

FIELDS: Final = {one.name: one for one in (*NAME_FIELDS, *INFO_FIELDS, *DEPS_FIELDS, *SPLIT_FIELDS)}
GROUPS: Final = {"name_all": NAME_FIELDS, "info_all": INFO_FIELDS,
                 "deps_all": tuple(one for one in DEPS_FIELDS if not one.needs),
                 "tree_all": tuple(one for one in DEPS_FIELDS if one.needs), "splitname_all": SPLIT_FIELDS}
DEFAULT: Final = "name,major,minor,attr,open,segments,events,uuid"
SPLITNAME: Final = "vg_name,lv_name,lv_layer"

# Columns of statistics are listed by the help and nowhere else: nothing here counts I/O.
_STATISTICS: Final = """
    read_count: Count of reads completed.
    reads_merged_count: Count of read requests merged.
    read_sector_count: Count of sectors read.
    read_time: Accumulated duration of all read requests (ns).
    write_count: Count of writes completed.
    writes_merged_count: Count of write requests merged.
    write_sector_count: Count of sectors written.
    write_time: Accumulated duration of all writes (ns).
    in_progress_count: Count of requests currently in progress.
    io_ticks: Nanoseconds spent servicing requests.
    queue_ticks: Total nanoseconds spent in queue.
    read_ticks: Nanoseconds spent servicing reads.
    write_ticks: Nanoseconds spent servicing writes.
    reads_merged_per_sec: Read requests merged per second.
    writes_merged_per_sec: Write requests merged per second.
    reads_per_sec: Reads per second.
    writes_per_sec: Writes per second.
    read_size_per_sec: Size of data read per second.
    write_size_per_sec: Size of data written per second.
    avg_request_size: Average request size.
    queue_size: Average queue size.
    await: Averate wait time.
    read_await: Averate read wait time.
    write_await: Averate write wait time.
    throughput: Throughput.
    service_time: Service time.
    util: Utilization.
    hist_count: Latency histogram counts.
    hist_count_bounds: Latency histogram counts with bin boundaries.
    hist_count_ranges: Latency histogram counts with bin ranges.
    hist_percent: Relative latency histogram.
    hist_percent_bounds: Relative latency histogram with bin boundaries.
    hist_percent_ranges: Relative latency histogram with bin ranges.
    interval_ns: Sampling interval in nanoseconds.
    interval: Sampling interval.
"""
_REGIONS: Final = """
    region_id: Region ID.
    region_start: Region start.
    region_len: Region length.
    area_id: Area ID.
    area_start: Area offset from start of device.
    area_len: Area length.
    area_offset: Area offset from start of region.
    area_count: Area count.
    group_id: Group ID.
    program_id: Program ID.
    user_data: Auxiliary data.
    precise: Set if nanosecond precision counters are enabled.
    hist_bins: The number of histogram bins configured.
    hist_bounds: Latency histogram bin boundaries.
    hist_ranges: Latency histogram bin ranges.
    stats_name: Stats name of current object.
    obj_type: Type of stats object being reported.
"""


def _described(fields: tuple[Field, ...]) -> list[tuple[str, str]]:
    return [(one.name, one.doc) for one in fields]


def _listed(text: str) -> list[tuple[str, str]]:
    lines = (line.strip().partition(": ") for line in text.strip().splitlines())
    return [(name, doc) for name, _, doc in lines]


def help_lines() -> list[str]:
    """What `-o help` prints."""
    lines: list[str] = []
    sections = (
        ("Mapped Device Name", "name_all", _described(NAME_FIELDS)),
        ("Mapped Device Information", "info_all", _described(INFO_FIELDS)),
        ("Mapped Device Relationship Information", "deps_all", _described(DEPS_FIELDS)),
        ("Mapped Device Name Components", "splitname_all", _described(SPLIT_FIELDS)),
        ("Mapped Device Statistics", "stats_all", _listed(_STATISTICS)),
        ("Mapped Device Statistics Region Information", "region_all", _listed(_REGIONS)),
        ("Special", "", [("selected", "Set if item passes selection criteria."), ("help", "Show help."),
                         ("?", "Show help.")]),
    )
    for title, group, fields in sections:
        lines += [f"{title} Fields", "-" * len(f"{title} Fields")]
        if group:
            lines.append(f"  {group:21} - All fields in this section.")
        lines += [f"  {name:21} - {doc}" for name, doc in fields]
        lines.append(" ")
    return lines
