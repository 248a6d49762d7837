"""`dmspec verify`: the same spec on a real Linux device-mapper in a guest and on the emulator, and the differences.

The JSON has this shape (dmspec_verify, version 1): `kernel` (what `uname -r` says in the guest), `boots`, `ok`,
and `scenarios`, a list of

* `file`, `name`;
* `steps` (how many were done on both sides), `reads` (disks, devices and reads of which all bytes were compared);
* `refused`: why it cannot be compared, with the `line`, or null; `lacks`: targets that the guest's kernel has not;
* `differences`: each with `step` (from 0 on; -1 at the end), `words` (the step), `line`, `what`, `kernel`, `ours`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_MACHINE, EXIT_OK, EXIT_USAGE, die, print_json, stderr, stdout

if TYPE_CHECKING:
    from dmspec.runtime.plan import Plan
    from dmspec.verify.compare import Difference
    from dmspec.verify.session import Session, Verdict
    from dmspec.verify.steps import Played

VERIFY_SHAPE_VERSION = 1


@dataclass
class Item:
    """One scenario of one file, and what came of it."""

    file: str
    name: str
    uses: set[str]
    played: Played | None = None
    refused: str = ""
    line: int = 0
    lacks: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)

    @property
    def compared(self) -> bool:
        """Whether both sides have been run."""
        return not self.refused and not self.lacks


@click.command(short_help="Compare with a real Linux device-mapper.")
@click.argument("files", type=click.Path(), nargs=-1, required=True, metavar="FILE...")
@click.option("--scenario", metavar="NAME", help="Compare only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_verify, version 1).")
def command(files: tuple[str, ...], scenario: str | None, as_json: bool) -> int:
    """Do what FILE says on a real Linux device-mapper and on the emulator, and print the differences.

    The real one runs in a guest, User-mode Linux, which is an ordinary process; its disks are temporary files. After
    each step the outcome, and what `dmsetup status`, `info` and `table` print of every device, are compared, and
    at the end the contents of every disk and device. A failing disk is a layer of `flakey`, `delay` or `error`.

    Processes take turns where one of them waits. Specs that leave the order of things to chance (parallel, choose,
    faults at=any) are refused with exit status 2. The exit status is 1 where the two sides differ.
    """
    from dmspec.cli.plans import load_plan
    from dmspec.verify.guest import GuestMissing, find_guest
    from dmspec.verify.session import GuestFailed, Session

    items = [item for file in files for item in _items(file, load_plan(file), scenario)]
    if not items:
        die(EXIT_USAGE, f"no scenario {scenario!r} in {', '.join(files)}")
    try:
        session = Session(find_guest())
        _compare(session, [item for item in items if item.played is not None])
    except (GuestMissing, GuestFailed) as error:
        die(EXIT_MACHINE, str(error))
    if as_json:
        _print_json(session, items)
    else:
        _print(session, items)
    if any(item.differences for item in items):
        return EXIT_CHECK_FAILED
    if any(item.refused for item in items):
        return EXIT_USAGE
    return EXIT_OK if any(item.compared for item in items) else EXIT_MACHINE


def _items(file: str, plan: Plan, only: str | None) -> list[Item]:
    """Run a plan's scenarios on the emulator."""
    from dmspec.runtime.runner import scenarios_of
    from dmspec.verify.emulate import NoRest
    from dmspec.verify.flatten import CannotVerify, flatten, target_types

    items = []
    for one in scenarios_of(plan):
        if only not in (None, one.name):
            continue
        item = Item(file, one.name, target_types(plan))
        try:
            item.played = flatten(plan, one.name, f"{file}: {one.name}")
        except CannotVerify as error:
            item.refused, item.line = str(error), error.line
        except NoRest as error:
            item.refused = str(error)
        items.append(item)
    return items


def _compare(session: Session, items: list[Item]) -> None:
    """Run the guest, as often as it takes."""
    if not items:
        return
    stderr().print(f"comparing {len(items)} scenarios with a real device-mapper ...", style="dim")
    verdicts: list[Verdict] = session.compare([item.played for item in items if item.played is not None])
    for item, verdict in zip(items, verdicts, strict=True):
        item.lacks = sorted(item.uses - session.targets)
        item.differences = [] if item.lacks else verdict.differences


def _reads(played: Played) -> int:
    return len(played.contents) + sum(seen.outcome.data is not None for seen in played.seen)


def _print_json(session: Session, items: list[Item]) -> None:
    scenarios: list[dict[str, Any]] = [{
        "file": item.file, "name": item.name,
        "steps": len(item.played.steps) if item.played is not None and item.compared else 0,
        "reads": _reads(item.played) if item.played is not None and item.compared else 0,
        "refused": item.refused or None, "line": item.line, "lacks": item.lacks,
        "differences": [{key: value for key, value in asdict(one).items() if key != "case"}
                        for one in item.differences],
    } for item in items]
    ok = all(item.compared and not item.differences for item in items)
    print_json("dmspec_verify", VERIFY_SHAPE_VERSION, {
        "kernel": session.kernel, "boots": session.boots, "ok": ok, "scenarios": scenarios})


def _print(session: Session, items: list[Item]) -> None:
    for item in items:
        _print_item(item)
    compared = [item.played for item in items if item.compared and item.played is not None]
    if compared:
        steps = sum(len(played.steps) for played in compared)
        differences = sum(len(item.differences) for item in items)
        stdout().print(f"{_count(steps, 'step')}, {_count(differences, 'difference')} between the emulator and Linux "
                       f"{session.kernel} (User-mode Linux); after each step: outcome, status, info, table; at the "
                       "end: all contents")


def _print_item(item: Item) -> None:
    from rich.text import Text

    console = stdout()
    head = f"{item.file}: {item.name}: "
    if item.refused:
        where = f" (line {item.line})" if item.line else ""
        console.print(Text.assemble(head, ("cannot be compared", "yellow"), f": {item.refused}{where}"))
        return
    if item.lacks:
        console.print(Text.assemble(head, ("not compared", "yellow"), ": the guest's kernel has no target "
                                    + ", ".join(item.lacks)))
        return
    assert item.played is not None
    style = "red" if item.differences else "green"
    console.print(Text.assemble(head, f"{_count(len(item.played.steps), 'step')}, ",
                                (_count(len(item.differences), "difference"), style),
                                f", {_reads(item.played)} contents compared"))
    shown = [one for one in item.differences if one.step == item.differences[0].step]
    for one in shown:
        where = f" (line {one.line})" if one.line else ""
        step = f"step {one.step + 1}{where} {one.words}" if one.step >= 0 else one.words
        console.print(Text(f"    {step}: {one.what}"))
        console.print(Text(f"        kernel: {one.kernel}"))
        console.print(Text(f"        dmspec: {one.ours}"))
    if len(shown) < len(item.differences):
        left = _count(len(item.differences) - len(shown), "difference")
        console.print(Text(f"    and {left} behind that step, which may follow from it; --json has all"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
