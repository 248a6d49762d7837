"""Processes of a spec on a mount: dmeventd repairs a mirror while dd goes on, and a watchdog sees when nothing can."""

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import MIB, InThread, Mount, Stack, aligned, command, direct, left_over, opened, until

pytestmark = pytest.mark.requires("fuse")

WATCHED = """
use lvm
disk pv1 8MiB
disk pv2 8MiB
device vol { mirror pv1 pv2  log=core region=512KiB nosync handle_errors }
lock vg
process dmeventd {
    lvm.monitor_past vol
    lvm.watch_mirror vol vg
}
"""

# The second snapshot: what lvcreate suspends lies above the mirror that holds a write.
DEADLOCK = """
disk pv1 8MiB
disk pv2 8MiB
disk pv3 1MiB
device vol-real { mirror pv1 pv2  log=core region=512KiB nosync handle_errors }
device vol      { linear vol-real }
lock vg
lock repairs
process lvcreate { with vg { suspend vol  resume vol } }
process dmeventd { await letter vol-real D  with vg { repair } }
process careful  { await letter vol-real D  with repairs { repair } }
procedure repair { load vol-real { linear pv2 }  suspend vol-real noflush nolockfs  resume vol-real }
scenario both "the two that meet" { run lvcreate dmeventd }
"""


def lines(log: Path) -> list[str]:
    """What was logged, without the time and who did it."""
    return [line[13:].split(maxsplit=1)[1] for line in log.read_text().splitlines()]


def test_dd_goes_on_while_dmeventd_repairs(mount: Mount, tmp_path: Path, runtime_folder: Path) -> None:
    log = tmp_path / "log"
    stack = mount(WATCHED, options=["--run", "dmeventd", "--log", log])
    source = tmp_path / "source"
    source.write_bytes(os.urandom(8 * MIB))
    stack.ok("fail pv1 writes range=3MiB+5MiB")
    dd = subprocess.run(["dd", f"if={source}", f"of={stack.device('vol')}", "bs=64k", "oflag=direct"],
                        capture_output=True, text=True, timeout=60, check=False)
    assert dd.returncode == 0, dd.stderr
    assert stack.status("vol") == "0 16384 linear "
    assert stack.device("vol").read_bytes() == source.read_bytes()
    shown = command("do", stack.dir, "--status").stdout
    assert "process dmeventd: waits for event vol registered" in shown
    stack.umount()
    assert stack.disk("pv2").read_bytes() == source.read_bytes()
    assert stack.disk("pv1").read_bytes() != source.read_bytes()
    said = lines(log)
    repair = ["event vol registered: yes", "if letter vol D F U: yes", "takes lock vg", "suspend vol noflush nolockfs",
              "resume vol", "lets go of lock vg"]
    rest = iter(said)
    assert all(line in rest for line in repair), said      # in this order; an event may come for nothing in between
    assert said[-1] == "ended with EINTR"
    assert left_over(runtime_folder) == []


def test_a_deadlock_is_seen_shown_and_resolved_by_hand(mount: Mount, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stack = mount(DEADLOCK, options=["--watchdog", "0.2", "--log", log])
    stack.ok("fail pv1")
    writing = InThread(direct, stack.device("vol"), b"x" * 4096, 0)
    until(lambda: " DA " in stack.status("vol-real"), "the mirror to hold the write")
    assert command("do", stack.dir, "--run", "both").returncode == 0
    until(lambda: "the cycle" in log.read_text(), "the watchdog")
    said = "\n".join(lines(log))
    assert "nothing has moved for 0.2 s, and nothing can:" in said
    assert "process dmeventd -> lock vg" in said
    assert "process lvcreate -> bios of vol" in said
    assert "the mirror of vol-real has 1 write held since leg pv1 failed" in said
    assert not writing.over
    stack.ok("load vol-real { linear pv2 }  suspend vol-real noflush nolockfs  resume vol-real")
    writing.result()
    until(lambda: "process dmeventd: has ended" in command("do", stack.dir, "--status").stdout, "dmeventd's end")
    assert log.read_text().count("nothing has moved") == 1
    stack.umount()


def test_with_a_lock_of_its_own_the_repair_is_not_kept_waiting(mount: Mount, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stack = mount(DEADLOCK, options=["--run", "careful", "--watchdog", "0.2", "--log", log])
    stack.ok("fail pv1")
    writing = InThread(direct, stack.device("vol"), b"x" * 4096, 0)
    assert command("do", stack.dir, "--run", "lvcreate").returncode == 0
    writing.result()
    until(lambda: stack.status("vol-real").startswith("0 16384 linear"), "the repair")
    stack.umount()
    assert "nothing has moved" not in log.read_text()


def test_a_mount_ends_although_its_processes_wait(mount: Mount, runtime_folder: Path) -> None:
    stack = mount(DEADLOCK)
    stack.ok("fail pv1")
    with opened(stack.device("vol"), os.O_RDWR | os.O_DIRECT) as descriptor:
        writing = InThread(os.pwrite, descriptor, aligned(b"x" * 4096), 0)
        until(lambda: " DA " in stack.status("vol-real"), "the mirror to hold the write")
        assert command("do", stack.dir, "--run", "both").returncode == 0
        until(lambda: "waits for lock vg" in command("do", stack.dir, "--status").stdout, "the deadlock")
        assert command("umount", "--force", stack.dir).returncode == 0
        stack.gone()
        with pytest.raises(OSError):
            writing.result()
    assert left_over(runtime_folder) in ([], [".log"])


def said_of(stack: Stack, *options: object) -> tuple[int, str]:
    done = command("mount", stack.spec, stack.folder / "other", *options)
    return done.returncode, done.stderr


def test_what_is_said_when_it_is_misused(mount: Mount, tmp_path: Path) -> None:
    stack = mount(WATCHED + "filesystem fs on vol\nprocess app { write fs }\n")
    (stack.folder / "other").mkdir()
    status, text = said_of(stack, "--run", "dmevent")
    assert (status, text) == (2, "dmspec: there is no process or scenario 'dmevent' to run; there is: dmeventd, app\n")
    status, text = said_of(stack, "--run", "app")
    assert status == 2
    assert "process app uses a filesystem of the spec" in text
    status, text = said_of(stack, "--run", "dmeventd", "--log", tmp_path / "nowhere" / "log")
    assert (status, text) == (2, f"dmspec: {tmp_path}/nowhere/log: No such file or directory\n")
    assert command("do", stack.dir, "--run", "dmeventd").returncode == 0
    again = command("do", stack.dir, "--run", "dmeventd")
    assert (again.returncode, again.stderr) == (2, "dmspec: dmeventd runs already\n")
    assert command("do", stack.dir, "--run", "dmeventd", "flush vol").returncode == 2
    stack.umount()
