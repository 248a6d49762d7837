"""How much memory a mount takes: ``make bench-memory``.

A sparse volume of 1 TiB, linear and with a snapshot that is empty; then a snapshot of ten million exceptions, whose COW
file is written here as a kernel would have left it.  The server's own peak (VmHWM) counts, after each volume was read
at its ends and, for the last one, at some of its exceptions.  The last line is ``N of M bars met``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import Final

from dmspec.runtime import wire
from dmspec.runtime.exception_store import DISK_VERSION, ENTRY, HEADER, MAGIC

MIB: Final = 1 << 20
TIB: Final = 1 << 40
EXCEPTIONS: Final = 10_000_000
CHUNK_BYTES: Final = 4096
MOST_MIB: Final = 150.0
MOST_MIB_WITH_EXCEPTIONS: Final = 1024.0
LINEAR: Final = "disk pv 1TiB\ndevice vol { linear pv }\n"
SNAPSHOT: Final = ("disk pv 1TiB\ndisk cow 64GiB\ndevice vol { snapshot-origin pv }\n"
                   "device snap { snapshot pv cow chunk=4KiB }\n")


def old_chunk(number: int) -> int:
    """The chunk of the origin that the exception is about: far from its neighbours, each one once."""
    return number * 99_991 % (TIB // CHUNK_BYTES)


def write_cow(path: Path) -> None:
    """A persistent store of chunks of 4 KiB; the copied chunks themselves are holes, but for the first."""
    per_area = CHUNK_BYTES // ENTRY.size
    with path.open("wb") as file:
        file.truncate(64 << 30)
        file.write(HEADER.pack(MAGIC, 1, DISK_VERSION, CHUNK_BYTES // 512))
        for area in range(EXCEPTIONS // per_area + 1):
            first = 1 + area * (per_area + 1)
            entries = array("Q")
            for index in range(min(per_area, EXCEPTIONS - area * per_area)):
                entries.extend((old_chunk(area * per_area + index), first + 1 + index))
            file.seek(first * CHUNK_BYTES)
            file.write(entries.tobytes())
        file.seek(2 * CHUNK_BYTES)
        file.write(b"exception 0".ljust(CHUNK_BYTES, b"\0"))


def peak_mib(spec: str, folder: Path, reads: dict[tuple[str, int], bytes]) -> tuple[float, float]:
    """Mount the spec over the folder's files, read, and take it away again: the peak, and the seconds to mount it."""
    (folder / "spec.dms").write_text(spec)
    mountpoint = folder / "mnt"
    mountpoint.mkdir(exist_ok=True)
    begun = time.perf_counter()
    dmspec = [sys.executable, "-m", "dmspec"]
    subprocess.run([*dmspec, "mount", folder / "spec.dms", mountpoint, "--store", folder / "store", "--quiet"],
                   check=True)
    took = time.perf_counter() - begun
    try:
        for (name, offset), expected in reads.items():
            descriptor = os.open(mountpoint / name, os.O_RDONLY)
            try:
                got = os.pread(descriptor, len(expected), offset)
            finally:
                os.close(descriptor)
            assert got == expected, f"{name} at {offset}: {got!r}"
        server = wire.holder(mountpoint)
        status = Path(f"/proc/{server}/status").read_text().splitlines()
        [kib] = [int(line.split()[1]) for line in status if line.startswith("VmHWM:")]
    finally:
        subprocess.run([*dmspec, "umount", mountpoint], check=True)
    return kib / 1024, took


def main() -> int:
    """Print the figures; 1 if one is above its bar."""
    ends = {("vol", 0): bytes(16), ("vol", TIB - 16): bytes(16)}
    met = 0
    with tempfile.TemporaryDirectory(prefix="dmspec-memory-") as name:
        folder = Path(name)
        base, _ = peak_mib(LINEAR, folder, ends)
        print(f"linear volume of 1 TiB: {base:.0f} MiB (at most {MOST_MIB:.0f})")
        met += base < MOST_MIB
        (folder / "store" / "pv.img").unlink()
        empty, _ = peak_mib(SNAPSHOT, folder, ends)
        print(f"the same with a snapshot: {empty:.0f} MiB (at most {MOST_MIB:.0f})")
        met += empty < MOST_MIB
        write_cow(folder / "store" / "cow.img")
        last = old_chunk(EXCEPTIONS - 1) * CHUNK_BYTES
        full, took = peak_mib(SNAPSHOT, folder, {**ends, ("snap", 0): b"exception 0", ("snap", last): bytes(16)})
        each = (full - empty) * MIB / EXCEPTIONS
        print(f"with {EXCEPTIONS:,} exceptions: {full:.0f} MiB (at most {MOST_MIB_WITH_EXCEPTIONS:.0f}); "
              f"{each:.0f} bytes each; mounted in {took:.0f} s")
        met += full < MOST_MIB_WITH_EXCEPTIONS
    print(f"{met} of 3 bars met")
    return int(met < 3)


if __name__ == "__main__":
    sys.exit(main())
