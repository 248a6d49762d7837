"""The pytest plugin: every `*.dms` file is a module, every property and every scenario in it a test.

``pytest specs/`` collects them; ``-k``, ``-x``, ``--junitxml`` and the rest work as for any test.  Options:
``--dms-examples N`` and ``--dms-profile NAME`` say how much is drawn, as in `dmspec test`; ``--dms-seed N`` draws the
same again.  Without it the examples are the same in each run, as is right for CI.  A spec that is wrong is a
collection error with its diagnostics.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dmspec.runtime.plan import Plan, Property


class SpecWrongError(Exception):
    """A spec that does not compile; the text is its diagnostics."""


class SpecBrokenError(Exception):
    """A property or scenario that does not hold; the text is for a person."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("dmspec", "specs of device-mapper stacks (*.dms)")
    group.addoption("--dms-examples", type=int, metavar="N", help="examples of each property")
    group.addoption("--dms-profile", default="ci", choices=["quick", "default", "ci", "nightly"],
                    help="as the profiles of `dmspec test` (ci by default)")
    group.addoption("--dms-seed", type=int, metavar="N", help="draw from this seed")


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    """Collect a spec."""
    if file_path.suffix != ".dms":
        return None
    file: SpecFile = SpecFile.from_parent(parent, path=file_path)
    return file


class SpecFile(pytest.File):
    """One spec."""

    def collect(self) -> Iterator[pytest.Item]:
        """Its properties, then its scenarios; a spec with neither that has processes runs them all."""
        from dmspec.compiler import compile_file
        from dmspec.compiler.render import render
        from dmspec.runtime.runner import scenarios_of

        compiled = compile_file(self.path)
        if compiled.plan is None:
            raise SpecWrongError(render(compiled.diagnostics))
        for law in compiled.plan.properties:
            yield PropertyItem.from_parent(self, name=law.name, plan=compiled.plan, law=law)
        if compiled.plan.scenarios or (compiled.plan.processes and not compiled.plan.properties):
            for scenario in scenarios_of(compiled.plan):
                yield ScenarioItem.from_parent(self, name=scenario.name, plan=compiled.plan)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Show diagnostics, not a traceback."""
        if isinstance(excinfo.value, SpecWrongError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class SpecItem(pytest.Item):
    """A test of a spec."""

    def __init__(self, *, plan: Plan, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any) -> Any:
        """Show what does not hold, not a traceback."""
        if isinstance(excinfo.value, SpecBrokenError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is."""
        return self.path, None, f"{self.path.name}::{self.name}"


class PropertyItem(SpecItem):
    """A property, through Hypothesis."""

    def __init__(self, *, law: Property, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.law = law

    def runtest(self) -> None:
        """Draw examples."""
        from dmspec.testing.program import Subject
        from dmspec.testing.session import PROFILES, Options, check_property
        from dmspec.testing.spec_text import as_spec, declarations

        examples, derandomize = PROFILES[self.config.getoption("--dms-profile")]
        examples = self.config.getoption("--dms-examples") or examples
        seed = self.config.getoption("--dms-seed")
        subject = Subject(self.plan, self.law)
        report = check_property(subject, Options(examples, seed, database=None, derandomize=derandomize))
        self.add_report_section("call", "statistics", f"{report.statistics.examples} examples, "
                                                      f"{report.statistics.steps} steps")
        if report.found is not None:
            spec = as_spec(subject, report.found, declarations(self.path))
            raise SpecBrokenError(f"{report.found.broken.words}: {report.found.broken.text}\n\n{spec}")
        if report.unreached:
            raise SpecBrokenError("\n".join(f"{words}: no example came to that" for words in report.unreached))


class ScenarioItem(SpecItem):
    """A scenario: run once; where it expects a violation, looked at quickly, since one run need not come to that."""

    def runtest(self) -> None:
        """Run it, or draw runs."""
        from dmspec.runtime.explore import Explorer
        from dmspec.runtime.explore.judge import judge
        from dmspec.runtime.runner import run_scenario, scenario_of

        scenario = scenario_of(self.plan, self.name)
        if scenario.violations:
            found = judge(scenario, Explorer(self.plan, self.name).look_quickly())
            wrong = [f"{one.words}: {one.text}" for one in found if not one.ok]
        else:
            wrong = [f"{one.words}: {one.text}" for one in run_scenario(self.plan, self.name).checks if not one.ok]
        if wrong:
            raise SpecBrokenError("\n".join(wrong))
