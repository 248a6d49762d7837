"""What all tests share: what they may require of the machine, and the proof that they leave nothing behind.

A test asks for what it needs with a mark, and is skipped, with a reason, on a machine that lacks it:

    @pytest.mark.requires("fuse", "mkfs.ext4")

Skipping anywhere else is forbidden (tests/house/test_tidy.py), so that .ci/run can read from one place which
tests did not run. Two fixtures watch each test and the whole session, also where a test fails: no FUSE mount,
no loop device and no process may outlive its test. What is found is an error of that test, and is then
removed, so that the next test starts clean. Fixtures of a wider scope may hold such things for their own
time.

Other tests may run on this machine at the same time (xdist, another checkout), so only what is ours counts:
mounts and backing files below this session's temporary folder (TMPDIR points there during the session), and
processes that descend from this one or carry its mark in their environment, as a daemon that detached itself
does.
"""

import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from dmspec.cli import doctor

# Specs that are wrong on purpose: the plugin, which collects specs, is for others' folders.
collect_ignore_glob = ["*/cases/*"]

_SESSION_MARK = "DMSPEC_TEST_SESSION"
_GRACE_SECONDS = 5.0  # for a process that was told to end and is on its way
_KILL_SECONDS = 5.0  # for one that was killed
_TOOLS = frozenset({
    "blockdev", "busybox", "chromedriver", "chromium", "cmp", "dd", "debugfs", "dmeventd", "dmsetup", "e2fsck",
    "fallocate", "fio", "fsck.ext4", "fusermount", "fusermount3", "gcc", "losetup", "lvm", "mkfs.ext4",
    "mkfs.btrfs", "mkfs.xfs", "mount", "mountpoint", "spin", "strace", "sync", "umount", "unshare",
})  # fmt: skip

# A loaded machine is slow at times; whether a property holds is not a matter of time.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


# What a test may require


@cache
def _checks() -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine()}


def _lack_of_mount(*names: str) -> str | None:
    lacking = [
        f"{check.name}: {check.found}"
        for check in _checks().values()
        if not check.ok and (check.blocks_mount or check.name in names)
    ]
    return "; ".join(lacking) or None


def _lack_of_check(name: str) -> str | None:
    check = _checks()[name]
    return None if check.ok else check.found


_REQUIREMENTS: dict[str, Callable[[], str | None]] = {
    "fuse": _lack_of_mount,
    "libfuse2": lambda: _lack_of_mount("libfuse2"),
    "libfuse3": lambda: _lack_of_mount("libfuse3"),
    "loop": lambda: _lack_of_check("loop"),
    "user-namespaces": lambda: _lack_of_check("user-namespaces"),
    "exec": lambda: _lack_of_check("exec"),
    "guest-kernel": lambda: _lack_of_check("guest-kernel"),
    "root": lambda: None if os.geteuid() == 0 else "this user is not root",
    "not-root": lambda: "root may do everything" if os.geteuid() == 0 else None,
}


def _lack_of(name: str) -> str | None:
    """Say why this machine cannot give a test what it requires, or None where it can."""
    if name in _TOOLS:
        return None if doctor.find_command(name) else "the command is not there"
    if name not in _REQUIREMENTS:
        raise pytest.UsageError(f"unknown requirement {name!r}; tests/conftest.py lists those there are")
    return _REQUIREMENTS[name]()


def _first_lack(*names: str) -> str | None:
    lacks = ((name, _lack_of(name)) for name in names)
    return next((f"requires {name}: {lack}" for name, lack in lacks if lack), None)  # .ci/run reads this form


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip each test that requires what is not here."""
    for item in items:
        for mark in item.iter_markers("requires"):
            if lack := _first_lack(*mark.args):
                item.add_marker(pytest.mark.skip(reason=lack))


@pytest.fixture(scope="session")
def requires() -> Callable[..., None]:
    """The mark as a function, for a requirement that only the running test knows."""

    def require(*names: str) -> None:
        if lack := _first_lack(*names):
            pytest.skip(lack)

    return require


# What a test may leave behind: nothing


@dataclass(frozen=True)
class _Process:
    pid: int
    started: int  # in clock ticks since boot: a pid alone may come again
    name: str

    def describe(self) -> str:
        try:
            arguments = Path(f"/proc/{self.pid}/cmdline").read_text(errors="replace").split("\0")
        except OSError:
            arguments = []
        return f"process {self.pid}: {' '.join(arguments).strip() or self.name}"


@dataclass(frozen=True)
class _Leftovers:
    """What exists now and could be left behind."""

    mounts: frozenset[str]
    loops: frozenset[tuple[str, str]]
    processes: frozenset[_Process]

    def since(self, before: "_Leftovers") -> "_Leftovers":
        return _Leftovers(
            self.mounts - before.mounts, self.loops - before.loops, self.processes - before.processes
        )

    def describe(self) -> str:
        lines = [f"a FUSE mount at {path}" for path in sorted(self.mounts)]
        lines += [f"the loop device {device} on {file}" for device, file in sorted(self.loops)]
        lines += [process.describe() for process in self.processes]
        return "\n".join(lines)


def _mounts(root: Path) -> frozenset[str]:
    """Return the FUSE mounts below a folder."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4])
        kind = right.split()[0].partition(".")[0]
        if kind in ("fuse", "fuseblk") and Path(mount_point).is_relative_to(root):
            found.add(mount_point)
    return frozenset(found)


