"""`dmspec replay`: a recorded run once more, byte for byte.

The JSON has this shape (dmspec_replay, version 1): `file`, `same`, `difference` (null where it is the same),
`verdict` and `scenario`, which is null for a run that met a bug of ours, else what dmspec_run has for one.
"""

from __future__ import annotations

from pathlib import Path

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE, die, print_json, stdout

REPLAY_SHAPE_VERSION = 1


@click.command(short_help="Run a trace again.")
@click.argument("trace", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_replay, version 1).")
@click.option("--quiet", "-q", is_flag=True, help="Print only whether it was the same run.")
def command(trace: str, as_json: bool, quiet: bool) -> int:
    """Run what TRACE recorded again, step by step, and compare.

    The exit status is 0 where every event is the same as then, whatever the checks came to, and 1 where not.
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
