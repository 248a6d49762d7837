"""SPIN, run over a model: what its search says of each check."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dmspec.compiler.backends.promela import ALWAYS, AT_REST, judged, model
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import NO_DEADLOCK, all_checks, scenario_of

SECONDS = 300
MOST_DEPTH = 1_000_000
NAMES = {name.replace("-", "_"): name for name in (*ALWAYS, *AT_REST)}


@dataclass(frozen=True)
class Search:
    """What pan printed: which checks are violated, and its figures."""

    violated: frozenset[str]
    complete: bool
    states: int
    transitions: int
    seconds: float


def build(text: str, folder: Path, *options: str) -> Path:
    """Compile a model; the answer is the verifier."""
    (folder / "model.pml").write_text(text)
    made = subprocess.run(["spin", "-a", "model.pml"], cwd=folder, capture_output=True, text=True, check=False,
                          timeout=SECONDS)
    said = made.stdout + made.stderr
    assert made.returncode == 0, said
    assert "Error" not in said, said
    pan = folder / "pan"
    subprocess.run(["gcc", *(options or ("-O0",)), "-w", "-DSAFETY", "-DVECTORSZ=4096", "-o", str(pan), "pan.c"],
                   cwd=folder, check=True, timeout=SECONDS)
    return pan


def search(pan: Path) -> Search:
    """Look at every state, and go on behind each error."""
    done = subprocess.run([str(pan), "-c0", f"-m{MOST_DEPTH}"], cwd=pan.parent, capture_output=True, text=True,
                          check=False, timeout=SECONDS)
    said = done.stdout
    violated = set()
    for error in re.findall(r"^pan:\d+: (.*) \(at depth \d+\)$", said, re.MULTILINE):
        if error == "invalid end state":
            violated.add(NO_DEADLOCK)
        else:
            assert error.startswith("assertion violated"), error
            violated.add(NAMES[re.findall(r"\w+", error)[-1]])
    seconds = re.search(r"elapsed time ([\d.]+)", said)
    assert seconds is not None, said
    return Search(frozenset(violated), "Search not completed" not in said and "error: max search depth" not in said,
                  _figure(r"(\d+) states, stored", said), _figure(r"(\d+) transitions", said), float(seconds[1]))


def _figure(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    assert found is not None, said
    return int(found[1])


def verdicts(plan: Plan, name: str, folder: Path) -> dict[str, bool]:
    """Whether each check that a model judges is violated."""
    scenario = scenario_of(plan, name)
    found = search(build(model(plan, scenario), folder))
    assert found.complete
    return {check.name: check.name in found.violated for check in all_checks(scenario) if judged(check)}
