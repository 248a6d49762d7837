"""The kernel's mount table as far as we need it: find our mount, take it away, cut its connection.

Nothing here asks the FUSE server anything, because these are the tools for a server that is dead or does not
answer. So a mountpoint is never stat'ed; what is known about it comes from /proc/self/mountinfo.
"""

import contextlib
import ctypes
import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

FILESYSTEM_TYPE = "fuse.dmspec"

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6
_CLOSE_ON_EXEC = 1
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_BACKING_DEVICES = Path("/sys/class/bdi")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo: `mount_id` and `device` together name a mount for as long as it exists."""

    mount_id: int
    device: str
    path: str
    filesystem_type: str

    @property
    def connection(self) -> Path:
        """The folder of this mount's FUSE connection; it only exists where fusectl is mounted."""
        major, minor = map(int, self.device.split(":"))
        return _CONNECTIONS / str(major << 20 | minor)


def _unescape(field: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(field))
    return os.fsdecode(raw)


def entries() -> list[MountEntry]:
    """Read all mounts of this namespace; of two at one path the later one is on top."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        mount_id, _, device, _, path = left.split(" ")[:5]
        found.append(MountEntry(int(mount_id), device, _unescape(path), right.split(" ")[0]))
    return found


def absolute(mountpoint: str | os.PathLike[str]) -> str:
    """Give the path under which the kernel lists a mountpoint, without touching the mountpoint itself."""
    path = Path(mountpoint)
    if path.name in ("", ".."):
        path = path.absolute()
    return str(path.parent.resolve() / path.name)


def topmost(mountpoint: str | os.PathLike[str]) -> MountEntry | None:
    """Find what is mounted at a path now."""
    path = absolute(mountpoint)
    return next((entry for entry in reversed(entries()) if entry.path == path), None)


def is_mounted(entry: MountEntry) -> bool:
    """Tell whether this very mount still exists in the mount table."""
    return entry in entries()


def _umount2(path: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def fusermount() -> str | None:
    """Find the set-uid helper that mounts and unmounts for ordinary users."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def _umount_as_user(path: str, *, lazy: bool) -> None:
    helper = fusermount()
    if helper is None:
        raise OSError(errno.EPERM, "only root can unmount without fusermount3 (apt-get install fuse3)", path)
    command = [helper, "-u", *(["-z"] if lazy else []), "--", path]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        number = errno.EBUSY if "busy" in done.stderr else errno.EINVAL
        raise OSError(number, done.stderr.strip() or os.strerror(number), path)


def unmount(mountpoint: str | os.PathLike[str], lazy: bool = False) -> None:
    """Unmount as root or as the user who mounted; EBUSY while a file is open there, unless `lazy`.

    A lazy unmount takes the folder away at once; programs that have a file open keep it until they close it.
    """
    path = absolute(mountpoint)
    try:
        _umount2(path, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
    except PermissionError:
        _umount_as_user(path, lazy=lazy)


def unmount_exactly(entry: MountEntry) -> bool:
    """Detach this mount and never another one that has taken its place; tell whether it was there.

    Root goes through a file descriptor of the mount itself, whose id cannot be reused meanwhile. An ordinary
    user has only fusermount3, which takes a path, so there the mount table is compared right before.
    """
    try:
        descriptor = os.open(entry.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        descriptor = -1
    try:
        if descriptor >= 0 and os.geteuid() == 0:
            info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
            if f"mnt_id:\t{entry.mount_id}\n" not in info or not is_mounted(entry):
                return False
            _umount2(f"/proc/self/fd/{descriptor}", _MNT_DETACH)
            return True
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    if topmost(entry.path) != entry:
        return False
    unmount(entry.path, lazy=True)
    return True


def _control_folder() -> int:
    """Open the folder of all FUSE connections, from a mount of fusectl that only this descriptor knows.

    Containers rarely have fusectl mounted, and a mount of our own that others see would be one more to take away.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    context = libc.syscall(_FSOPEN, b"fusectl", _CLOSE_ON_EXEC)
    if context < 0:
        raise OSError(ctypes.get_errno(), "no fusectl")
    try:
        libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        folder = int(libc.syscall(_FSMOUNT, context, _CLOSE_ON_EXEC, 0))
    finally:
        os.close(context)
    if folder < 0:
        raise OSError(ctypes.get_errno(), "no fusectl")
    return folder


def abort(entry: MountEntry) -> bool:
    """Make every request of a FUSE mount fail now, also those a server never answers; tell whether that worked.

    This also reaches a mount that was detached. The connection's abort file belongs to the mounting user; where
    fusectl is not mounted only root can get at it, and an ordinary user has to end the server.
    """
    try:
        entry.connection.joinpath("abort").write_text("1")
    except OSError:
        try:
            folder = _control_folder()
        except OSError:
            return False
        try:
            abort_file = os.open(f"{entry.connection.name}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
            os.write(abort_file, b"1")
            os.close(abort_file)
        except OSError:
            return False
        finally:
            os.close(folder)
    return True


def force_unmount(mountpoint: str | os.PathLike[str]) -> bool:
    """Take a FUSE mount away whatever it takes: waiting requests fail, open files are cut off.

    Give False when nothing of FUSE is mounted there. This loses what was not yet synced, so it is the way
    out for a mount whose device stays suspended or whose server hangs, not the normal way.
    """
    entry = topmost(mountpoint)
    if entry is None or not entry.filesystem_type.startswith("fuse"):
        return False
    abort(entry)
    with contextlib.suppress(OSError):
        unmount_exactly(entry)
    return not is_mounted(entry)


def tune(entry: MountEntry, *, read_ahead_kib: int) -> None:
    """Ask the kernel for a block device's treatment of this mount's page cache, as far as this user may.

    The kernel holds a FUSE mount strictly to 1 % of the dirty pages that a machine may have, for all its
    files together. Buffered writes to one suspended device then use up the share, and buffered writers of
    every other device wait with them. Root can lift that (Linux 6.2); read-ahead, 128 KiB by default, is a
    matter of speed.
    """
    folder = _BACKING_DEVICES / entry.device
    for knob, value in (("strict_limit", 0), ("read_ahead_kb", read_ahead_kib)):
        with contextlib.suppress(OSError):
            (folder / knob).write_text(str(value))
