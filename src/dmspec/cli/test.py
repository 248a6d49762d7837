"""`dmspec test`: a spec's properties through Hypothesis.

The JSON has this shape (dmspec_test, version 1): `file`, `ok`, and `properties`, a list of

* `name`, `title`, `ok`, `examples`, `steps`, `seconds`, `stopped` (the time was over before the examples were);
* `operations`, `faults`, `sometimes`: how often each was drawn, or reached;
* `unreached`: each `sometimes` that no example came to;
* `counterexample` (null without one): `check`, `text`, `spec`, `operations` (how many), `found_after`
  (examples), `found_seconds`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE, die, print_json, stderr, stdout

if TYPE_CHECKING:
    from rich.status import Status

    from dmspec.runtime.plan import Plan, Property
    from dmspec.testing.session import Options, Report

TEST_SHAPE_VERSION = 1
EVERY = 20


@click.command(short_help="Test a spec's properties.")
@click.argument("file", type=click.Path())
@click.option("--property", "name", metavar="NAME", help="Test only this one.")
@click.option("--examples", type=click.IntRange(1), metavar="N", help="How many to draw (by default 500).")
@click.option("--profile", type=click.Choice(["quick", "default", "ci", "nightly"]), default="default",
              help="100, 500, 200 or 20,000 examples; `ci` draws the same ones each time.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Draw from this seed.")
@click.option("--database", type=click.Path(), metavar="DIR", default=None,
              help="Where failing examples are kept, to be tried first (.hypothesis/dmspec); `none`: nowhere.")
@click.option("--seconds", type=click.FloatRange(min=0.1), metavar="S", help="Stop each property after this time.")
@click.option("--crash-points", is_flag=True,
              help="Cut the power at every point of each scenario, instead of testing properties.")
@click.option("--fsck", metavar="COMMAND",
              help="With --crash-points: run this on every image; {device} is a file with the device's contents.")
@click.option("--device", metavar="NAME", help="With --fsck: the device to check, if not the first with a filesystem.")
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="Write the counterexample's spec to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_test, version 1).")
def command(file: str, name: str | None, examples: int | None, profile: str, seed: int | None, database: str | None,
            seconds: float | None, crash_points: bool, fsck: str | None, device: str | None, output: str | None,
            as_json: bool) -> int:
    """Draw sequences of operations, faults and power cuts from each `property` of FILE, and check what must hold.

    A sequence that breaks a check is shrunk and printed as a spec that runs by itself. The exit status is 1
    where a check was broken, or where a `sometimes` was never reached.
    """
    from dmspec.cli.plans import load_plan
    from dmspec.testing.session import DATABASE, PROFILES, Options

    plan = load_plan(file)
    if crash_points:
        from dmspec.cli.crash_points import run_crash_points

        return run_crash_points(plan, file, fsck=fsck, device=device, as_json=as_json)
    if fsck is not None or device is not None:
        raise click.UsageError("--fsck and --device need --crash-points.")
    laws = [law for law in plan.properties if name in (None, law.name)]
    if not laws:
        known = ", ".join(law.name for law in plan.properties)
        die(EXIT_USAGE, f"{file} has no property" + (f" {name!r}; it has: {known}" if known else
                        ": it needs a `property NAME { operations 1..20 of { ... } }`"))
    count, derandomize = PROFILES[profile]
    options = Options(examples or count, seed, None if database == "none" else database or DATABASE, derandomize,
                      seconds)
    reports = [_test(plan, law, options, file) for law in laws]
    specs = {report.subject.law.name: _spec(report, file) for report in reports if report.found is not None}
    if output is not None and specs:
        _write(output, next(iter(specs.values())))
    if as_json:
        print_json("dmspec_test", TEST_SHAPE_VERSION, {
            "file": file, "ok": all(one.ok for one in reports),
            "properties": [_document(one, specs.get(one.subject.law.name)) for one in reports]})
    else:
        for report in reports:
            _show(report, specs.get(report.subject.law.name))
    return EXIT_OK if all(one.ok for one in reports) else EXIT_CHECK_FAILED


def _test(plan: Plan, law: Property, options: Options, file: str) -> Report:
    from dmspec.runtime.build import BuildError
    from dmspec.testing.program import Subject
    from dmspec.testing.session import check_property

    try:
        subject = Subject(plan, law)
        console = stderr()
        if not console.is_terminal:
            return check_property(subject, options)
        with console.status(f"testing {law.name}") as status:
            return check_property(subject, options, progress=lambda report: _progress(status, report, options))
    except BuildError as error:
        die(EXIT_USAGE, f"{file}: {error}")


def _progress(status: Status, report: Report, options: Options) -> None:
    done = report.statistics.examples
    if report.found is not None:
        size = sum(len(step.parts) for step in report.found.program.steps)
        status.update(f"testing {report.subject.law.name}: {report.found.broken.check} is broken; shrinking: "
                      f"{size} operations, {report.shrinking} tries")
    elif done % EVERY == 0:
        status.update(f"testing {report.subject.law.name}: {done:,} of {options.examples:,} examples")


def _spec(report: Report, file: str) -> str:
    from dmspec.testing.spec_text import as_spec, declarations, reproduces

    assert report.found is not None
    broken = report.found.broken
    text = as_spec(report.subject, report.found, declarations(file), note=f"{broken.check}: {broken.text}")
    if not reproduces(text, report.found):
        text = "# (by itself this spec does not break the check: please report that)\n" + text
    return text


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        die(EXIT_USAGE, f"cannot write {path}: {error.strerror}")


def _show(report: Report, spec: str | None) -> None:
    from rich.text import Text

    console = stdout()
    law, counts = report.subject.law, report.statistics
    console.print(Text(f"property {law.name}" + (f": {law.title}" if law.title else ""), "bold"))
    console.print(f"  {counts.examples:,} examples, {counts.steps:,} steps, {report.seconds:.1f} s"
                  + ("; the time was over" if report.stopped else ""))
    for what, counter in (("operations", counts.operations), ("faults", counts.faults)):
        if counter:
            console.print(Text(f"  {what}: " + ", ".join(f"{name} {number:,}" for name, number in
                                                         sorted(counter.items(), key=lambda one: -one[1])), "dim"))
    for words, number in counts.reached.items():
        console.print(Text(f"  {words}: in {number:,} examples", "dim"))
    if report.found is not None:
        console.print(Text.assemble(("  broken      ", "bold red"), f"{report.found.broken.words}, after "
                                    f"{report.found_after:,} examples, {report.found_seconds:.1f} s"))
        console.print(Text(f"              {report.found.broken.text}"))
        console.print()
        console.print(Text((spec or "").rstrip()))
    else:
        for words in report.unreached:
            console.print(Text.assemble(("  unreached   ", "bold red"), f"{words}: no example came to that"))
        if report.ok:
            console.print(Text("  holds", "green"))
    console.print()


def _document(report: Report, spec: str | None) -> dict[str, Any]:
    counts, found = report.statistics, report.found
    return {
        "name": report.subject.law.name, "title": report.subject.law.title, "ok": report.ok,
        "examples": counts.examples, "steps": counts.steps, "seconds": round(report.seconds, 3),
        "stopped": report.stopped, "operations": dict(counts.operations), "faults": dict(counts.faults),
        "sometimes": dict(counts.reached), "unreached": report.unreached if found is None else [],
        "counterexample": None if found is None else {
            "check": found.broken.check, "text": found.broken.text, "spec": spec,
            "operations": sum(len(step.parts) for step in found.program.steps),
            "found_after": report.found_after, "found_seconds": round(report.found_seconds, 3)},
    }
