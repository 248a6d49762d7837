"""A scenario's control protocol as a Promela model, for SPIN and for people.

The model is one of its own: it shares with the emulator the plan and nothing else, so that the two can be
compared.  What it leaves out, and why verdicts compare all the same:

* Contents.  Whether a write is held, requeued or failed depends on which legs answer, not on what is written.
  So ``legs-agree``, ``frozen`` and ``no-lost-write`` are not judged; of a range that is hashed the model knows
  which write was the last, which is what ``expect sha256 ... same-as`` asks.
* Time.  A sleep or a timeout may be over at any moment, so the model can do more than the emulator here.
* Regions, and the log's record of them.  A mirror is in sync or has a failed leg; a failed leg makes
  the next write fail whichever region it is for (the emulator: holds it without trying again).
* How a raid1 takes a leg back.  It is a mirror that holds nothing; a leg that has failed stays failed until another
  table is swapped in.
* Work items.  The mirror's worker and its event come with the step that queues them, the worker that
  resubmits deferred bios is the bio's own wait.  Each bio still waits, fails and is pushed back by itself.
* A snapshot's copies.  A write through an origin that has a snapshot reads the origin first, where it may wait;
  the COW device's own writes, which no mirror can hold, and overflow are left out.
* A size.  A request is one bio, and a device has one segment.
* That others go on for ever.  SPIN looks for states in which nothing can move; a process that alone is stuck while
  another one loops without end is the explorer's to find.

A fault with ``at=any`` is a process that strikes at any point or gives up, as an exploration's does.  A check is an
assertion that names it (``assert(... || no_race)``), or an invalid end state (``no-deadlock``); one search without an
error limit (``pan -c0``) names all that are violated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmspec.compiler.backends.base import Backend, BackendError
from dmspec.compiler.backends.promela_flow import Task, follow
from dmspec.compiler.backends.promela_kernel import JUDGE, kernel
from dmspec.compiler.backends.promela_model import Model
from dmspec.compiler.backends.promela_process import CONTENT, Writer, fault
from dmspec.compiler.backends.promela_state import STATE
from dmspec.compiler.backends.promela_tables import Names, NotInTheModel, declarations
from dmspec.runtime.eras import ERAS
from dmspec.runtime.operations.base import EXPECTATION, NO_ERROR, NO_IO_ERROR
from dmspec.runtime.plan import Check, Fault, Plan, Scenario
from dmspec.runtime.runner import NO_DEADLOCK, all_checks, scenarios_of

ALWAYS: Final = ("no-race", NO_IO_ERROR, NO_ERROR, EXPECTATION)
AT_REST: Final = ("resumed-at-end",)
MOST_CALLERS: Final = 100  # SPIN has at most 255 processes


def emit(plan: Plan) -> bytes:
    """The model of the plan's only scenario."""
    scenarios = scenarios_of(plan)
    if len(scenarios) != 1:
        names = ", ".join(one.name for one in scenarios)
        raise BackendError(f"a model has one scenario, and this spec has {names}: pick one with --scenario NAME")
    return model(plan, scenarios[0]).encode()


def judged(check: Check) -> bool:
    """Whether a model judges a check."""
    always = check.name in ALWAYS and check.mode == "always"
    return always or (check.name in (NO_DEADLOCK, *AT_REST) and check.mode in ("always", "finally"))


def model(plan: Plan, scenario: Scenario) -> str:
    """The model of one scenario; raises :class:`BackendError` with all that it cannot have."""
    names = Names.of_plan(plan)
    shared = Model(names, plan.files, all_checks(scenario), list(dict.fromkeys(scenario.run)))
    for device in plan.devices:
        try:
            names.add_table(device.name, device.table)
        except NotInTheModel as error:
            shared.issues.append(f"{plan.files[0]}:{device.line}: {device.name}: {error}")
    tasks = [follow(Task(name, plan.process(name))) for name in shared.running]
    everyone = [one for task in tasks for one in task.family()]
    _look_around(shared, everyone)
    for task in everyone:
        names.macro("CALLER", task.name)
    bodies = [_written(shared, task) for task in everyone]
    faults = list(_faults(shared, scenario))
    shared.issues += [f"{plan.files[0]}: {text}" for text in names.check()]
    if len(everyone) > MOST_CALLERS:
        shared.issues.append(f"{len(everyone)} processes: the model has at most {MOST_CALLERS}")
    if shared.issues:
        raise BackendError("it has what a model cannot have:\n" + "\n".join(f"  {one}" for one in shared.issues))
    parts = [_header(plan, scenario), declarations(names, ERAS[scenario.kernel or plan.kernel], shared.awaited)]
    parts += [_callers(shared, everyone), _judged(scenario), STATE, _globals(shared)]
    parts.append(kernel(max((len(table.legs) for table in names.tables), default=0)))
    parts += ["/* ---- The processes " + "-" * 86 + " */\n", "\n\n".join(bodies), "\n".join(faults)]
    parts.append(_init(plan, scenario, shared, everyone))
    if any(check.name in AT_REST for check in scenario.checks):
        parts.append(JUDGE)
    return "\n".join(parts)


def _written(shared: Model, task: Task) -> str:
    """Write a task; the second time every place that somebody jumps to is known."""
    first = Writer(shared, task)
    first.note_jumps()
    first.proctype()
    second = Writer(shared, task)
    second.jumps = first.jumps
    return second.proctype()


