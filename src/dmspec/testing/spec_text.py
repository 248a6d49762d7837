"""A counterexample as a spec that runs by itself: `dmspec run` shows the failure.

The declarations are those of the file, word for word; where there is only a plan they are written anew.  Each
lane is a process, a drawn process becomes a procedure that it calls, and the schedule is a line of the scenario.
An operation that fails on the way without breaking anything stands in ``allow error``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dmspec.compiler import ast, compile_text
from dmspec.compiler.diagnostics import Sink
from dmspec.compiler.parser import parse
from dmspec.compiler.source import SourceError, read
from dmspec.runtime.build import BuildError, build
from dmspec.runtime.errors import errno_name
from dmspec.runtime.plan import RUN, Plan
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.runner import Crash, Running, check_words, run_scenario
from dmspec.runtime.sim import ReplayChooser, SimEngine
from dmspec.runtime.units import SECTOR_BYTES, bytes_text
from dmspec.testing.example import CRASHED, STEP_LIMIT
from dmspec.testing.program import Part, Program, Subject
from dmspec.testing.session import Counterexample

WIDTH = 110
_PER_LINE = 24
_ERRNOS = frozenset(errno_name(number) for number in range(1, 134))


def declarations(path: Path | str) -> list[ast.Declaration]:
    """What a spec file declares; nothing for a file that is no spec (a plan, for instance)."""
    try:
        source = read(Path(path))
    except SourceError:
        return []
    return parse(source, Sink()).declarations


def as_spec(subject: Subject, found: Counterexample, declared: Iterable[ast.Declaration] = (), *,
            note: str = "") -> str:
    """The spec.  ``note`` is a comment for its first line."""
    failed = _failing(subject, found)
    lines = [f"# {line}" for line in note.splitlines()]
    declared = list(declared)
    lines += _declared(declared, _called(found.program), subject.law.run) or _written(subject.plan)
    lines.append("")
    for lane, name in enumerate(subject.lanes):
        parts = [part for step in found.program.steps if step.lane == lane for part in step.parts]
        if parts:
            lines += _process(name, [
                _statement(part, subject.tolerates(part) and part.words() in failed.get(name, ())) for part in parts])
    law = subject.law
    lanes = [name for lane, name in enumerate(subject.lanes) if any(one.lane == lane for one in found.program.steps)]
    title = f' "{law.title}"' if law.title else ""
    lines += ["", f"scenario {law.name}{title} {{", f"    run {' '.join([*lanes, *law.run])}"]
    if law.kernel:
        lines.append(f"    kernel {law.kernel}")
    for at in range(0, len(found.schedule), _PER_LINE):
        lines.append(f"    schedule {' '.join(str(pick) for pick in found.schedule[at:at + _PER_LINE])}")
    for check in law.checks:
        if check.mode != "sometimes" and check.name in (found.broken.check, *([] if found.broken.check != CRASHED
                                                                               else [check.name])):
            lines.append(f"    {check_words(check)}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def reproduces(text: str, found: Counterexample) -> bool:
    """Whether the spec, compiled and run by itself, breaks the same check."""
    compiled = compile_text(text, "counterexample.dms")
    if compiled.plan is None:
        return False
    try:
        result = run_scenario(compiled.plan, compiled.plan.scenarios[0].name)
    except Crash:
        return found.broken.check == CRASHED
    except BuildError:
        return False
    return any(one.violated and one.name == found.broken.check for one in result.checks)


def _called(program: Program) -> set[str]:
    return {part.args["process"] for step in program.steps for part in step.parts if part.name == RUN}


def _declared(declared: list[ast.Declaration], called: set[str], run: list[str]) -> list[str]:
    lines = []
    for one in declared:
        if isinstance(one, ast.Scenario | ast.Property):
            continue
        text = one.span.text.rstrip()
        if isinstance(one, ast.Process):
            if one.name.text in run:
                lines += text.splitlines()
            if one.name.text not in called:
                continue
            text = f"procedure {one.name.text}() {one.block.span.text.strip()}"
        lines += text.splitlines()
    return lines


def _written(plan: Plan) -> list[str]:
    lines = [] if plan.kernel == "now" else [f"kernel {plan.kernel}"]
    lines += [f"disk {disk.name} {bytes_text(disk.sectors * SECTOR_BYTES)}" for disk in plan.disks]
    for device in plan.devices:
        lines += [f"device {device.name} {{", *(f'    "{line}"' for line in device.table), "}"]
    lines += [f"filesystem {one.name} on {one.device}" for one in plan.filesystems]
    return lines + [f"lock {one.name}" for one in plan.locks]


def _statement(part: Part, fails: bool) -> str:
    return f"allow error {{ {part.words()} }}" if fails else part.words()


def _process(name: str, statements: list[str]) -> list[str]:
    one_line = f"process {name} {{ {'   '.join(statements)} }}"
    if len(one_line) <= WIDTH:
        return [one_line]
    return [f"process {name} {{", *(f"    {one}" for one in statements), "}"]


class _Failures:
    """Hears which operation of which lane failed."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}

    def note(self, step: int, time_ns: int, lane: str, text: str) -> None:
        """Remember it."""
        del step, time_ns
        words, colon, error = text.rpartition(": ")
        if colon and error in _ERRNOS:
            self.found.setdefault(lane, set()).add(words)


def _failing(subject: Subject, found: Counterexample) -> dict[str, set[str]]:
    failures = _Failures()
    plan = subject.scenario_plan(found.program, found.schedule)
    engine = SimEngine(observer=failures)
    try:
        running = Running(build(plan, engine, target_types=TARGETS, kernel=subject.law.kernel), plan.scenarios[0])
        engine.chooser = ReplayChooser(found.schedule)
        while running.taken < STEP_LIMIT and running.step():
            pass
    except Exception:  # noqa: BLE001 - the counterexample is a mistake of ours; what happened before it counts
        return failures.found
    return failures.found
