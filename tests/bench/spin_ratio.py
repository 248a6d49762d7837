"""How quick is the explorer, beside SPIN on its own model of the same scenario?

Run it with ``python -m tests.bench.spin_ratio`` from the checkout; it needs ``spin`` and ``gcc``.  With arguments it
takes them for a spec and a scenario: ``python -m tests.bench.spin_ratio specs/mail/locked.dms locked``.  ``--states N``
ends the explorer's search after so many states (3000), since a rate needs no whole space; SPIN looks at all of its own.

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

from dmspec.compiler import compile_file
from dmspec.compiler.backends.promela import model
from dmspec.runtime.explore import Exploration, Explorer
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import scenario_of

MAIL = Path("specs/mail")
SCENARIOS = [("passthrough_metadata", "passthrough_metadata"), ("passthrough_one_lock", "passthrough_one_lock"),
             ("locked", "locked"), ("self_sufficient", "self_sufficient")]


def measure(plan: Plan, name: str, most_states: int, options: str) -> None:
    """Print one scenario's figures."""
    begun = time.perf_counter()
    exploration = Explorer(plan, name, most_states=most_states).run()
    seconds = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        found = search(build(model(plan, scenario_of(plan, name)), Path(folder), options))
    show(name, exploration, seconds, found)


def show(name: str, exploration: Exploration, seconds: float, found: Search) -> None:
    """Print it as a table of two lines."""
    progress = exploration.progress
    rate = progress.states / max(seconds, 1e-6)
    print(name)
    print(f"  {'':10} {'states stored':>14} {'transitions':>12} {'seconds':>9} {'states/s':>11} {'transitions/s':>14}")
    how = "every state" if exploration.complete else "partial"
    print(f"  {'explorer':10} {progress.states:14,} {progress.transitions:12,} {seconds:9.2f} {rate:11,.0f} "
          f"{progress.transitions / max(seconds, 1e-6):14,.0f}  {how}")
    if found.seconds < 0.05:
        print(f"  {'SPIN':10} {found.states:14,} {found.transitions:12,} {found.seconds:9.2f} {'too quick':>11}")
        return
    spin_rate = found.states / found.seconds
    print(f"  {'SPIN':10} {found.states:14,} {found.transitions:12,} {found.seconds:9.2f} {spin_rate:11,.0f} "
          f"{found.transitions / found.seconds:14,.0f}  every state")
    stored = f"{progress.states / found.states:.4f}" if exploration.complete else "not known"
    print(f"  explorer to SPIN: {rate / spin_rate:.5f} of its states per second; states stored: {stored}")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description="The explorer beside SPIN.")
    parser.add_argument("spec", nargs="?")
    parser.add_argument("scenario", nargs="?")
    parser.add_argument("--states", type=int, default=3000)
    parser.add_argument("--gcc", default="-O2", help="the option for gcc: -O2, or -O0 to compile quicker")
    args = parser.parse_args()
    todo = [(args.spec, args.scenario)]
    if not args.spec:
        todo = [(str(MAIL / f"{spec}.dms"), name) for spec, name in SCENARIOS]
    for spec, name in todo:
        plan = compile_file(spec).plan
        if plan is None:
            sys.exit(f"{spec} is wrong: dmspec check says how")
        measure(plan, name or plan.scenarios[0].name, args.states, args.gcc)


if __name__ == "__main__":
    main()
