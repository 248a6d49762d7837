"""dm-flakey: a device that is up for some seconds and down for some (kernel: drivers/md/dm-flakey.c).

The facts are those of the reference (targets.md, section 8) and of the recordings h-others, f2-invalid-tables and
c-mirror-failure (Linux 6.1, version 1.5.0 of the driver).  Where later kernels differ, 6.1 is followed:

* a down interval that is no number is told as ``Invalid up interval`` as well;
* without a feature every read and write fails while the device is down, and so does a flush; the table says ``0``,
  and its parameters end with a blank;
* ``corrupt_bio_byte N r`` changes nothing that comes from a disk, since this kernel looks for the byte in what is
  left of the bio, and a disk leaves nothing; what comes from a mapped device is changed.

``error_reads``, ``random_read_corrupt`` and ``random_write_corrupt`` are of later kernels (the era's flag
``flakey_error_reads``).  Their chance comes from ``random_state``: SplitMix64, seeded with the FNV-1a hash of the
table's parameters and the target's place, so that the same table has the same luck in every run.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import Bio, Op
from ..block import BlockDevice, Disk
from ..errors import DmError
from ..signature import Kind, flag, opt, pos, signature
from ..task import Frame
from ..units import NS_PER_S
from .base import KILL, REMAPPED, SUBMITTED, Target, TargetType, parse_number, smallest

PROBABILITY_BASE: Final = 1_000_000_000
MOST_FEATURE_WORDS: Final = 11
_U32: Final = 0xFFFFFFFF
_U64: Final = (1 << 64) - 1

# Bits of ``bi_opf`` in Linux 6.1, as far as bios have them here (include/linux/blk_types.h).
_OP_BITS: Final = {Op.READ: 0, Op.WRITE: 1, Op.FLUSH: 1 | 1 << 18, Op.DISCARD: 3}
_FUA: Final = 1 << 17
_PREFLUSH: Final = 1 << 18
_RAHEAD: Final = 1 << 19


class Features:
    """What goes wrong while the device is down.  ``corrupt_byte`` counts from 1; 0 is none."""

    def __init__(self) -> None:
        self.error_reads = False
        self.drop_writes = False
        self.error_writes = False
        self.corrupt_byte = 0
        self.corrupt_direction = "r"
        self.corrupt_value = 0
        self.corrupt_flags = 0
        self.random_read = 0
        self.random_write = 0

    @property
    def words(self) -> list[str]:
        words = [word for word, on in (("error_reads", self.error_reads), ("drop_writes", self.drop_writes),
                                       ("error_writes", self.error_writes)) if on]
        if self.corrupt_byte:
            words += ["corrupt_bio_byte", str(self.corrupt_byte), self.corrupt_direction, str(self.corrupt_value),
                      str(self.corrupt_flags)]
        if self.random_read:
            words += ["random_read_corrupt", str(self.random_read)]
        if self.random_write:
            words += ["random_write_corrupt", str(self.random_write)]
        return words

    def matches(self, bio: Bio, direction: str) -> bool:
        """Whether the fixed byte of a bio is to be changed."""
        bits = _OP_BITS[bio.op] | (_FUA if bio.fua else 0) | (_PREFLUSH if bio.preflush else 0) | \
            (_RAHEAD if bio.readahead else 0)
        return self.corrupt_byte > 0 and self.corrupt_direction == direction and \
            bits & self.corrupt_flags == self.corrupt_flags


class FeatureParser:
    """Reads feature words as the kernel does, with its messages.

    ``left`` goes below zero where a feature takes more words than were announced; the kernel's counter wraps
    around there, so that it goes on to the end of the words in both cases.
    """

    def __init__(self, words: list[str], *, later: bool) -> None:
        self.words = list(words)
        self.later = later
        self.left = 0
        self.features = Features()

    def parse(self) -> Features:
        self._parse()
        if self.later and not self.features.words:
            self.features.error_reads = self.features.error_writes = True
        return self.features

    def _parse(self) -> None:
        if not self.words:
            return
        self.left = self._number(0, MOST_FEATURE_WORDS, "Invalid number of feature args")
        if self.left > len(self.words):
            raise DmError(errno.EINVAL, "Invalid number of feature args")
        while self.left:
            if not self.words:
                raise DmError(errno.EINVAL, "Insufficient feature arguments")
            word = self.words.pop(0).lower()
            self.left -= 1
            if word in ("drop_writes", "error_writes") or (word == "error_reads" and self.later):
                self._switch(word)
            elif word == "corrupt_bio_byte":
                self._corrupt_byte()
            elif word in ("random_read_corrupt", "random_write_corrupt") and self.later:
                self._random(word)
            else:
                raise DmError(errno.EINVAL, "Unrecognised flakey feature requested")
        self._check()

    def _number(self, least: int, most: int, reason: str) -> int:
        number = parse_number(self.words.pop(0) if self.words else "", reason) & _U32
        if not least <= number <= most:
            raise DmError(errno.EINVAL, reason)
        return number

    def _switch(self, word: str) -> None:
        if getattr(self.features, word):
            raise DmError(errno.EINVAL, f"Feature {word} duplicated")
        setattr(self.features, word, True)
        for one, other in (("drop_writes", "error_writes"), ("error_writes", "drop_writes")):
            if word == one and getattr(self.features, other):
                raise DmError(errno.EINVAL, f"Feature {one} conflicts with feature {other}")

    def _corrupt_byte(self) -> None:
        if not self.left:
            raise DmError(errno.EINVAL, f"Feature corrupt_bio_byte requires {'4 ' if self.later else ''}parameters")
        features = self.features
        features.corrupt_byte = self._number(1, _U32, "Invalid corrupt bio byte")
        features.corrupt_direction = self.words.pop(0).lower() if self.words else ""
        if features.corrupt_direction not in ("r", "w"):
            raise DmError(errno.EINVAL, "Invalid corrupt bio direction (r or w)")
        features.corrupt_value = self._number(0, 255, "Invalid corrupt value to write into bio byte (0-255)")
        features.corrupt_flags = self._number(0, _U32, "Invalid corrupt bio flags mask")
        self.left -= 4

    def _random(self, word: str) -> None:
        if not self.left:
            raise DmError(errno.EINVAL, f"Feature {word} requires a parameter")
        number = self._number(0, PROBABILITY_BASE, "Invalid random corrupt argument")
        self.left -= 1
        setattr(self.features, word.removesuffix("_corrupt"), number)

    def _check(self) -> None:
        """What does not go together; those that know the random features name them."""
        features = self.features
        for word in ("drop_writes", "error_writes"):
            if getattr(features, word) and (features.random_write or features.corrupt_direction == "w"):
                both = "random_write_corrupt or " if self.later else ""
                raise DmError(errno.EINVAL,
                              f"{word} is incompatible with {both}corrupt_bio_byte with the WRITE flag set")
        if features.error_reads and (features.random_read or
                                     (features.corrupt_byte and features.corrupt_direction == "r")):
            raise DmError(errno.EINVAL, "error_reads is incompatible with random_read_corrupt or "
                                        "corrupt_bio_byte with the READ flag set")


class Flakey(Target):
    """Down when the whole seconds since the construction, modulo up plus down, are not below ``up_s``."""

    has_end_io = True
    num_discard_bios = 1

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) < 4:
            raise DmError(errno.EINVAL, "Invalid argument count")
        self.started_ns = self.stack.engine.now_ns
        self.offset = parse_number(argv[1], "Invalid device sector")
        later = self.stack.era.flakey_error_reads
        self.up_s = parse_number(argv[2], "Invalid up interval") & _U32
        self.down_s = parse_number(argv[3], f"Invalid {'down' if later else 'up'} interval") & _U32
        total = (self.up_s + self.down_s) & _U32
        if not total:
            raise DmError(errno.EINVAL, "Total (up + down) interval is zero")
        if total < self.up_s:
            raise DmError(errno.EINVAL, "Interval overflow")
        self.features = FeatureParser(argv[4:], later=later).parse()
        self.all_fails = not self.features.words
        self.device = self.get_device(argv[0], "Device lookup failed")
        self.random_state = _fnv1a(f"{self.begin} {self.length} {self.parameters()}".encode())
        return None

    @property
    def down(self) -> bool:
        elapsed_s = (self.stack.engine.now_ns - self.started_ns) // NS_PER_S
        return elapsed_s % (self.up_s + self.down_s) >= self.up_s

    def map(self, bio: Bio) -> int:
        bio.hook = self.down
        if bio.hook:
            features = self.features
            if bio.op is Op.READ:
                if features.error_reads or self.all_fails:
                    return KILL
            elif features.drop_writes or features.error_writes:
                bio.complete(0 if features.drop_writes else errno.EIO)
                return SUBMITTED
            elif self.all_fails:
                return KILL
            elif bio.op is Op.WRITE:
                self._corrupt_write(bio)
        bio.device = self.device
        if bio.op is not Op.FLUSH:
            bio.sector += self.offset - self.begin
        return REMAPPED

    def end_io(self, bio: Bio, status: int) -> int:
        """A read that was begun while the device was down and that succeeded is changed now."""
        if status or bio.op is not Op.READ or not bio.hook:
            return status
        reaches = self.stack.era.flakey_error_reads or not isinstance(bio.device, Disk)
        if reaches and self.features.matches(bio, "r"):
            self._set_byte(bio)
        if self._lucky(self.features.random_read):
            self._set_random_byte(bio)
        return status

    def _corrupt_write(self, bio: Bio) -> None:
        """The data below is changed, that of the writer is not: the bio gets a copy of its own."""
        fixed = self.features.matches(bio, "w")
        random = self._lucky(self.features.random_write)
        if fixed or random:
            bio.buf, bio.offset = bytearray(bio.view()), 0
        if fixed:
            self._set_byte(bio)
        if random:
            self._set_random_byte(bio)

    def _set_byte(self, bio: Bio) -> None:
        if self.features.corrupt_byte <= bio.bytes:
            bio.view()[self.features.corrupt_byte - 1] = self.features.corrupt_value

    def _set_random_byte(self, bio: Bio) -> None:
        place = self._draw() % bio.bytes
        bio.view()[place] = self._draw() & 0xFF

    def _lucky(self, chance: int) -> bool:
        return chance > 0 and self._draw() % PROBABILITY_BASE < chance

    def _draw(self) -> int:
        self.random_state = (self.random_state + 0x9E3779B97F4A7C15) & _U64
        mixed = self.random_state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _U64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _U64
        return mixed ^ (mixed >> 31)

    def parameters(self) -> str:
        """As 6.1 prints it: every word, the count among them, is followed by a blank."""
        words = self.features.words
        return f"{self.device.number} {self.offset} {self.up_s} {self.down_s} " + \
            "".join(f"{word} " for word in [str(len(words)), *words])

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        yield self.device, self.offset, self.length


def _fnv1a(data: bytes) -> int:
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & _U64
    return state


def _params(args: dict[str, Any]) -> list[str]:
    """Times are in whole seconds for the kernel: a part of one counts as one."""
    name, offset_bytes = args["device"]
    words = [name, str(offset_bytes // 512), *(str(-(-args[key] // NS_PER_S)) for key in ("up", "down"))]
    features = [word for word in ("error_reads", "drop_writes", "error_writes") if args[word]]
    if args["corrupt_byte"] is not None:
        features += ["corrupt_bio_byte", str(args["corrupt_byte"]), "w" if args["on"] == "writes" else "r",
                     str(args["value"]), str(args["flags"])]
    for key in ("random_read_corrupt", "random_write_corrupt"):
        if args[key] is not None:
            features += [key, str(args[key])]
    return words + ([str(len(features)), *features] if features else [])


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return smallest([(argv[0], int(argv[1]))], size_of)


FLAKEY: Final = TargetType(
    "flakey", (1, 5, 0),
    signature(
        pos("device", Kind.DEVICE_AT), opt("up", Kind.DURATION, 0), opt("down", Kind.DURATION, 60 * NS_PER_S),
        flag("error_reads"), flag("drop_writes"), flag("error_writes"),
        opt("corrupt-byte", Kind.COUNT), opt("on", Kind.WORD, "writes", choices=("reads", "writes")),
        opt("value", Kind.COUNT, 0), opt("flags", Kind.COUNT, 0),
        opt("random_read_corrupt", Kind.COUNT), opt("random_write_corrupt", Kind.COUNT),
    ), _params, "Up for some seconds, then down for some.", Flakey, _natural_length)
