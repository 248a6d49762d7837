"""`dmspec exec` by a user who may do nothing special, with the unmodified dmsetup and LVM2.

Where only root may open /dev/fuse, or read the interpreter, this user sees others in a mount namespace of his own.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = [pytest.mark.requires("fuse", "exec", "dmsetup", "lvm", "unshare", "root"), pytest.mark.timeout(300)]
CHECKOUT = Path(__file__).parents[2]
NOBODY = "65534"
SETTING = f"""
    set -e
    mount -t tmpfs -o mode=755 nobody /mnt
    cd /mnt
    mkdir python packages checkout home
    mount --bind "$1" python
    mount --bind "$2" packages
    mount --bind "$3" checkout
    mknod -m 666 fuse c 10 229
    mount --bind fuse /dev/fuse
    chown {NOBODY} home
    cd home
    export HOME="$PWD" PYTHONHOME=/mnt/python PYTHONPATH=/mnt/checkout/src:/mnt/packages PYTHONDONTWRITEBYTECODE=1
    export XDG_RUNTIME_DIR=/mnt/home TMPDIR=/mnt/home
    printf '%s\\n' "$4" >spec.dms
    printf '%s\\n' "$5" >script.sh
    exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups /mnt/python/bin/python3 -m dmspec \\
        exec spec.dms -- sh -e script.sh
"""
SPEC = "disk pv1 32MiB\ndisk pv2 32MiB\ndisk pv3 32MiB"
SCRIPT = """
    dmsetup create a --table '0 8 zero'
    dmsetup ls
    dmsetup remove a
    pvcreate -q /dev/pv1 /dev/pv2 /dev/pv3 >/dev/null
    vgcreate -q vg /dev/pv1 /dev/pv2 /dev/pv3 >/dev/null
    lvcreate -q --type mirror -m1 -L8m -n vol vg >/dev/null
    echo something >text
    dd if=text of=/dev/vg/vol conv=fsync status=none
    lvcreate -q -s -L4m -n snap vg/vol >/dev/null
    dd if=/dev/vg/snap bs=10 count=1 status=none
    lvremove -q -y vg/snap vg/vol >/dev/null
    lvs --noheadings
"""


def test_dmsetup_and_lvm_of_an_ordinary_user() -> None:
    words = [sys.base_prefix, sysconfig.get_path("purelib"), str(CHECKOUT), SPEC, SCRIPT]
    run = subprocess.run(["unshare", "--mount", "sh", "-c", SETTING, "sh", *words], capture_output=True, text=True,
                         check=False, env={"PATH": os.environ["PATH"]})
    assert (run.returncode, run.stdout) == (0, "a\t(254:0)\nsomething\n"), run.stdout + run.stderr
