"""`dmspec exec` with the unmodified dmsetup and with programs that call what dmsetup does not."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmspec.exec.supervisor import descendants_of
from dmspec.runtime import wire

pytestmark = [pytest.mark.requires("fuse", "exec", "dmsetup"), pytest.mark.timeout(300)]
DMSPEC = [sys.executable, "-m", "dmspec"]
PROGRAMS = Path(__file__).parent / "programs.py"
SPEC = "disk pv1 8MiB\ndisk pv2 8MiB\ndevice a { 4MiB linear pv1 }\ndevice s { striped pv1 pv2 chunk=64KiB }\n"


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("exec")
    (folder / "spec.dms").write_text("disk pv1 8MiB\ndisk pv2 8MiB\n")
    mountpoint = folder / "mount"
    mountpoint.mkdir()
    subprocess.run([*DMSPEC, "mount", "--quiet", folder / "spec.dms", mountpoint], check=True)
    yield mountpoint
    subprocess.run([*DMSPEC, "umount", mountpoint], check=True)
    assert not wire.view_folder(mountpoint).exists()


def in_exec(mount: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*DMSPEC, "exec", "--mount", mount, "--", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False, timeout=120)


def good(mount: Path, *words: str | Path) -> str:
    run = in_exec(mount, *words)
    assert (run.returncode, run.stderr) == (0, ""), run
    return run.stdout


@pytest.fixture
def device(mount: Path) -> Iterator[Path]:
    good(mount, "dmsetup", "create", "a", "--table", "0 8192 linear /dev/pv1 0")
    yield mount
    good(mount, "dmsetup", "remove", "--retry", "a")


def program(mount: Path, *words: str) -> list[str]:
    return good(mount, sys.executable, PROGRAMS, *words).splitlines()


def until(condition: Callable[[], object]) -> None:
    """Wait for what another process does and nothing signals; that it comes is tested, not how soon."""
    limit = time.monotonic() + 60
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < limit
        pause.wait(0.02)


@pytest.mark.parametrize("words", ["version", "table", "status", "info", "info -c", "deps", "deps -o devname", "ls",
                                   "ls --tree -o ascii", "targets", "table --concise", "info nobody", "frobnicate",
                                   "target-version mirror"])
def test_the_real_dmsetup_says_what_our_own_says(device: Path, words: str) -> None:
    ours = subprocess.run([*DMSPEC, "dmsetup", "--mount", device, *words.split()], capture_output=True, text=True,
                          check=False)
    real = in_exec(device, "dmsetup", *words.split())
    assert (real.returncode, real.stdout) == (ours.returncode, ours.stdout)
    # The help text explains itself in other words.
    assert real.stderr.partition("Usage:")[0] == ours.stderr.partition("Usage:")[0]


def test_a_status_is_the_programs(mount: Path) -> None:
    assert in_exec(mount, "sh", "-c", "exit 42").returncode == 42
    assert in_exec(mount, "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    absent = in_exec(mount, "no-such-program")
    assert (absent.returncode, absent.stderr) == (127, "dmspec: no-such-program: No such file or directory\n")
    assert in_exec(mount, "/etc/passwd").returncode == 126
    for words in (["exec"], ["exec", "--mount", "/", "--", "true"], ["exec", "--mount", str(mount), "ls"]):
        assert subprocess.run([*DMSPEC, *words], capture_output=True, check=False).returncode == 2


def test_a_file_is_mounted_for_the_program_alone(tmp_path: Path) -> None:
    (tmp_path / "spec.dms").write_text(SPEC)
    run = subprocess.run([*DMSPEC, "exec", tmp_path / "spec.dms", "--", "sh", "-c",
                          "dmsetup table; ls /dev/mapper; readlink -f $DMSPEC_MOUNT; sleep 1000 &"],
                         capture_output=True, text=True, check=False, timeout=120)
    *lines, folder = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (0, "")
    assert lines == ["a: 0 8192 linear 7:0 0", "s: 0 32768 striped 2 128 7:0 0 7:1 0", "a", "control", "s"]
    assert not Path(folder).exists()


def test_nodes_act_as_nodes_do(device: Path) -> None:
    assert program(device, "nodes", "a") == [
        "made 0o60640 True", "link True True", "opened True", "no device No such device or address",
        "left ['a', 'control']"]
    assert good(device, "stat", "-c", "%F %Hr:%Lr", "/dev/mapper/a", "/dev/pv1", "/dev/mapper/control") == (
        "block special file 254:0\nblock special file 7:0\ncharacter special file 10:236\n")


def test_ioctls_of_a_block_device(device: Path) -> None:
    assert program(device, "block_ioctls", "/dev/mapper/a") == [
        "block True 254 0", "stat True True", "BLKGETSIZE64 4194304", "BLKGETSIZE 8192", "BLKSSZGET 512",
        "BLKPBSZGET 512", "BLKIOMIN 512", "BLKIOOPT 0", "BLKROGET 0", "BLKRAGET 256", "BLKALIGNOFF 0",
        "BLKROTATIONAL 0", "zeros [True, False, True, False]", "read-ahead 512", "odd discard Invalid argument",
        "discard beyond the end Invalid argument", "discard by a reader Bad file descriptor",
        "secure discard Operation not supported", "partitions Invalid argument"]


def test_a_wait_keeps_only_its_caller_waiting_and_a_signal_ends_it(device: Path) -> None:
    assert program(device, "wait_is_interrupted", "a") == ["interrupted Interrupted system call [0]"]


def test_poll_on_the_control_node(mount: Path) -> None:
    assert program(mount, "poll_control", "polled") == ["before []", "after [1]", "armed again []", "after [1]"]


def test_signals_that_restart_a_call_do_nothing_twice(mount: Path) -> None:
    assert program(mount, "under_fire") == ["errors [0]"]


@pytest.mark.requires("unshare", "user-namespaces")
def test_in_a_user_namespace_nodes_are_made_without_a_word(mount: Path) -> None:
    script = "dmsetup create u --table '0 8 zero' && test -b /dev/mapper/u && dmsetup remove u"
    within = subprocess.run(["unshare", "--user", "--map-root-user", *DMSPEC, "exec", "--mount", mount, "--",
                             "sh", "-c", script], capture_output=True, text=True, check=False)
    assert (within.returncode, within.stdout, within.stderr) == (0, "", "")


def test_buffers_that_lie(mount: Path) -> None:
    assert program(mount, "bad_buffers") == [
        "too small Invalid argument", "no room behind the header Success", "much too big Invalid argument",
        "more than there is Bad address", "a table beyond the end No such device or address",
        "an unknown command Inappropriate ioctl for device", "no memory there Bad address",
        "not the control node Inappropriate ioctl for device", "another ioctl Inappropriate ioctl for device",
        "a block ioctl Inappropriate ioctl for device", "and then Success"]


def test_a_device_that_was_closed_can_be_removed_at_once(mount: Path) -> None:
    use = "dd if=/dev/mapper/q of=/dev/null status=none"
    once = f"dmsetup create q --table '0 8 linear /dev/pv1 0' && {use} && dmsetup remove q"
    assert good(mount, "sh", "-c", f"for i in $(seq 20); do {once} || exit; done") == ""
    held = in_exec(mount, "sh", "-c", "dmsetup create q --table '0 8 zero'; exec 3</dev/mapper/q; dmsetup remove q")
    assert "Device or resource busy" in held.stderr
    good(mount, "dmsetup", "remove", "q")


def test_sys_and_proc_speak_of_the_emulated_devices_only(device: Path) -> None:
    script = """
        ls /sys/block; cat /sys/dev/block/254:0/dm/name /sys/block/dm-0/size
        ls /sys/block/pv1/holders /sys/block/dm-0/slaves
        grep device-mapper /proc/devices /proc/misc; ls /dev/vd* /dev/sd* 2>/dev/null
    """
    assert in_exec(device, "sh", "-c", script).stdout.split() == [
        "dm-0", "pv1", "pv2", "a", "8192", "/sys/block/dm-0/slaves:", "pv1", "/sys/block/pv1/holders:", "dm-0",
        "/proc/devices:254", "device-mapper", "/proc/misc:236", "device-mapper"]


def test_what_is_told_and_done_at_a_moment(device: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = """
        dmsetup suspend --noflush a; dmsetup resume a
        dd if=/dev/mapper/a bs=512 count=1 iflag=direct; dmsetup remove nobody
    """
    run = subprocess.run([*DMSPEC, "exec", "--mount", device, "--log", log, "--when", "suspend a", "fail pv1", "--",
                          "sh", "-c", script],
                         capture_output=True, text=True, check=False)
    subprocess.run([*DMSPEC, "do", "--quiet", device, "heal pv1"], check=True)
    assert "Input/output error" in run.stderr
    told = [line.split("] ")[-1] for line in log.read_text().splitlines()]
    assert told == ["dmspec: fail pv1", "suspend a noflush", "resume a", "remove nobody", "remove nobody = ENXIO"]


@pytest.fixture
def waiting(device: Path) -> Iterator["subprocess.Popen[str]"]:
    """A program in DM_DEV_WAIT."""
    with subprocess.Popen([*DMSPEC, "exec", "--mount", device, "--", sys.executable, PROGRAMS, "wait_for_ever", "a"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        assert front.stdout.readline() == "waiting\n"
        until(lambda: calls(device) == 1)
        yield front
        for process in descendants_of(front.pid):
            os.kill(process, signal.SIGKILL)


def calls(mount: Path) -> int:
    return len(next(iter(wire.ask(mount, "waits")))["calls"])


def test_a_program_killed_in_a_wait_leaves_nothing_behind(device: Path, waiting: "subprocess.Popen[str]") -> None:
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(60) == 128 + signal.SIGTERM
    until(lambda: calls(device) == 0)


def test_without_its_supervisor_a_program_gets_enosys(device: Path, waiting: "subprocess.Popen[str]") -> None:
    supervisor = min(process for process in descendants_of(waiting.pid))
    os.kill(supervisor, signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert out.splitlines() == [os.strerror(errno.ENOSYS)] * 2
    assert waiting.returncode == 70
    assert "the supervisor has been killed" in err
    until(lambda: calls(device) == 0)


def test_where_no_filter_can_be_had_it_says_so(mount: Path) -> None:
    """A program has one listener at most, so within `dmspec exec` there is no other."""
    within = in_exec(mount, *DMSPEC, "exec", "--mount", mount, "--", "true")
    assert within.returncode == 3
    assert "exec does not work here: seccomp user notification: another supervisor" in within.stderr


def test_a_daemon_stays_until_the_mount_ends(tmp_path: Path) -> None:
    (tmp_path / "spec.dms").write_text("disk pv1 8MiB\n")
    (tmp_path / "mount").mkdir()
    subprocess.run([*DMSPEC, "mount", "--quiet", tmp_path / "spec.dms", tmp_path / "mount"], check=True)
    good(tmp_path / "mount", "sh", "-c", "(while :; do [ -e /dev/mapper/t ] && echo $$ >/run/seen; sleep 0.05; done) "
                                         ">/dev/null 2>&1 & echo $! >/run/daemon")
    daemon = int(good(tmp_path / "mount", "cat", "/run/daemon"))
    good(tmp_path / "mount", "sh", "-c", "dmsetup create t --table '0 8 zero'; until [ -s /run/seen ]; do :; done")
    subprocess.run([*DMSPEC, "umount", tmp_path / "mount"], check=True)
    until(lambda: not Path(f"/proc/{daemon}").exists())
