"""`dmspec replay`: a recorded run once more, byte for byte.

The JSON has this shape (dmspec_replay, version 1): `file`, `same`, `difference` (null where it is the same),
`verdict` and `scenario`, which is null for a run that met a bug of ours, else what dmspec_run has for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE, die, print_json, stdout

if TYPE_CHECKING:
    from dmspec.runtime.trace import Trace

REPLAY_SHAPE_VERSION = 1


@click.command(short_help="Run a trace again.")
@click.argument("trace", type=click.Path())
@click.option("--to", "form", type=click.Choice(["pytest"]),
              help="Write it as a pytest module that needs nothing else, instead of running it.")
@click.option("-o", "--output", type=click.Path(), help="Where to write that; `-`, the default, is stdout.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_replay, version 1).")
@click.option("--quiet", "-q", is_flag=True, help="Print only whether it was the same run.")
def command(trace: str, form: str | None, output: str | None, *, as_json: bool, quiet: bool) -> int:
    """Run what TRACE recorded again, step by step, and compare.

    The exit status is 0 where every event is the same as then, whatever the checks came to, and 1 where not.
    --to pytest makes a test of it: the same run, which has to come to the same.
    """
    from dmspec.cli.run import as_document, show_result
    from dmspec.runtime.build import BuildError
    from dmspec.runtime.plan import from_bytes as plan_from_bytes
    from dmspec.runtime.runner import Crash, replay
    from dmspec.runtime.trace import TraceError, from_bytes

    try:
        recorded = from_bytes(Path(trace).read_bytes())
        again, difference = replay(recorded)
        plan = plan_from_bytes(recorded.plan)
    except OSError as error:
        die(EXIT_USAGE, f"{trace}: {error.strerror}")
    except (TraceError, BuildError) as error:
        die(EXIT_USAGE, f"{trace}: {error}")
    if form is not None and not isinstance(again, Crash):
        if difference is not None:
            die(EXIT_CHECK_FAILED, f"{trace}: not the same run any more, so no test of it: {difference}")
        _write(recorded, trace, output)
        return EXIT_OK
    if as_json:
        print_json("dmspec_replay", REPLAY_SHAPE_VERSION, {
            "file": trace, "same": difference is None, "difference": difference, "verdict": again.trace.verdict,
            "scenario": None if isinstance(again, Crash) else as_document(again),
        })
    elif not isinstance(again, Crash):
        if not quiet:
            show_result(plan, again, quiet=False)
        said = "the same run, byte for byte" if difference is None else f"not the same run: {difference}"
        stdout().print(f"replay: {len(again.trace.events)} events, {said}", markup=False)
    if isinstance(again, Crash):
        raise again
    return EXIT_OK if difference is None else EXIT_CHECK_FAILED


def _write(recorded: Trace, name: str, output: str | None) -> None:
    from dmspec.testing.recorded import module_of

    text = module_of(recorded, Path(name).name)
    if output in (None, "-"):
        click.echo(text, nl=False)
        return
    try:
        Path(output or "").write_text(text, encoding="utf-8")
    except OSError as error:
        die(EXIT_USAGE, f"{output}: {error.strerror}")
