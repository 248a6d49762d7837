"""`dmspec compile`: a spec in another form."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmspec.cli.output import EXIT_OK, EXIT_USAGE, die, print_json

if TYPE_CHECKING:
    from dmspec.compiler import Compiled
    from dmspec.runtime.plan import Plan

COMPILE_SHAPE_VERSION = 1


@click.command(short_help="Write a spec in another form.")
@click.argument("file", type=click.Path())
@click.option("--to", "form", default="plan", show_default=True, metavar="FORM",
              help="plan, python, pytest, dmsetup, promela or mermaid.")
@click.option("--scenario", metavar="NAME", help="Leave the other scenarios out; promela has one at a time.")
@click.option("-o", "--output", type=click.Path(), help="Where to write it; `-`, the default, is stdout.")
@click.option("--json", "as_json", is_flag=True,
              help="Print what happened as JSON (shape dmspec_compile, version 1); needs -o.")
def command(file: str, form: str, scenario: str | None, output: str | None, as_json: bool) -> int:
    """Check a spec and write it in another form: `plan` is what the runtime loads."""
    from dmspec.cli.plans import show_diagnostics
    from dmspec.compiler import compile_file
    from dmspec.compiler.backends import BACKENDS, BackendError
    from dmspec.compiler.diagnostics import did_you_mean

    backend = BACKENDS.get(form)
    if backend is None:
        hint = did_you_mean(form, BACKENDS)
        die(EXIT_USAGE, f"no form is called {form!r}; {hint or 'there are ' + ', '.join(BACKENDS)}")
    to_stdout = output in (None, "-")
    if as_json and to_stdout:
        raise click.UsageError("--json prints to stdout, so the form needs a file: -o FILE.")
    compiled = compile_file(file)
    if not as_json:
        show_diagnostics(compiled.diagnostics)
    contents = b""
    if compiled.plan is not None:
        plan = compiled.plan if scenario is None else _only(compiled.plan, file, scenario)
        try:
            contents = backend.make(plan, _text(file))
        except BackendError as error:
            die(EXIT_USAGE, f"{file} has no form {form!r}: {error}")
        if to_stdout:
            if form == "plan" and sys.stdout.isatty():
                die(EXIT_USAGE, "a plan is not text: write it to a file with -o FILE")
            sys.stdout.buffer.write(contents)
        else:
            _write(Path(output or ""), contents)
    if as_json:
        _print(compiled, form, output or "", len(contents))
    return EXIT_OK if compiled.plan is not None else EXIT_USAGE


def _text(file: str) -> str:
    """The spec as it is in its file; it has been compiled, so it can be read."""
    return Path(file).read_text(encoding="utf-8-sig")


def _only(plan: Plan, file: str, name: str) -> Plan:
    """The plan with one of its scenarios."""
    from dmspec.cli.plans import pick_scenarios
    from dmspec.runtime.runner import scenarios_of

    picked = pick_scenarios(plan, file, name)
    return replace(plan, scenarios=[one for one in scenarios_of(plan) if one.name in picked])


def _write(path: Path, contents: bytes) -> None:
    try:
        path.write_bytes(contents)
    except OSError as error:
        die(EXIT_USAGE, f"cannot write {path}: {error.strerror}")


def _print(compiled: Compiled, form: str, output: str, size: int) -> None:
    from dmspec.compiler.render import to_json

    plan = compiled.plan
    print_json("dmspec_compile", COMPILE_SHAPE_VERSION, {
        "ok": plan is not None,
        "form": form,
        "output": output if plan is not None else None,
        "bytes": size,
        "plan_sha256": None if plan is None else plan.digest(),
        "diagnostics": to_json(compiled.diagnostics),
    })
