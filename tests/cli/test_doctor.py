"""`dmspec doctor` says what is lacking, what needs it and what mends it; its status is what mount can do."""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmspec.cli import doctor, main

CHECKS = (
    "python",
    "fuse-device",
    "libfuse3",
    "libfuse2",
    "fusermount",
    "mount-permission",
    "e2fsprogs",
    "loop",
    "user-namespaces",
    "guest-kernel",
    "exec",
)


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> list[doctor.Check]:
    """A machine that has everything; a test takes away from the list."""
    checks = [replace(check, ok=True, mend="") for check in doctor.examine()]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    return checks


def take_away(checks: list[doctor.Check], name: str, *, blocks_mount: bool) -> None:
    [place] = [place for place, check in enumerate(checks) if check.name == name]
    checks[place] = doctor.Check(name, False, "gone", "somebody", f"apt-get install {name}", blocks_mount)


def test_here_it_says_something_about_everything() -> None:
    checks = doctor.examine()
    assert tuple(check.name for check in checks) == CHECKS
    for check in checks:
        assert check.found, check
        assert check.needed_by, check
        assert check.ok or check.mend, check


def test_a_machine_with_everything(healthy: list[doctor.Check]) -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "dmspec mount works here." in result.stdout
    assert "missing" not in result.stdout


def test_a_lack_that_mount_can_bear(healthy: list[doctor.Check]) -> None:
    take_away(healthy, "guest-kernel", blocks_mount=False)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "apt-get install guest-kernel" in result.stdout
    assert "needed by: somebody" in result.stdout


def test_a_lack_that_mount_cannot_bear(healthy: list[doctor.Check]) -> None:
    take_away(healthy, "fuse-device", blocks_mount=True)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 3
    assert "does not work here for want of: fuse-device." in result.stdout


def test_the_json_has_its_documented_shape(healthy: list[doctor.Check]) -> None:
    take_away(healthy, "libfuse3", blocks_mount=True)
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert list(document) == ["dmspec_doctor", "ready_to_mount", "checks"]
    assert document["dmspec_doctor"] == 1
    assert document["ready_to_mount"] is False
    by_name = {check["name"]: check for check in document["checks"]}
    assert tuple(by_name) == CHECKS
    assert by_name["libfuse3"] == {
        "name": "libfuse3",
        "status": "missing",
        "found": "gone",
        "needed_by": "somebody",
        "mend": "apt-get install libfuse3",
        "blocks_mount": True,
    }
    assert by_name["python"]["status"] == "ok"
    assert by_name["python"]["mend"] is None
    assert by_name["python"]["blocks_mount"] is False


def without_libraries(monkeypatch: pytest.MonkeyPatch, *lacking: str) -> dict[str, doctor.Check]:
    load = ctypes.CDLL

    def refuse(name: str) -> object:
        if name.startswith(lacking):
            raise OSError(f"{name}: cannot open shared object file")
        return load(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    return {check.name: check for check in doctor.examine()}


@pytest.mark.requires("libfuse2", "libfuse3")
def test_one_of_the_two_libraries_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = without_libraries(monkeypatch, "libfuse3.so")
    assert not checks["libfuse3"].ok
    assert not checks["libfuse3"].blocks_mount
    assert doctor.is_ready_to_mount(list(checks.values()))


def test_without_both_libraries_nothing_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = without_libraries(monkeypatch, "libfuse3.so", "libfuse.so")
    assert checks["libfuse3"].blocks_mount
    assert not doctor.is_ready_to_mount(list(checks.values()))
    assert "fuse3" in checks["libfuse3"].mend


@pytest.mark.parametrize(
    ("device", "mends"),
    [("nowhere", "modprobe fuse"), (".", "container" if os.geteuid() == 0 else "chmod")],
)
def test_a_device_that_does_not_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, mends: str
) -> None:
    monkeypatch.setattr(doctor, "_FUSE_DEVICE", tmp_path / device)  # opening a folder for writing fails
    checks = {check.name: check for check in doctor.examine()}
    assert not checks["fuse-device"].ok
    assert mends in checks["fuse-device"].mend
    assert not doctor.is_ready_to_mount(list(checks.values()))


def test_without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_command", lambda _name: None)
    checks = {check.name: check for check in doctor.examine()}
    for name in ("fusermount", "e2fsprogs", "loop", "user-namespaces", "guest-kernel"):
        assert not checks[name].ok
        assert "package manager" in checks[name].mend  # there is no apt-get either


def test_doctor_does_not_load_the_bindings() -> None:
    code = """
import sys
from dmspec.cli import doctor
doctor.examine()
sys.exit("fuse" in sys.modules or "mfusepy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
