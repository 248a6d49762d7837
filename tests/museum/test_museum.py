"""The museum: every bug is found by a stock property.  A quick sample here; all of them with `make museum`."""

from __future__ import annotations

import pytest
from tests.museum.bug import MOST_OPERATIONS, PROPERTIES, Bug, hunt
from tests.museum.show import BUGS, main

# Those that few examples find.
QUICK = (
    "acknowledged after one leg", "recovery forgets the last sector", "held writes forgotten at suspend",
    "requeue taken for success", "no event for a failed leg", "writes not split at chunks", "entries not durable",
    "handover loses exceptions", "merge ignores other snapshots", "flush reaches one stripe",
)


@pytest.mark.parametrize("bug", [one for one in BUGS if one.name in QUICK], ids=lambda bug: bug.name)
def test_a_bug_is_found(bug: Bug) -> None:
    found = hunt(bug)
    assert found.good, found
    assert found.operations <= MOST_OPERATIONS


@pytest.mark.parametrize("bug", [one for one in BUGS if one.fault], ids=lambda bug: bug.name)
def test_only_its_fault_shows_a_bug(bug: Bug) -> None:
    found = hunt(bug)
    assert found.good, found
    assert hunt(bug, examples=200, faultless=True).found is None


def test_every_fault_shows_a_bug() -> None:
    """But for a store that is too small, which is no operation: snapshot-full.dms and its bugs are about that."""
    assert {bug.fault for bug in BUGS if bug.fault} == {
        "fail reads", "fail writes", "fail range", "fail after", "fail log", "delay", "detach", "power-cut",
        "tear", "lose-write", "misdirect", "corrupt", "lose-flush"}
    assert "snapshot-full" in {bug.spec for bug in BUGS}


def test_the_sample_is_of_the_museum() -> None:
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names) >= 20
    assert set(QUICK) <= set(names)


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["second snapshot not asked"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 bugs found"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_every_bug_is_found(bug: Bug) -> None:
    assert hunt(bug).good


def test_every_stock_property_guards_something() -> None:
    assert {path.stem for path in PROPERTIES.glob("*.dms")} == {bug.spec for bug in BUGS}
