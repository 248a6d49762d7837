"""Whether a plan is consistent: every jump lands inside its code, every name is declared, every argument fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .errors import PlanError, errno_number
from .plan import (
    CONTROL,
    MAX_SECTORS,
    MODES,
    RUN,
    Check,
    Device,
    Disk,
    Filesystem,
    Instr,
    Lock,
    Plan,
    Process,
    Property,
    Scenario,
    is_count,
)
from .signature import Kind, Param, Signature


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
        _verify_property(one, names)


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
        if not is_count(to) or to >= len(process.code):
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
        "loop": lambda: (is_count(args["slot"]) and args["slot"] < process.slots
                         and (args["times"] is None or is_count(args["times"]))),
        "try": lambda: _is_errno(args["errno"]) and isinstance(args["must"], bool),
        "end-try": lambda: _is_errno(args["errno"]) and isinstance(args["must"], bool),
        "await": lambda: args["within_ns"] is None or is_count(args["within_ns"]),
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


def _verify_property(one: Property, names: _Names) -> None:
    where = f"property {one.name}"
    _verify_checks(one.checks, where)
    for name in one.run:
        if name not in names.processes:
            raise PlanError(f"{where}: no process {name!r}")
    if not 0 <= one.least <= one.most:
        raise PlanError(f"{where}: from {one.least} to {one.most} operations")
    for instr in one.operations:
        parts, most = instr.args.get("parts"), instr.args.get("most")
        if set(instr.args) != {"parts", "most"} or not (most is None or is_count(most)):
            raise PlanError(f"{where}: an operation has parts and a bound")
        whole = isinstance(parts, list) and parts and all(
            isinstance(part, dict) and set(part) == {"operation", "args", "drawn"}
            and isinstance(part["operation"], str) and isinstance(part["args"], dict)
            and isinstance(part["drawn"], list) and all(isinstance(name, str) for name in part["drawn"])
            for part in parts)
        if not whole:
            raise PlanError(f"{where}: {instr.op} has no parts")
        for part in parts or []:
            _verify_part(part, names, f"{where}: {instr.op}")


def _verify_part(part: dict[str, Any], names: _Names, where: str) -> None:
    from .registry import OPERATIONS

    name = part["operation"]
    if name == RUN:
        if set(part["args"]) != {"process"} or part["args"]["process"] not in names.processes:
            raise PlanError(f"{where}: there is no such process to run")
    elif name in OPERATIONS:
        _verify_args(OPERATIONS[name].signature, part["args"], where)
    else:
        raise PlanError(f"{where}: unknown operation {name!r}")


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
        return is_count(value)
    if kind is Kind.FLAG:
        return isinstance(value, bool)
    if kind is Kind.RANGE:
        return isinstance(value, list) and len(value) == 2 and all(is_count(one) for one in value)
    if kind is Kind.DEVICE_AT:
        return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and is_count(value[1])
    if kind is Kind.TABLE and isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    if kind is Kind.TABLE:
        return isinstance(value, dict) and set(value) == {"table_of"} and isinstance(value["table_of"], str)
    if kind is Kind.POINT:
        if not isinstance(value, dict) or len(value) != 1:
            return False
        return (any(value.get(key) is True for key in ("any", "start"))
                or any(is_count(value.get(key)) for key in ("time_ns", "step")))
    return isinstance(value, str) and (kind is not Kind.ERRNO or _is_errno(value))


def _is_errno(value: Any) -> bool:
    return value is None or (isinstance(value, str) and errno_number(value) is not None)
