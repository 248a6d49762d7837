"""The plan: what a spec comes to, as plain data that the runtime loads without the compiler.

A plan is a msgpack map.  :func:`to_bytes` and :func:`from_bytes` are its only doors, and
:func:`verify` is run on both sides, so a plan that the runtime holds is consistent: every jump
lands inside its code, every name is declared, every operation is registered with its arguments.

Code is a flat list of :class:`Instr`, so a process is a program counter and locals, which can be
copied, hashed and compared.  The control instructions are:

=============  =========================================================================
``lock``       ``name``: wait for the lock and take it
``unlock``     ``name``
``jump``       ``to``
``branch``     ``condition``, ``args``, ``negate``, ``to``: jump when it is false
``loop``       ``slot``, ``times``, ``to``: head of a repeat; jumps when it is through
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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgpack

from .errors import PlanError

MAGIC: Final = "dmspec-plan"
VERSION: Final = 1

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
    """``violations`` names the checks whose violation the spec expects."""

    name: str
    title: str
    run: list[str]
    faults: list[Fault] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    kernel: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Property:
    """What ``dmspec test`` will draw; ``operations`` are ``(name, args, most)``."""

    name: str
    title: str
    on: list[str]
    operations: list[Instr]
    least: int = 1
    most: int = 40
    checks: list[Check] = field(default_factory=list)
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
    verify(plan)
    packed = msgpack.packb({"magic": MAGIC, "version": VERSION, "plan": asdict(plan)}, use_bin_type=True)
    return bytes(packed)


def from_bytes(data: bytes) -> Plan:
    """Raise :class:`PlanError` for anything that is not a whole plan of this version."""
    try:
        box = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise PlanError(f"not a plan: {error or type(error).__name__}") from None
    if not isinstance(box, dict) or box.get("magic") != MAGIC:
        raise PlanError("not a plan: the mark at its start is missing")
    if box.get("version") != VERSION:
        raise PlanError(f"a plan of version {box.get('version')!r}; this dmspec reads version {VERSION}")
    plan = _read(Plan, box.get("plan"), "plan")
    verify(plan)
    return plan


_PARTS: Final[dict[tuple[type, str], type]] = {
    (Plan, "disks"): Disk, (Plan, "devices"): Device, (Plan, "filesystems"): Filesystem,
    (Plan, "locks"): Lock, (Plan, "processes"): Process, (Plan, "scenarios"): Scenario,
    (Plan, "properties"): Property, (Process, "code"): Instr, (Scenario, "faults"): Fault,
    (Scenario, "checks"): Check, (Property, "operations"): Instr, (Property, "checks"): Check,
}
_SIMPLE: Final[dict[str, type | tuple[type, ...]]] = {
    "str": str, "int": int, "bool": bool, "str | None": (str, type(None)),
    "list[str]": list, "dict[str, Any]": dict,
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
    if annotation == "list[str]" and not all(isinstance(one, str) for one in got):
        raise PlanError(f"{where}: a list of texts was expected")
    return got


def verify(plan: Plan) -> None:
    """Raise :class:`PlanError` unless the plan is consistent."""
    from .eras import ERAS
    from .registry import CHECKS, OPERATIONS

    if plan.kernel not in ERAS:
        raise PlanError(f"no kernel era {plan.kernel!r}")
    _verify_names(plan)
    for process in plan.processes:
        _verify_code(process, len(plan.files))
    processes = {process.name for process in plan.processes}
    for scenario in plan.scenarios:
        for name in scenario.run:
            if name not in processes:
                raise PlanError(f"scenario {scenario.name}: no process {name!r}")
        for fault in scenario.faults:
            if fault.kind not in OPERATIONS or not OPERATIONS[fault.kind].is_fault:
                raise PlanError(f"scenario {scenario.name}: {fault.kind!r} is no fault")
        for check in scenario.checks:
            if check.name not in CHECKS:
                raise PlanError(f"scenario {scenario.name}: no check {check.name!r}")


def _verify_names(plan: Plan) -> None:
    seen: set[str] = set()
    for declared in (*plan.disks, *plan.devices, *plan.filesystems, *plan.locks):
        if declared.name in seen:
            raise PlanError(f"{declared.name!r} is declared twice")
        seen.add(declared.name)
    for disk in plan.disks:
        if disk.sectors <= 0:
            raise PlanError(f"disk {disk.name}: no sectors")
    for filesystem in plan.filesystems:
        if filesystem.device not in seen:
            raise PlanError(f"filesystem {filesystem.name}: no device {filesystem.device!r}")


def _verify_code(process: Process, files: int) -> None:
    from .registry import CONDITIONS, OPERATIONS

    where = f"process {process.name}"
    size = len(process.code)
    if not process.code or process.code[-1].op != "end":
        raise PlanError(f"{where}: its code does not end")
    for pc, instr in enumerate(process.code):
        if not 0 <= instr.file < max(files, 1):
            raise PlanError(f"{where}[{pc}]: no file {instr.file}")
        keys = CONTROL.get(instr.op)
        if keys is None:
            operation = OPERATIONS.get(instr.op)
            if operation is None:
                raise PlanError(f"{where}[{pc}]: unknown operation {instr.op!r}")
            for param in operation.signature:
                if param.key not in instr.args:
                    raise PlanError(f"{where}[{pc}]: {instr.op} lacks {param.name!r}")
            continue
        if set(instr.args) != keys:
            raise PlanError(f"{where}[{pc}]: {instr.op} takes {sorted(keys)}")
        for to in _targets(instr):
            if not isinstance(to, int) or not 0 <= to < size:
                raise PlanError(f"{where}[{pc}]: jumps to {to!r}, outside its code")
        if "condition" in keys and instr.args["condition"] not in CONDITIONS:
            raise PlanError(f"{where}[{pc}]: no condition {instr.args['condition']!r}")
        if instr.op == "loop" and not 0 <= instr.args["slot"] < process.slots:
            raise PlanError(f"{where}[{pc}]: no loop counter {instr.args['slot']}")


def _targets(instr: Instr) -> Iterator[Any]:
    to = instr.args.get("to")
    if isinstance(to, list):
        yield from to
    elif "to" in instr.args:
        yield to
    yield from instr.args.get("starts", [])
