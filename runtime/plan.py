"""The plan: what a spec comes to, as plain data that the runtime loads without the compiler.

A plan is a msgpack map.  :func:`to_bytes` and :func:`from_bytes` are its only doors, and on both sides it
is verified (:mod:`dmspec.runtime.plan_verify`), so a plan that the runtime holds is consistent.

Code is a flat list of :class:`Instr`, so a process is a program counter and locals, which can be
copied, hashed and compared.  The control instructions are:

=============  =========================================================================
``lock``       ``name``: wait for the lock and take it
``unlock``     ``name``
``jump``       ``to``
``branch``     ``condition``, ``args``, ``negate``, ``to``: jump when it is false
``loop``       ``slot``, ``times`` (null: for ever), ``to``: head of a repeat; jumps at its end
``choose``     ``to``: a list, one of which the schedule picks
``fork``       ``starts``, ``to``: run each branch (it ends in ``end``), then go on there
``try``        ``errno`` (or null for any), ``must``, ``to``: on such an error jump there
``end-try``    the end of the block that ``try`` opened; ``must``: an error was due
``await``      ``condition``, ``args``, ``within_ns`` (or null)
``enter``      ``procedure``: only for the trace
``leave``      ``procedure``
``end``        the end of a process or of a branch
=============  =========================================================================

Everything else is an operation of :mod:`dmspec.runtime.registry`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from .errors import PlanError

MAGIC: Final = "dmspec-plan"
VERSION: Final = 2
# What a property calls the run of a process, where others draw an operation.
RUN: Final = "run"
MODES: Final = ("always", "sometimes", "finally")
# A device has less than 2^63 bytes, as in the kernel.
MAX_SECTORS: Final = 1 << 54

CONTROL: Final[Mapping[str, frozenset[str]]] = {
    "lock": frozenset({"name"}),
    "unlock": frozenset({"name"}),
    "jump": frozenset({"to"}),
    "branch": frozenset({"condition", "args", "negate", "to"}),
    "loop": frozenset({"slot", "times", "to"}),
    "choose": frozenset({"to"}),
    "fork": frozenset({"starts", "to"}),
    "try": frozenset({"errno", "must", "to"}),
    "end-try": frozenset({"errno", "must"}),
    "await": frozenset({"condition", "args", "within_ns"}),
    "enter": frozenset({"procedure"}),
    "leave": frozenset({"procedure"}),
    "end": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Instr:
    """One step of a process.  ``file`` indexes :attr:`Plan.files`; ``line`` counts from 1."""

    op: str
    args: dict[str, Any] = field(default_factory=dict)
    file: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """``file`` is a path relative to the spec, or ``None`` for a disk in memory."""

    name: str
    sectors: int
    file: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """``table`` holds the kernel's lines, with names where the kernel has ``major:minor``."""

    name: str
    table: list[str]
    uuid: str = ""
    read_only: bool = False
    line: int = 0


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A filesystem for simulation: it journals, and a freeze writes its journal through ``device``."""

    name: str
    device: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that processes take, such as LVM's volume-group lock."""

    name: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """Code, and how many loop counters it needs."""

    name: str
    code: list[Instr]
    slots: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` is a registered fault operation; ``at`` is a :attr:`Kind.POINT`; ``most`` bounds it."""

    kind: str
    args: dict[str, Any]
    at: dict[str, Any]
    most: int = 1
    line: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """``mode`` is ``always``, ``sometimes`` or ``finally``."""

    mode: str
    name: str
    args: dict[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """``violations`` names the checks whose violation the spec expects.

    ``schedule`` has the numbers that are picked wherever there is a choice; when it is used up, 0.
    """

    name: str
    title: str
    run: list[str]
    faults: list[Fault] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    kernel: str = ""
    line: int = 0
    schedule: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Property:
    """What ``dmspec test`` will draw.

    An operation's ``args`` are ``parts``, what it does in turn, each with its ``operation``,
    ``args`` and which of them are ``drawn`` as well (where to write, how much), and ``most``, how often it
    may be drawn (null: any number of times).  A disk can be ``any-leg`` in there, one of those that mirrors
    lie on; an operation :data:`RUN` is a whole process.  The processes of ``run`` run beside what is drawn.
    """

    name: str
    title: str
    on: list[str]
    operations: list[Instr]
    least: int = 1
    most: int = 40
    checks: list[Check] = field(default_factory=list)
    kernel: str = ""
    run: list[str] = field(default_factory=list)
    line: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole spec.  ``kernel`` names an era of :mod:`dmspec.runtime.eras`."""

    files: list[str]
    source_sha256: str
    kernel: str = "now"
    disks: list[Disk] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    filesystems: list[Filesystem] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    scenarios: list[Scenario] = field(default_factory=list)
    properties: list[Property] = field(default_factory=list)

    def process(self, name: str) -> Process:
        for process in self.processes:
            if process.name == name:
                return process
        raise PlanError(f"no process {name!r} in the plan")

    def digest(self) -> str:
        """Names this plan in a trace: a replay runs only over the same plan."""
        return hashlib.sha256(to_bytes(self)).hexdigest()


def to_bytes(plan: Plan) -> bytes:
    """The same plan gives the same bytes, on every Python."""
    _verified(plan)
    packed = msgpack.packb({"magic": MAGIC, "version": VERSION, "plan": asdict(plan)}, use_bin_type=True)
    return bytes(packed)


def from_bytes(data: bytes) -> Plan:
    """Raise :class:`PlanError` for anything that is not a whole plan of this version."""
    try:
        box = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise PlanError(f"not a plan: {error or type(error).__name__}") from None
    if not isinstance(box, dict) or box.get("magic") != MAGIC:
        raise PlanError("not a plan: the mark at its start is missing")
    if box.get("version") != VERSION:
        raise PlanError(f"a plan of version {box.get('version')!r}; this dmspec reads version {VERSION}")
    plan: Plan = _read(Plan, box.get("plan"), "plan")
    _verified(plan)
    return plan


def _verified(plan: Plan) -> None:
    from .plan_verify import verify

    verify(plan)


_PARTS: Final[dict[tuple[type, str], type]] = {
    (Plan, "disks"): Disk, (Plan, "devices"): Device, (Plan, "filesystems"): Filesystem,
    (Plan, "locks"): Lock, (Plan, "processes"): Process, (Plan, "scenarios"): Scenario,
    (Plan, "properties"): Property, (Process, "code"): Instr, (Scenario, "faults"): Fault,
    (Scenario, "checks"): Check, (Property, "operations"): Instr, (Property, "checks"): Check,
}
_SIMPLE: Final[dict[str, type | tuple[type, ...]]] = {
    "str": str, "int": int, "bool": bool, "str | None": (str, type(None)),
    "list[str]": list, "list[int]": list, "dict[str, Any]": dict,
}


def _read(kind: type, value: Any, where: str) -> Any:
    """Build one dataclass out of an unpacked map, checking every field's type."""
    if not isinstance(value, dict):
        raise PlanError(f"{where}: a map was expected")
    fields: dict[str, Any] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for key in value:
        if key not in fields:
            raise PlanError(f"{where}: unknown field {key!r}")
    built: dict[str, Any] = {}
    for name, item in fields.items():
        if name not in value:
            raise PlanError(f"{where}: field {name!r} is missing")
        built[name] = _field(kind, name, str(item.type), value[name], f"{where}.{name}")
    return kind(**built)


def _field(kind: type, name: str, annotation: str, got: Any, where: str) -> Any:
    part = _PARTS.get((kind, name))
    if part is not None:
        if not isinstance(got, list):
            raise PlanError(f"{where}: a list was expected")
        return [_read(part, one, f"{where}[{index}]") for index, one in enumerate(got)]
    wanted = _SIMPLE[annotation]
    if not isinstance(got, wanted) or (annotation == "int" and isinstance(got, bool)):
        raise PlanError(f"{where}: {annotation} was expected")
    if isinstance(got, list) and annotation == "list[int]" and not all(is_count(one) for one in got):
        raise PlanError(f"{where}: a list of numbers was expected")
    if isinstance(got, list) and annotation == "list[str]" and not all(isinstance(one, str) for one in got):
        raise PlanError(f"{where}: a list of texts was expected")
    return got


def is_count(value: Any) -> bool:
    """Whether this is a whole number that fits a plan."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
