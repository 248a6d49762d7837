"""How quick is the explorer, beside SPIN on its own model of the same scenario?

``make bench-explore`` runs it; it needs ``spin`` and ``gcc``.  With arguments it takes them for a spec and its
scenarios: ``python -m tests.bench.spin_ratio specs/mail/locked.dms locked``.  ``--states N`` ends the explorer's search
after so many states (3000), since a rate needs no whole space, ``--states 0`` nowhere; SPIN looks at all of its own.

For each scenario it prints

* the quick look: how long it took, how many runs (executions) a second it drew, and the length of what it found of the
  violations that the spec expects (``-``: one was not found);
* the search: states stored, and how many it would store if faults struck everywhere instead of late;
* states stored divided by the states that are there after that reduction: of the first ones, how many are different in
  any value, by an independent comparison (:mod:`tests.explore.by_value`);
* SPIN's search: states stored with its own partial-order reduction, and without it (``-DNOREDUCE``);
* the rates, and their ratio.

Both run in one process, one after the other, so a loaded machine slows down both.  SPIN's verifier is compiled with
``-O2``, which takes longer than its search and is not counted.  What a state is differs: the explorer's is the whole
emulator (bytes on disks, logs, bios, the kernel's work items), SPIN's the control protocol alone, but in finer steps.
So the ratio of rates says what the emulator costs, and the number of states what the two abstractions differ in.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.compiler.pan import Search, build, search
from tests.explore.by_value import KeepingStates, count

from dmspec.compiler import compile_file
from dmspec.compiler.backends.promela import model
from dmspec.runtime.explore import Exploration, Explorer
from dmspec.runtime.explore.quick import Quick
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import scenario_of, scenarios_of

MAIL = Path("specs/mail")
COMPARED_STATES = 1_000


def quick_look(plan: Plan, name: str) -> None:
    """Print how soon the expected violations are seen."""
    begun = time.perf_counter()
    quick = Quick(Explorer(plan, name))
    quick.look()
    seconds = time.perf_counter() - begun
    expected = scenario_of(plan, name).violations
    said = ", ".join(f"{check} {len(quick.found[check][1]) if check in quick.found else '-'}" for check in expected)
    print(f"  quick look {seconds:8.2f} s {quick.runs:7,} executions {quick.runs / seconds:9,.0f} executions/s  "
          f"{said or 'nothing is expected'}")


def explore(plan: Plan, name: str, most_states: int | None) -> tuple[Exploration, Explorer, float]:
    """Search, and say how long it took."""
    begun = time.perf_counter()
    explorer = Explorer(plan, name, most_states=most_states, store=KeepingStates(COMPARED_STATES))
    exploration = explorer.run()
    return exploration, explorer, time.perf_counter() - begun


def spin(plan: Plan, name: str, *options: str) -> Search:
    """SPIN's figures."""
    with tempfile.TemporaryDirectory() as folder:
        return search(build(model(plan, scenario_of(plan, name)), Path(folder), *options))


def measure(plan: Plan, name: str, most_states: int | None, option: str) -> None:
    """Print one scenario's figures."""
    print(name)
    quick_look(plan, name)
    exploration, explorer, seconds = explore(plan, name, most_states)
    progress = exploration.progress
    rate = progress.states / max(seconds, 1e-6)
    everywhere = Explorer(plan, name, most_states=most_states, late_faults=False).run()
    more = f"{everywhere.progress.states:,}" if everywhere.complete else "not known"
    how = "every state" if exploration.complete else "PARTIAL"
    print(f"  explorer   {seconds:8.2f} s {progress.states:10,} states ({more} without reduction) "
          f"{progress.transitions:10,} transitions  depth {progress.depth}  {rate:9,.0f} states/s  {how}")
    stored, different = count(explorer)
    print(f"  stored / different, of the first {stored:,} states: {stored / different:.4f}")
    found, unreduced = spin(plan, name, option), spin(plan, name, option, "-DNOREDUCE")
    spin_rate = found.states / found.seconds if found.seconds >= 0.05 else None
    said = f"{spin_rate:9,.0f} states/s" if spin_rate else "too quick for a rate"
    print(f"  SPIN       {found.seconds:8.2f} s {found.states:10,} states ({unreduced.states:,} without reduction) "
          f"{found.transitions:10,} transitions  {said}")
    if spin_rate:
        print(f"  explorer to SPIN, states per second: {rate / spin_rate:.4f}")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description="The explorer beside SPIN.")
    parser.add_argument("spec", nargs="?")
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--states", type=int, default=3000)
    parser.add_argument("--gcc", default="-O2", help="the option for gcc: -O2, or -O0 to compile quicker")
    args = parser.parse_args()
    specs = [args.spec] if args.spec else sorted(str(path) for path in MAIL.glob("*.dms"))
    for spec in specs:
        plan = compile_file(spec).plan
        if plan is None:
            sys.exit(f"{spec} is wrong: dmspec check says how")
        for name in args.scenarios or [one.name for one in scenarios_of(plan)]:
            measure(plan, name, args.states or None, args.gcc)


if __name__ == "__main__":
    main()
