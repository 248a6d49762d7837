"""What /sys says about block devices, as files in memory: /sys/block, /sys/class/block and /sys/dev/block.

Only the emulated devices are there.  Shapes are those of the kernel's block/genhd.c, block/blk-sysfs.c and
drivers/md/dm-sysfs.c, as far as LVM2, libdm, libblkid and lsblk read them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmspec.runtime.ioctl_format import encode
from dmspec.runtime.units import SECTOR_BYTES

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Block
    from dmspec.dmsetup.surroundings import Namespace

SYS: Final = Path("/sys")
_PLACES: Final = ("block", "class/block", "dev/block")
_READ_AHEAD_KIB: Final = 2


class SysTree:
    """The tree as it was last written; ``None`` before :meth:`show`."""

    def __init__(self) -> None:
        self.shown: dict[str, Mapping[str, bytes]] = {}
        self.links: dict[str, Mapping[str, str]] = {}

    def show(self, namespace: Namespace) -> None:
        """Hide the machine's own block devices."""
        for place in _PLACES:
            if (SYS / place).is_dir():
                namespace.empty(SYS / place)

    def update(self, blocks: Sequence[Block]) -> None:
        """Make it say what is there now; only what has changed is written."""
        known = {block.number: block for block in blocks if block.set_up}
        for name in set(self.shown) - {block.kernel for block in known.values()}:
            self._forget(name)
        for block in known.values():
            files = _files(block)
            links = _links(block, known)
            if self.shown.get(block.kernel) == files and self.links.get(block.kernel) == links:
                continue
            self._write(block, files, links)

    def _forget(self, name: str) -> None:
        number = self.shown.pop(name)["dev"].decode().strip()
        self.links.pop(name)
        shutil.rmtree(SYS / "block" / name, ignore_errors=True)
        (SYS / "class/block" / name).unlink(missing_ok=True)
        (SYS / "dev/block" / number).unlink(missing_ok=True)

    def _write(self, block: Block, files: Mapping[str, bytes], links: Mapping[str, str]) -> None:
        folder = SYS / "block" / block.kernel
        old = self.shown.get(block.kernel, {})
        if old and old["dev"] != files["dev"]:
            self._forget(block.kernel)
            old = {}
        for name in ("holders", "slaves", "queue", "bdi", *(["dm"] if block.name else [])):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            if old.get(name) != content:
                # Whoever reads it meanwhile sees the old or the new content, never half of one.
                (folder / ".new").write_bytes(content)
                (folder / ".new").rename(folder / name)
        had = self.links.get(block.kernel, {})
        for name in set(had) - set(links):
            (folder / name).unlink(missing_ok=True)
        for name in set(links) - set(had):
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(links[name])
        for place, name in (("class/block", block.kernel), ("dev/block", block.number)):
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                (SYS / place / name).symlink_to(os.path.relpath(folder, SYS / place))
        self.shown[block.kernel] = files
        self.links[block.kernel] = links


def _files(block: Block) -> Mapping[str, bytes]:
    texts: dict[str, str | int] = {
        "dev": block.number, "size": block.sectors, "ro": int(block.read_only), "removable": 0, "range": 1,
        "ext_range": 1, "alignment_offset": 0, "discard_alignment": 0, "capability": 0, "hidden": 0,
        "stat": " ".join(["0"] * 17), "inflight": "0 0", "diskseq": block.minor + 1,
        "uevent": f"MAJOR={block.major}\nMINOR={block.minor}\nDEVNAME={block.kernel}\nDEVTYPE=disk",
        "queue/logical_block_size": SECTOR_BYTES, "queue/physical_block_size": SECTOR_BYTES,
        "queue/hw_sector_size": SECTOR_BYTES, "queue/minimum_io_size": block.io_min,
        "queue/optimal_io_size": block.io_opt, "queue/discard_granularity": SECTOR_BYTES,
        "queue/discard_max_bytes": 1 << 30, "queue/discard_max_hw_bytes": 1 << 30, "queue/discard_zeroes_data": 0,
        "queue/write_same_max_bytes": 0, "queue/write_zeroes_max_bytes": 1 << 30, "queue/rotational": 0,
        "queue/read_ahead_kb": block.read_ahead // _READ_AHEAD_KIB, "queue/max_sectors_kb": 1024,
        "queue/max_hw_sectors_kb": 1024, "queue/max_segments": 128, "queue/nr_requests": 128, "queue/zoned": "none",
        "queue/dax": 0, "queue/fua": 0, "queue/write_cache": "write back", "queue/scheduler": "none",
        "bdi/read_ahead_kb": block.read_ahead // _READ_AHEAD_KIB,
        "queue/iostats": 1, "queue/nomerges": 0, "queue/add_random": 0, "queue/chunk_sectors": 0,
    }
    if block.name:
        texts |= {"dm/name": block.name, "dm/uuid": block.uuid, "dm/suspended": int(block.suspended),
                  "dm/use_blk_mq": 0}
    return {name: encode(f"{text}\n") for name, text in texts.items()}


def _links(block: Block, known: Mapping[str, Block]) -> Mapping[str, str]:
    users = (other for other in known.values() if (block.major, block.minor) in other.deps)
    used = (known.get(f"{major}:{minor}") for major, minor in block.deps)
    return {**_to("holders", users), **_to("slaves", used), "subsystem": "../../class/block"}


def _to(folder: str, blocks: Iterable[Block | None]) -> dict[str, str]:
    return {f"{folder}/{block.kernel}": f"../../{block.kernel}" for block in blocks if block is not None}
