"""`dmspec run`: run the scenarios of a spec once, deterministically, and say what happened.

The JSON has this shape (dmspec_run, version 1): `file`, `seed` (null without one), `ok`, and `scenarios`, a
list of

* `name`, `title`, `verdict` ("ok" or "failed"), `steps`, `setup_steps` (taken before the scenario began),
  `setup_events` (the first ones are the setup's), `time_ns` (virtual time at the end);
* `checks`: each with `mode`, `name`, `words` (the check as the spec says it), `ok`, `violated`,
  `violation_expected`, `text` (what is wrong), `remark` (what could not be judged), `line`;
* `remarks`: what happened and no check asks about;
* `devices`: those there at the end, each with `name`, `state`, `event_nr`, `status` and `table` lines;
* `schedule`: `choices` and `faults`, which decide the run;
* `events`: each with `step` (counted from the beginning of the setup), `time_ns`, `lane`, `text`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE, die, print_json, stdout

if TYPE_CHECKING:
    from dmspec.runtime.plan import Plan
    from dmspec.runtime.runner import Result
    from dmspec.runtime.trace import Trace

RUN_SHAPE_VERSION = 1
MOST_SEED = (1 << 63) - 1


@click.command(short_help="Run a spec's scenarios.")
@click.argument("file", type=click.Path())
@click.option("--scenario", metavar="NAME", help="Run only this one.")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), metavar="N",
              help="Draw the interleaving and the faults from this seed; without it nobody is interrupted.")
@click.option("--trace", "trace_path", type=click.Path(), metavar="OUT",
              help="Keep the run of one scenario, for `dmspec replay`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_run, version 1).")
@click.option("--quiet", "-q", is_flag=True, help="Print only the verdicts and the checks that failed.")
def command(file: str, scenario: str | None, seed: int | None, trace_path: str | None, as_json: bool,
            quiet: bool) -> int:
    """Run the scenarios of FILE, a spec or a compiled plan, each in a fresh world.

    Prints what happens, lane by lane, and what each check came to. The exit status is 1 where something was
    not as the spec expects. A spec without scenarios runs all its processes at once.
    """
    from dmspec.cli.plans import load_plan, pick_scenarios
    from dmspec.runtime.build import BuildError
    from dmspec.runtime.runner import Crash, run_scenario

    plan = load_plan(file)
    names = pick_scenarios(plan, file, scenario)
    if trace_path is not None and len(names) > 1:
        die(EXIT_USAGE, f"a trace holds one run, and {file} has {len(names)} scenarios: name one with --scenario")
    results = []
    for name in names:
        try:
            result = run_scenario(plan, name, seed=seed)
        except BuildError as error:
            die(EXIT_USAGE, f"{file}: {error}")
        except Crash as crash:
            _keep_crash(crash.trace, trace_path)
            raise
        results.append(result)
        if not as_json:
            show_result(plan, result, quiet=quiet)
    if trace_path is not None:
        write_trace(results[0].trace, trace_path)
    ok = all(result.ok for result in results)
    if as_json:
        body = {"file": file, "seed": seed, "ok": ok, "scenarios": [as_document(one) for one in results]}
        print_json("dmspec_run", RUN_SHAPE_VERSION, body)
    return EXIT_OK if ok else EXIT_CHECK_FAILED


def show_result(plan: Plan, result: Result, *, quiet: bool) -> None:
    """Print a run: its lanes, its checks, its verdict."""
    from rich.text import Text

    from dmspec.cli.lanes import print_checks, print_events
    from dmspec.runtime.runner import scenario_of

    console = stdout()
    if not quiet:
        title = f": {result.title}" if result.title else ""
        console.print(Text(f"scenario {result.scenario}{title}", "bold"))
        if result.setup_steps:
            console.print(Text(f"setup: {result.setup_steps} step{'s' if result.setup_steps > 1 else ''}", "dim"))
        events = result.trace.events[result.setup_events:]
        print_events(console, plan, scenario_of(plan, result.scenario).run, events, result.setup_steps)
        console.print()
    print_checks(console, result, failed_only=quiet)
    if not quiet:
        console.print()


def as_document(result: Result) -> dict[str, Any]:
    """A result as JSON has it."""
    checks = [{
        "mode": one.mode, "name": one.name, "words": one.words, "ok": one.ok, "violated": one.violated,
        "violation_expected": one.expected, "text": one.text, "remark": one.remark, "line": one.line,
    } for one in result.checks]
    schedule = result.trace.schedule
    return {
        "name": result.scenario, "title": result.title, "verdict": result.verdict, "checks": checks,
        "remarks": result.remarks, "steps": result.steps,
        "setup_steps": result.setup_steps, "setup_events": result.setup_events, "time_ns": result.time_ns,
        "devices": [asdict(one) for one in result.statuses],
        "schedule": {"choices": schedule.choices, "faults": [list(pair) for pair in schedule.faults]},
        "events": [asdict(event) for event in result.trace.events],
    }


def write_trace(trace: Trace, path: str) -> None:
    """Write a trace file, or end with what is wrong with its path."""
    from dmspec.runtime.trace import to_bytes

    try:
        Path(path).write_bytes(to_bytes(trace))
    except OSError as error:
        die(EXIT_USAGE, f"{path}: {error.strerror}")


def _keep_crash(trace: Trace, path: str | None) -> None:
    """Keep the trace of a run that met a bug of ours, and say how to meet it again."""
    import tempfile

    from dmspec.runtime.trace import to_bytes

    if path is None:
        with tempfile.NamedTemporaryFile(prefix="dmspec-crash-", suffix=".trace", delete=False) as kept:
            kept.write(to_bytes(trace))
        path = kept.name
    else:
        write_trace(trace, path)
    click.echo(f"dmspec: the run met a bug of ours; to meet it again: dmspec replay {path}", err=True)
