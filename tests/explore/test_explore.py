"""The explorer: against brute force, its bounds, its counterexamples, and what it must find."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.explore.by_value import KeepingStates, count

from dmspec.compiler import compile_file, compile_text
from dmspec.runtime.explore import Explorer, Move, trace_of
from dmspec.runtime.explore.explain import explain
from dmspec.runtime.explore.judge import judge
from dmspec.runtime.explore.moves import ExploredRun, make, moves_of
from dmspec.runtime.explore.state import Codec
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import run_scenario, scenario_of

MAIL = Path(__file__).parents[2] / "specs" / "mail"
DISKS = "disk pv1 1MiB\ndisk pv2 1MiB\n"

PHILOSOPHERS = DISKS + """
lock a
lock b
process one { with a { with b { } } }
process two { with b { with a { } } }
scenario main "two locks in two orders" {
    run one two
    always no-deadlock
    expect violation of no-deadlock
}
"""


class TooManyRunsError(Exception):
    """The program is too large for brute force."""


def plan_of(text: str) -> Plan:
    """Compile a spec; two blanks stand for a new line, to keep the specs in here short."""
    compiled = compile_text(text.replace("  ", "\n"), "spec")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


def brute_force(plan: Plan, most: int = 40_000) -> tuple[set[bytes], dict[str, int]]:
    """Every run, one after the other, nothing merged: the ends, and the length of the shortest violations."""
    explorer = Explorer(plan, "main")
    codec = Codec(explorer.plan, explorer.begin())
    ends: set[bytes] = set()
    shortest: dict[str, int] = {}
    todo: list[list[Move]] = [[]]
    for _ in range(most):
        if not todo:
            return ends, shortest
        path = todo.pop()
        run = explorer.begin()
        others: list[Move] = []
        for move in path:
            others = make(run, move)
        if others:
            todo += [[*path[:-1], other] for other in others]
        note(run, len(path), shortest)
        moves = moves_of(run, late=False)
        if not any(move.kind == "task" for move in moves):
            run.come_to_rest()
            note(run, len(path), shortest)
            clear(run)
            ends.add(codec.key(codec.freeze(run)))
        todo += [[*path, move] for move in moves]
    raise TooManyRunsError


def note(run: ExploredRun, length: int, shortest: dict[str, int]) -> None:
    for watching in run.watching:
        if watching.text:
            name = watching.check.name
            shortest[name] = min(length, shortest.get(name, length))


def clear(run: ExploredRun) -> None:
    for watching in run.watching:
        watching.forget()
    run.world.violations.clear()


def programs(count: int) -> Iterator[str]:
    """Small random programs over two locks, two devices and a disk that may fail."""
    draw = random.Random(4711)
    for _ in range(count):
        processes = []
        for name in ("p", "q"):
            body = " ".join(statement(draw, depth=2) for _ in range(draw.randint(1, 2)))
            processes.append(f"process {name} {{ {body} }}")
        fault = "fault fail pv1 at=any most=1\n" if draw.random() < 0.3 else ""
        yield (DISKS + "device d { linear pv1 }\ndevice e { linear pv2 }\nlock a\nlock b\n" + "\n".join(processes)
               + "\nscenario main \"drawn\" {\n run p q\n" + fault
               + " always no-deadlock\n always no-io-error\n always no-race\n}\n")


def statement(draw: random.Random, depth: int) -> str:
    kind = draw.choice(["lock", "lock", "suspend", "cycle", "write", "choose"] if depth else ["suspend", "write"])
    device = draw.choice("de")
    if kind == "lock":
        return f"with {draw.choice('ab')} {{ {statement(draw, depth - 1)} }}"
    if kind == "choose":
        return f"choose {{ {statement(draw, 0)} }} or {{ resume {device} }}"
    if kind == "cycle":
        return f"suspend {device} resume {device}"
    return f"suspend {device}" if kind == "suspend" else f"write {device} at=0 size=512"


def test_brute_force_finds_the_same() -> None:
    """Some programs have too many runs for brute force; most must not, or this would show little."""
    compared = violated = 0
    for text in programs(30):
        plan = plan_of(text)
        found = Explorer(plan, "main").run()
        assert found.complete, text
        try:
            _ends, shortest = brute_force(plan, most=1_500)
        except TooManyRunsError:
            continue
        assert {name: len(one.path) for name, one in found.findings.items()} == shortest, text
        compared += 1
        violated += bool(shortest)
    assert (compared >= 20, violated >= 15) == (True, True), (compared, violated)


def test_a_quick_look_finds_only_what_is_there() -> None:
    """Every violation of these small programs, by a way that is real and not shorter than the shortest."""
    compared = 0
    for text in programs(12):
        plan = plan_of(text)
        shortest = {name: len(one.path) for name, one in Explorer(plan, "main").run().findings.items()}
        quick = Explorer(plan, "main").look_quickly()
        assert set(quick.findings) == set(shortest), text
        for name, one in quick.findings.items():
            assert len(one.path) >= shortest[name]
            result = run_scenario(plan, "main", schedule=trace_of(plan, "main", one.path))
            assert name in {check.name for check in result.checks if check.violated}
        compared += len(shortest)
    assert compared >= 10


def test_a_search_after_a_quick_look_ends_with_the_shortest_ways() -> None:
    for text in programs(6):
        plan = plan_of(text)
        alone, after = (Explorer(plan, "main", quick=quick).run() for quick in (False, True))
        assert {name: len(one.path) for name, one in after.findings.items()} == \
            {name: len(one.path) for name, one in alone.findings.items()}
        assert all(one.shortest for one in after.findings.values())


REPAIR = DISKS + """
device vol { mirror pv1 pv2 log=core region=512KiB nosync handle_errors }
process app { write vol at=0 size=512 }
process dmeventd { await event(vol)  load vol { linear pv2 }  suspend vol noflush nolockfs  resume vol }
"""


@pytest.mark.parametrize(("more", "helps"), [
    ("run app dmeventd\n fault fail pv1 at=any most=1", True),
    ("run app dmeventd\n fault fail pv1 at=any most=1\n fault fail pv2 at=any most=1", True),
    ("run app asking\n fault fail pv1 at=any most=1", True),
    ("run app waiting\n fault fail pv1 at=any most=1", False),
    ("run early\n fault fail pv1 at=any most=1", True),
    ("run app dmeventd\n fault detach pv1 at=any most=1", False),
])
def test_late_faults_change_no_verdict(more: str, helps: bool) -> None:
    plan = plan_of(REPAIR + """
