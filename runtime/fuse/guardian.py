"""A small process that takes the mount away when the server was killed.

The kernel leaves the mount of a killed FUSE server behind as "Transport endpoint is not connected".
libfuse's own auto_unmount needs the set-uid helper even for root and is refused by some versions, so this
process does it: it was started before the mount, holds nothing of it, and waits for the server to die. It
only takes away the mount that it was told of, or, when the server died before it could tell, one of our kind
that was not there at the start. It ends with the server, whatever happens.
"""

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

import dmspec
from dmspec.runtime.fuse import mounts

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from dmspec.runtime.fuse.guardian import main
main()
"""
_DISMISSED = b"dismissed\n"


class Guardian:
    """The server's end: start before mounting, tell it of the mount, dismiss it after unmounting."""

    def __init__(self, mountpoint: str) -> None:
        package_folder = Path(dmspec.__path__[0]).parent
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _PROGRAM, str(package_folder), str(os.getpid()), mountpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self._process.stdout.close()

    def watch(self, entry: mounts.MountEntry) -> None:
        """Tell which mount is ours."""
        self._tell(f"{entry.mount_id} {entry.device}\n".encode())

    def dismiss(self) -> None:
        """End it; what is still mounted stays."""
        self._tell(_DISMISSED)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, message: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(message)
            self._process.stdin.flush()


def _last_words(server: int) -> bytes:
    """Collect what the server says until it says no more.

    Its end of the pipe may live on in a child that it forked, so the death of the process itself counts too.
    """
    said = b""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    try:
        poll.register(os.pidfd_open(server), select.POLLIN)
    except ProcessLookupError:
        return os.read(0, 1 << 16)
    while _DISMISSED not in said:
        ready = [descriptor for descriptor, _ in poll.poll()]
        data = os.read(0, 1 << 16) if 0 in ready else b""
        said += data
        if not data:
            break
    return said


def main() -> None:
    """Wait for the end of the server `argv[2]`, and clean up its mount at `argv[3]`."""
    server, mountpoint = int(sys.argv[2]), sys.argv[3]
    before = set(mounts.entries())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdout.close()
    said = _last_words(server)
    if _DISMISSED in said:
        return
    if said:
        mount_id, device = said.split()[:2]
        device_name = device.decode()
        ours = mounts.MountEntry(int(mount_id), device_name, mountpoint, mounts.FILESYSTEM_TYPE)
    else:
        found = mounts.topmost(mountpoint)
        if found is None or found in before or found.filesystem_type != mounts.FILESYSTEM_TYPE:
            return
        ours = found
    if mounts.is_mounted(ours):
        with contextlib.suppress(OSError):
            mounts.unmount_exactly(ours)
