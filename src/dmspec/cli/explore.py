"""`dmspec explore`: every interleaving and every fault point of a scenario, within stated bounds.

The JSON has this shape (dmspec_explore, version 1): `file`, `ok`, and `scenarios`, a list of

* `name`, `title`, `ok`, `complete` (every state was looked at), `stopped` (why it was not);
* `states`, `transitions`, `depth`, `ends` (states in which nothing can move), `quick_steps` (of the quick look that
  comes first), `seconds`;
* `checks`: each with `words`, `name`, `mode`, `ok`, `violated`, `violation_expected`, `text`, `steps` (the
  length of the shortest way to the violation so far), `shortest` (it is proved that none is shorter);
* `counterexamples`: each with `check`, `text`, `steps` (number, mover, events, state), `edges`, `cycle`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE, die, print_json, stderr, stdout

if TYPE_CHECKING:
    from dmspec.report import Explored
    from dmspec.runtime.explore import Exploration, Progress
    from dmspec.runtime.explore.judge import Verdict
    from dmspec.runtime.plan import Plan

EXPLORE_SHAPE_VERSION = 1


@click.command(short_help="Look at every interleaving of a spec's scenarios.")
@click.argument("file", type=click.Path())
@click.option("--scenario", metavar="NAME", help="Explore only this one.")
@click.option("--states", "most_states", type=click.IntRange(1), metavar="N", default=2_000_000, show_default=True,
              help="Stop after so many states; the result then says that it is partial.")
@click.option("--preemptions", type=click.IntRange(0), metavar="N",
              help="Only runs in which a task that could go on is interrupted at most N times.")
@click.option("--first", is_flag=True,
              help="Stop when every expected violation has been seen; where none is expected, when every check is "
                   "violated.")
@click.option("--trace", "trace_path", type=click.Path(), metavar="OUT",
              help="Keep the shortest violation, for `dmspec replay`.")
@click.option("--mermaid", "mermaid_path", type=click.Path(), metavar="OUT",
              help="Draw the shortest violation as a Mermaid sequence diagram.")
@click.option("--report", "report_path", type=click.Path(), metavar="OUT.html",
              help="Write all of it as one self-contained page, to step through.")
@click.option("--strategy", type=click.Choice(["exhaustive", "quick", "random", "pct"]), default="exhaustive",
              show_default=True, help="Look at every state; or only take the quick look with which that begins; or "
                                      "draw as many runs as you like.")
@click.option("--runs", type=click.IntRange(min=1), default=1_000, show_default=True, metavar="N",
              help="How many runs to draw.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="The same seed draws the same runs.")
@click.option("--depth", type=click.IntRange(min=1, max=64), default=3, show_default=True, metavar="D",
              help="For pct: how many ordering constraints a bug is thought to need.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_explore, version 1).")
@click.option("--quiet", "-q", is_flag=True, help="Print only the verdicts.")
def command(file: str, scenario: str | None, most_states: int, preemptions: int | None, trace_path: str | None,
            mermaid_path: str | None, report_path: str | None, strategy: str, *, runs: int, seed: int, depth: int,
            first: bool, as_json: bool, quiet: bool) -> int:
    """Explore the scenarios of FILE: all orders of all steps, each fault at each point.

    The verdict on each check is exact within the bounds: a violation comes with the shortest way to it, and
    "holds" means that every state was looked at. Ctrl-C ends the search and shows what it has found so far.
    With --strategy quick, random or pct runs are drawn instead, which proves nothing but gets far.
    """
    from dmspec.cli.plans import load_plan, pick_scenarios
    from dmspec.runtime.build import BuildError
    from dmspec.runtime.explore.judge import judge
    from dmspec.runtime.runner import scenario_of

    plan = load_plan(file)
    names = pick_scenarios(plan, file, scenario)
    if strategy in ("random", "pct"):
        from dmspec.cli.sampling import sample

        if mermaid_path is not None or report_path is not None:
            die(EXIT_USAGE, "--report and --mermaid are for the exhaustive search; --trace keeps a drawn run")
        return sample(plan, file, names, strategy, runs=runs, seed=seed, depth=depth, trace_path=trace_path,
                      as_json=as_json, quiet=quiet)
    if report_path is not None:
        _must_be_writable(report_path)
    documents = []
    explored = []
    all_ok = True
    for name in names:
        begun = time.perf_counter()
        try:
            exploration = _explore(plan, name, most_states, preemptions, first=first, only_quick=strategy == "quick")
        except BuildError as error:
            die(EXIT_USAGE, f"{file}: {error}")
        seconds = time.perf_counter() - begun
        verdicts = judge(scenario_of(plan, name), exploration)
        all_ok = all_ok and all(one.ok for one in verdicts)
        if trace_path is not None and exploration.findings:
            _keep(plan, name, exploration, trace_path)
        if mermaid_path is not None and exploration.findings:
            _draw(plan, name, exploration, mermaid_path)
        if report_path is not None:
            explored.append(_explored(plan, name, exploration, verdicts, preemptions))
        if as_json:
            documents.append(_document(plan, name, exploration, verdicts, seconds))
        else:
            _show(plan, name, exploration, verdicts, seconds, quiet=quiet)
    if report_path is not None:
        _write_report(plan, file, explored, report_path)
    if as_json:
        print_json("dmspec_explore", EXPLORE_SHAPE_VERSION, {"file": file, "ok": all_ok, "scenarios": documents})
    return EXIT_OK if all_ok else EXIT_CHECK_FAILED


def _explore(plan: Plan, name: str, most_states: int, preemptions: int | None, *, first: bool,
             only_quick: bool) -> Exploration:
    """Search, with a progress line on a terminal; Ctrl-C leaves what has been found."""
    from dmspec.runtime.explore import Explorer

    explorer = Explorer(plan, name, most_states=most_states, preemptions=preemptions, stop_when_all_found=first,
                        quick=True)
    if only_quick:
        return explorer.look_quickly()
    console = stderr()
    if not console.is_terminal:
        return explorer.run_interruptibly()
    begun = time.perf_counter()
    with console.status(f"exploring {name}") as status:
        def keep_going(progress: Progress) -> bool:
            rate = progress.states / max(time.perf_counter() - begun, 0.001)
            found = ", ".join(f"{one.check} violated" for one in explorer.result.findings.values()) or "nothing yet"
            status.update(f"exploring {name}: {progress.states:,} states ({rate:,.0f}/s), depth {progress.depth}, "
                          f"{progress.frontier:,} waiting; found: {found}")
            return True

        return explorer.run_interruptibly(keep_going)


def _keep(plan: Plan, name: str, exploration: Exploration, path: str) -> None:
    from dmspec.cli.run import write_trace
    from dmspec.runtime.explore import trace_of
    from dmspec.runtime.runner import run_scenario

    shortest = min(exploration.findings.values(), key=lambda one: len(one.path))
    write_trace(run_scenario(plan, name, schedule=trace_of(plan, name, shortest.path)).trace, path)


def _must_be_writable(path: str) -> None:
    """End before the search, which may take long, where its report could not be written."""
    import os
    from pathlib import Path

    out = Path(path)
    if out.is_dir():
        die(EXIT_USAGE, f"{path}: it is a directory")
    if not out.parent.is_dir():
        die(EXIT_USAGE, f"{path}: there is no folder {out.parent}")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        die(EXIT_USAGE, f"{path}: it cannot be written")


def _explored(plan: Plan, name: str, exploration: Exploration, verdicts: list[Verdict],
              preemptions: int | None) -> Explored:
    """What the report shows of one scenario."""
    from dmspec.report import Explored
    from dmspec.runtime.explore.explain import explain
    from dmspec.runtime.runner import scenario_of

    examples = [explain(plan, name, one.check, one.text, one.path) for one in exploration.findings.values()]
    return Explored(scenario_of(plan, name), exploration, verdicts, examples, preemptions)


def _write_report(plan: Plan, file: str, explored: list[Explored], path: str) -> None:
    from pathlib import Path

    from dmspec.report import read_sources, render

    page = render(plan, explored, read_sources(plan, file))
    try:
        Path(path).write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        die(EXIT_USAGE, f"{path}: {error.strerror}")


def _draw(plan: Plan, name: str, exploration: Exploration, path: str) -> None:
    """Write the shortest violation as a diagram."""
    from pathlib import Path

    from dmspec.runtime.explore.explain import explain
    from dmspec.runtime.explore.mermaid import sequence_diagram

    shortest = min(exploration.findings.values(), key=lambda one: len(one.path))
    text = sequence_diagram(explain(plan, name, shortest.check, shortest.text, shortest.path))
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        die(EXIT_USAGE, f"cannot write {path}: {error.strerror}")


def _document(plan: Plan, name: str, exploration: Exploration, verdicts: list[Verdict],
              seconds: float) -> dict[str, Any]:
    from dmspec.runtime.explore.explain import explain
    from dmspec.runtime.runner import scenario_of

    progress = exploration.progress
    return {
        "name": name, "title": scenario_of(plan, name).title, "ok": all(one.ok for one in verdicts),
        "complete": exploration.complete, "stopped": exploration.stopped, "states": progress.states,
        "transitions": progress.transitions, "depth": progress.depth, "ends": progress.ends,
        "quick_steps": progress.quick_steps, "seconds": round(seconds, 3), "checks": [asdict(one) for one in verdicts],
        "counterexamples": [asdict(explain(plan, name, one.check, one.text, one.path))
                            for one in exploration.findings.values()],
    }


def _show(plan: Plan, name: str, exploration: Exploration, verdicts: list[Verdict], seconds: float, *,
          quiet: bool) -> None:
    from rich.text import Text

    from dmspec.runtime.explore.explain import explain
    from dmspec.runtime.runner import scenario_of

    console = stdout()
    title = scenario_of(plan, name).title
    console.print(Text(f"scenario {name}" + (f": {title}" if title else ""), "bold"))
    for finding in () if quiet else exploration.findings.values():
        _show_counterexample(explain(plan, name, finding.check, finding.text, finding.path), finding.shortest)
    for one in verdicts:
        style = "green" if one.ok else "bold red"
        console.print(Text.assemble("  ", (f"{one.word:12}", style), f"{one.words}  (line {one.line})"))
        if one.text and not quiet:
            console.print(Text(f"{'':14}{one.text}", "dim" if one.ok else ""))
    progress = exploration.progress
    if exploration.drawn:
        console.print(f"  a quick look: {progress.quick_steps:,} steps of drawn runs, {seconds:.1f} s; nothing is "
                      "proved to hold")
        console.print()
        return
    how = "every state" if exploration.complete else f"PARTIAL, {exploration.stopped}"
    console.print(f"  {how}: {progress.states:,} states, {progress.transitions:,} transitions, depth {progress.depth}, "
                  f"{progress.ends:,} ends, {seconds:.1f} s")
    console.print()


def _show_counterexample(example: Any, shortest: bool) -> None:
    """The shortest history, one line for each thing that happened, and who waits for whom."""
    from rich.text import Text

    console = stdout()
    proved = "no way is shorter" if shortest else "there may be a shorter way"
    console.print(Text(f"  {example.check} is violated after {len(example.steps) - 1} steps ({proved}):"))
    width = max(len(lane) for lane in [*example.lanes, "kernel"])
    for step in example.steps[1:]:
        events = [event for event in step.events if event[1]] or [(step.mover, "goes on")]
        for at, (lane, text) in enumerate(events):
            number = str(step.number) if not at else ""
            console.print(Text.assemble((f"  {number:>4}  ", "dim"), (f"{lane:{width}}", "cyan"), f"  {text}"))
    if example.edges:
        console.print(Text("  who waits for whom:"))
        for edge in example.edges:
            marked = "*" if edge.waiter in example.cycle and edge.holder in example.cycle else " "
            console.print(Text(f"   {marked} {edge.waiter} -> {edge.holder}: {edge.why}"))
        if example.cycle:
            console.print(Text("  the cycle: " + " -> ".join([*example.cycle, example.cycle[0]]), "bold"))
    console.print()
