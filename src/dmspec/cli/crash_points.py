"""What `dmspec test --crash-points` prints.

The JSON has this shape (dmspec_crash_points, version 1): `file`, `ok`, and `scenarios`, each with `name`, `points`
(steps in which a disk did something), `images` (power cuts looked at) and `bad`: each with `step`, `happened`,
`image` and `text`.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_MACHINE, EXIT_OK, EXIT_USAGE, die, print_json, stderr, stdout

if TYPE_CHECKING:
    from dmspec.runtime.plan import Plan
    from dmspec.testing.crash_points import CrashReport

CRASH_POINTS_SHAPE_VERSION = 1


def run_crash_points(plan: Plan, file: str, *, fsck: str | None, device: str | None, as_json: bool) -> int:
    """Cut the power at every point of every scenario."""
    from dmspec.runtime.build import BuildError
    from dmspec.runtime.runner import scenarios_of

    if fsck is not None:
        _must_be_there(fsck)
    if not plan.processes:
        die(EXIT_USAGE, f"{file} has no process, so nothing is done that the power could cut")
    reports = []
    for scenario in scenarios_of(plan):
        try:
            reports.append(_one(plan, scenario.name, Path(file).parent, fsck, device))
        except BuildError as error:
            die(EXIT_USAGE, f"{file}: {error}")
    ok = not any(one.bad for one in reports)
    if as_json:
        print_json("dmspec_crash_points", CRASH_POINTS_SHAPE_VERSION, {
            "file": file, "ok": ok, "scenarios": [{"name": one.scenario, "points": one.points, "images": one.images,
                                                   "bad": [asdict(bad) for bad in one.bad]} for one in reports]})
    else:
        for report in reports:
            _show(report)
    return EXIT_OK if ok else EXIT_CHECK_FAILED


def _must_be_there(fsck: str) -> None:
    try:
        words = shlex.split(fsck)
    except ValueError as error:
        die(EXIT_USAGE, f"--fsck {fsck!r}: {error}")
    if "{device}" not in fsck or not words:
        die(EXIT_USAGE, "--fsck is a command with {device} in it, such as 'e2fsck -fn {device}'")
    if shutil.which(words[0]) is None:
        die(EXIT_MACHINE, f"--fsck: there is no program {words[0]!r} here")


def _one(plan: Plan, name: str, folder: Path, fsck: str | None, device: str | None) -> CrashReport:
    from dmspec.testing.crash_points import crash_points

    console = stderr()
    if not console.is_terminal:
        return crash_points(plan, name, folder=folder, fsck=fsck, device=device)
    with console.status(f"cutting the power in {name}") as status:
        return crash_points(
            plan, name, folder=folder, fsck=fsck, device=device,
            progress=lambda report: status.update(f"cutting the power in {name}: {report.points:,} points, "
                                                  f"{report.images:,} images"))


def _show(report: CrashReport) -> None:
    from rich.text import Text

    console = stdout()
    console.print(Text(f"scenario {report.scenario}", "bold"))
    console.print(f"  {report.points:,} points, {report.images:,} images")
    for bad in report.bad:
        console.print(Text.assemble(("  BAD  ", "bold red"), f"power cut at step {bad.step}, after {bad.happened}: "
                                                             f"{bad.image}"))
        console.print(Text(f"       {bad.text}"))
    if not report.bad:
        console.print(Text("  holds", "green"))
    console.print()
