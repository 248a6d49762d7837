"""What programs of a `dmspec shell` find around them: a dmsetup, and /dev/mapper in a mount namespace of theirs.

Tried as root and as an ordinary user, for whom a user namespace of his own brings the right to mount; the
mounts of a namespace end with it, so there is nothing to clean up.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000

DEV: Final = Path("/dev")


def write_programs(folder: Path) -> None:
    """Put programs `dmsetup` and `blockdev` into a folder: they start the Python that runs now."""
    for name, module in (("dmsetup", "dmspec.dmsetup"), ("blockdev", "dmspec.dmsetup.blockdev")):
        path = folder / name
        path.write_text("#!/bin/sh\n"
                        f"DMSPEC_PROGRAMS={_quoted(str(folder))} PYTHONCOERCECLOCALE=0 PYTHONSAFEPATH=1\n"
                        "export DMSPEC_PROGRAMS PYTHONCOERCECLOCALE PYTHONSAFEPATH\n"
                        f"exec {_quoted(sys.executable)} -m {module} \"$@\"\n")
        path.chmod(0o700)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


class Namespace:
    """A mount namespace for this process and its children.

    It is a slave of the one around it: what is unmounted there goes here too, and is not kept busy.
    """

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        uid, gid = os.getuid(), os.getgid()
        flags = _CLONE_NEWNS if uid == 0 else _CLONE_NEWNS | _CLONE_NEWUSER
        if self.libc.unshare(flags):
            raise self._error("unshare")
        if flags & _CLONE_NEWUSER:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        self._mount(None, "/", None, _MS_REC | _MS_SLAVE)

    def bind(self, what: Path, where: Path) -> None:
        """Show a file or folder at another place."""
        self._mount(str(what), str(where), None, _MS_BIND | _MS_REC)

    def empty(self, where: Path) -> None:
        """Put an empty folder in memory there."""
        # Not the usual mode 1777: in a folder that all may write to, a shell may not open /dev/null with O_CREAT.
        self._mount("none", str(where), "tmpfs", 0, "mode=755")

    def _mount(self, what: str | None, where: str, kind: str | None, flags: int, options: str = "") -> None:
        words = [None if word is None else os.fsencode(word) for word in (what, where, kind)]
        if self.libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None):
            raise self._error(where)

    @staticmethod
    def _error(what: str) -> OSError:
        number = ctypes.get_errno()
        return OSError(number, f"{what}: {os.strerror(number)}")


def enter(mountpoint: Path) -> str:
    """Go where /dev/mapper is the mount; what is in the way, if it cannot be done."""
    try:
        namespace = Namespace()
        if not (DEV / "mapper").is_dir():
            _own_dev(namespace)
        namespace.bind(mountpoint, DEV / "mapper")
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _own_dev(namespace: Namespace) -> None:
    """A /dev of the same contents in which folders can be made."""
    names = sorted(DEV.iterdir())
    links = {path.name: path.readlink() for path in names if path.is_symlink()}
    old = os.open(DEV, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        namespace.empty(DEV)
        for path in names:
            source = Path(f"/proc/self/fd/{old}/{path.name}")
            if path.name in links:
                path.symlink_to(links[path.name])
                continue
            if source.is_dir():
                path.mkdir()
            else:
                path.touch()
            namespace.bind(source, path)
    finally:
        os.close(old)
    (DEV / "mapper").mkdir()