def _loops(root: Path) -> frozenset[tuple[str, str]]:
    """Return the loop devices whose backing file is below a folder."""
    found = set()
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = file.read_text().strip()
        except OSError:  # it was detached this moment
            continue
        if Path(backing).is_relative_to(root):
            found.add((f"/dev/{file.parent.parent.name}", backing))
    return frozenset(found)


def _processes(root: Path) -> frozenset[_Process]:
    """Return the living processes that descend from this one or carry this session's mark."""
    mark = f"{_SESSION_MARK}={root}".encode()
    found: set[_Process] = set()
    children: dict[int, list[_Process]] = {}
    for folder in os.scandir("/proc"):
        if not folder.name.isdigit():
            continue
        try:
            stat = Path(folder.path, "stat").read_text(errors="replace")
            name, _, rest = stat.partition("(")[2].rpartition(")")
            state, parent, *others = rest.split()
            if state == "Z":
                continue
            process = _Process(int(folder.name), int(others[17]), name)
            children.setdefault(int(parent), []).append(process)
            if mark in Path(folder.path, "environ").read_bytes().split(b"\0"):
                found.add(process)
        except OSError:  # it ended this moment, or is another user's
            continue
    parents = [os.getpid()]
    while parents:
        for process in children.get(parents.pop(), []):
            found.add(process)
            parents.append(process.pid)
    return frozenset(process for process in found if process.pid != os.getpid())


def _survey(root: Path) -> _Leftovers:
    return _Leftovers(_mounts(root), _loops(root), _processes(root))


def _wait_for_end(processes: frozenset[_Process], seconds: float) -> None:
    """Wait until these processes have ended, or the time is over."""
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(descriptor)


def _remove(leftovers: _Leftovers) -> None:
    """Remove what a test left behind; who still holds it goes first."""
    for process in leftovers.processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    _wait_for_end(leftovers.processes, _KILL_SECONDS)
    commands = [["losetup", "--detach", device] for device, _ in leftovers.loops]
    for mount_point in sorted(leftovers.mounts, reverse=True):
        if os.geteuid() == 0:
            commands.append(["umount", "--lazy", mount_point])
        else:
            commands.append(["fusermount3", "-u", "-z", mount_point])
    for command in commands:
        if path := doctor.find_command(command[0]):
            subprocess.run([path, *command[1:]], check=False, capture_output=True)


def _watch(root: Path, what: str) -> Iterator[None]:
    """Compare before and after, and fail where something was left behind."""
    before = _survey(root)
    yield
    left = _survey(root).since(before)
    if left.processes:
        _wait_for_end(left.processes, _GRACE_SECONDS)
        left = _survey(root).since(before)
    if description := left.describe():
        _remove(left)
        pytest.fail(f"{what} left behind:\n{description}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put everything temporary below one folder, mark our processes, and check the session as a whole."""
    root = tmp_path_factory.getbasetemp().resolve()
    scratch = tmp_path_factory.mktemp("tmp", numbered=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        patch.setenv(_SESSION_MARK, str(root))
        patch.setattr(tempfile, "tempdir", None)
        watch = _watch(root, "the session")
        next(watch)
        yield root
        next(watch, None)


@pytest.fixture(autouse=True)
def leaves_nothing(session_folder: Path) -> Iterator[None]:
    """Check one test. Fixtures of a wider scope are made before this one, so theirs is not a test's."""
    yield from _watch(session_folder, "this test")
