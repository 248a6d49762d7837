"""`dmspec check` and `dmspec compile`, as a user calls them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dmspec.cli import main
from dmspec.runtime.plan import from_bytes

GOOD = "disk d 8MiB\ndevice x { linear d }\nprocess p { flush x }\n"
WRONG = "disk d 8MB\nprocess p { flsh d }\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("good", GOOD), ("wrong", WRONG)):
        (tmp_path / f"{name}.dms").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dmspec(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_check(folder: Path) -> None:
    result = dmspec("check", "good.dms")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "good.dms: ok\n", "")


def test_check_shows_all_errors_of_all_files(folder: Path) -> None:
    result = dmspec("check", "wrong.dms", "good.dms", "none.dms")
    assert result.exit_code == 2
    assert result.stdout == "good.dms: ok\n"
    for code in ("DM208", "DM201", "DM001"):
        assert f"error[{code}]" in result.stderr
    assert "2 errors" in result.stderr
    assert "\x1b" not in result.stderr


def test_check_json(folder: Path) -> None:
    result = dmspec("check", "--json", "wrong.dms", "good.dms")
    assert result.exit_code == 2
    assert result.stderr == ""
    shape = json.loads(result.stdout)
    assert shape["dmspec_check"] == 1
    assert shape["ok"] is False
    assert [one["ok"] for one in shape["files"]] == [False, True]
    assert [one["code"] for one in shape["files"][0]["diagnostics"]] == ["DM208", "DM201"]


def test_check_explains_codes(folder: Path) -> None:
    assert dmspec("check", "--explain", "dm006").stdout.startswith("DM006: a syntax error\n\n")
    unknown = dmspec("check", "--explain", "DM0006")
    assert unknown.exit_code == 2
    assert "DM006" in unknown.stderr


def test_check_wants_a_file(folder: Path) -> None:
    assert dmspec("check").exit_code == 2


def test_compile_writes_a_plan(folder: Path) -> None:
    result = dmspec("compile", "good.dms", "-o", "good.plan")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    plan = from_bytes((folder / "good.plan").read_bytes())
    assert plan.files == ["good.dms"]
    assert dmspec("compile", "good.dms").stdout_bytes == (folder / "good.plan").read_bytes()


@pytest.mark.parametrize("form", ["dmsetup", "mermaid"])
def test_compile_to_a_text(folder: Path, form: str) -> None:
    result = dmspec("compile", "good.dms", "--to", form)
    assert result.exit_code == 0
    assert "linear" in result.stdout


@pytest.mark.parametrize(("form", "said"), [
    ("pytest", "it has no property"),
    ("mermade", "did you mean `mermaid`?"), ("x", "there are plan, python"),
])
def test_compile_to_what_is_not_there(folder: Path, form: str, said: str) -> None:
    result = dmspec("compile", "good.dms", "--to", form)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("name", ["wrong", "none"])
def test_compile_of_what_cannot_run_writes_nothing(folder: Path, name: str) -> None:
    result = dmspec("compile", f"{name}.dms", "-o", "out")
    assert result.exit_code == 2
    assert "error[DM" in result.stderr
    assert not (folder / "out").exists()


def test_compile_says_what_it_cannot_write(folder: Path) -> None:
    result = dmspec("compile", "good.dms", "-o", "no/such/folder")
    assert result.exit_code == 2
    assert "cannot write no/such/folder" in result.stderr


def test_compile_json(folder: Path) -> None:
    assert dmspec("compile", "good.dms", "--json").exit_code == 2
    shape = json.loads(dmspec("compile", "good.dms", "--json", "-o", "good.plan").stdout)
    plan = from_bytes((folder / "good.plan").read_bytes())
    assert shape == {
        "dmspec_compile": 1, "ok": True, "form": "plan", "output": "good.plan",
        "bytes": (folder / "good.plan").stat().st_size, "plan_sha256": plan.digest(), "diagnostics": [],
    }
    wrong = json.loads(dmspec("compile", "wrong.dms", "--json", "-o", "x").stdout)
    assert wrong["ok"] is False
    assert wrong["output"] is None
    assert len(wrong["diagnostics"]) == 2
