"""A guest: a real Linux kernel as an ordinary process (User-mode Linux), which runs one shell script.

The guest's root is a folder of the host (hostfs) that holds a static busybox, dmsetup with its libraries and the
device-mapper modules, all copied from this machine; so there is no image to build and no root to be.  Its
disks are files: ``/dev/ubda`` and on.  What the script prints is a file in that folder, which the host reads
while the guest runs: when nothing new comes for too long, the guest hangs, and its processes are ended.

The root is copied for each boot (about 6 MB), because a guest may write into it.  qemu would do as well and is not
supported: its kernel and modules come from a package of the same size, and a start takes twice as long.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# The commands that a guest is made of, and the Debian packages that bring them; busybox has to be the static one.
PACKAGES: Final = {"linux.uml": "user-mode-linux", "busybox": "busybox-static", "dmsetup": "dmsetup"}
MODULES_FOLDER: Final = Path("/usr/lib/uml/modules")
MODULES: Final = (
    "loop", "dm-mod", "dm-log", "dm-region-hash", "dm-mirror", "dm-bufio", "dm-snapshot", "dm-zero", "dm-flakey",
    "dm-delay", "dm-log-writes", "dm-dust", "xor", "async_tx", "async_memcpy", "async_xor", "raid6_pq", "async_pq",
    "async_raid6_recov", "md-mod", "libcrc32c", "raid456", "raid1", "raid10", "raid0", "dm-raid",
)
# A guest that prints nothing for so long hangs; a start takes about 3 s, the longest step less.
SILENCE_S: Final = 40.0
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_INIT: Final = """#!/bin/busybox sh
export PATH=/bin DM_DISABLE_UDEV=1
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t tmpfs tmp /tmp
for module in {modules}; do [ ! -e /modules/$module.ko ] || busybox insmod /modules/$module.ko; done
exec >/output 2>&1 </dev/null
echo "@kernel $(busybox uname -r)"
. /script
echo @end
busybox poweroff -f
"""


class GuestMissing(Exception):
    """Something that the guest needs is not on this machine; ``mend`` is the command that brings it."""

    def __init__(self, lacks: Sequence[str], packages: Sequence[str]) -> None:
        self.lacks = list(lacks)
        prefix = "" if os.geteuid() == 0 else "sudo "
        self.mend = f"{prefix}apt-get install -y {' '.join(packages)}"
        super().__init__(f"no guest here: there is no {', no '.join(lacks)}; to mend: {self.mend}")


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest is made of, all found on this machine."""

    kernel: Path
    busybox: Path
    dmsetup: Path
    modules: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What a boot gave: the script's output, and whether it came to its end.

    ``console`` is what the kernel and its loader said, for the case that nothing else came.
    """

    output: str
    ended: bool
    console: str
    seconds: float


def find_guest() -> Guest:
    """Look for the parts.  Raises :class:`GuestMissing`."""
    parts = {name: _command(name) for name in PACKAGES}
    busybox = parts["busybox"]
    if busybox is not None and not is_static(busybox):
        parts["busybox"] = None
    lacks = [name if name != "busybox" else "static busybox" for name, path in parts.items() if path is None]
    needed = [PACKAGES[name] for name, path in parts.items() if path is None]
    modules = find_modules()
    if parts["linux.uml"] is not None and not any(path.stem == "dm-mod" for path in modules):
        lacks.append(f"dm-mod.ko below {MODULES_FOLDER}")
        needed.append("user-mode-linux")
    if lacks:
        raise GuestMissing(lacks, needed)
    kernel, busybox, dmsetup = parts["linux.uml"], parts["busybox"], parts["dmsetup"]
    assert kernel is not None
    assert busybox is not None
    assert dmsetup is not None
    return Guest(kernel, busybox, dmsetup, modules)


def _command(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), _SYSTEM_PATH]))
    return Path(found) if found else None


def is_static(program: Path) -> bool:
    """Whether a program names no loader, which a program that needs libraries does."""
    return b"/ld-linux" not in program.read_bytes()[:4096]


def find_modules() -> tuple[Path, ...]:
    """The device-mapper modules there are, in the order in which they are loaded."""
    found: dict[str, Path] = {path.stem: path for path in sorted(MODULES_FOLDER.glob("*/kernel/**/*.ko"))}
    return tuple(found[name] for name in MODULES if name in found)


def _libraries(program: Path) -> list[Path]:
    """The libraries and the loader that a program needs, as the loader itself lists them."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")]


def _make_root(guest: Guest, root: Path, script: str) -> None:
    for name in ("bin", "dev", "proc", "sys", "tmp", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(guest.busybox, root / "bin" / "busybox")
    shutil.copy(guest.dmsetup, root / "bin" / "dmsetup")
    for library in _libraries(guest.dmsetup):
        place = root / library.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    for module in guest.modules:
        shutil.copy(module, root / "modules" / module.name)
    init = root / "init"
    init.write_text(_INIT.format(modules=" ".join(path.stem for path in guest.modules)))
    init.chmod(0o755)
    (root / "script").write_text(script)
    (root / "output").touch()


def boot(guest: Guest, script: str, disks: Sequence[Path], *, silence_s: float = SILENCE_S) -> Run:
    """Run a script in a fresh guest whose ``/dev/ubda`` and on are these files."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dmspec-guest-") as folder:
        root = Path(folder) / "root"
        _make_root(guest, root, script)
        command = [
            *_tied_to_this_process(), str(guest.kernel),
            "mem=256M", "root=/dev/root", "rootfstype=hostfs", f"rootflags={root}", "rw",
            "init=/init", "con=null", "con0=null,fd:1", "quiet", f"uml_dir={folder}/", "umid=guest",
            *(f"ubd{index}={path}" for index, path in enumerate(disks)),
        ]
        environment = {**os.environ, "TMPDIR": folder}
        with open(Path(folder) / "console", "wb") as console:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                       cwd=folder, env=environment, start_new_session=True)
            try:
                _wait(process, root / "output", silence_s)
            finally:
                _end(process)
        output = (root / "output").read_text(errors="replace")
        console_text = (Path(folder) / "console").read_text(errors="replace")
    return Run(output, output.rstrip().endswith("@end"), console_text, time.monotonic() - began)


def _tied_to_this_process() -> list[str]:
    """A command before the guest's that has it told to end when this process does, whatever ends that."""
    setpriv = _command("setpriv")
    return [str(setpriv), "--pdeathsig", "TERM"] if setpriv is not None else []


def _wait(process: subprocess.Popen[bytes], output: Path, silence_s: float) -> None:
    """Wait for the end of the guest, for as long as it goes on printing."""
    size, last = 0, time.monotonic()
    while True:
        try:
            process.wait(timeout=0.25)
        except subprocess.TimeoutExpired:
            now = output.stat().st_size
            if now != size:
                size, last = now, time.monotonic()
            if time.monotonic() - last > silence_s:
                return
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """End every process of a guest: they are a session of their own, which began with ``process``."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
