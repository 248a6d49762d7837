"""Samples of what the real LVM2 and dmeventd do on the emulator; `make real-binaries` runs all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
pytestmark = [pytest.mark.requires("fuse", "exec", "dmsetup", "lvm", "dmeventd"), pytest.mark.timeout(600)]


def test_lvm_and_dmeventd_repair_a_mirror_and_merge_a_snapshot() -> None:
    run = subprocess.run([sys.executable, CHECKOUT / "tests/real_binaries/run.py", "50"], capture_output=True,
                         text=True, check=False)
    assert run.stdout.endswith("1 of 1 scripts good\n"), run.stdout + run.stderr


@pytest.mark.requires("busybox", "dd", "strace")
def test_a_recorded_case_with_the_real_dmsetup() -> None:
    run = subprocess.run([sys.executable, CHECKOUT / "tests/kernel_cases/run.py", "--real", "g-ioctl"],
                         capture_output=True, text=True, check=False)
    assert run.stdout.endswith("1 of 1 cases equal\n"), run.stdout + run.stderr


@pytest.mark.slow
def test_the_deadlock_of_the_mail_with_the_real_programs() -> None:
    run = subprocess.run(["sh", CHECKOUT / "specs/mail/real-lvm.sh", "create vg-snap2-cow"], capture_output=True,
                         text=True, check=False, env={**os.environ, "HANG_SECONDS": "60"})
    (cycle,) = [line for line in run.stdout.splitlines() if "the cycle: " in line]
    lvcreate, vol, real, dmeventd, lock, again = cycle.partition(": ")[2].split(" -> ")
    assert lvcreate == again
    assert (lvcreate.partition("[")[0], vol, real) == ("lvcreate", "bios of vg-vol", "bios of vg-vol-real")
    assert (dmeventd.partition("[")[0], lock) == ("dmeventd", "lock V_vg")
    assert run.stdout.splitlines()[-1].split() == ["create", "vg-snap2-cow", "hangs", "hangs", "no"]
