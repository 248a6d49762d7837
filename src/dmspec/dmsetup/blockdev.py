"""`blockdev` for the files of a mount: what it asks the kernel about a block device, these files cannot answer.

Anything else goes to the blockdev of the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dmspec.dmsetup.door import Block, NoMountError, find
from dmspec.runtime.units import SECTOR_BYTES

ANSWERS: Final[dict[str, Callable[[Block], int]]] = {
    "--getsz": lambda block: block.sectors, "--getsize": lambda block: block.sectors,
    "--getsize64": lambda block: block.sectors * SECTOR_BYTES, "--getss": lambda _block: SECTOR_BYTES,
    "--getpbsz": lambda _block: SECTOR_BYTES, "--getbsz": lambda _block: 4096,
    "--getiomin": lambda block: block.io_min, "--getioopt": lambda block: block.io_opt,
    "--getro": lambda block: int(block.read_only), "--getra": lambda _block: 256,
}
# What is accepted and changes nothing: a disk that is set read-only can still be used by device-mapper (case
# f-control, section 9), and there is no cache here to flush or size to read again.
IGNORED: Final = frozenset({"--setro", "--setrw", "--flushbufs", "--rereadpt"})


def block_of(path: str, blocks: list[Block], mountpoint: str) -> Block | None:
    """The device of a path in the mount, in /dev/mapper, or /dev/loopN."""
    place = Path(path)
    folders = (Path("/dev/mapper"), Path(mountpoint))
    for block in blocks:
        if place.name == (block.name or block.kernel) and (place.parent in folders or not block.name):
            return block
        if place.parent == Path("/dev") and place.name == block.kernel:
            return block
    return None


def main(words: list[str]) -> int:
    """Answer, or let the machine's own blockdev do it."""
    options = [word for word in words if word.startswith("-")]
    paths = [word for word in words if not word.startswith("-")]
    if paths and all(option in ANSWERS or option in IGNORED for option in options):
        try:
            door = find(None)
            blocks, mountpoint = door.blocks(), door.mountpoint()
        except NoMountError as error:
            print(f"blockdev: {error}", file=sys.stderr)
            return 1
        found = [block_of(path, blocks, mountpoint) for path in paths]
        if all(found):
            for block in found:
                assert block is not None
                for option in options:
                    if option in ANSWERS:
                        print(ANSWERS[option](block))
            return 0
    own = os.path.realpath(sys.argv[0])
    path = os.pathsep.join(folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
                           if folder != os.environ.get("DMSPEC_PROGRAMS"))
    program = shutil.which("blockdev", path=path)
    if program is None or os.path.realpath(program) == own:
        print("blockdev: command not found", file=sys.stderr)
        return 127
    return subprocess.run([program, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
