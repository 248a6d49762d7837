"""Drawn sequences on a real device-mapper and on the emulator: no difference.

Every sequence is what :func:`drawn.sequence` makes of a seed, and Hypothesis draws the seeds. They are compared
many at a time, because a guest takes seconds to start, so a difference is not shrunk by Hypothesis but by
:mod:`shrink`, which tries all the ways to leave out one step in one boot. `DMSPEC_SEQUENCES=200` draws more, and
`DMSPEC_FIRST_SEED=N` takes seeds N, N + 1, ... instead.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dmspec.verify.guest import find_guest
from dmspec.verify.session import Session, Verdict
from dmspec.verify.steps import Played

from .drawn import sequence
from .shrink import shrink

SEQUENCES = int(os.environ.get("DMSPEC_SEQUENCES", "4"))
FIRST_SEED = os.environ.get("DMSPEC_FIRST_SEED")


def drawn_sequences(count: int) -> list[Played]:
    if FIRST_SEED is not None:
        seeds = range(int(FIRST_SEED), int(FIRST_SEED) + 2 * count)
        return [one for seed in seeds if (one := sequence(seed)) is not None][:count]
    found: dict[str, Played] = {}

    @settings(max_examples=2 * count, phases=[Phase.generate], database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**40))
    def draw(seed: int) -> None:
        if len(found) < count and (one := sequence(seed)) is not None:
            found[one.case.name] = one

    draw()
    return list(found.values())


def words(verdict: Verdict) -> str:
    played = verdict.played
    lines = [played.case.name]
    for number, (step, seen) in enumerate(zip(played.steps, played.seen, strict=True)):
        table = "; ".join(played.tables.get(number, []))
        lines.append(f"  {number} {step} {table} -> {seen.outcome}")
    lines += [f"  !! {one.step} {one.what}: kernel: {one.kernel} | dmspec: {one.ours}" for one in verdict.differences]
    return "\n".join(lines)


@pytest.mark.requires("guest-kernel")
@pytest.mark.timeout(3600 if SEQUENCES > 50 else 300)
def test_no_difference_to_a_real_kernel() -> None:
    session = Session(find_guest(), guests=2)
    drawn = drawn_sequences(SEQUENCES)
    verdicts = session.compare(drawn)
    different = [one for one in verdicts if one.differences]
    steps = sum(len(one.steps) for one in drawn)
    print(f"{len(drawn)} sequences, {steps} steps, Linux {session.kernel}, {len(different)} differ")
    if different:
        smallest = shrink(session, different[0])
        pytest.fail("\n\n".join(words(one) for one in [smallest, *different[1:]]), pytrace=False)


def test_a_seed_always_gives_the_same_sequence() -> None:
    for seed in range(40):
        first, second = sequence(seed), sequence(seed)
        assert (first and first.case) == (second and second.case)


def test_sequences_use_what_there_is() -> None:
    drawn = [one for seed in range(120) if (one := sequence(seed)) is not None]
    tables = " ".join(line for one in drawn for table in one.tables.values() for line in table)
    for kind in ("linear", "striped", "mirror core", "mirror disk", "nosync", "handle_errors", "snapshot-origin",
                 " P ", " PO ", " N ", "zero", "error"):
        assert kind in tables, kind
    used = {step.op for one in drawn for step in one.steps}
    assert used >= {"create", "load", "clear", "suspend", "resume", "remove", "rename", "message", "write", "read",
                    "flush", "discard", "fail", "heal"}
    assert any("-" in line for one in drawn for seen in one.seen for line in seen.view if line.endswith(":-"))
