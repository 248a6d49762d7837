"""The files that a program of `dmspec exec` finds: a /dev and a /run of its own, and what /sys and /proc say.

/dev and /run are folders that belong to the mount, so that what one command makes there (a node, a link, a
daemon's socket) the next one finds; they go when the mount goes.  /sys is in memory, for one `dmspec exec`.
Everything is put in place by bind mounts in a mount namespace, as root or in a user namespace of one's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmspec.dmsetup.surroundings import Namespace
from dmspec.exec import lvm, nodes
from dmspec.runtime import wire
from dmspec.runtime.block import DISK_MAJOR, DM_MAJOR

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Block
    from dmspec.exec.sysfs import SysTree

DEV: Final = Path("/dev")
RUN: Final = Path("/run")
MAPPER: Final = "mapper"
# Folders of the machine's /dev that are no device-mapper's and no disk's.
_DEV_FOLDERS: Final = ("pts", "shm", "mqueue", "hugepages", "net")
# What lies in /run and would be shared with the machine's own LVM, or tell libdm that a udev is running.
_RUN_HIDDEN: Final = ("lvm", "lock", "udev", "blkid", "cryptsetup", "multipathd.pid")
_MAJORS: Final = ((DISK_MAJOR, "loop"), (DM_MAJOR, "device-mapper"))
_MISC_CONTROL: Final = (236, "device-mapper")


class View:
    """The files of one mount.  ``folder`` is where they really are."""

    def __init__(self, mountpoint: str) -> None:
        self.folder = wire.view_folder(mountpoint)
        self.dev = self.folder / "dev"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time makes or mends the folders."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def enter(self, blocks: Sequence[Block], sys_tree: SysTree) -> None:
        """Go where these files are; ``OSError`` where the machine lets nobody make a namespace."""
        with self._locked():
            namespace = Namespace()
            self._show_dev(namespace)
            self._show_run(namespace)
            self._show_proc(namespace)
            lvm.show_configuration(namespace, self.folder)
            sys_tree.show(namespace)
            self._bring_nodes(blocks)

    def _show_dev(self, namespace: Namespace) -> None:
        self.dev.mkdir(exist_ok=True)
        self.dev.chmod(0o755)
        for path in sorted(DEV.iterdir()):
            inside = self.dev / path.name
            if path.is_symlink():
                with contextlib.suppress(FileExistsError):
                    inside.symlink_to(path.readlink())
            elif path.is_dir():
                if path.name in _DEV_FOLDERS:
                    inside.mkdir(exist_ok=True)
                    namespace.bind(path, inside)
            elif stat.S_ISCHR(path.stat().st_mode) or path.is_socket():
                inside.touch()
                namespace.bind(path, inside)
        (self.dev / MAPPER).mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            nodes.make(self.dev / MAPPER / "control", nodes.CONTROL, 0o600)
        namespace.bind(self.dev, DEV)

    def _show_run(self, namespace: Namespace) -> None:
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        run.chmod(0o755)
        for path in sorted(RUN.iterdir()):
            if path.name in _RUN_HIDDEN or path.name.startswith("dmeventd"):
                continue
            inside = run / path.name
            if path.is_symlink():
                with contextlib.suppress(FileExistsError):
                    inside.symlink_to(path.readlink())
                continue
            inside.mkdir(exist_ok=True) if path.is_dir() else inside.touch()
            namespace.bind(path, inside)
        for name in ("lock", "lvm"):
            (run / name).mkdir(exist_ok=True)
        namespace.bind(run, RUN)

    def _show_proc(self, namespace: Namespace) -> None:
        devices = Path("/proc/devices").read_text()
        head, block = devices.split("Block devices:\n")
        lines = block.splitlines()
        for major, name in _MAJORS:
            lines = [line for line in lines if line.split()[:1] != [str(major)] and line.split()[1:] != [name]]
            lines.append(f"{major:3} {name}")
        text = f"{head}Block devices:\n" + "".join(f"{line}\n" for line in sorted(lines))
        self._replace(namespace, Path("/proc/devices"), text)
        number, name = _MISC_CONTROL
        others = [line for line in Path("/proc/misc").read_text().splitlines() if line.split()[1:] != [name]]
        self._replace(namespace, Path("/proc/misc"), "".join(f"{line}\n" for line in [f"{number:3} {name}", *others]))

    def _replace(self, namespace: Namespace, path: Path, text: str) -> None:
        own = self.folder / path.name
        own.write_text(text)
        namespace.bind(own, path)

    def _bring_nodes(self, blocks: Sequence[Block]) -> None:
        """Nodes for what is there already, as udev would have made them; those of what has gone go."""
        numbers = {block.number for block in blocks}
        for folder in (self.dev, self.dev / MAPPER):
            for path in folder.iterdir():
                node = nodes.read_node(path)
                if node is not None and node.is_block and node.number not in numbers:
                    path.unlink(missing_ok=True)
        self.update(blocks)
        for block in blocks:
            if block.name and block.node:
                with contextlib.suppress(FileExistsError):
                    nodes.make(self.dev / MAPPER / block.name, nodes.Node(block.major, block.minor))

    def update(self, blocks: Sequence[Block]) -> None:
        """/dev as devtmpfs keeps it: each disk, and /dev/dm-N of what has been given a table."""
        wanted = {block.kernel: block for block in blocks if block.set_up}
        for name, block in wanted.items():
            path = self.dev / name
            node = nodes.Node(block.major, block.minor)
            found = nodes.read_node(path)
            if found != node:
                if found is not None:
                    path.unlink(missing_ok=True)
                with contextlib.suppress(FileExistsError):
                    nodes.make(path, node)
        for path in self.dev.glob("dm-*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
