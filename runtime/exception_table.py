"""Which chunks of an origin a snapshot has, and where in its store they lie.

A dict of Python took 200 bytes an exception at a mount's peak, which tries its table before it uses it.  Here it is 25
(``make bench-memory``): sorted blocks of 64-bit numbers, found by bisection, at one to two microseconds a look-up.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, MutableMapping
from typing import Final

# An insertion moves half a block, and each block has an entry in a list that is moved too when one is split.
MOST_IN_BLOCK: Final = 1024

Block = tuple["array[int]", "array[int]"]


class ExceptionTable(MutableMapping[int, int]):
    """Chunk of the origin to chunk of the store, both counted in chunks and below 2**64; in order of the former."""

    __slots__ = ("blocks", "count", "firsts")

    def __init__(self, blocks: list[Block] | None = None) -> None:
        self.blocks: list[Block] = blocks if blocks is not None else []
        self.firsts = [olds[0] for olds, _news in self.blocks]
        self.count = sum(len(olds) for olds, _news in self.blocks)

    def __reduce__(self) -> tuple[type[ExceptionTable], tuple[list[Block], ...]]:
        return ExceptionTable, (self.blocks,) if self.blocks else ()

    def _find(self, old: int) -> tuple[int, int, bool]:
        """The block and the place in it where it is or would be, and whether it is there."""
        block = bisect_right(self.firsts, old) - 1
        if block < 0:
            return 0, 0, False
        olds = self.blocks[block][0]
        place = bisect_left(olds, old)
        return block, place, place < len(olds) and olds[place] == old

    def where(self, old: int) -> int | None:
        """Where the chunk lies in the store, if it has been copied."""
        block, place, is_there = self._find(old)
        return self.blocks[block][1][place] if is_there else None

    def run(self, old: int, most: int) -> int:
        """How many chunks from this one on, ``most`` at most, lie in the store as they lie in the origin."""
        block, place, is_there = self._find(old)
        if not is_there:
            return 0
        olds, news = self.blocks[block]
        shift = news[place] - old
        count = 1
        for chunk in range(old + 1, old + most):
            place += 1
            if place == len(olds) or olds[place] != chunk or news[place] - chunk != shift:
                break
            count += 1
        return count

    def __contains__(self, old: object) -> bool:
        assert isinstance(old, int)
        return self._find(old)[2]

    def __getitem__(self, old: int) -> int:
        block, place, is_there = self._find(old)
        if not is_there:
            raise KeyError(old)
        return self.blocks[block][1][place]

    def __setitem__(self, old: int, new: int) -> None:
        block, place, is_there = self._find(old)
        if is_there:
            self.blocks[block][1][place] = new
            return
        self.count += 1
        if not self.blocks:
            self.firsts.append(old)
            self.blocks.append((array("Q", [old]), array("Q", [new])))
            return
        olds, news = self.blocks[block]
        olds.insert(place, old)
        news.insert(place, new)
        self.firsts[block] = olds[0]
        if len(olds) > MOST_IN_BLOCK:
            self._split(block)

    def _split(self, block: int) -> None:
        olds, news = self.blocks[block]
        half = len(olds) // 2
        self.blocks[block:block + 1] = [(olds[:half], news[:half]), (olds[half:], news[half:])]
        self.firsts.insert(block + 1, olds[half])

    def __delitem__(self, old: int) -> None:
        block, place, is_there = self._find(old)
        if not is_there:
            raise KeyError(old)
        self.count -= 1
        olds, news = self.blocks[block]
        del olds[place], news[place]
        if olds:
            self.firsts[block] = olds[0]
        else:
            del self.blocks[block], self.firsts[block]

    def __iter__(self) -> Iterator[int]:
        for olds, _news in self.blocks:
            yield from olds

    def __len__(self) -> int:
        return self.count
