"""The region hash of a mirror, a call at a time (reference: mirror.md)."""

from __future__ import annotations

from typing import cast

import pytest

from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.dirty_log import DirtyLog, LogOwner
from dmspec.runtime.region_hash import RegionHash, State


class Owner:
    """A mirror of 4 regions of 8 sectors, from sector 16 of its device on."""

    length = 32

    def __init__(self) -> None:
        self.given_back: list[Bio] = []
        self.woken = 0

    def give_back(self, bios: list[Bio]) -> None:
        self.given_back += bios

    def wake(self) -> None:
        self.woken += 1


def made(word: str = "nosync") -> tuple[RegionHash, Owner]:
    owner = Owner()
    return RegionHash("vol", DirtyLog(cast(LogOwner, owner), 8, word), 16, owner), owner


def bio(op: Op, region: int, *, preflush: bool = False) -> Bio:
    one = Bio(op, None, 16 + 8 * region + 3, 1, preflush=preflush)
    one.first_sector = one.sector
    return one


def test_a_write_makes_its_region_dirty_until_the_last_one_ends() -> None:
    hash_, owner = made()
    hash_.inc_pending([bio(Op.WRITE, 2), bio(Op.WRITE, 2)])
    assert (hash_.state(2), hash_.log.is_clean(2), hash_.log.is_clean(1)) == (State.DIRTY, False, True)
    hash_.dec_pending(2)
    assert (hash_.state(2), owner.woken) == (State.DIRTY, 0)
    hash_.dec_pending(2)
    assert (hash_.state(2), owner.woken, hash_.log.is_clean(2)) == (State.CLEAN, 1, False)
    hash_.update_states(True)
    assert (hash_.regions, hash_.log.is_clean(2)) == ({}, True)


@pytest.mark.parametrize("one", [bio(Op.FLUSH, 0), bio(Op.DISCARD, 0), bio(Op.WRITE, 0, preflush=True)])
def test_only_writes_count(one: Bio) -> None:
    hash_, _ = made()
    hash_.inc_pending([one])
    assert hash_.regions == {}


def test_a_region_that_is_not_in_sync_stays_so_when_it_is_written() -> None:
    hash_, _ = made("")
    hash_.inc_pending([bio(Op.WRITE, 1)])
    assert (hash_.state(1), hash_.log.is_clean(1)) == (State.NOSYNC, True)
    hash_.dec_pending(1)
    assert hash_.state(1) is State.NOSYNC


def test_recovery_waits_for_the_writes_of_its_region_and_others_wait_for_it() -> None:
    hash_, owner = made("")
    hash_.inc_pending([bio(Op.WRITE, 0)])
    hash_.prepare_recovery()
    assert hash_.state(0) is State.NOSYNC
    hash_.start_recovery()
    hash_.prepare_recovery()
    assert (hash_.state(0), hash_.next_quiesced(), hash_.recovery_slots) == (State.RECOVERING, None, 0)
    late = bio(Op.WRITE, 0)
    hash_.delay(late)
    hash_.dec_pending(0)
    region = hash_.next_quiesced()
    assert region is hash_.regions[0]
    hash_.end_recovery(region, True)
    hash_.update_states(True)
    assert (hash_.state(0), hash_.log.sync_count, owner.given_back) == (State.CLEAN, 1, [late])
    hash_.prepare_recovery()
    assert hash_.state(1) is State.RECOVERING


@pytest.mark.parametrize(("errors_handled", "state"), [(True, State.NOSYNC), (False, State.CLEAN)])
def test_a_recovery_that_fails(errors_handled: bool, state: State) -> None:
    """Without handle_errors nobody looks at what became of it."""
    hash_, _ = made("")
    hash_.start_recovery()
    hash_.prepare_recovery()
    region = hash_.next_quiesced()
    assert region is not None
    hash_.end_recovery(region, False)
    hash_.update_states(errors_handled)
    assert (hash_.state(0), hash_.recovery_slots) == (state, 1)


def test_a_write_that_fails_while_recovery_waits_for_it_ends_that() -> None:
    hash_, owner = made()
    first, second, late = (bio(Op.WRITE, 0) for _ in range(3))
    hash_.inc_pending([first, second])
    hash_.mark_nosync(first)
    hash_.dec_pending(0)
    hash_.start_recovery()
    hash_.prepare_recovery()
    hash_.delay(late)
    assert (hash_.state(0), hash_.recovery_slots) == (State.RECOVERING, 0)
    hash_.mark_nosync(second)
    assert (hash_.state(0), hash_.recovery_slots, owner.given_back) == (State.NOSYNC, 1, [late])
    hash_.dec_pending(0)
    assert (hash_.state(0), hash_.log.in_sync(0), hash_.next_quiesced()) == (State.NOSYNC, False, None)


@pytest.mark.parametrize("one", [bio(Op.FLUSH, 0), bio(Op.WRITE, 0, preflush=True)])
def test_after_a_flush_has_failed_every_region_that_was_written_counts_as_not_in_sync(one: Bio) -> None:
    """The flush belongs to no region, so the log says nothing of it."""
    hash_, _ = made()
    hash_.inc_pending([bio(Op.WRITE, 3)])
    hash_.mark_nosync(one)
    hash_.dec_pending(3)
    assert (hash_.state(3), hash_.log.in_sync(3), hash_.state(0)) == (State.NOSYNC, True, State.CLEAN)


def test_a_discard_that_fails_says_nothing_of_its_region() -> None:
    hash_, _ = made()
    hash_.mark_nosync(bio(Op.DISCARD, 1))
    assert hash_.state(1) is State.CLEAN
    assert not hash_.flush_failure
