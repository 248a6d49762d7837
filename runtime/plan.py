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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from .errors import PlanError, errno_number
from .signature import Kind, Param, Signature

MAGIC: Final = "dmspec-plan"
VERSION: Final = 1
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
    """What ``dmspec test`` will draw.

    An operation's ``args`` are ``parts``, what it does in turn, each with its ``operation`` and
    ``args``, and ``most``, how often it may be drawn (null: any number of times).  A disk can be
    ``any-leg`` in there, and an operation ``repair``: the test gives them their meaning.
    """

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
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise PlanError(f"not a plan: {error or type(error).__name__}") from None
    if not isinstance(box, dict) or box.get("magic") != MAGIC:
        raise PlanError("not a plan: the mark at its start is missing")
    if box.get("version") != VERSION:
        raise PlanError(f"a plan of version {box.get('version')!r}; this dmspec reads version {VERSION}")
    plan: Plan = _read(Plan, box.get("plan"), "plan")
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
    if isinstance(got, list) and not all(isinstance(one, str) for one in got):
        raise PlanError(f"{where}: a list of texts was expected")
    return got


def verify(plan: Plan) -> None:
    """Raise :class:`PlanError` unless the plan is consistent."""
    from .eras import ERAS

    if plan.kernel not in ERAS:
        raise PlanError(f"no kernel era {plan.kernel!r}")
    if not plan.files:
        raise PlanError("a plan names its files")
    names = _verify_names(plan)
    for process in plan.processes:
        _verify_code(process, len(plan.files), names)
    for scenario in plan.scenarios:
        _verify_scenario(scenario, names)
    for one in plan.properties:
        _verify_property(one)


@dataclass(frozen=True, slots=True)
class _Names:
    locks: frozenset[str]
    processes: frozenset[str]


def _verify_names(plan: Plan) -> _Names:
    seen: set[str] = set()
    shared: list[Disk | Device | Filesystem | Lock] = [
        *plan.disks, *plan.devices, *plan.filesystems, *plan.locks]
    for declared in shared:
        if declared.name in seen:
            raise PlanError(f"{declared.name!r} is declared twice")
        seen.add(declared.name)
    kinds: list[list[str]] = [[one.name for one in plan.processes], [one.name for one in plan.scenarios],
                              [one.name for one in plan.properties]]
    for names in kinds:
        if len(set(names)) != len(names):
            raise PlanError("a process, scenario or property is declared twice")
    for disk in plan.disks:
        if not 0 < disk.sectors < MAX_SECTORS:
            raise PlanError(f"disk {disk.name}: it has {disk.sectors} sectors")
    for device in plan.devices:
        if not device.table:
            raise PlanError(f"device {device.name}: its table is empty")
    blocks = {disk.name for disk in plan.disks} | {device.name for device in plan.devices}
    for filesystem in plan.filesystems:
        if filesystem.device not in blocks:
            raise PlanError(f"filesystem {filesystem.name}: no device {filesystem.device!r}")
    return _Names(frozenset(lock.name for lock in plan.locks), frozenset(one.name for one in plan.processes))


def _verify_code(process: Process, files: int, names: _Names) -> None:
    from .registry import OPERATIONS

    where = f"process {process.name}"
    if not process.code or process.code[-1].op != "end":
        raise PlanError(f"{where}: its code does not end")
    if not 0 <= process.slots <= len(process.code):
        raise PlanError(f"{where}: {process.slots} loop counters")
    for pc, instr in enumerate(process.code):
        at = f"{where}[{pc}]"
        if not 0 <= instr.file < files:
            raise PlanError(f"{at}: no file {instr.file}")
        keys = CONTROL.get(instr.op)
        if keys is not None:
            if set(instr.args) != keys:
                raise PlanError(f"{at}: {instr.op} takes {sorted(keys)}")
            _verify_control(instr, process, names, at)
        elif instr.op in OPERATIONS:
            _verify_args(OPERATIONS[instr.op].signature, instr.args, f"{at}: {instr.op}")
        else:
            raise PlanError(f"{at}: unknown operation {instr.op!r}")


def _verify_control(instr: Instr, process: Process, names: _Names, at: str) -> None:
    from .registry import CONDITIONS

    args = instr.args
    for to in _targets(instr, at):
        if not _is_count(to) or to >= len(process.code):
            raise PlanError(f"{at}: jumps to {to!r}, outside its code")
    if "condition" in args:
        condition = CONDITIONS.get(args["condition"]) if isinstance(args["condition"], str) else None
        if condition is None:
            raise PlanError(f"{at}: no condition {args['condition']!r}")
        _verify_args(condition.signature, args["args"], f"{at}: {condition.name}")
    good = {
        "lock": lambda: args["name"] in names.locks,
        "unlock": lambda: args["name"] in names.locks,
        "branch": lambda: isinstance(args["negate"], bool),
        "loop": lambda: (_is_count(args["slot"]) and args["slot"] < process.slots
                         and (args["times"] is None or _is_count(args["times"]))),
        "try": lambda: _is_errno(args["errno"]) and isinstance(args["must"], bool),
        "end-try": lambda: _is_errno(args["errno"]) and isinstance(args["must"], bool),
        "await": lambda: args["within_ns"] is None or _is_count(args["within_ns"]),
        "enter": lambda: isinstance(args["procedure"], str),
        "leave": lambda: isinstance(args["procedure"], str),
    }.get(instr.op)
    if good is not None and not _calmly(good):
        raise PlanError(f"{at}: {instr.op} cannot have these arguments")


