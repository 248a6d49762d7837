"""The words of a raid table (kernel: drivers/md/dm-raid.c; reference: targets.md, section 6).

The reasons for which a table is refused come in the kernel's order and words.  Only raid1 is emulated; another level
that the kernel knows is refused with a reason of our own, and so are reshapes.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ..errors import DmError

MAX_DEVICES: Final = 253
DEFAULT_REGION_SECTORS: Final = 8192
OTHER_LEVELS: Final = frozenset({
    "raid0", "raid10", "raid10_near", "raid10_far", "raid10_offset", "raid4", "raid5_n", "raid5_ls", "raid5_rs",
    "raid5_la", "raid5_ra", "raid6_zr", "raid6_nr", "raid6_nc", "raid6_n_6", "raid6_ls_6", "raid6_rs_6", "raid6_la_6",
    "raid6_ra_6",
})
_INT: Final = re.compile(r"[+-]?\d{1,10}\Z", re.ASCII)

# Parameters with a number that may be given once: what a number that is too small is told.
ONCE: Final = {
    "max_write_behind": "Max write-behind limit out of range",
    "daemon_sleep": "daemon sleep period out of range",
    "min_recovery_rate": "min_recovery_rate out of range",
    "max_recovery_rate": "max_recovery_rate out of range",
    "region_size": "",
}


def refuse(reason: str) -> DmError:
    """To be raised: ``EINVAL``, and why."""
    return DmError(errno.EINVAL, reason)


@dataclass(slots=True)
class RaidTable:
    """``numbers`` has the parameters of :data:`ONCE` that were given; ``pairs`` the metadata and data devices."""

    length: int
    log: Callable[[str, str], None]
    disks: int = 0
    sync: bool = False
    nosync: bool = False
    rebuild: set[int] = field(default_factory=set)
    write_mostly: set[int] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)
    region_sectors: int = 0
    of_raid10: bool = False
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def parse(self, argv: list[str]) -> None:
        """``raid1 <#params> <chunk> <params> <#devices> (<metadata> <data>)...``."""
        words = list(argv)
        if not words:
            raise refuse("No arguments")
        level = words.pop(0)
        if level.lower() != "raid1":
            raise refuse("Only raid1 is emulated" if level.lower() in OTHER_LEVELS else "Unrecognised raid_type")
        reason = "Cannot understand number of raid parameters"
        count = _count(words, 0, len(words), reason)
        if count > len(words):
            raise refuse(reason)
        rest = words[count:]
        self.disks = _count(rest, 1, (len(rest) - 1) // 2, "Cannot understand number of raid devices parameters")
        if self.disks > MAX_DEVICES:
            raise refuse("Invalid number of supplied raid devices")
        left = self._parse_params(words, count)
        self._check()
        self._take_pairs(words[left:])

    def _parse_params(self, words: list[str], count: int) -> int:
        """How many words the parameters took: what was announced, or one more if a number was missing."""
        if not words or not _is_int(words[0]):
            raise refuse("Bad numerical argument given for chunk_size")
        if int(words[0]):
            self.log("err", "Ignoring chunk size parameter for RAID 1")
        at = 1
        mostly = 0
        while at < count or not count:
            if at >= len(words):
                raise refuse("Not enough raid parameters given")
            key = words[at].lower()
            at += 1
            if key in ("sync", "nosync"):
                self._flag(key)
                continue
            if at >= len(words):
                raise refuse("Wrong number of raid parameters given")
            if not _is_int(words[at]):
                raise refuse("Bad numerical argument given in raid params")
            mostly += key == "write_mostly"
            self._number(key, int(words[at]))
            at += 1
        if self.sync and self.nosync:
            raise refuse("sync and nosync are mutually exclusive")
        if self.rebuild and (self.sync or self.nosync):
            raise refuse("sync/nosync and rebuild are mutually exclusive")
        if mostly >= self.disks:
            raise refuse("Can't set all raid1 devices to write_mostly")
        return at

    def _flag(self, key: str) -> None:
        if getattr(self, key):
            raise refuse(f"Only one '{key}' argument allowed")
        setattr(self, key, True)

    def _number(self, key: str, value: int) -> None:
        if key in ("rebuild", "write_mostly"):
            given = self.rebuild if key == "rebuild" else self.write_mostly
            if not 0 <= value < self.disks:
                raise refuse(f"Invalid {key} index given")
            if key == "rebuild" and value in given:
                raise refuse("rebuild for this index already given")
            given.add(value)
        elif key in ONCE:
            if key in self.numbers:
                raise refuse(f"Only one {key} argument pair allowed")
            if value < 0 and ONCE[key]:
                raise refuse(ONCE[key])
            self.numbers[key] = value // 2 if key == "max_write_behind" else value
        elif key in ("delta_disks", "data_offset"):
            raise refuse("A reshape is not emulated")
        elif key == "stripe_cache":
            raise refuse("Inappropriate argument: stripe_cache")
        elif key == "raid10_copies":
            if not 2 <= value <= self.disks:
                raise refuse("Bad value for 'raid10_copies'")
            self.of_raid10 = True
        else:
            self.log("err", f"Unable to parse RAID parameter: {key}")
            raise refuse("Unable to parse RAID parameter")

    def _check(self) -> None:
        fastest = self.numbers.get("max_recovery_rate", 0)
        if fastest and self.numbers.get("min_recovery_rate", 0) > fastest:
            raise refuse("Bogus recovery rates")
        smallest = self.length >> 21
        region = self.numbers.get("region_size", 0)
        if not region:
            region = DEFAULT_REGION_SECTORS
            if smallest > region:
                region = 1 << (smallest - 1).bit_length()
                self.log("info", f"Choosing default region size of {region} sectors")
            else:
                self.log("info", "Choosing default region size of 4MiB")
        elif region > self.length or region < 0:
            raise refuse("Supplied region size is too large")
        elif region < smallest:
            self.log("err", f"Supplied region_size ({region} sectors) below minimum ({smallest})")
            raise refuse("Supplied region size is too small")
        elif region & (region - 1):
            raise refuse("Region size is not a power of 2")
        self.region_sectors = region
        if self.of_raid10:
            raise refuse("Invalid flags combination")

    def _take_pairs(self, words: list[str]) -> None:
        """Words that are missing are found out only when their turn comes."""
        words += [""] * (1 + 2 * self.disks - len(words))
        self.pairs = [(words[1 + 2 * index], words[2 + 2 * index]) for index in range(self.disks)]

    def parameters(self) -> str:
        """As the kernel prints them, in its order."""
        words = [word for word in ("sync", "nosync") if getattr(self, word)]
        words += [f"rebuild {index}" for index in sorted(self.rebuild)]
        words += self._given("daemon_sleep", "min_recovery_rate", "max_recovery_rate")
        words += [f"write_mostly {index}" for index in sorted(self.write_mostly)]
        words += self._given("max_write_behind")
        if "region_size" in self.numbers:
            words.append(f"region_size {self.region_sectors}")
        count = 1 + sum(len(word.split()) for word in words)
        return " ".join(["raid1", str(count), "0", *words])

    def _given(self, *names: str) -> list[str]:
        return [f"{name} {self.numbers[name]}" for name in names if name in self.numbers]


def _count(words: list[str], least: int, most: int, reason: str) -> int:
    """``dm_read_arg``: digits only, within limits; the word is used up."""
    word = words.pop(0) if words else ""
    if not word.isascii() or not word.isdigit() or len(word) > 10 or not least <= int(word) <= most:
        raise refuse(reason)
    return int(word)


def _is_int(word: str) -> bool:
    return _INT.match(word) is not None and -(1 << 31) <= int(word) < 1 << 31
