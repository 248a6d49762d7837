"""`make demo-live`, and that whatever ends a hanging freeze leaves no filesystem that is stuck."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Mount, command, left_over, until

pytestmark = pytest.mark.requires(
    "fuse", "root", "loop", "mount", "umount", "mountpoint", "losetup", "mkfs.ext4", "e2fsck", "debugfs")

SPECS = Path(__file__).parents[2] / "specs"


def begin(tmp_path: Path, output: Path) -> subprocess.Popen[str]:
    wrapper = tmp_path / "dmspec"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m dmspec "$@"\n')
    wrapper.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "DMSPEC": str(wrapper), "TMPDIR": str(work), "NO_COLOR": "1",
                   "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    with output.open("w") as file:
        return subprocess.Popen(["sh", SPECS / "demo-live.sh"], stdout=file, stderr=file, text=True, env=environment,
                                stdin=subprocess.DEVNULL)


def nothing_is_left(tmp_path: Path) -> None:
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    backing = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [one for one in backing if str(tmp_path) in one]
    assert not list((tmp_path / "work").iterdir())
    assert set(left_over(tmp_path / "run" / "dmspec")) <= {".log", ".lock"}


def test_the_demo(tmp_path: Path) -> None:
    output = tmp_path / "output"
    demo = begin(tmp_path, output)
    status = demo.wait(120)
    said = output.read_text()
    assert status == 0, said
    for line in ("the cycle: process dmeventd -> lock vg -> process lvcreate -> bios of vol -> bios of vol-real -> ",
                 "in the snapshot: only in memory so far", "it never stood still",
                 "no mount, no loop device, and no process is left"):
        assert line in said
    nothing_is_left(tmp_path)


def test_the_demo_is_stopped_while_the_freeze_hangs(tmp_path: Path) -> None:
    output = tmp_path / "output"
    demo = begin(tmp_path, output)
    until(lambda: "the cycle" in output.read_text(), "the deadlock", 60)
    demo.send_signal(signal.SIGTERM)
    demo.wait(60)
    nothing_is_left(tmp_path)


def test_the_server_is_killed_while_the_freeze_hangs(mount: Mount, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stack = mount((SPECS / "demo" / "second-snapshot.dms").read_text(),
                  options=["--run", "dmeventd", "--watchdog", "0.3", "--log", log])
    filesystem = tmp_path / "fs"
    filesystem.mkdir()
    for words in (["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", stack.device("vol")],
                  ["mount", "-o", "loop,commit=600", stack.device("vol"), filesystem]):
        subprocess.run([str(word) for word in words], check=True, timeout=60)
    try:
        (filesystem / "new").write_text("in memory")
        stack.ok("fail pv1")
        assert command("do", stack.dir, "--run", "lvcreate").returncode == 0
        until(lambda: "the cycle" in log.read_text(), "the deadlock")
        stack.kill()
    finally:
        until(lambda: subprocess.run(["umount", filesystem], check=False, capture_output=True).returncode == 0,
              "the filesystem to be thawed and unmounted")
