"""`make mutation`: how many small changes of the runtime the tests notice, and the list of those they do not.

What the mutants are is mutmut's business (:mod:`tests.mutation.mutants`).  Running them is not left to it: it calls
pytest anew for each, with every test that enters the changed function, which for these modules is most of the suite.
Here the tests are collected and measured once, line by line; each mutant is planted in a fork of that process, which
runs the tests that reach the changed line, the quickest first, until one fails.

A mutant that a test noticed stays noticed until its function changes, so a second run (the answers are kept in
.mutation/) takes only what is left; ``--anew`` forgets them.  After ``--most-seconds`` of tests a mutant counts as not
noticed: those that nothing can notice would take most of the time, so the figures are lower bounds.  ``--show`` plants
nothing and tells what is known.  ``--write`` writes docs/mutation.md.  Less than 80 % noticed fails.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import coverage
import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from tests.mutation.mutants import ROOT, Mutant, mutants_of
from tests.mutation.survivors import DOCUMENT, write

MODULES: Final = ("targets/mirror", "targets/mirror_work", "region_hash", "dirty_log", "targets/snapshot",
                  "targets/snapshot_work", "targets/snapshot_merge", "targets/snapshot_origin", "exception_store",
                  "suspend", "mapped_device")
TESTS: Final = ("tests/runtime", "tests/kernel", "tests/corpus", "tests/museum", "tests/specs", "tests/properties")
# They start programs, which no mutant gets into; or they would take other profiles than this process has.
NOT: Final = ("test_generated_modules", "test_the_plugin_collects", "hash_seed", "test_large_world")
LEAST_PERCENT: Final = 80
KEPT: Final = ROOT / ".mutation"
# A mutant may run for ever: it gets what its tests take otherwise, so many times, and this, of the processor; and so
# many times that by the clock, if it waits for ever.
PATIENCE: Final = 5.0
GRACE_SECONDS: Final = 2.0
WALL: Final = 20.0
SURVIVED: Final = "survived"
ENDLESS: Final = "endless"


class Plugin:
    """Takes the place of pytest's own loop over the tests."""

    def __init__(self, mutants: list[Mutant], most_seconds: float) -> None:
        self.mutants = mutants
        self.most_seconds = most_seconds
        self.seconds: dict[str, float] = {}
        self.by_line: dict[Path, dict[int, list[str]]] = {}
        self.killers: dict[str, Counter[str]] = defaultdict(Counter)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items if not any(word in item.nodeid for word in NOT)}
        self.measure(list(items.values()))
        begun = time.monotonic()
        for done, mutant in enumerate(self.mutants):
            killers = self.killers[mutant.function]
            chosen = sorted(self.by_line.get(mutant.path, {}).get(mutant.line, ()),
                            key=lambda node: (-killers[node], self.seconds[node], node))
            answer = self.ask(mutant, [items[node] for node in chosen])
            killers[answer] += 1
            if answer == SURVIVED or not done % 100:
                print(f"{done:5} {time.monotonic() - begun:6.0f} s {len(chosen):4} tests  {mutant.name}: "
                      f"{mutant.before}  ->  {mutant.after}  {answer}", flush=True)
            with (KEPT / "answers.jsonl").open("a") as file:
                file.write(json.dumps([key(mutant), answer]) + "\n")
        return True

    def measure(self, items: list[pytest.Item]) -> None:
        """Run all tests once: how long each takes, and which lines it reaches.  All have to pass."""
        watch = coverage.Coverage(data_file=None, include=[f"*/{module}.py" for module in MODULES])
        watch.start()
        with contextlib.redirect_stdout(io.StringIO()):
            for item, following in zip(items, [*items[1:], None], strict=True):
                watch.switch_context(item.nodeid)
                begun = time.process_time()
                if not passes(item, following):
                    raise pytest.UsageError(f"{item.nodeid} fails with nothing planted")
                self.seconds[item.nodeid] = time.process_time() - begun
        watch.stop()
        data = watch.get_data()
        for file in data.measured_files():
            lines = {line: [name for name in names if name] for line, names in data.contexts_by_lineno(file).items()}
            self.by_line[Path(file).resolve()] = lines

    def ask(self, mutant: Mutant, items: list[pytest.Item]) -> str:
        """The test that notices, or what else came of it."""
        expected = min(sum(self.seconds[item.nodeid] for item in items), self.most_seconds)
        patience_s = GRACE_SECONDS + PATIENCE * expected
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            used = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + patience_s) + 1,) * 2)
            with open(theirs, "wb", buffering=0) as out:
                out.write(self._child(mutant, items).encode())
            os._exit(0)
        os.close(theirs)
        with open(ours, "rb") as answer:
            ended, _, _ = select.select([answer], [], [], WALL * patience_s)
            if not ended:
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return answer.read().decode() or ENDLESS

    def _child(self, mutant: Mutant, items: list[pytest.Item]) -> str:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        item = items[0] if items else None
        try:
            mutant.plant()
            begun = time.process_time()
            for item, following in zip(items, [*items[1:], None], strict=True):
                if not passes(item, following):
                    return item.nodeid
                if time.process_time() - begun > self.most_seconds:
                    break
        except BaseException:  # noqa: BLE001 - this is a fork: nothing may get out of it
            return item.nodeid if item else SURVIVED
        return SURVIVED


def passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    reports = runtestprotocol(item, log=False, nextitem=following)
    return all(report.passed or report.skipped for report in reports)


def key(mutant: Mutant) -> str:
    """What an answer is an answer to."""
    return f"{mutant.name} {hashlib.sha256(mutant.source.encode()).hexdigest()[:12]}"


def read_answers() -> dict[str, str]:
    """The last ones given."""
    file = KEPT / "answers.jsonl"
    return dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}


def run(mutants: list[Mutant], tests: list[str], most_seconds: float) -> int:
    """Ask about them all; the status is pytest's."""
    hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")
    # Not the conftest: that looks for leftovers after each test, which takes longer than most of them.
    options = ["--quiet", "--noconftest", "--capture=no", "--tb=no", "-p", "no:cacheprovider", "-p", "no:faulthandler",
               "-o", "timeout=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *tests], plugins=[Plugin(mutants, most_seconds)]))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make mutation")
    parser.add_argument("functions", nargs="*", help="parts of names, as region_hash.RegionHash")
    parser.add_argument("--anew", action="store_true", help="forget the answers of earlier runs")
    parser.add_argument("--most-seconds", type=float, default=5.0, help="of tests, for each mutant (5)")
    parser.add_argument("--tests", nargs="+", default=list(TESTS))
    parser.add_argument("--show", action="store_true", help="what is known from earlier runs")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    given = parser.parse_args(words)
    KEPT.mkdir(exist_ok=True)
    if given.anew:
        (KEPT / "answers.jsonl").unlink(missing_ok=True)
    mutants = [one for module in MODULES for one in mutants_of(ROOT / "runtime" / f"{module}.py")
               if not given.functions or any(word in one.name for word in given.functions)]
    known = read_answers()
    left = [one for one in mutants if known.get(key(one), SURVIVED) == SURVIVED]
    print(f"{len(mutants)} mutants, of which {len(mutants) - len(left)} are known to be noticed")
    if not given.show:
        if status := run(left, given.tests, given.most_seconds):
            return status
        known = read_answers()
    survivors = [one for one in mutants if known.get(key(one), SURVIVED) == SURVIVED]
    groups: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in mutants:
        groups[one.path.stem][0] += 1
        groups[one.path.stem][1] += known.get(key(one), SURVIVED) != SURVIVED
    for name, (count, noticed) in groups.items():
        print(f"{name:16} {noticed:5} of {count:5} noticed {100 * noticed / count:6.1f} %")
    percent = 100 * (1 - len(survivors) / len(mutants))
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants noticed, {percent:.1f} %")
    if given.write:
        write(survivors, dict(groups), given.most_seconds)
    return 1 if percent < LEAST_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
