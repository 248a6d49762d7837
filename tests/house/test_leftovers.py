"""The guard of tests/conftest.py finds what a test leaves behind, also when the test itself fails."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def run_inner(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run one test file in a pytest of its own that has our conftest."""
    inner = folder / "inner"
    inner.mkdir()
    guard = CONFTEST.read_text().replace("_GRACE_SECONDS = 5.0", "_GRACE_SECONDS = 0.2")
    (inner / "conftest.py").write_text(guard)
    (inner / "test_inner.py").write_text(body)
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir=.", f"--basetemp={folder / 'base'}"]
    command = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(command, cwd=inner, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("also_fail", [False, True])
def test_a_child_is_found_and_ended(tmp_path: Path, also_fail: bool) -> None:
    run = run_inner(
        tmp_path,
        f"""
import subprocess
kept = []
def test_leaves_a_child():
    kept.append(subprocess.Popen(["sleep", "600"]))
    assert not {also_fail}
def test_starts_clean():
    assert kept[0].wait(timeout=30) == -9
""",
    )
    assert "this test left behind:\nprocess" in run.stdout
    assert "sleep 600" in run.stdout
    outcome = "1 failed, 1 passed, 1 error" if also_fail else "2 passed, 1 error"
    assert outcome in run.stdout


def test_a_daemon_that_detached_itself_is_found(tmp_path: Path) -> None:
    run = run_inner(
        tmp_path,
        """
import subprocess
def test_leaves_a_daemon():
    subprocess.run(["setsid", "--fork", "sleep", "600"], check=True)
""",
    )
    assert "sleep 600" in run.stdout
    assert "1 passed, 1 error" in run.stdout


def test_a_wider_fixture_may_keep_a_child_for_its_own_time(tmp_path: Path) -> None:
    run = run_inner(
        tmp_path,
        """
import subprocess, pytest
@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()
def test_one(server): pass
def test_two(server): pass
""",
    )
    assert "2 passed" in run.stdout
    assert run.returncode == 0, run.stdout


@pytest.mark.requires("root", "loop")
def test_a_loop_device_is_found_and_detached(tmp_path: Path) -> None:
    body = """
import pathlib, subprocess, tempfile
def test_leaves_a_loop_device():
    file = pathlib.Path(tempfile.mkdtemp()) / "disk"
    file.write_bytes(bytes(1 << 20))
    subprocess.run(["losetup", "--find", file], check=True)
"""
    run = run_inner(tmp_path, body)
    assert "the loop device /dev/loop" in run.stdout
    assert "1 passed, 1 error" in run.stdout
    backing = [file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [file for file in backing if str(tmp_path) in file]


@pytest.mark.requires("root", "libfuse3")
def test_a_mount_is_found_and_removed(tmp_path: Path) -> None:
    body = """
import pathlib, subprocess, sys, time
SERVER = '''
import sys, mfusepy
class Empty(mfusepy.Operations):
    pass
mfusepy.FUSE(Empty(), sys.argv[1], foreground=False)
'''
def test_leaves_a_mount(tmp_path):
    point = tmp_path / "mnt with space"
    point.mkdir()
    subprocess.run([sys.executable, "-c", SERVER, point], check=True, timeout=60)
    assert point.is_mount()
"""
    run = run_inner(tmp_path, body)
    assert "a FUSE mount at " in run.stdout, run.stdout
    assert "1 passed, 1 error" in run.stdout
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_an_unknown_requirement_is_an_error(tmp_path: Path) -> None:
    run = run_inner(
        tmp_path,
        """
import pytest
@pytest.mark.requires("mkfs.ext5")
def test_something(): pass
""",
    )
    assert run.returncode != 0
    assert "unknown requirement 'mkfs.ext5'" in run.stdout + run.stderr
