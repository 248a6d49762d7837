"""Plans made by hand, for tests of what runs them: the compiler has no part in these."""

from collections.abc import Iterable
from typing import Any

from dmspec.runtime.operations.base import complete
from dmspec.runtime.plan import Check, Device, Disk, Fault, Filesystem, Instr, Lock, Plan, Process, Scenario
from dmspec.runtime.registry import CHECKS, CONDITIONS, OPERATIONS
from dmspec.runtime.runner import Result, run_scenario
from dmspec.runtime.signature import Signature

END = Instr("end")
KIB = 1024
SMALL = 2048  # sectors: 1 MiB
LINEAR = Device("d", ["0 2048 linear pv1 0"])
ANY = {"any": True}
START = {"start": True}


def plain(signature: Signature, args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as a plan has them: all there, and lists where a default is a tuple."""
    return {key: list(value) if isinstance(value, tuple) else value
            for key, value in complete(signature, args).items()}


def op(_name: str, **args: Any) -> Instr:
    """An operation; its arguments by their keys in the plan."""
    return Instr(_name, plain(OPERATIONS[_name].signature, args))


def lock(name: str) -> Instr:
    return Instr("lock", {"name": name})


def unlock(name: str) -> Instr:
    return Instr("unlock", {"name": name})


def until(condition: str, within_ns: int | None = None, **args: Any) -> Instr:
    args = plain(CONDITIONS[condition].signature, args)
    return Instr("await", {"condition": condition, "args": args, "within_ns": within_ns})


def branch(condition: str, to: int, *, negate: bool = False, **args: Any) -> Instr:
    args = plain(CONDITIONS[condition].signature, args)
    return Instr("branch", {"condition": condition, "args": args, "negate": negate, "to": to})


def attempt(to: int, errno: str | None = None, *, must: bool = False) -> Instr:
    return Instr("try", {"errno": errno, "must": must, "to": to})


def end_attempt(errno: str | None = None, *, must: bool = False) -> Instr:
    return Instr("end-try", {"errno": errno, "must": must})


def fails(errno: str, instr: Instr) -> list[Instr]:
    """``expect error ERRNO { ... }``; its jump counts from its own first instruction until it is placed."""
    return [attempt(-3, errno, must=True), instr, end_attempt(errno, must=True)]


def flat(parts: Iterable[Instr | list[Instr]]) -> list[Instr]:
    """Code out of instructions and of what :func:`fails` makes, with the jumps of the latter put right."""
    code: list[Instr] = []
    for part in parts:
        begin = len(code)
        for instr in [part] if isinstance(part, Instr) else part:
            to = instr.args.get("to")
            placed = instr.args | {"to": begin - to} if isinstance(to, int) and to < 0 else instr.args
            code.append(Instr(instr.op, placed, instr.file, instr.line))
    return code


def check(mode: str, name: str, **args: Any) -> Check:
    return Check(mode, name, plain(CHECKS[name].signature, args))


def fault(kind: str, at: dict[str, Any], most: int = 1, **args: Any) -> Fault:
    return Fault(kind, plain(OPERATIONS[kind].signature, args), at, most)


def make(*processes: tuple[str, list[Instr]], checks: list[Check] | None = None, faults: list[Fault] | None = None,
         violations: list[str] | None = None, devices: list[Device] | None = None, slots: int = 0,
         filesystem: str = "", kernel: str = "") -> Plan:
    """Three disks of 1 MiB, locks `a` and `b`, and one scenario, `s`, that runs all processes."""
    code = [Process(name, [*instrs, END], slots) for name, instrs in processes]
    scenario = Scenario("s", "", [name for name, _ in processes], faults or [], checks or [], violations or [],
                        kernel)
    return Plan(
        files=["hand.dms"], source_sha256="", disks=[Disk(name, SMALL) for name in ("pv1", "pv2", "pv3")],
        devices=[LINEAR] if devices is None else devices,
        filesystems=[Filesystem("fs", filesystem)] if filesystem else [],
        locks=[Lock("a"), Lock("b")], processes=code, scenarios=[scenario])


def run(*processes: tuple[str, list[Instr]], seed: int | None = None, **more: Any) -> Result:
    """Make such a plan and run it."""
    return run_scenario(make(*processes, **more), "s", seed=seed)


def texts(result: Result, lane: str = "") -> list[str]:
    """What was noted after the setup, on one lane or on all."""
    return [event.text for event in result.trace.events[result.setup_events:] if lane in ("", event.lane)]


def outcome(result: Result, name: str) -> tuple[bool, str]:
    """Whether a check of this name is violated, and what it says."""
    [found] = [one for one in result.checks if one.name == name]
    return found.violated, found.text
