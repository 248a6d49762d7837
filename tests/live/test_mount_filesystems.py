"""lockfs on xfs and btrfs, busy, on a loop over a device; ext4 is in test_mount_ext4."""

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from .conftest import Mount, until

STACK = "use lvm\ndisk pv1 512MiB\ndisk cow 256MiB\ndevice vol { linear pv1 }\n"
WRITER = """
import os, sys
number = 0
while not os.path.exists(sys.argv[2]):
    with open(f"{sys.argv[1]}/f{number % 50}", "wb") as file:
        file.write(os.urandom(20000))
    number += 1
print(number)
"""


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, timeout=90)
    return done.stdout.strip()


def looped(cleanup: ExitStack, image: Path, folder: Path, *options: str) -> None:
    """Mount an image or a device's file, and take that away at the end."""
    folder.mkdir(exist_ok=True)
    loop = run("losetup", "--find", "--show", image)
    cleanup.callback(run, "losetup", "--detach", loop)
    run("mount", *options, loop, folder)
    cleanup.callback(run, "umount", folder)


@pytest.mark.slow
@pytest.mark.requires("fuse", "root", "loop", "mkfs.xfs", "mkfs.btrfs")
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_busy_filesystem_is_frozen_and_its_snapshot_is_whole(mount: Mount, tmp_path: Path, kind: str) -> None:
    stack = mount(STACK, memory=True)
    run(f"mkfs.{kind}", "-f", stack.device("vol"))
    target, enough, image = tmp_path / "target", tmp_path / "enough", tmp_path / "snap.img"
    with ExitStack() as cleanup:
        looped(cleanup, stack.device("vol"), target)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target), str(enough)], stdout=subprocess.DEVNULL)
        cleanup.callback(writer.wait, 60)
        cleanup.callback(enough.touch)
        until(lambda: len(list(target.iterdir())) >= 20, "files to be written")
        stack.ok("suspend vol")
        touched = subprocess.Popen(["touch", str(target / "while-frozen")])
        assert writer.poll() is None
        assert touched.poll() is None
        stack.ok("resume vol")
        assert touched.wait(60) == 0
        stack.ok("lvm.create_snapshot vol name=snap cow=cow")
        shutil.copyfile(stack.device("snap"), image)
    if kind == "btrfs":  # to the kernel both are the one filesystem of that name
        run("btrfs", "device", "scan", "--forget")
    with ExitStack() as cleanup:  # xfs leaves something to replay in the log of a frozen filesystem, on purpose
        looped(cleanup, image, target, *(["-o", "nouuid"] if kind == "xfs" else []))
        found = sorted(path.name for path in target.iterdir())
        assert len(found) >= 20, found
    run(*(["xfs_repair", "-n"] if kind == "xfs" else ["btrfs", "check", "--readonly", "--force"]), image)
    stack.umount()
