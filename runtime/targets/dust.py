"""dm-dust: blocks that cannot be read until they are written again (kernel: drivers/md/dm-dust.c).

The facts are those of the reference (targets.md, section 10) and of the recordings h-others and f2-invalid-tables
(Linux 6.1, version 1.0.0 of the driver).  A block's number is counted on the device below, so it includes the offset.
Three oddities are the kernel's: a number equal to the count of blocks is taken although no such block exists; the log
divides the number of a block that a write healed by the sectors of a block once more; and an empty flush counts as a
write to the block at the target's offset.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..bio import Bio, Op
from ..block import BlockDevice
from ..errors import DmError
from ..signature import Kind, opt, pos, signature
from ..task import Frame
from ..units import SECTOR_BYTES
from .base import KILL, REMAPPED, Target, TargetType, parse_number, smallest

MOST_BLOCK_SECTORS: Final = 2097152
MOST_FAILS: Final = 255
_U32: Final = 0xFFFFFFFF
_U64: Final = (1 << 64) - 1


class Dust(Target):
    """``bad`` maps a block's number to how many writes to it fail before one heals it."""

    num_discard_bios = 1
    discard_zeroes = True

    def construct(self, argv: list[str]) -> Frame | None:
        if len(argv) != 3:
            raise DmError(errno.EINVAL, "Invalid argument count")
        block_bytes = _block_bytes(argv[2])
        if block_bytes < SECTOR_BYTES:
            raise DmError(errno.EINVAL, "Block size must be at least 512")
        if block_bytes & (block_bytes - 1):
            raise DmError(errno.EINVAL, "Block size must be a power of 2")
        if block_bytes // SECTOR_BYTES > min(self.length, MOST_BLOCK_SECTORS):
            raise DmError(errno.EINVAL, "Block size is too large")
        self.offset = parse_number(argv[1], "Invalid device offset sector")
        try:
            self.device = self.get_device(argv[0], "Device lookup failed")
        except DmError as error:
            raise DmError(errno.EINVAL, error.reason) from None
        self.block_sectors = self.max_io_sectors = block_bytes // SECTOR_BYTES
        self.failing = False
        self.quiet = False
        self.bad: dict[int, int] = {}
        return None

    def map(self, bio: Bio) -> int:
        bio.device = self.device
        sector = bio.sector + self.offset - self.begin
        if bio.op is not Op.FLUSH:
            bio.sector = sector
        if not self.failing:
            return REMAPPED
        block = (sector & _U64) // self.block_sectors
        if block not in self.bad:
            return REMAPPED
        if bio.op is Op.READ:
            return KILL
        if self.bad[block]:
            self.bad[block] -= 1
            return KILL
        del self.bad[block]
        self._say("info", f"block {block // self.block_sectors} removed from badblocklist by write")
        return REMAPPED

    # Messages

    def message(self, argv: list[str]) -> str:
        """The words are those of the kernel; of the command only the letters count, not their case."""
        known = {1: self._message_1, 2: self._message_2, 3: self._message_3}
        if len(argv) not in known:
            self._log("err", f"invalid number of arguments '{len(argv)}'")
            raise DmError(errno.EINVAL)
        answer = known[len(argv)](argv[0].lower(), argv)
        if answer is None:
            self._log("err", f"unrecognized message '{argv[0]}' received")
            raise DmError(errno.EINVAL)
        return answer

    def _message_1(self, command: str, argv: list[str]) -> str | None:
        if command in ("addbadblock", "removebadblock", "queryblock"):
            self._log("err", f"{argv[0]} requires an additional argument")
            raise DmError(errno.EINVAL)
        if command in ("enable", "disable"):
            self.failing = command == "enable"
            self._log("info", f"{'enabling' if self.failing else 'disabling'} read failures on bad sectors")
            return ""
        if command == "quiet":
            self.quiet = not self.quiet
            return ""
        if command == "countbadblocks":
            return f"countbadblocks: {len(self.bad)} badblock(s) found"
        if command == "clearbadblocks":
            answer = "badblocks cleared" if self.bad else "no badblocks found"
            self.bad.clear()
            return f"dust_clear_badblocks: {answer}"
        if command == "listbadblocks":
            return "".join(f"{block}\n" for block in sorted(self.bad)) or "No blocks in badblocklist"
        return None

    def _message_2(self, command: str, argv: list[str]) -> str | None:
        block = self._block(parse_number(argv[1], ""))
        if command == "addbadblock":
            return self._add(block, 0)
        if command == "removebadblock":
            return self._remove(block)
        if command == "queryblock":
            return f"dust_query_block: block {block} {'' if block in self.bad else 'not '}found in badblocklist"
        return None

    def _message_3(self, command: str, argv: list[str]) -> str | None:
        number = parse_number(argv[1], "")
        fails = parse_number(argv[2], "") & _U32
        if fails > MOST_FAILS:
            self._log("err", "selected write fail count out of range")
            raise DmError(errno.EINVAL)
        block = self._block(number)
        return self._add(block, fails) if command == "addbadblock" else None

    def _block(self, number: int) -> int:
        if number > self.device.sectors // self.block_sectors:
            self._log("err", "selected block value out of range")
            raise DmError(errno.EINVAL)
        return number

    def _add(self, block: int, fails: int) -> str:
        if block in self.bad:
            self._say("err", f"dust_add_block: block {block} already in badblocklist")
            raise DmError(errno.EINVAL)
        self.bad[block] = fails
        self._say("info", f"dust_add_block: badblock added at block {block} with write fail count {fails}")
        return ""

    def _remove(self, block: int) -> str:
        if block not in self.bad:
            self._say("err", f"dust_remove_block: block {block} not found in badblocklist")
            raise DmError(errno.EINVAL)
        del self.bad[block]
        self._say("info", f"dust_remove_block: badblock removed at block {block}")
        return ""

    def _say(self, level: str, text: str) -> None:
        """What ``quiet`` silences."""
        if not self.quiet:
            self._log(level, text)

    def _log(self, level: str, text: str) -> None:
        self.stack.log(level, f"device-mapper: dust: {text}")

    # Status

    def info(self) -> str:
        return (f"{self.device.number} {'fail_read_on_bad_block' if self.failing else 'bypass'} "
                f"{'quiet' if self.quiet else 'verbose'}")

    def parameters(self) -> str:
        return f"{self.device.number} {self.offset} {self.block_sectors * SECTOR_BYTES}"

    def areas(self) -> Iterator[tuple[BlockDevice, int, int]]:
        yield self.device, self.offset, self.length


def _block_bytes(word: str) -> int:
    """What ``kstrtouint`` takes: digits, perhaps after a plus sign, of 32 bits; and 0 is refused as well."""
    digits = word.removeprefix("+")
    good = digits.isascii() and digits.isdigit() and len(digits.lstrip("0")) <= len(str(_U32))
    if not good or not 0 < int(digits) <= _U32:
        raise DmError(errno.EINVAL, "Invalid block size parameter")
    return int(digits)


def _params(args: dict[str, Any]) -> list[str]:
    name, offset_bytes = args["device"]
    return [name, str(offset_bytes // SECTOR_BYTES), str(args["block"])]


def _natural_length(argv: list[str], size_of: Callable[[str], int | None]) -> int | None:
    return smallest([(argv[0], int(argv[1]))], size_of)


DUST: Final = TargetType(
    "dust", (1, 0, 0), signature(pos("device", Kind.DEVICE_AT), opt("block", Kind.SIZE, SECTOR_BYTES)),
    _params, "Blocks that cannot be read until they are written again.", Dust, _natural_length)
