"""A mutant is where it says that it is, and does what it says."""

from __future__ import annotations

import pytest
from tests.mutation.mutants import ROOT, mutants_of
from tests.mutation.reasons import MISSING, reason

from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.region_hash import counts

PATH = ROOT / "runtime" / "region_hash.py"


def test_a_mutant_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """``counts``: a write counts, and one with PREFLUSH does not."""
    found = mutants_of(PATH)
    assert len({one.name for one in found}) == len(found) > 100
    lines = PATH.read_text().splitlines()
    assert all(one.before.split(" ")[0] in lines[one.line - 1] for one in found)
    one = next(one for one in found if one.function == "region_hash.counts" and one.after.endswith("and bio.preflush"))
    assert one.target() is counts
    write = Bio(Op.WRITE, None, 0, 8)
    assert counts(write)
    monkeypatch.setattr(counts, "__code__", counts.__code__)
    one.plant()
    assert not counts(write)


def test_a_survivor_that_no_rule_fits_lacks_a_test() -> None:
    found = {reason(one) for one in mutants_of(PATH)}
    assert MISSING in found
    assert len(found) > 2
