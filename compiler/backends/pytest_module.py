"""Properties as a pytest module: one Hypothesis state machine for each, in the words of the spec.

The spec's declarations are in the module, word for word; each line of `operations` is a rule.  The module runs
under plain pytest, and stands on :mod:`dmspec.testing.machine`.
"""

from __future__ import annotations

import keyword
import re
from typing import Any, Final

from dmspec.compiler import ast
from dmspec.compiler.backends.base import Backend, BackendError
from dmspec.compiler.diagnostics import Sink
from dmspec.compiler.parser import parse
from dmspec.compiler.source import of_text
from dmspec.runtime.plan import RUN, Check, Instr, Plan, Property
from dmspec.runtime.registry import CHECKS, OPERATIONS
from dmspec.runtime.units import SECTOR_BYTES

ANY_LEG: Final = "any-leg"


def emit(plan: Plan, text: str) -> bytes:
    """The module."""
    if not plan.properties:
        raise BackendError("it has no property; `dmspec run` runs its scenarios")
    declared = parse(of_text(text, plan.files[0]), Sink()).declarations if text else []
    spec, processes = _declarations(declared, plan)
    from dmspec.testing.program import Subject

    lines = [
        f'"""The properties of {plan.files[0]}, for pytest.  Made by `dmspec compile --to pytest`."""', "",
        *_imports(plan), "", 'SPEC = """\\', *spec, '"""', "",
    ]
    for law in plan.properties:
        lines += ["", *_machine(law, processes, Subject(plan, law))]
    return ("\n".join(lines).rstrip() + "\n").encode()


def _imports(plan: Plan) -> list[str]:
    instrs = [instr for law in plan.properties for instr in law.operations]
    parts = [part for instr in instrs for part in instr.args["parts"]]
    machine = ["SETTINGS", "StackMachine"]
    if any("at" in part["drawn"] for part in parts):
        machine += ["Place", "places"]
    if any(instr.args["most"] is not None for instr in instrs):
        machine.append("most")
    lines = []
    if any(part["args"].get("disk") == ANY_LEG for part in parts):
        lines.append("from hypothesis import strategies as st")
    lines.append("from hypothesis.stateful import rule")
    order = sorted(machine, key=lambda name: (not name.isupper(), name[0].islower(), name))
    return [*lines, "", f"from dmspec.testing.machine import {', '.join(order)}"]


def _declarations(declared: list[ast.Declaration], plan: Plan) -> tuple[list[str], dict[str, str]]:
    """The declarations of a file but for its scenarios and properties, and the bodies of its processes."""
    lines: list[str] = []
    bodies: dict[str, str] = {}
    beside = {name for law in plan.properties for name in law.run}
    for one in declared:
        if isinstance(one, ast.Scenario | ast.Property):
            continue
        if isinstance(one, ast.Process):
            bodies[one.name.text] = one.block.span.text.strip()[1:-1].strip()
            if one.name.text not in beside:
                continue
        lines += one.span.text.rstrip().splitlines()
    if not declared:
        raise BackendError("a pytest module is made from a spec, not from a compiled plan")
    return [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in lines], bodies


def _machine(law: Property, processes: dict[str, str], subject: Any) -> list[str]:
    name = "".join(word.capitalize() for word in re.split(r"\W+", law.name))
    checks = [check for check in law.checks if check.mode != "sometimes"]
    lines = [f"class {name}(StackMachine):", f'    """{_sentence(law.title or law.name)}"""', "", "    spec = SPEC",
             "    checks = (", *(f"        {_quoted(_check_words(check))}," for check in checks), "    )"]
    if law.run:
        lines.append(f"    beside = ({' '.join(_quoted(one) + ',' for one in law.run)})")
    if law.kernel:
        lines.append(f"    kernel = {law.kernel!r}")
    used: set[str] = set()
    for instr in law.operations:
        lines += ["", *_rule(instr, processes, subject, used)]
    return [*lines, "", "", f"Test{name} = {name}.TestCase", f"Test{name}.settings = SETTINGS", ""]


def _quoted(text: str) -> str:
    return "'" + text + "'" if '"' in text else f'"{text}"'


def _sentence(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', "'")
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _check_words(check: Check) -> str:
    from dmspec.runtime.runner import check_words

    assert check.name in CHECKS
    return check_words(check)


def _rule(instr: Instr, processes: dict[str, str], subject: Any, used: set[str]) -> list[str]:
    parts = instr.args["parts"]
    arguments: dict[str, tuple[str, str]] = {}
    statements: list[str] = []
    for part in parts:
        statements += _statement(part, processes, subject, arguments)
    lines = []
    given = ", ".join(f"{name}={strategy}" for name, (strategy, _type) in arguments.items())
    typed = "".join(f", {name}: {kind}" for name, (_strategy, kind) in arguments.items())
    lines.append(f"    @rule({given})")
    if instr.args["most"] is not None:
        lines.append(f"    @most({instr.args['most']})")
    lines.append(f"    def {_function(instr, used)}(self{typed}) -> None:")
    call = f"        self.submit({', '.join(statements)})"
    if len(call) <= 110 and len(statements) == 1:
        return [*lines, call]
    return [*lines, "        self.submit(", *(f"            {one}," for one in statements), "        )"]


def _function(instr: Instr, used: set[str]) -> str:
    first = instr.args["parts"][0]
    about = first["args"].get("process") or first["args"].get("target") or first["args"].get("disk") \
        or first["args"].get("device") or ""
    about = "_".join(about) if isinstance(about, list) else about
    words = instr.op if first["operation"] == RUN else f"{instr.op} {about}"
    if first["args"].get("fua"):
        words += " fua"
    name = re.sub(r"\W+", "_", words).strip("_").lower()
    name = f"{name}_" if keyword.iskeyword(name) else name
    number = 2
    whole = name
    while whole in used:
        whole = f"{name}_{number}"
        number += 1
    used.add(whole)
    return whole


def _statement(part: dict[str, Any], processes: dict[str, str], subject: Any,
               arguments: dict[str, tuple[str, str]]) -> list[str]:
    """The statements of one part, as Python expressions, and what has to be drawn for it."""
    if part["operation"] == RUN:
        body = processes[part["args"]["process"]]
        return [repr(re.sub(r"#[^\n]*", "", line).strip()) for line in body.splitlines() if line.split("#")[0].strip()]
    args = dict(part["args"])
    marks = {}
    if "at" in part["drawn"]:
        target = args.get("target") or args.get("disk")
        size = subject.sizes.get(target, 8) * SECTOR_BYTES
        arguments["place"] = (f"places({size})", "Place")
        marks["at"] = "{place.at}"
        args["at"] = None
        if "size" in part["drawn"]:
            marks["size"] = "{place.size}"
            args["size"] = None
    if args.get("disk") == ANY_LEG:
        legs = ", ".join(map(_quoted, subject.legs))
        arguments["leg"] = (f"st.sampled_from([{legs}])", "str")
        args["disk"] = "{leg}"
    words = OPERATIONS[part["operation"]].words(args)
    words += "".join(f" {name}={mark}" for name, mark in marks.items())
    quote = "'" if '"' in words else '"'
    prefix = "f" if marks or "{leg}" in words else ""
    return [f"{prefix}{quote}{words}{quote}"]


PYTEST: Final = Backend("pytest", "a pytest module, one Hypothesis state machine per property", emit, wants_text=True)
