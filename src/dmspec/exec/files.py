"""What a path or a file descriptor of the program is: a node of ours, an open device, /dev/mapper/control, or neither.

Paths are looked up as the program sees them: from its own root, in its own mount namespace.  Only what is below
/proc is not looked at (a symbolic link there means another thing to another process).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import stat
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmspec.exec import memory, nodes
from dmspec.runtime.live_export import number_of_name

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Block
    from dmspec.exec.nodes import Node
    from dmspec.exec.seccomp import Call

AT_FDCWD: Final = -100
_OPENAT2: Final = 437
_RESOLVE_IN_ROOT: Final = 0x10
_HOW: Final = struct.Struct("<3Q")
# Where no node of ours can be found, which saves the look at each library that a program loads.
_ELSEWHERE: Final = (b"/proc/", b"/usr/", b"/lib/", b"/lib64/")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Found:
    """A node, and the status of the file that it is."""

    node: Node
    status: os.stat_result


def open_path(call: Call, directory: int, path: bytes, flags: int) -> int:
    """An ``O_PATH`` file descriptor for what the program means by a path."""
    flags |= os.O_PATH | os.O_CLOEXEC
    if not path.startswith(b"/"):
        base = "cwd" if directory == AT_FDCWD else f"fd/{directory}"
        with _opened(f"/proc/{call.thread}/{base}") as folder:
            return os.open(path, flags, dir_fd=folder)
    with _opened(f"/proc/{call.thread}/root") as root:
        how = _HOW.pack(flags, 0, _RESOLVE_IN_ROOT)
        fd = _libc.syscall(_OPENAT2, root, path, how, len(how))
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.fsdecode(path))
        return int(fd)


@contextmanager
def _opened(path: str | Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def at_path(call: Call, directory: int, path: bytes, *, follow: bool = True) -> Found | None:
    """The node at a path; ``None`` for anything else, also where the look fails: the kernel will say how."""
    if path.startswith(_ELSEWHERE):
        return None
    try:
        fd = open_path(call, directory, path, 0 if follow else os.O_NOFOLLOW)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(fd)
        node = nodes.node_of(fd, status)
        return Found(node, status) if node is not None else None
    finally:
        os.close(fd)


_MOUNT_TABLE: Final = re.compile(rb"/proc/(self|thread-self|\d+)/mountinfo\Z")
_NUMBER_OF_NOTHING: Final = "4095:1048575"


def is_mount_table(path: bytes) -> bool:
    """Whether a path is that of a list of mounts with device numbers."""
    return bool(_MOUNT_TABLE.match(path))


def mount_table(call: Call, path: bytes, numbers: Collection[str]) -> bytes:
    """Such a list, in which none of these numbers is another device of the machine.

    A file system of the machine's 254:0 is not one that lies on the emulated 254:0.
    """
    who = path.split(b"/")[2].decode()
    lines = Path(f"/proc/{who if who.isdigit() else call.thread}/mountinfo").read_text(errors="surrogateescape")
    out = []
    for line in lines.splitlines(keepends=True):
        words = line.split(" ")
        if len(words) > 2 and words[2] in numbers:
            words[2] = _NUMBER_OF_NOTHING
        out.append(" ".join(words))
    return "".join(out).encode(errors="surrogateescape")


def partitions(blocks: Sequence[Block]) -> bytes:
    """/proc/partitions: the emulated devices only."""
    lines = [f"{block.major:4d}  {block.minor:7d} {block.sectors // 2:10d} {block.kernel}\n"
             for block in blocks if block.set_up and block.sectors]
    return ("major minor  #blocks  name\n\n" + "".join(lines)).encode()


class OpenFiles:
    """Which open files are devices of a mount, whose file system has this number; ``controls`` are eventfds."""

    def __init__(self, mount_device: int) -> None:
        self.mount_device = mount_device
        self.controls: set[int] = set()

    def new_control(self) -> int:
        """What /dev/mapper/control is when it is open: something that can be waited for with poll(2)."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.controls.add(_eventfd_id("self", fd))
        return fd

    def at(self, call: Call, fd: int) -> Found | None:
        """The device that a file descriptor is open on."""
        path = Path(f"/proc/{call.thread}/fd/{fd}")
        try:
            status = path.stat()
            if status.st_dev == self.mount_device:
                number = number_of_name(path.readlink().name)
                return Found(nodes.Node(*number), status) if number is not None else None
            if not stat.S_IFMT(status.st_mode):
                return Found(nodes.CONTROL, status) if _eventfd_id(call.thread, fd) in self.controls else None
            if not stat.S_ISREG(status.st_mode) or status.st_size > nodes.MOST_BYTES:
                return None
            with _opened(path) as held:
                node = nodes.node_of(held, os.fstat(held))
                return Found(node, status) if node is not None else None
        except (OSError, ValueError):
            return None

    def count(self, number: str) -> int:
        """How many open files of this machine's processes are that device (those that may be looked at)."""
        found = 0
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                found += sum(self._is(path, number) for path in (process / "fd").iterdir())
        return found

    def _is(self, path: Path, number: str) -> bool:
        try:
            wanted = number_of_name(path.readlink().name)
            return wanted is not None and f"{wanted[0]}:{wanted[1]}" == number \
                and path.stat().st_dev == self.mount_device
        except OSError:
            return False


def _eventfd_id(process: int | str, fd: int) -> int:
    """The number by which /proc tells eventfds apart; -1 for other files."""
    with open(f"/proc/{process}/fdinfo/{fd}") as lines:
        for line in lines:
            if line.startswith("eventfd-id:"):
                return int(line.split()[1])
    return -1


def string(call: Call, address: int) -> bytes | None:
    """A path in the program's memory."""
    return memory.read_path(call.thread, address)
