"""What is done to a volume, one kind of work after the other; each gives a rate, and more is better."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
KIB: Final = 1 << 10
SHORT: Final = 8  # by how much less is done in a short run


class Corrupt(Exception):
    """What was written is not what is there."""


@dataclass(frozen=True)
class Work:
    """``run(path, scratch, short)`` gives a rate in ``unit``; ``bar`` is the least ratio of ours to QEMU's.

    ``fresh``: it needs a volume that nothing has been written to, so a new contender each time.
    """

    name: str
    unit: str
    run: Callable[[Path, Path, bool], float]
    buffered: bool = False
    linear_bar: float = 1.0
    fresh: bool = False


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - begun


def dd(block_bytes: int, total_bytes: int, *, write: bool, direct: bool) -> Callable[[Path, Path, bool], float]:
    """MB/s of one dd from the beginning on; a buffered write includes its fsync."""
    def run(path: Path, scratch: Path, short: bool) -> float:
        del scratch
        count = total_bytes // (SHORT if short else 1) // block_bytes
        command = ["dd", f"bs={block_bytes}", f"count={count}"]
        if write:
            command += ["if=/dev/zero", f"of={path}", "conv=notrunc" if direct else "conv=notrunc,fsync"]
        else:
            command += [f"if={path}", "of=/dev/null"]
        if direct:
            command.append("oflag=direct" if write else "iflag=direct")
        return count * block_bytes / _seconds(command) / 1e6

    return run


def fio(pattern: str, total_bytes: int, *, jobs: int = 1, direct: bool = True) -> Callable[[Path, Path, bool], float]:
    """I/Os per second of 4 KiB each, each block of a range once, in random order; a buffered job includes its fsync."""
    def run(path: Path, scratch: Path, short: bool) -> float:
        del scratch
        each = total_bytes // (SHORT if short else 1) // jobs
        command = ["fio", "--name=job", f"--filename={path}", f"--rw={pattern}", "--bs=4k", f"--size={each}",
                   f"--numjobs={jobs}", "--ioengine=psync", "--thread", "--group_reporting",
                   "--output-format=json", "--randrepeat=0", f"--direct={int(direct)}",
                   *([] if direct else ["--end_fsync=1"])]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        job = json.loads(said[said.index("{"):])["jobs"][0]
        count = int(job["read"]["total_ios"]) + int(job["write"]["total_ios"])
        return count * 1000 * jobs / max(int(job["job_runtime"]), 1)

    return run


def mkfs(path: Path, scratch: Path, short: bool) -> float:
    """Filesystems per second."""
    del scratch, short
    return 1 / _seconds(["mkfs.ext4", "-q", "-F", str(path)])


def tree(*, direct_io: bool) -> Callable[[Path, Path, bool], float]:
    """A tree copied onto an ext4 on a loop device over the volume, synced and unmounted; then looked at.

    mke2fs is to discard nothing: QEMU would ignore it, and the others would have to allocate all of it again.
    """
    def run(path: Path, scratch: Path, short: bool) -> float:
        source = _tree(scratch / "tree", 60 if short else 400)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(path)], check=True)
        begun = time.perf_counter()
        with _mounted(path, scratch / "mnt", direct_io=direct_io) as target:
            subprocess.run(["cp", "-r", f"{source}/.", str(target)], check=True)
            subprocess.run(["sync", "-f", str(target)], check=True)
        seconds = time.perf_counter() - begun
        checked = subprocess.run(["e2fsck", "-fn", str(path)], check=False, capture_output=True)
        if checked.returncode:
            raise Corrupt("e2fsck finds errors")
        with _mounted(path, scratch / "mnt", direct_io=direct_io) as target:
            if _hashes(source) != _hashes(target):
                raise Corrupt("files differ")
        return 1 / seconds

    return run


def _tree(folder: Path, files: int) -> Path:
    """The same files each time, made once."""
    folder = folder.with_name(f"{folder.name}{files}")
    if not folder.exists():
        draw = random.Random(6)
        for number in range(files):
            file = folder / f"d{number % 20:02}" / f"f{number:04}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(draw.randbytes(draw.choice([100, 3000, 20_000, 100_000, 500_000])))
    return folder


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def _mounted(path: Path, mountpoint: Path, *, direct_io: bool) -> Iterator[Path]:
    mountpoint.mkdir(exist_ok=True)
    loop = subprocess.run(["losetup", "--find", "--show", f"--direct-io={'on' if direct_io else 'off'}", str(path)],
                          check=True, capture_output=True, text=True).stdout.strip()
    try:
        done = subprocess.run(["mount", "-t", "ext4", loop, str(mountpoint)], check=False, capture_output=True)
        if done.returncode:
            raise Corrupt("the ext4 cannot be mounted")
        try:
            yield mountpoint
        finally:
            subprocess.run(["umount", str(mountpoint)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
        pause = threading.Event()
        while Path(f"/sys/block/{Path(loop).name}/loop").exists():  # it goes with its last opener, udev for one
            pause.wait(0.005)


def copy_on_write(path: Path, scratch: Path, short: bool) -> float:
    """I/Os per second of 4 KiB writes, each into a chunk of which nothing has been copied yet."""
    del scratch
    chunks = 256 if short else 1024
    draw = random.Random(7)
    places = draw.sample(range(128 * MIB // (64 * KIB)), chunks)
    data = memoryview(bytearray(draw.randbytes(4 * KIB)))
    descriptor = os.open(path, os.O_RDWR)
    try:
        begun = time.perf_counter()
        for place in places:
            os.pwrite(descriptor, data, place * 64 * KIB)
        os.fsync(descriptor)
        return chunks / (time.perf_counter() - begun)
    finally:
        os.close(descriptor)


WORKS: Final = [
    Work("dd write 1 MiB, buffered + fsync, MB/s", "MB/s", dd(MIB, 128 * MIB, write=True, direct=False), buffered=True),
    Work("dd write 4 KiB, buffered + fsync, MB/s", "MB/s", dd(4 * KIB, 64 * MIB, write=True, direct=False),
         buffered=True, linear_bar=8.0),
    Work("dd write 1 MiB, O_DIRECT, MB/s", "MB/s", dd(MIB, 128 * MIB, write=True, direct=True)),
    Work("dd write 4 KiB, O_DIRECT, MB/s", "MB/s", dd(4 * KIB, 32 * MIB, write=True, direct=True)),
    Work("dd read 1 MiB, cold, MB/s", "MB/s", dd(MIB, 128 * MIB, write=False, direct=False), buffered=True),
    Work("dd read 1 MiB, O_DIRECT, MB/s", "MB/s", dd(MIB, 128 * MIB, write=False, direct=True)),
    Work("dd read 4 KiB, O_DIRECT, MB/s", "MB/s", dd(4 * KIB, 32 * MIB, write=False, direct=True)),
    Work("fio random write 4 KiB direct, 1 job, IOPS", "IOPS", fio("randwrite", 32 * MIB)),
    Work("fio random write 4 KiB direct, 4 jobs, IOPS", "IOPS", fio("randwrite", 32 * MIB, jobs=4)),
    Work("fio random read 4 KiB direct, 1 job, IOPS", "IOPS", fio("randread", 32 * MIB)),
    Work("fio random read 4 KiB direct, 4 jobs, IOPS", "IOPS", fio("randread", 32 * MIB, jobs=4)),
    Work("fio random write 4 KiB buffered + fsync, IOPS", "IOPS", fio("randwrite", 32 * MIB, direct=False),
         buffered=True, linear_bar=8.0),
    Work("mkfs.ext4, runs/s", "1/s", mkfs, buffered=True),
    Work("tree onto loop-mounted ext4, direct-io on, runs/s", "1/s", tree(direct_io=True)),
    Work("tree onto loop-mounted ext4, direct-io off, runs/s", "1/s", tree(direct_io=False), buffered=True),
]

COPY_ON_WRITE: Final = Work("first write of a chunk, buffered + fsync, IOPS", "IOPS", copy_on_write,
                            buffered=True, fresh=True)
