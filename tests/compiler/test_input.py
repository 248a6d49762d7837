"""Whatever is given to the compiler, it answers with diagnostics."""

import os
from pathlib import Path

import pytest

from dmspec.compiler import compile_file, compile_text
from dmspec.compiler.api import Compiled
from dmspec.compiler.render import render, to_json


def codes(compiled: Compiled) -> list[str]:
    assert compiled.plan is None
    assert render(compiled.diagnostics)
    assert to_json(compiled.diagnostics)
    return [one.code for one in compiled.diagnostics]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    compiled = compile_file(tmp_path / "none.dms")
    assert codes(compiled) == ["DM001"]
    assert "no such file" in compiled.diagnostics[0].message


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, ""])
def test_a_name_that_no_file_has(name: str) -> None:
    assert codes(compile_file(name)) == ["DM001"]


def test_a_directory(tmp_path: Path) -> None:
    compiled = compile_file(tmp_path)
    assert codes(compiled) == ["DM001"]
    assert "directory" in compiled.diagnostics[0].message


def test_a_pipe_nobody_writes_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.dms")
    assert compile_file(tmp_path / "pipe.dms").plan is not None  # it is empty, and does not wait


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read everything, so a mode would not do
    compiled = compile_file(tmp_path / "secret.dms")
    assert codes(compiled) == ["DM001"]
    assert "permission denied" in compiled.diagnostics[0].message


@pytest.mark.parametrize("data", [b"disk d 8MiB\n\xff\xfe", b"\x80", "disk d".encode("utf-16")])
def test_bytes_that_are_not_utf8(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.dms"
    file.write_bytes(data)
    assert codes(compile_file(file)) == ["DM002"]


@pytest.mark.parametrize("text", ["disk d\x00 8MiB", "\x1b[31m", "\x7f", "a\x0bb"])
def test_control_characters(text: str) -> None:
    compiled = compile_text(text)
    assert codes(compiled) == ["DM003"]
    assert "\x1b" not in compiled.diagnostics[0].message


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    file = tmp_path / "a.dms"
    file.write_bytes(b"\xef\xbb\xbfdisk d 8MiB\r\nprocess p {\r\n    read d # x\r\n}\r\n")
    assert compile_file(file).plan is not None


def test_ten_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "a.dms"
    file.write_bytes(b"disk d 8MiB\n" * 900_000)
    assert codes(compile_file(file)) == ["DM004"]
    assert codes(compile_text("#" * 300_000)) == ["DM004"]


@pytest.mark.parametrize("text", [
    "process p " + "{" * 5000,
    "process p { " + "repeat 2 { " * 100 + "} " * 100 + "}",
    "disk d 8MiB file=" + "f(" * 70,
    "process p { create x " + "{ a " * 2000,
])
def test_deep_nesting(text: str) -> None:
    assert codes(compile_text(text)) == ["DM005"]


def test_nesting_that_is_not_too_deep() -> None:
    text = "disk d 8MiB\nprocess p { " + "repeat 2 { " * 63 + "read d" + " }" * 63 + " }"
    assert compile_text(text).plan is not None


@pytest.mark.parametrize("digits", [str(10**19), str(10**400), "9" * 100_000])
@pytest.mark.parametrize("text", [
    "disk d {}MiB", "disk d {}", "disk d 8MiB\nprocess p {{ repeat {} {{ }} }}",
    "disk d 8MiB\nprocess p {{ write d at={} }}", "disk d 8MiB\nprocess p {{ sleep {}s }}",
    "disk d 8MiB\ndevice x {{ linear d@{} }}", "disk d 8MiB\ndevice x {{ {} linear d }}",
    "disk d 8MiB\ndevice x {{ \"0 {} zero\" }}", "disk d 8MiB\ndevice x {{ \"{} 8 zero\" }}",
    "process p {{ }}\nscenario s {{ run p; fault power-cut at={} }}",
])
def test_huge_numbers(text: str, digits: str) -> None:
    found = codes(compile_text(text.format(digits), name="x"))
    assert set(found) <= {"DM210", "DM305", "DM302"}
    assert found


def test_many_errors_are_cut_off() -> None:
    found = codes(compile_text("process p {\n" + "write size=\n" * 1000 + "}\n"))
    assert found.count("DM006") == 25
    assert found[-1] == "DM010"


def test_a_large_file_of_nothing_but_errors_ends_soon() -> None:
    found = codes(compile_text("process p {\n" + "with {\n" * 50 + "= " * 100_000))
    assert "DM006" in found


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", ";;\n;", "   \t ", "\\\n"])
def test_nothing_is_a_spec(text: str) -> None:
    assert compile_text(text).plan is not None


@pytest.mark.parametrize("text", ["{", "}", "{}", "(", ")", "\"", "=", "1", "@", "é", "disk", "disk d", "}{",
                                  "process", "process p", "process p {", "use", "use use", "scenario s {", "\\"])
def test_fragments(text: str) -> None:
    assert codes(compile_text(text))


def test_a_long_line_is_shown_in_part() -> None:
    compiled = compile_text("disk d 8MiB " + "x" * 100_000 + " y\n")
    assert len(render(compiled.diagnostics)) < 2000
