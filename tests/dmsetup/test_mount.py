"""dmsetup on a mount: the shell, the node files, waiting, interruption, and the log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmspec.dmsetup.door import Door, find
from dmspec.runtime import ioctl_format as form

pytestmark = pytest.mark.requires("fuse")

DMSPEC = [sys.executable, "-m", "dmspec"]


def run(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*DMSPEC, *words], capture_output=True, text=True, check=False, timeout=100,
        **options)  # type: ignore[call-overload]
    return done


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "a.dms").write_text("disk loop0 1MiB\ndisk loop3 1MiB\ndisk pv 1MiB\n")
    point = tmp_path / "mnt"
    point.mkdir()
    done = run("mount", "--quiet", "--like-dev-mapper", tmp_path / "a.dms", point)
    assert done.returncode == 0, done.stderr
    yield point
    done = run("umount", "--force", point)
    assert done.returncode in (0, 1), done.stderr


def shell(mount: Path, script: str) -> subprocess.CompletedProcess[str]:
    return run("shell", mount, "--", "sh", "-c", script, env={**os.environ, "LC_ALL": "C"})


@pytest.mark.requires("dd")
def test_a_script_finds_dmsetup_and_the_devices(mount: Path) -> None:
    done = shell(mount, """
        dmsetup create a --table '0 100 linear loop3 8' || exit 9
        dmsetup table a
        blockdev --getsz --getss /dev/mapper/a
        printf x | dd of=/dev/mapper/a bs=1 conv=notrunc status=none
        head -c 1 /dev/mapper/a; echo
        ls /dev/mapper
        dmsetup remove a
        dmsetup ls
        exit 7
    """)
    assert done.stdout.splitlines() == ["0 100 linear 7:3 8", "100", "512", "x", "a", "control", "No devices found"]
    assert (done.stderr, done.returncode) == ("", 7)


def test_dmsetup_says_what_failed_and_the_log_why(mount: Path) -> None:
    done = run("dmsetup", "--mount", mount, "create", "a", "--table", "0 8 nonsense")
    assert done.stderr == "device-mapper: reload ioctl on a (254:0) failed: Invalid argument\nCommand failed.\n"
    assert done.returncode == 1
    log = run("log", mount, "--clear").stdout.splitlines()
    assert log == ["err: device-mapper: table: 254:0: nonsense: unknown target type",
                   "err: device-mapper: ioctl: error adding target to table"]
    assert run("log", mount).stdout == ""


def test_without_a_mount_it_is_said(tmp_path: Path) -> None:
    done = run("dmsetup", "--mount", tmp_path, "ls")
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr == f"dmspec: nothing of dmspec is mounted at {tmp_path}\nCommand failed.\n"


@pytest.mark.requires("dd")
def test_a_suspend_is_interrupted_and_undone(mount: Path) -> None:
    done = shell(mount, """
        dmsetup create low --table '0 100 linear loop0 0'
        dmsetup create top --table '0 100 linear /dev/mapper/low 0'
        dmsetup suspend low
        dd if=/dev/zero of=/dev/mapper/top bs=512 count=1 oflag=direct conv=notrunc status=none &
        while [ "$(dmsetup info -c --noheadings -o open top)" = 0 ]; do :; done
        timeout -s INT 2 dmsetup suspend top
        echo "status $?"
        dmsetup info -c --noheadings -o name,attr
        dmsetup resume low
        wait
        dmsetup suspend top; dmsetup info -c --noheadings -o name,attr top
    """)
    assert done.stdout.splitlines() == ["status 124", "low:L-sw", "top:L--w", "top:L-sw"], done.stderr


def test_a_wait_blocks_only_its_caller(mount: Path) -> None:
    assert run("dmsetup", "--mount", mount, "create", "a", "--table", "0 8 zero").returncode == 0
    with subprocess.Popen([*DMSPEC, "dmsetup", "--mount", mount, "wait", "a", "0"]) as waiting, \
            subprocess.Popen([*DMSPEC, "dmsetup", "--mount", mount, "wait", "a", "0"]) as killed:
        assert run("dmsetup", "--mount", mount, "info", "a").returncode == 0
        killed.kill()
        assert run("dmsetup", "--mount", mount, "rename", "a", "b").returncode == 0
        assert waiting.wait(timeout=60) == 0
    assert run("dmsetup", "--mount", mount, "ls").stdout == "b\t(254:0)\n"


def open_count(door: Door, name: str) -> int:
    task = form.Header((4, 0, 0), form.HEADER_BYTES, form.HEADER_BYTES, 0, name=name)
    error, data = door.ioctl(form.DEV_STATUS, task.write())
    assert error == 0
    return form.Header.read(data).open_count


def test_a_device_is_free_as_soon_as_its_last_user_has_closed_it(mount: Path) -> None:
    """The kernel tells a file system of a release after close(2) has returned."""
    assert run("dmsetup", "--mount", mount, "create", "a", "--table", "0 8 zero").returncode == 0
    door = find(str(mount))
    for _ in range(100):
        (mount / "a").read_bytes()
        assert open_count(door, "a") == 0
    with (mount / "a").open("rb") as held:
        os.close(os.dup(held.fileno()))
        assert open_count(door, "a") == 1
        assert open_count(door, "a") == 1
    assert open_count(door, "a") == 0


def test_disks_are_files_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.dms").write_text("disk pv1 1MiB\ndevice a { linear pv1 }\n")
    point = tmp_path / "mnt"
    point.mkdir()
    assert run("mount", "--quiet", "--disks", tmp_path / "a.dms", point).returncode == 0
    try:
        assert sorted(path.name for path in point.iterdir()) == ["a", "pv1"]
        with (point / "pv1").open("r+b") as disk:
            disk.write(b"hello")
        assert (point / "a").read_bytes()[:5] == b"hello"
    finally:
        assert run("umount", point).returncode == 0