def _calmly(question: Callable[[], bool]) -> bool:
    """The answer; no, where the values are such that it cannot even be asked (a list is in no set)."""
    try:
        return question()
    except TypeError:
        return False


def _targets(instr: Instr, at: str) -> Iterator[Any]:
    """Where an instruction can go besides to the next one."""
    for key in ("to", "starts"):
        value = instr.args.get(key)
        many = key == "starts" or instr.op == "choose"
        if many and key in instr.args:
            if not isinstance(value, list) or not value:
                raise PlanError(f"{at}: {instr.op} has nowhere to go")
            yield from value
        elif key in instr.args:
            yield value


def _verify_scenario(scenario: Scenario, names: _Names) -> None:
    from .eras import ERAS
    from .registry import OPERATIONS

    where = f"scenario {scenario.name}"
    if scenario.kernel and scenario.kernel not in ERAS:
        raise PlanError(f"{where}: no kernel era {scenario.kernel!r}")
    for name in scenario.run:
        if name not in names.processes:
            raise PlanError(f"{where}: no process {name!r}")
    for fault in scenario.faults:
        kind = OPERATIONS.get(fault.kind)
        if kind is None or not kind.is_fault:
            raise PlanError(f"{where}: {fault.kind!r} is no fault")
        _verify_args(kind.signature, fault.args, f"{where}: {fault.kind}")
        if not _fits_kind(Kind.POINT, fault.at) or fault.most < 0:
            raise PlanError(f"{where}: {fault.kind} strikes at no time")
    _verify_checks(scenario.checks, where)
    made = {check.name for check in scenario.checks}
    for name in scenario.violations:
        if name not in made:
            raise PlanError(f"{where}: expects the violation of {name!r}, which it does not check")


def _verify_checks(checks: list[Check], where: str) -> None:
    from .registry import CHECKS

    for check in checks:
        if check.name not in CHECKS:
            raise PlanError(f"{where}: no check {check.name!r}")
        if check.mode not in MODES:
            raise PlanError(f"{where}: {check.mode!r} is no mode of a check")
        _verify_args(CHECKS[check.name].signature, check.args, f"{where}: {check.name}")


def _verify_property(one: Property) -> None:
    where = f"property {one.name}"
    _verify_checks(one.checks, where)
    if not 0 <= one.least <= one.most:
        raise PlanError(f"{where}: from {one.least} to {one.most} operations")
    for instr in one.operations:
        parts, most = instr.args.get("parts"), instr.args.get("most")
        if set(instr.args) != {"parts", "most"} or not (most is None or _is_count(most)):
            raise PlanError(f"{where}: an operation has parts and a bound")
        whole = isinstance(parts, list) and parts and all(
            isinstance(part, dict) and set(part) == {"operation", "args"}
            and isinstance(part["operation"], str) and isinstance(part["args"], dict) for part in parts)
        if not whole:
            raise PlanError(f"{where}: {instr.op} has no parts")


# ---- arguments -------------------------------------------------------------------------------------


def _verify_args(signature: Signature, args: Any, where: str) -> None:
    """Raise unless these are the arguments of this signature, each of its kind."""
    if not isinstance(args, dict) or set(args) != {param.key for param in signature}:
        raise PlanError(f"{where}: its arguments are {[param.name for param in signature]}")
    for param in signature:
        if not _fits(param, args[param.key]):
            raise PlanError(f"{where}: {param.name} is {param.kind.value}")


def _fits(param: Param, value: Any) -> bool:
    default = list(param.default) if isinstance(param.default, tuple) else param.default
    if not param.required and type(value) is type(default) and value == default:
        return True
    if param.repeated:
        return isinstance(value, list) and bool(value) and all(_fits_kind(param.kind, one) for one in value)
    if param.choices and value not in param.choices:
        return False
    return _fits_kind(param.kind, value)


def _fits_kind(kind: Kind, value: Any) -> bool:
    if kind in (Kind.SIZE, Kind.COUNT, Kind.DURATION):
        return _is_count(value)
    if kind is Kind.FLAG:
        return isinstance(value, bool)
    if kind is Kind.RANGE:
        return isinstance(value, list) and len(value) == 2 and all(_is_count(one) for one in value)
    if kind is Kind.DEVICE_AT:
        return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_count(value[1])
    if kind is Kind.TABLE and isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    if kind is Kind.TABLE:
        return isinstance(value, dict) and set(value) == {"table_of"} and isinstance(value["table_of"], str)
    if kind is Kind.POINT:
        if not isinstance(value, dict) or len(value) != 1:
            return False
        return (any(value.get(key) is True for key in ("any", "start"))
                or any(_is_count(value.get(key)) for key in ("time_ns", "step")))
    return isinstance(value, str) and (kind is not Kind.ERRNO or _is_errno(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_errno(value: Any) -> bool:
    return value is None or (isinstance(value, str) and errno_number(value) is not None)
