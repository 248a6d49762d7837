"""`make museum`: plant every bug, look for it, and print a table.  Arguments: words of the names to look for."""

from __future__ import annotations

import sys

from tests.museum.bug import Hunt, hunt
from tests.museum.mirror_bugs import MIRROR_BUGS
from tests.museum.raid_bugs import RAID_BUGS
from tests.museum.snapshot_bugs import SNAPSHOT_BUGS

BUGS = (*MIRROR_BUGS, *SNAPSHOT_BUGS, *RAID_BUGS)


def line(one: Hunt) -> str:
    where = f"{one.bug.spec}.dms {one.bug.law}"
    if one.found is None:
        return f"{one.bug.name:42} {where:32} NOT FOUND in {one.seconds:.0f} s"
    return (f"{one.bug.name:42} {where:32} {one.found.broken.check:14} {one.seconds:6.1f} s {one.examples:7,} "
            f"{one.operations:4}" + ("" if one.good else "  TOO LATE OR TOO LARGE"))


def main(words: list[str]) -> int:
    bugs = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    print(f"{'bug':42} {'found by':32} {'check':14} {'time':>8} {'example':>7} {'size':>4}")
    good = 0
    for bug in bugs:
        found = hunt(bug)
        good += found.good
        print(line(found), flush=True)
    print(f"{good} of {len(bugs)} bugs found")
    return 0 if good == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
