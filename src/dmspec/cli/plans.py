"""How commands come to a plan: from a spec, which is compiled, or from a plan file."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmspec.cli.output import EXIT_USAGE, die

if TYPE_CHECKING:
    from dmspec.compiler.diagnostics import Diagnostic
    from dmspec.runtime.plan import Plan


def load_plan(path: str) -> "Plan":
    """Give the plan of a file, or end with what is wrong with it on stderr and exit status 2."""
    from dmspec.runtime.errors import PlanError
    from dmspec.runtime.plan import MAGIC, from_bytes

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        die(EXIT_USAGE, f"{path}: {error.strerror}")
    if MAGIC.encode() in data[:64]:
        try:
            return from_bytes(data)
        except PlanError as error:
            die(EXIT_USAGE, f"{path}: {error}")
    from dmspec.compiler import compile_file

    compiled = compile_file(path)
    show_diagnostics(compiled.diagnostics)
    if compiled.plan is None:
        sys.exit(EXIT_USAGE)
    return compiled.plan


def pick_scenarios(plan: "Plan", file: str, name: str | None) -> list[str]:
    """The scenarios that `--scenario NAME` means, all without one; ends with exit status 2 when there is none.

    A scenario that is for several kernels has a part for each, NAME@KERNEL, and NAME means all of them.
    """
    from dmspec.runtime.runner import scenarios_of

    names = [one.name for one in scenarios_of(plan)]
    picked = [one for one in names if name in (None, one, one.partition("@")[0])]
    if not picked:
        die(EXIT_USAGE, f"{file} has no scenario {name!r}; it has: {', '.join(names)}")
    return picked


def show_diagnostics(diagnostics: Sequence["Diagnostic"]) -> None:
    """Print them to stderr, with a summary where there are several."""
    if not diagnostics:
        return
    from dmspec.compiler.render import render, summary

    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(render(diagnostics, color=color), err=True)
    if len(diagnostics) > 1:
        click.echo(summary(diagnostics), err=True)
