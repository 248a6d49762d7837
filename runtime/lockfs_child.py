"""The process that freezes what lies on a device's file, and thaws it again.

It is a process of its own for two reasons.  What it does sends I/O through the mount, and a server that is killed while
it waits for its own mount never ends: its threads hold the FUSE connection on which they wait.  And a filesystem that
stays frozen can never be unmounted: this process thaws when its standard input ends, so also when the server is killed.

It is started with the paths of the files; it answers with one line of JSON, ``{"errno": 0, "frozen": [...]}``, waits
for the end of its input if something is frozen, thaws, and ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FIFREEZE: Final = 0xC0045877
FITHAW: Final = 0xC0045878


def main() -> None:
    """Freeze, answer, wait, thaw."""
    frozen: list[str] = []
    error = freeze(sys.argv[1:], frozen)
    try:
        os.write(1, (json.dumps({"errno": error, "frozen": frozen}) + "\n").encode())
        if frozen:
            sys.stdin.read()
    except BrokenPipeError:
        pass  # the server was killed meanwhile
    finally:
        thaw(frozen)


def freeze(paths: list[str], frozen: list[str]) -> int:
    """0 or an errno; what was frozen before a failure is thawed again."""
    try:
        for path in paths:
            for loop in loops_over(path):
                for mountpoint in mountpoints_of(loop):
                    _ioctl(mountpoint, FIFREEZE)
                    frozen.append(mountpoint)
                _sync(f"/dev/{loop}")
            _write_back(path)
    except OSError as problem:
        thaw(frozen)
        return problem.errno or errno.EIO
    return 0


def thaw(frozen: list[str]) -> None:
    """A failure is no reason to leave the others frozen."""
    while frozen:
        with contextlib.suppress(OSError):
            _ioctl(frozen.pop(), FITHAW)


def loops_over(path: str) -> Iterator[str]:
    """The loop devices (``loop0``) whose backing file is this one."""
    real = os.path.realpath(path)
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            if backing.read_text(errors="surrogateescape").removesuffix("\n") == real:
                yield backing.parent.parent.name
        except OSError:
            continue


def mountpoints_of(loop: str) -> Iterator[str]:
    """One place where a loop device is mounted, and one for each of its partitions that is.

    A mount is known by its device's number, but for btrfs, which has a number of its own and tells its source.
    """
    devices: dict[str, str] = {}
    for file in (Path(f"/sys/block/{loop}/dev"), *Path(f"/sys/block/{loop}").glob(f"{loop}p*/dev")):
        with contextlib.suppress(OSError):
            devices[file.read_text().strip()] = f"/dev/{file.parent.name}"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words = line.split(" ")
        source = words[words.index("-") + 2]
        number = next((number for number, path in devices.items() if number == words[2] or path == source), None)
        if number is not None:
            del devices[number]
            yield re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])


def _ioctl(path: str, request: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, 0)
    finally:
        os.close(fd)


def _write_back(path: str) -> None:
    """Write a file's cached pages and wait for them, as a close does; no flush is sent after them.

    That is what ``sync_blockdev`` does, and ``freeze_bdev`` does not look at what came of it (fs/super.c of 6.1):
    a device that takes no writes is suspended all the same (recorded case e-snapshot-of-mirror, section 9).
    """
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