process asking { flush pv2  if failed(pv1) { write vol at=4KiB size=512 } else { write vol at=8KiB size=512 } }
process waiting { await failed(pv1)  write vol at=4KiB size=512 }
process early { repeat 2 { if failed(pv1) { write vol at=4KiB size=512 } else { write vol at=0 size=512 } } }
scenario main "faults" { """ + more + """
 always no-deadlock
 always no-io-error
 always no-error
 finally no-lost-write vol
}
""")
    late, everywhere = (Explorer(plan, "main", late_faults=late).run() for late in (True, False))
    assert {name: len(one.path) for name, one in late.findings.items()} == \
        {name: len(one.path) for name, one in everywhere.findings.items()}
    assert late.progress.ends == everywhere.progress.ends
    assert (late.progress.transitions < everywhere.progress.transitions) == helps


@pytest.mark.parametrize(("daemon", "seen"), [
    ("repeat 2 { await event(vol) }", True),
    ("await event(vol)  await event(vol)", True),
    ("register vol past  await event vol registered  await event vol registered", True),
    ("repeat 5 { await event(vol) }", False),
    ("await event(vol)  expect events vol 2", True),
])
def test_events_are_numbered_anew_without_a_difference(daemon: str, seen: bool) -> None:
    """A leg and the log of a mirror fail: who sees both events, each by itself, gets to what is not so."""
    plan = plan_of(DISKS + """
