"""`dmspec explore --strategy random|pct`: drawn runs, where every state would be too many.

The JSON has this shape (dmspec_sampling, version 1): `file`, `strategy`, `depth`, `seed`, `ok`, and `scenarios`, a list
of `name`, `title`, `ok`, `runs`, `different` (schedules), `steps`, `longest`, `cut` (runs ended by the step limit),
`stopped` (empty when all runs were made), `seconds`, and `checks`: `mode`, `name`, `words`, `word`, `ok`, `runs` (that
violated it), `steps` (of the shortest), `text`, `line`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE, die, print_json, stderr, stdout

if TYPE_CHECKING:
    from dmspec.runtime.explore.strategies import Sampling
    from dmspec.runtime.plan import Plan, Scenario

SAMPLING_SHAPE_VERSION: Final = 1


def sample(plan: Plan, file: str, names: list[str], strategy: str, *, runs: int, seed: int, depth: int,
           trace_path: str | None, as_json: bool, quiet: bool) -> int:
    """Draw runs of each scenario, and say what they came to."""
    from dmspec.runtime.build import BuildError
    from dmspec.runtime.explore.strategies import STRATEGIES, Sampler
    from dmspec.runtime.runner import scenario_of

    documents = []
    all_ok = True
    for name in names:
        begun = time.perf_counter()
        sampler = Sampler(plan, name, STRATEGIES[strategy](depth), seed=seed)
        try:
            found = _drawn(sampler, name, runs)
        except BuildError as error:
            die(EXIT_USAGE, f"{file}: {error}")
        seconds = time.perf_counter() - begun
        scenario = scenario_of(plan, name)
        checks = _judged(scenario, found)
        all_ok = all_ok and all(one["ok"] for one in checks)
        if trace_path is not None and found.found:
            _keep(plan, name, found, trace_path)
        how = f"{strategy}, depth {depth}" if strategy == "pct" else strategy
        if as_json:
            documents.append(_document(scenario, found, checks, seconds))
        else:
            _show(scenario, found, checks, f"{how}, seed {seed}", seconds, quiet=quiet)
    if as_json:
        print_json("dmspec_sampling", SAMPLING_SHAPE_VERSION, {
            "file": file, "strategy": strategy, "depth": depth, "seed": seed, "ok": all_ok, "scenarios": documents})
    return EXIT_OK if all_ok else EXIT_CHECK_FAILED


def _drawn(sampler: Any, name: str, runs: int) -> Sampling:
    console = stderr()
    if not console.is_terminal:
        return sampler.run(runs)  # type: ignore[no-any-return]
    with console.status(f"drawing runs of {name}") as status:
        def keep_going(found: Sampling) -> bool:
            if found.runs % 20 == 0:
                seen = ", ".join(found.found) or "nothing yet"
                status.update(f"{name}: run {found.runs:,} of {runs:,}, {found.different:,} different; "
                              f"violated: {seen}")
            return True

        return sampler.run(runs, keep_going)  # type: ignore[no-any-return]


def _judged(scenario: Scenario, found: Sampling) -> list[dict[str, Any]]:
    """One verdict for each check; what was not seen is not known."""
    from dmspec.runtime.runner import all_checks, check_words

    verdicts = []
    for check in all_checks(scenario):
        seen = found.found.get(check.name)
        expected = check.name in scenario.violations
        if check.name == "expectation" and check not in scenario.checks and seen is None and not expected:
            continue
        if check.mode == "sometimes":
            reached = check.name in found.reached
            word, ok, seen = ("reached" if reached else "not seen"), reached, None
        elif seen is not None:
            word, ok = ("as expected", True) if expected else ("violated", False)
        else:
            word, ok = "not seen", not expected
        verdicts.append({
            "mode": check.mode, "name": check.name, "words": check_words(check), "word": word, "ok": ok,
            "runs": found.violations.get(check.name, 0), "steps": seen.steps if seen is not None else None,
            "text": seen.text if seen is not None else "", "line": check.line})
    return verdicts


def _document(scenario: Scenario, found: Sampling, checks: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    return {
        "name": scenario.name, "title": scenario.title, "ok": all(one["ok"] for one in checks), "runs": found.runs,
        "different": found.different, "steps": found.steps, "longest": found.longest, "cut": found.cut,
        "stopped": found.stopped, "seconds": round(seconds, 3), "checks": checks}


def _keep(plan: Plan, name: str, found: Sampling, path: str) -> None:
    from dmspec.cli.run import write_trace
    from dmspec.runtime.runner import run_scenario

    shortest = min(found.found.values(), key=lambda one: one.steps)
    write_trace(run_scenario(plan, name, schedule=shortest.schedule).trace, path)


def _show(scenario: Scenario, found: Sampling, checks: list[dict[str, Any]], how: str, seconds: float, *,
          quiet: bool) -> None:
    from rich.text import Text

    console = stdout()
    console.print(Text(f"scenario {scenario.name}" + (f": {scenario.title}" if scenario.title else ""), "bold"))
    for one in checks:
        style = "green" if one["ok"] else "bold red"
        console.print(Text.assemble("  ", (f"{one['word']:12}", style), f"{one['words']}  (line {one['line']})"))
        if one["text"] and not quiet:
            how_often = f"in {one['runs']} of {found.runs} runs, the shortest after {one['steps']} steps"
            console.print(Text(f"{'':14}{how_often}: {one['text']}", "dim" if one["ok"] else ""))
    cut = f", {found.cut} ended by the step limit" if found.cut else ""
    stopped = f"; {found.stopped}" if found.stopped else ""
    console.print(f"  a SAMPLE ({how}): {found.runs:,} runs, {found.different:,} different, {found.steps:,} steps, the "
                  f"longest {found.longest:,}{cut}, {seconds:.1f} s{stopped}; what was not seen may be there")
    console.print()
