"""The table of exceptions beside a dict, over blocks that split and empty."""

import copy
import pickle
import random

import pytest

from dmspec.runtime.exception_table import MOST_IN_BLOCK, ExceptionTable


@pytest.mark.parametrize("step", [1, -1, 7_919])
def test_beside_a_dict(step: int) -> None:
    draw = random.Random(step)
    table, model = ExceptionTable(), {}
    places = [number * step % (1 << 40) for number in range(5 * MOST_IN_BLOCK)]
    for number, old in enumerate(places):
        table[old] = model[old] = number
    for old in draw.sample(places, 4 * MOST_IN_BLOCK):
        if draw.random() < 0.8:
            del table[old], model[old]
        else:
            table[old] = model[old] = old + 1
    assert table == model
    assert len(table) == len(model)
    assert list(table) == sorted(model)
    assert all((old in table) == (old in model) and table.where(old) == model.get(old) for old in places)
    for again in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert again == model
        assert again.firsts == table.firsts
    for old in sorted(model):
        assert table.pop(old) == model[old]
    assert (len(table), table.blocks, table.firsts) == (0, [], [])


def test_what_is_not_there() -> None:
    table = ExceptionTable()
    table[5] = 2
    for old in (0, 4, 6, 1 << 63):
        assert table.where(old) is None
        with pytest.raises(KeyError):
            table[old]
        with pytest.raises(KeyError):
            del table[old]
    assert dict(table) == {5: 2}


def test_chunks_in_a_row() -> None:
    table = ExceptionTable()
    table.update({3: 10, 4: 11, 5: 12, 6: 14, 8: 16})
    assert [table.run(old, 9) for old in range(2, 10)] == [0, 3, 2, 1, 1, 0, 1, 0]
    assert table.run(3, 2) == 2
    table.update((old, old + 7) for old in range(100, 100 + 3 * MOST_IN_BLOCK))
    at, runs = 100, []
    while at < 100 + 3 * MOST_IN_BLOCK:
        runs.append(table.run(at, 10 * MOST_IN_BLOCK))
        at += runs[-1]
    assert (sum(runs), min(runs) > 1) == (3 * MOST_IN_BLOCK, True)