disk log 64KiB
device vol { mirror pv1 pv2 log=log region=512KiB nosync handle_errors keep_log }
process app { fail pv1  write vol at=0 size=512  fail log  write vol at=512KiB size=512 }
process dmeventd { """ + daemon + """  expect state vol ABSENT }
scenario main "events" { run app dmeventd
 always expectation
}
""")
    anew, as_they_are = Explorer(plan, "main"), Explorer(plan, "main")
    as_they_are.codec.last_awaits = None
    found = [{name: len(one.path) for name, one in each.run().findings.items()} for each in (anew, as_they_are)]
    assert found[0] == found[1]
    assert ("expectation" in found[0]) == seen
    assert anew.progress.states <= as_they_are.progress.states


def test_the_counterexample_is_the_shortest_and_replays() -> None:
    plan = plan_of(PHILOSOPHERS)
    found = Explorer(plan, "main").run()
    finding = found.findings["no-deadlock"]
    assert len(finding.path) == brute_force(plan)[1]["no-deadlock"]
    result = run_scenario(plan, "main", schedule=trace_of(plan, "main", finding.path))
    assert [one.name for one in result.checks if one.violated] == ["no-deadlock"]
    example = explain(plan, "main", finding.check, finding.text, finding.path)
    assert example.cycle == ["process one", "lock b", "process two", "lock a"]
    assert len(example.steps) == len(finding.path) + 1
    assert [one.word for one in judge(scenario_of(plan, "main"), found)] == ["as expected"]


def test_bounds_are_kept_and_said() -> None:
    plan = plan_of(PHILOSOPHERS)
    few = Explorer(plan, "main", most_states=3).run()
    assert not few.complete
    assert "3 states" in few.stopped
    assert {one.word for one in judge(scenario_of(plan, "main"), few)} <= {"unknown", "as expected"}
    none = Explorer(plan, "main", preemptions=0).run()
    assert none.complete
    assert "no-deadlock" not in none.findings
    one = Explorer(plan, "main", preemptions=1).run()
    assert "no-deadlock" in one.findings


def test_an_interrupted_search_is_partial() -> None:
    busy = PHILOSOPHERS.replace("process one {", "process one { repeat 300 { flush pv1 }")
    explorer = Explorer(plan_of(busy), "main")

    def interrupt(_progress: object) -> bool:
        raise KeyboardInterrupt

    found = explorer.run_interruptibly(interrupt)
    assert (found.complete, found.stopped) == (False, "interrupted")
    assert found.progress.states > 0


def test_nothing_reached_fails() -> None:
    plan = plan_of(DISKS + """
device vol { mirror pv1 pv2 log=core region=64KiB nosync }
process app { write vol at=0 size=512 }
scenario main "sometimes" { run app
    sometimes insync vol
    sometimes overflow vol
}
""")
    words = {one.name: one.word for one in judge(scenario_of(plan, "main"), Explorer(plan, "main").run())}
    assert words == {"insync": "reached", "overflow": "never"}


def test_states_are_the_same_in_every_process() -> None:
    """Not in this one, where pytest has written the code of assertions anew, so that it has other words."""
    code = ("from tests.explore.test_explore import *\n"
            "explorer = Explorer(plan_of(PHILOSOPHERS), 'main')\nfound = explorer.run()\n"
            "print(found.progress.states, found.progress.transitions, sorted(explorer.store.parents))")
    said = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                           env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("0", "1")]
    assert said[0].startswith("12 14 [b")
    assert said[0] == said[1]


@pytest.mark.parametrize(("spec", "scenario"), [("passthrough_one_lock", "passthrough_one_lock@now"),
                                                ("self_sufficient", "self_sufficient")])
def test_no_state_is_stored_twice(spec: str, scenario: str) -> None:
    """Of the states that can be reached, each is stored once, but for one in a thousand."""
    compiled = compile_file(MAIL / f"{spec}.dms")
    assert compiled.plan is not None
    explorer = Explorer(compiled.plan, scenario, most_states=400, store=KeepingStates(400))
    explorer.run()
    stored, different = count(explorer)
    assert stored == 400
    assert stored <= different * 1.001
