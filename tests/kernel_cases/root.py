"""Runs a command in a root of its own: arguments are the case's folder, the mount, and the command.

With ``real`` for the mount it is started by `dmspec exec`, and /dev is what that has made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dmspec.dmsetup.surroundings import Namespace

HERE = Path(__file__).resolve().parent


def build(namespace: Namespace, root: Path, folder: Path, mountpoint: Path | None) -> None:
    """The machine's root again, with another /dev, /tmp, /oracle and /proc/devices."""
    namespace.empty(root)
    for path in sorted(Path("/").iterdir()):
        if path.name in ("dev", "tmp", "oracle", "lost+found"):
            continue
        inside = root / path.name
        if path.is_symlink():
            inside.symlink_to(path.readlink())
        elif path.is_dir():
            inside.mkdir()
            namespace.bind(path, inside)
    if mountpoint is not None:
        _dev(namespace, root / "dev", mountpoint)
    else:
        (root / "dev").mkdir()
        namespace.bind(Path("/dev"), root / "dev")
    # What is needed of the real /tmp (this checkout may lie there) stays visible below the case's own.
    (root / "tmp").mkdir()
    namespace.bind(folder / "tmp", root / "tmp")
    for path in (folder, HERE.parents[1], Path(sys.prefix), Path(os.environ["CASE_SOCKET"]).parent):
        if path.is_relative_to("/tmp"):
            inside = root / path.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            namespace.bind(path, inside)
    (root / "oracle" / "include").mkdir(parents=True)
    (root / "oracle" / "include" / "lib.sh").symlink_to(HERE / "lib.sh")
    if mountpoint is None:
        return
    devices = folder / "devices"
    devices.write_text(Path("/proc/devices").read_text() + "254 device-mapper\n")
    namespace.bind(devices, root / "proc" / "devices")


def _dev(namespace: Namespace, dev: Path, mountpoint: Path) -> None:
    dev.mkdir()
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (dev / name).touch()
        namespace.bind(Path("/dev") / name, dev / name)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)
    (dev / "mapper").mkdir()
    namespace.bind(mountpoint, dev / "mapper")
    for number in range(64):
        disk = mountpoint / f"loop{number}"
        if not disk.exists():
            break
        (dev / disk.name).touch()
        namespace.bind(disk, dev / disk.name)


def main() -> None:
    """Build the root, go there, and become the command."""
    folder = Path(sys.argv[1])
    mountpoint = Path(sys.argv[2]) if sys.argv[2] != "real" else None
    namespace = Namespace()
    build(namespace, folder / "root", folder, mountpoint)
    os.chroot(folder / "root")
    os.chdir("/")
    os.execvp(sys.argv[3], sys.argv[3:])


main()
