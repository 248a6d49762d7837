"""The corpus: specs that are right, and specs with what is wrong with them written beside it.

`# E: DM006, DM101` at the end of a line expects these errors there, `# W:` warnings and `# N:` notes.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from dmspec.compiler import compile_file
from dmspec.compiler.diagnostics import CODES, Diagnostic, Severity
from dmspec.runtime.plan import from_bytes, to_bytes

CASES = Path(__file__).parent / "cases"
GOOD = sorted((CASES / "good").glob("*.dms"))
BAD = sorted((CASES / "bad").glob("*.dms"))
LETTERS = {Severity.ERROR: "E", Severity.WARNING: "W", Severity.NOTE: "N"}
Expected = Counter[tuple[int, str, str]]

# Codes that no file can show by itself, and the test that has them.
ELSEWHERE = {
    "DM001": "test_input.py", "DM002": "test_input.py", "DM003": "test_input.py", "DM004": "test_input.py",
    "DM005": "test_input.py", "DM010": "test_input.py", "DM107": "test_library.py", "DM108": "test_library.py",
}


def expected(file: Path) -> Expected:
    found: Expected = Counter()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        for letter, codes in re.findall(r"# ([EWN]): (DM\d+(?:, DM\d+)*)", line):
            found.update((number, letter, code) for code in codes.split(", "))
    return found


def reported(diagnostics: list[Diagnostic]) -> Expected:
    return Counter((one.span.line, LETTERS[one.severity], one.code) for one in diagnostics)


@pytest.mark.parametrize("file", GOOD + BAD, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_says_what_the_spec_expects(file: Path) -> None:
    assert reported(compile_file(file).diagnostics) == expected(file)


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_specs_give_a_plan_that_survives_its_bytes(file: Path) -> None:
    plan = compile_file(file).plan
    assert plan is not None
    assert from_bytes(to_bytes(plan)) == plan


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_the_same_spec_gives_the_same_bytes_wherever_it_is(file: Path, tmp_path: Path) -> None:
    moved = tmp_path / file.name
    moved.write_bytes(file.read_bytes())
    first, second = (compile_file(one).plan for one in (file, moved))
    assert first is not None
    assert second is not None
    assert to_bytes(first) == to_bytes(second)


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_bad_specs_give_no_plan(file: Path) -> None:
    compiled = compile_file(file)
    assert compiled.plan is None or not any(letter == "E" for _, letter, _ in expected(file))


def test_every_code_has_a_spec_that_shows_it() -> None:
    shown = {code for file in GOOD + BAD for _, _, code in expected(file)}
    assert set(CODES) - shown == set(ELSEWHERE)
    for code, name in ELSEWHERE.items():
        assert code in Path(__file__).with_name(name).read_text(encoding="utf-8"), code


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.code)
def test_every_code_explains_itself(code: object) -> None:
    from dmspec.compiler.diagnostics import Code

    assert isinstance(code, Code)
    assert re.fullmatch(r"DM\d{3}", code.code)
    assert len(code.explanation) > 40
    assert code.explanation.endswith(".")
