"""Whoever waits says what for, in words that a person can do something with: a deadlock is explained with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmspec.compiler import compile_file
from dmspec.runtime.runner import run_scenario
from dmspec.runtime.task import Task

SPECS = Path(__file__).parents[2] / "specs"
RUN = sorted(path for folder in ("targets", "lvm", "history") for path in (SPECS / folder).glob("*.dms"))
WORDS = re.compile(r"(for|to pass on) [a-z0-9~].*", re.ASCII)


@pytest.mark.parametrize("spec", RUN, ids=lambda path: path.stem)
def test_every_wait_says_what_for(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: set[str] = set()
    original = Task.step

    def step(self: Task) -> None:
        original(self)
        if self.waiting is not None:
            said.update((self.waiting.why, f"for {self.waiting.latch.name}", f"for {self.name}"))

    monkeypatch.setattr(Task, "step", step)
    plan = compile_file(spec).plan
    assert plan is not None
    for scenario in plan.scenarios:
        run_scenario(plan, scenario.name, seed=1)
    assert [one for one in said if not WORDS.fullmatch(one) or "XX" in one or "None" in one] == []
