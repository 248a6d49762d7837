"""A disk with a volatile write cache: it remembers what a power cut may leave of what was not flushed.

For each page that has changed since the last flush there are its contents since then, oldest first: the
first ones are durable, the last ones are what a read sees.  A power cut takes, in each sector, any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .backing import PAGE_BYTES, SparseMemory
from .units import SECTOR_BYTES

_ZEROS: Final = bytes(PAGE_BYTES)

# How much of the cache a power cut leaves, in the order in which a schedule's numbers pick it.
KEEPS: Final = ("none", "all", "pages", "sectors")


class VolatileMemory(SparseMemory):
    """``unflushed`` maps page numbers to their contents since the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.unflushed: dict[int, list[bytes]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> VolatileMemory:
        copied = VolatileMemory()
        copied.pages = dict(self.pages)
        copied.unflushed = {page: list(contents) for page, contents in self.unflushed.items()}
        return copied

    def write(self, offset: int, buffer: memoryview) -> None:
        if not len(buffer):
            return
        pages = range(offset // PAGE_BYTES, (offset + len(buffer) - 1) // PAGE_BYTES + 1)
        for page in pages:
            if page not in self.unflushed:
                self.unflushed[page] = [self.pages.get(page, _ZEROS)]
        super().write(offset, buffer)
        for page in pages:
            self.unflushed[page].append(self.pages.get(page, _ZEROS))

    def flush(self) -> None:
        self.unflushed.clear()

    def harden(self, offset: int, length: int) -> None:
        """The range as it is now is durable, whatever becomes of the rest of its pages."""
        end = offset + length
        for page in range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)):
            contents = self.unflushed.get(page)
            if contents is None:
                continue
            low = max(offset - page * PAGE_BYTES, 0)
            high = min(end - page * PAGE_BYTES, PAGE_BYTES)
            if high - low == PAGE_BYTES:
                del self.unflushed[page]
                continue
            now = contents[-1][low:high]
            self.unflushed[page] = [one[:low] + now + one[high:] for one in contents]

    def cut(self, keep: str, choose: Callable[[int], int]) -> str:
        """Lose power: keep nothing of the cache, or all of it, or what ``choose`` picks; the answer says what.

        ``pages``: each page is as it was at one time; ``sectors``: each sector, so that a page may be torn.
        """
        changed = self.changed()
        self.unflushed.clear()
        if not changed:
            return "nothing was unflushed"
        if keep == "any":
            keep = KEEPS[choose(len(KEEPS))]
        kept = lost = 0
        for page, contents in changed.items():
            if keep == "none":
                left = contents[0]
            elif keep == "all":
                left = contents[-1]
            elif keep == "pages":
                left = contents[choose(len(contents))]
            else:
                left = self._torn(contents, choose)
            kept += left == contents[-1]
            lost += left != contents[-1]
            if left == _ZEROS:
                self.pages.pop(page, None)
            else:
                self.pages[page] = left
        return f"of {kept + lost} unflushed 4KiB pages {kept} are as they were last, {lost} are not"

    def changed(self) -> dict[int, list[bytes]]:
        """The pages that a power cut may change back, with their contents, oldest first."""
        return {page: found for page, found in sorted(self.unflushed.items())
                if any(one != found[0] for one in found)}

    def leave(self, pages: dict[int, bytes]) -> None:
        """Of what is not flushed only these pages are there; what is there now is durable."""
        for page, contents in self.unflushed.items():
            self.pages[page] = pages.get(page, contents[0])
        self.unflushed.clear()

    @staticmethod
    def _torn(contents: list[bytes], choose: Callable[[int], int]) -> bytes:
        sectors = []
        for at in range(0, PAGE_BYTES, SECTOR_BYTES):
            found = list(dict.fromkeys(one[at:at + SECTOR_BYTES] for one in contents))
            sectors.append(found[choose(len(found)) if len(found) > 1 else 0])
        return b"".join(sectors)
