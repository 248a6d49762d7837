"""The same scripts, and the mail, on a real Linux: a User-mode Linux guest on this machine's files, read-only.

Its disks pv1 to pv4 are linear devices over the guest's own disks, so that a fault is another table for them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from dmspec.exec import lvm
from dmspec.verify.guest import MODULES, find_guest

HERE: Final = Path(__file__).resolve().parent
_LVM_CONF: Final = lvm.TEXT.replace("devices {", 'devices {\n\ttypes = [ "ubd", 16 ]\n\tfilter = [ "r|^/dev/ubd|" ]')
_INIT: Final = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1 LC_ALL=C HOME=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/lvm /run/lock /run/scratch /run/etc /run/out
mount -t hostfs none /run/out -o {folder}
exec >>/run/out/output 2>&1 </dev/null
mount -t tmpfs -o mode=755 dev /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/urandom c 1 9
ln -s /proc/self/fd /dev/fd
cp {folder}/lvm.conf /run/etc/
mount --bind /run/etc /etc/lvm
for module in {modules}; do busybox insmod $module; done
number=0
for letter in a b c d; do
	mknod /dev/ubd$letter b 98 $((number * 16))
	number=$((number + 1))
	dmsetup create pv$number --table "0 131072 linear /dev/ubd$letter 0"
	ln -s mapper/pv$number /dev/pv$number
done
export LIB={here}/lib.sh SCRATCH=/run/scratch RESULTS=/run/out/results GUEST=1
sh {folder}/part.sh
echo "$?" >/run/out/status
busybox poweroff -f
"""


def run(script: str, folder: Path, seconds: float) -> int:
    """Boot a guest that runs a script; what it prints is ``output`` in the folder.  The script's status."""
    guest = find_guest()
    by_name = {path.stem: path for path in guest.modules}
    modules = " ".join(str(by_name[name]) for name in MODULES if name in by_name)
    (folder / "part.sh").write_text(script)
    (folder / "lvm.conf").write_text(_LVM_CONF)
    (folder / "init").write_text(_INIT.format(folder=folder, modules=modules, here=HERE))
    (folder / "init").chmod(0o755)
    disks = []
    for number in range(4):
        disk = folder / f"disk{number}"
        with disk.open("wb") as file:
            file.truncate(64 << 20)
        disks.append(f"ubd{number}={disk}")
    command = [str(guest.kernel), "mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
               f"init={folder}/init", "con=null", "con0=null,fd:1", "quiet", f"uml_dir={folder}/", "umid=guest", *disks]
    with (folder / "console").open("wb") as console, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd=folder, start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder)}) as process:
        try:
            process.wait(timeout=seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    status = folder / "status"
    return int(status.read_text()) if status.exists() else -1
