"""A counterexample as a pytest module: it passes as long as the run comes to the same, and shows what is different."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dmspec.cli import main
from dmspec.runtime import mapped_device
from dmspec.runtime.targets.mirror_work import Presuspend

MAIL = Path(__file__).parents[2] / "specs" / "mail"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def made_from(spec: Path, folder: Path) -> Path:
    """What an exploration has found, as a module."""
    trace, module = str(folder / "a.trace"), folder / "test_a.py"
    assert invoke("explore", str(spec), "--strategy", "quick", "--trace", trace).exit_code == 0
    done = invoke("replay", trace, "--to", "pytest", "-o", str(module))
    assert done.exit_code == 0, done.output
    return module


def executed(module: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(module.read_text(), names)  # noqa: S102
    return names


def test_a_counterexample_is_a_test_that_pytest_runs(tmp_path: Path) -> None:
    module = made_from(MAIL / "locked.dms", tmp_path)
    assert "  app       write vol at=0 size=4KiB\n" in module.read_text()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", module.name], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_fails_when_the_kernel_does_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = executed(made_from(MAIL / "flush_error.dms", tmp_path))
    names["test_flush_error_now"]()
    assert list(names["VIOLATED"]) == ["always no-io-error app"]
    monkeypatch.setattr(Presuspend, "_end_holds", lambda _self: None)
    with pytest.raises(AssertionError):
        names["test_flush_error_now"]()


def test_whatever_a_run_says_is_quoted(tmp_path: Path) -> None:
    spec = tmp_path / "spec.dms"
    spec.write_text('disk d 4KiB\nprocess p { write d at=0 size=512 pattern="\'one\'" }\n'
                    'scenario main { run p\n always no-error }\n')
    trace = str(tmp_path / "it's \"\"\".trace")
    assert invoke("run", str(spec), "--trace", trace).exit_code == 0
    done = invoke("replay", trace, "--to", "pytest")
    names: dict[str, Any] = {}
    exec(done.stdout, names)  # noqa: S102
    names["test_main"]()


def test_a_trace_that_is_not_the_same_run_any_more_makes_no_test(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    made_from(MAIL / "locked.dms", tmp_path)
    monkeypatch.setattr(mapped_device.MappedDevice, "event", lambda _self: None)
    done = invoke("replay", str(tmp_path / "a.trace"), "--to", "pytest")
    assert done.exit_code == 1
    assert "not the same run any more" in done.output
