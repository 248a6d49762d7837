"""Who is measured: the plain file, QEMU's storage daemon, nbdkit with nbdfuse, and our mount.

Each shows one volume as one file; all keep their bytes in files in one folder, which should lie in memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
CHUNK_KIB: Final = 64  # a qcow2 cluster's size unless it is chosen, so our snapshots get the same here


class CannotStart(Exception):
    """A contender did not come up; the text says which."""


@dataclass
class Contender:
    """``path`` is the file to work on; ``process`` serves it, unless it is a plain one."""

    name: str
    path: Path
    process: subprocess.Popen[bytes] | None = None
    pids: list[int] = field(default_factory=list)
    leave: list[str] = field(default_factory=list)

    def start(self, command: list[str], size_bytes: int) -> None:
        """Run the server in a session of its own and wait until the file has its size."""
        self.process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        pause = threading.Event()
        while not (self.path.exists() and self.path.stat().st_size == size_bytes and os.path.ismount(self._mount())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise CannotStart(f"{self.name} does not start: {' '.join(command)}")
            pause.wait(0.05)
        self.pids = _session(self.process.pid)

    def _mount(self) -> Path:
        return self.path if os.path.ismount(self.path) else self.path.parent

    def stop(self) -> None:
        """End the server, and wait for its end."""
        if self.process is None:
            return
        if self.leave:
            subprocess.run(self.leave, check=False, capture_output=True)
        elif self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in _session(self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def cpu_seconds(self) -> float:
        """Processor time that its processes have used until now."""
        ticks = 0
        for pid in self.pids:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
        return ticks / TICKS_PER_SECOND

    def peak_mib(self) -> float:
        """The most memory that its processes have had, added up."""
        kib = 0
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    kib += int(line.split()[1])
        return kib / 1024


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = entry.joinpath("stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(words[3]) == leader and words[0] != "Z":
                found.append(int(entry.name))
    return found


def sparse(path: Path, size_bytes: int) -> Path:
    """An empty file of a size."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


class Makers:
    """Makes contenders; ``folder`` is for their backing files, ``mounts`` for their mountpoints."""

    def __init__(self, folder: Path, mounts: Path, size_bytes: int) -> None:
        self.folder = folder
        self.mounts = mounts
        self.size_bytes = size_bytes

    def plain(self) -> Contender:
        return Contender("plain file", sparse(self.folder / "plain.img", self.size_bytes))

    def qemu(self, name: str, *nodes: str) -> Contender:
        """The last of the nodes is exported."""
        path = self.mounts / name
        path.touch()
        command = ["qemu-storage-daemon"]
        for node in nodes:
            command += ["--blockdev", node]
        command += ["--export", f"type=fuse,id=e,node-name=top,mountpoint={path},writable=on"]
        contender = Contender("qemu-storage-daemon", path)
        contender.start(command, self.size_bytes)
        return contender

    def qemu_raw(self) -> Contender:
        disk = sparse(self.folder / "qemu-raw.img", self.size_bytes)
        return self.qemu("qemu-raw", f"driver=file,node-name=top,filename={disk}")

    def qemu_quorum(self) -> Contender:
        """A read goes to one child, as a mirror's does."""
        disks = [sparse(self.folder / f"qemu-leg{index}.img", self.size_bytes) for index in (0, 1)]
        nodes = [f"driver=file,node-name=leg{index},filename={disk}" for index, disk in enumerate(disks)]
        return self.qemu("qemu-quorum", *nodes, "driver=quorum,node-name=top,vote-threshold=2,read-pattern=fifo,"
                                                "children.0=leg0,children.1=leg1")

    def qemu_qcow2(self) -> Contender:
        base = sparse(self.folder / "qemu-base.img", self.size_bytes)
        overlay = self.folder / "qemu-overlay.qcow2"
        overlay.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, overlay,
                        str(self.size_bytes)], check=True)
        return self.qemu("qemu-qcow2", f"driver=file,node-name=base,filename={base}",
                         f"driver=file,node-name=overlay,filename={overlay}",
                         "driver=qcow2,node-name=top,file=overlay,backing=base")

    def nbdkit(self) -> Contender:
        disk = sparse(self.folder / "nbdkit.img", self.size_bytes)
        path = self.mounts / "nbdkit"
        path.touch()
        contender = Contender("nbdkit + nbdfuse", path, leave=["fusermount3", "-u", str(path)])
        contender.start(["nbdfuse", str(path), "--command", "nbdkit", "-s", "file", str(disk)], self.size_bytes)
        return contender

    def ours(self, kind: str, spec: str, device: str) -> Contender:
        """A spec of ours, mounted."""
        mountpoint = self.mounts / f"ours-{kind}"
        mountpoint.mkdir(exist_ok=True)
        file = self.mounts / f"{kind}.dms"
        file.write_text(spec)
        contender = Contender("dmspec", mountpoint / device)
        store = self.folder / f"ours-{kind}"
        contender.start([sys.executable, "-m", "dmspec", "mount", str(file), str(mountpoint), "--store", str(store),
                         "--foreground", "--quiet"], self.size_bytes)
        return contender

    def ours_linear(self) -> Contender:
        return self.ours("linear", f"disk pv {self.size_bytes}\ndevice vol {{ linear pv }}\n", "vol")

    def ours_mirror(self) -> Contender:
        return self.ours("mirror", f"disk pv1 {self.size_bytes}\ndisk pv2 {self.size_bytes}\n"
                                   "device vol { mirror pv1 pv2 log=core region=512KiB nosync handle_errors }\n", "vol")

    def ours_snapshot(self) -> Contender:
        return self.ours("snapshot", f"disk pv {self.size_bytes}\ndisk cow {2 * self.size_bytes}\n"
                                     "device vol { snapshot-origin pv }\n"
                                     f"device snap {{ snapshot pv cow chunk={CHUNK_KIB}KiB }}\n", "snap")
