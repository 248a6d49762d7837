"""Hypothesis draws programs, shrinks the one that breaks a check, and remembers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

from dmspec.runtime.runner import check_words
from dmspec.testing.example import Broken, Outcome, Statistics, run_program
from dmspec.testing.program import DEVIATIONS, Program, Subject

MOST_DEVIATIONS: Final = 8
DATABASE: Final = ".hypothesis/dmspec"

# Examples, and whether each run draws the same ones.
PROFILES: Final[dict[str, tuple[int, bool]]] = {
    "quick": (100, False), "default": (500, False), "ci": (200, True), "nightly": (20_000, False),
}


class PropertyBrokenError(AssertionError):
    """An example breaks a check.  Each check has a class of its own, so that shrinking keeps to one."""


class _TimeOverError(KeyboardInterrupt):
    """Hypothesis stops at once for an interrupt, and for nothing else."""


_errors: dict[str, type[PropertyBrokenError]] = {}


def error_of(check: str) -> type[PropertyBrokenError]:
    """The exception class of a check."""
    name = "".join(word.capitalize() for word in check.split("-"))
    return _errors.setdefault(check, type(f"{name}BrokenError", (PropertyBrokenError,), {}))


@dataclass(frozen=True, slots=True)
class Options:
    """After Hypothesis's own settings.  ``seconds``: end then, at the latest (``None``: no limit)."""

    examples: int = PROFILES["default"][0]
    seed: int | None = None
    database: str | None = DATABASE
    derandomize: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The smallest program that was found, and what it breaks."""

    program: Program
    broken: Broken
    schedule: list[int]


@dataclass
class Report:
    """What testing one property came to."""

    subject: Subject
    statistics: Statistics = field(default_factory=Statistics)
    found: Counterexample | None = None
    found_after: int = 0
    found_seconds: float = 0.0
    shrinking: int = 0
    seconds: float = 0.0
    stopped: bool = False

    @property
    def unreached(self) -> list[str]:
        """The `sometimes` that no example came to, in words."""
        return [words for words in map(check_words, self.subject.sometimes()) if not self.statistics.reached[words]]

    @property
    def ok(self) -> bool:
        """Whether no check was broken and everything was reached that has to be."""
        return self.found is None and not self.unreached


def programs(subject: Subject) -> st.SearchStrategy[Program]:
    """Draw a program of a property."""
    steps = st.lists(
        st.tuples(st.integers(0, subject.step_count - 1), st.integers(0, subject.place_count - 1)),
        min_size=subject.law.least, max_size=subject.law.most)
    deviations = st.lists(st.integers(0, DEVIATIONS - 1), max_size=MOST_DEVIATIONS)
    return st.builds(subject.program, steps, deviations)


def check_property(subject: Subject, options: Options, *, progress: Callable[[Report], None] | None = None,
                   clock: Callable[[], float] = time.monotonic) -> Report:
    """Test one property.  All seconds are those of ``clock``."""
    report = Report(subject)
    begun = clock()

    def example(program: Program) -> None:
        if options.seconds is not None and clock() - begun > options.seconds and report.found is None:
            raise _TimeOverError
        outcome = run_program(subject, program)
        _note(report, program, outcome, clock() - begun)
        if progress is not None:
            progress(report)
        if outcome.broken is not None:
            raise error_of(outcome.broken.check)(outcome.broken.text)

    test = settings(
        max_examples=options.examples, database=_database(subject, options), deadline=None,
        derandomize=options.derandomize and options.seed is None, report_multiple_bugs=False, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )(given(programs(subject))(example))
    if options.seed is not None:
        test = seed(options.seed)(test)
    try:
        test()
    except PropertyBrokenError:
        assert report.found is not None
    except _TimeOverError:
        report.stopped = True
    report.seconds = clock() - begun
    return report


def _note(report: Report, program: Program, outcome: Outcome, seconds: float) -> None:
    if report.found is None:
        report.statistics.add(program, outcome)
    else:
        report.shrinking += 1
    if outcome.broken is not None:
        if report.found is None:
            report.found_after, report.found_seconds = report.statistics.examples, seconds
        report.found = Counterexample(program, outcome.broken, outcome.schedule)


def _database(subject: Subject, options: Options) -> ExampleDatabase | None:
    """A folder for each property of each text, so that what was found is tried first the next time."""
    if options.database is None:
        return None
    plan = subject.plan
    return DirectoryBasedExampleDatabase(Path(options.database) / f"{plan.source_sha256[:16]}-{subject.law.name}")
