"""How many of the states that a search has stored are different, by an independent way of comparing them.

The explorer compares states by their pickled bytes, in which one word that is in two objects is not the same as two
equal words.  Here only what can change has an identity; it takes some milliseconds for each state.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import types

from dmspec.runtime.explore import Explorer, Move
from dmspec.runtime.explore.search import MemoryStore


class ByValue(pickle._Pickler):
    """Equal words, numbers and tuples are the same, whichever object holds them."""

    def memoize(self, obj: object) -> None:
        if not isinstance(obj, str | bytes | tuple):
            super().memoize(obj)  # type: ignore[misc]


class KeepingStates(MemoryStore):
    """Keeps the bytes of the first ``most`` states."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.states: list[bytes] = []

    def add(self, key: bytes, state: bytes, parent: bytes | None, move: Move | None) -> bool:
        new = super().add(key, state, parent, move)
        if new and len(self.states) < self.most:
            self.states.append(state)
        return new


def count(explorer: Explorer) -> tuple[int, int]:
    """States kept, and how many of them are different."""
    assert isinstance(explorer.store, KeepingStates)
    different = set()
    for state in explorer.store.states:
        out = io.BytesIO()
        pickler = ByValue(out)
        pickler.dispatch_table = {**explorer.codec.table, types.MappingProxyType: lambda _one: "TARGETS"}
        pickler.dump(explorer.codec.thaw(state))
        different.add(hashlib.blake2b(out.getvalue()).digest())
    return len(explorer.store.states), len(different)