def _look_around(shared: Model, tasks: list[Task]) -> None:
    """Find the devices that processes create, and what is hashed, before anything is written."""
    named = {word for table in shared.names.tables for word in table.below}
    for task in tasks:
        for pc in task.held:
            instr = task.process.code[pc]
            if instr.op == "create":
                shared.names.add_device(instr.args["name"])
            elif instr.op in CONTENT:
                target = instr.args["target"]
                if target not in shared.names.disks or target in named:
                    shared.issue(instr, f"a sha256 of {target}: the model knows the contents of a disk by itself only")
                shared.document(target, instr.args["range"])


def _header(plan: Plan, scenario: Scenario) -> str:
    checks = all_checks(scenario)
    lines = [f"/* Scenario {scenario.name} of {plan.files[0]}, made by dmspec compile --to promela.", " *"]
    lines += [f" * {scenario.title}", " *"] if scenario.title else []
    for check in checks:
        if judged(check):
            expected = "; the spec expects a violation" if check.name in scenario.violations else ""
            how = "an invalid end state" if check.name == NO_DEADLOCK else f"assert(... {check.name.replace('-', '_')})"
            lines.append(f" * {check.mode} {check.name}: {how}{expected}")
        else:
            lines.append(f" * {check.mode} {check.name}: NOT JUDGED, this model has no contents and no statuses")
    lines += [" *", " *     spin -a MODEL && gcc -O2 -DSAFETY -o pan pan.c && ./pan -c0 -m1000000", " *",
              " * A step of the spec has its line beside it. Left out: contents, time, regions, work items,",
              " * the COW store, the sizes of requests. */", ""]
    return "\n".join(line.replace("*/", "* /") if index < len(lines) - 2 else line for index, line in enumerate(lines))


def _callers(shared: Model, tasks: list[Task]) -> str:
    names = shared.names
    lines = ["", "/* Who calls the kernel: processes and their branches. */"]
    lines += [f"#define {names.macro('CALLER', task.name)} {number}" for number, task in enumerate(tasks)]
    lines += [f"#define CALLERS {max(len(tasks), 1)}"]
    lines += [f"#define {names.macro('PROCESS', name)} {number}" for number, name in enumerate(shared.running)]
    return "\n".join([*lines, f"#define PROCESSES {max(len(shared.running), 1)}"])


def _judged(scenario: Scenario) -> str:
    """What assertions name.  One that nobody asks for is never violated."""
    asked = {check.name for check in all_checks(scenario) if judged(check)}
    wanted = [name.replace("-", "_") for name in (*ALWAYS, *AT_REST) if name in asked]
    others = [name.replace("-", "_") for name in (*ALWAYS, *AT_REST) if name not in asked]
    lines = ["", "/* Never true: an assertion says with it what would be violated. */", f"byte {', '.join(wanted)};"]
    return "\n".join([*lines, *(f"#define {name} true" for name in others)])


def _globals(shared: Model) -> str:
    lines = ["bool ended[PROCESSES];", *shared.globals]
    if shared.documents:
        lines.append(f"byte version[{len(shared.documents)}];         /* which write was the last: "
                     + ", ".join(target for target, _range in shared.documents) + " */")
    if shared.words:
        lines.append(f"byte remembered[{len(shared.words)}];")
    return "\n".join(lines)


def _faults(shared: Model, scenario: Scenario) -> Iterator[str]:
    """A process for each fault that may strike at any point."""
    for number, one in enumerate(scenario.faults, 1):
        place = f"{shared.files[0]}:{one.line}"
        try:
            statement = fault(shared.names, one.kind, one.args)
        except NotInTheModel as error:
            shared.issues.append(f"{place}: {error}")
            continue
        if "any" in one.at:
            yield f"""
/* {place}: fault {one.kind} {one.args.get('disk', '')} at=any most={one.most} */
proctype fault_{number}() {{
    byte struck;
    do
    :: atomic {{ struck < {min(one.most, 255)} -> {statement}; struck++ }}
    :: break                           /* never again */
    od
}}"""
        elif "start" not in one.at:
            shared.issues.append(f"{place}: a fault at a step or a time, which mean nothing in the model")


def _at_start(shared: Model, faults: list[Fault]) -> Iterator[str]:
    for one in faults:
        if "start" in one.at and one.most:
            yield fault(shared.names, one.kind, one.args) + ";"


def _init(plan: Plan, scenario: Scenario, shared: Model, tasks: list[Task]) -> str:
    """The devices of the spec are there; then everybody begins at once."""
    names = shared.names
    lines = ["", "init {", "    atomic {"]
    for device in plan.devices:
        macro = names.device(device.name)
        lines.append(f"        exists[{macro}] = true; live[{macro}] = {names.add_table(device.name, device.table)};")
    lines += [f"        {line}" for line in _at_start(shared, scenario.faults)]
    for task in tasks:
        caller = names.macro("CALLER", task.name)
        lines.append(f"        run kernel({caller});")
        if task.parent is None:
            process = names.macro("PROCESS", task.name)
            lines.append(f"        run {Writer(shared, task).name}({caller}, {process});")
    lines += [f"        run fault_{number}();" for number, one in enumerate(scenario.faults, 1) if "any" in one.at]
    return "\n".join([*lines, "    }", "}", ""])


PROMELA: Final = Backend("promela", "a model for SPIN, of one scenario", emit)
