"""How diagnostics look.  DMSPEC_UPDATE_GOLDEN=1 writes the files anew; read the difference before it is kept."""

import os
from pathlib import Path

import pytest

from dmspec.compiler import compile_text
from dmspec.compiler.diagnostics import Diagnostic, near
from dmspec.compiler.render import render, summary, to_json
from dmspec.compiler.source import Source, Span

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("name", ["braces", "loads", "names", "strays", "syntax"])
def test_golden(name: str) -> None:
    spec = CASES / "bad" / f"{name}.dms"
    golden = CASES / "golden" / f"{name}.txt"
    compiled = compile_text(spec.read_text(encoding="utf-8"), spec.name)
    shown = render(compiled.diagnostics) + "\n" + summary(compiled.diagnostics) + "\n"
    if os.environ.get("DMSPEC_UPDATE_GOLDEN"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


def shown(text: str, start: int, end: int, *, color: bool = False) -> list[str]:
    span = Span(Source("a.dms", text), start, end)
    return render([Diagnostic("DM006", "no", span, found="x", help="y")], color=color).splitlines()


def test_the_caret_stands_under_the_piece() -> None:
    assert shown("abc def\n", 4, 7) == [
        "error[DM006]: no", " --> a.dms:1:5", "  |", "1 | abc def", "  |     ^^^", "  = found: x", "  = help: y",
    ]


@pytest.mark.parametrize(("text", "start", "line", "under"), [
    ("\tab", 1, "    ab", "    ^"),
    ("é b", 2, "é b", "  ^"),
    ("e\u0301 b", 3, "e\u0301 b", "  ^"),
    ("日本 b", 3, "日本 b", "     ^"),
    ("ab", 2, "ab", "  ^"),
])
def test_the_caret_counts_columns_of_a_terminal(text: str, start: int, line: str, under: str) -> None:
    lines = shown(text, start, start + 1)
    assert lines[3] == f"1 | {line}"
    assert lines[4] == f"  | {under}"


def test_a_piece_of_several_lines_is_underlined_in_its_first() -> None:
    assert shown("ab {\ncd\n}", 3, 9)[3:5] == ["1 | ab {", "  |    ^"]


def test_a_long_line_is_cut_around_the_piece() -> None:
    lines = shown("x" * 500 + "HERE" + "y" * 500, 500, 504)
    assert len(lines[3]) < 140
    assert lines[3].index("HERE") == lines[4].index("^^^^")


def test_line_numbers_are_aligned() -> None:
    lines = shown("\n" * 99 + "ab", 99, 101)
    assert lines[1:5] == ["   --> a.dms:100:1", "    |", "100 | ab", "    | ^^"]


def test_color_is_only_added() -> None:
    import re

    plain, colored = shown("abc", 0, 3), shown("abc", 0, 3, color=True)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in colored] == plain
    assert any("\x1b[" in line for line in colored)


def test_json_has_everything() -> None:
    compiled = compile_text("disk a 8MiB\ndevice b { mirror a a handle_error }\ndisk a 8MiB\n", "x.dms")
    unknown, twice = to_json(compiled.diagnostics)
    assert unknown == {
        "code": "DM101", "severity": "error", "message": "there is no device or disk `handle_error`",
        "file": "x.dms", "line": 2, "column": 23, "end_line": 2, "end_column": 35, "found": None,
        "expected": "a device or disk", "help": "did you mean `handle_errors`?", "kernel": None,
        "related": [],
    }
    assert twice["related"] == [
        {"message": "first declared here", "file": "x.dms", "line": 1, "column": 6, "end_line": 1, "end_column": 7},
    ]


def test_the_kernels_words_are_shown() -> None:
    compiled = compile_text('disk a 8MiB\ndevice b { "8 8 linear a 0" }\n')
    assert '= dm: "Gap in table"' in render(compiled.diagnostics)
    assert to_json(compiled.diagnostics)[0]["kernel"] == "Gap in table"


@pytest.mark.parametrize(("word", "names", "meant"), [
    ("handle_error", ["handle_errors", "keep_log"], "handle_errors"),
    ("no_flush", ["noflush", "nolockfs"], "noflush"),
    ("same_as", ["same-as"], "same-as"),
    ("EIO", ["eio"], "eio"),
    ("x", ["suspend"], ""),
    ("vol", ["vol"], ""),
    ("a" * 10_000, ["a"], ""),
])
def test_did_you_mean(word: str, names: list[str], meant: str) -> None:
    assert near(word, names) == meant
