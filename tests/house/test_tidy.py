"""The house rules that a machine can check: who imports whom, how long a thing is, how a test may skip."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Where our Python is, by its real path: the links in src/dmspec/ lead to the first three.
FOLDERS = ("grammar", "compiler", "runtime", "src/dmspec", "specs", "tests", "tools")

MAXIMUM_FILE_LINES = 500
MAXIMUM_FUNCTION_LINES = 60

# What may be longer, with the reason. An entry that is not needed any more is an error too.
LONG: dict[str, str] = {}

# What a package may not import. Whoever knows less stays below: a plan runs without a parser, and a target
# can be explored because it cannot reach the world.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "grammar": ("dmspec.compiler", "dmspec.runtime", "dmspec.cli"),
    "compiler": ("dmspec.cli", "click", "rich"),
    "runtime": (
        "dmspec.compiler", "dmspec.grammar", "dmspec.cli", "dmspec.library",
        "lark", "hypothesis", "click", "rich",
    ),
    "runtime/targets": (
        "os", "time", "random", "threading", "asyncio",
        "dmspec.runtime.sim", "dmspec.runtime.live", "dmspec.runtime.fuse",
    ),
}  # fmt: skip

# These are folders of the checkout, importable by accident where the checkout is on sys.path; installed, only
# dmspec.* exists.
NEVER_TOP_LEVEL = ("grammar", "compiler", "runtime", "library")


def python_files() -> list[Path]:
    found: list[Path] = []
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            inside = file.relative_to(ROOT / folder).parts[:-1]
            linked = folder == "src/dmspec" and inside and (ROOT / folder / inside[0]).is_symlink()
            if not linked and "__pycache__" not in inside:
                found.append(file)
    return found


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


every_file = pytest.mark.parametrize("file", python_files(), ids=name_of)


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def package_of(file: Path) -> str:
    """Return the dotted package that a file belongs to once it is installed."""
    parts = list(file.relative_to(ROOT).parts[:-1])
    if parts[:2] == ["src", "dmspec"]:
        parts = parts[2:]
    elif parts[:2] == ["specs", "lib"]:
        parts = ["library", *parts[2:]]
    return ".".join(["dmspec", *parts])


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield every module that a file imports, at its top or inside a function, with the line.

    `from a import b` yields both a and a.b, because b may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def is_under(module: str, root: str) -> bool:
    return module == root or module.startswith(root + ".")


def forbidden_imports(tree: ast.Module, name: str, package: str) -> list[str]:
    """Return what a file imports against the rules, as lines to read."""
    forbidden = set(NEVER_TOP_LEVEL)
    for folder, modules in FORBIDDEN.items():
        if name.startswith(f"{folder}/"):
            forbidden |= set(modules)
    return [
        f"{name}:{line} imports {module}"
        for line, module in imported(tree, package)
        if any(is_under(module, root) for root in forbidden)
    ]


@every_file
def test_imports_go_down_only(file: Path) -> None:
    assert not forbidden_imports(parsed(file), name_of(file), package_of(file))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("runtime/table.py", "from dmspec.compiler import ast"),
        ("runtime/table.py", "from dmspec import compiler"),
        ("runtime/table.py", "def f():\n    import dmspec.cli.output"),
        ("runtime/table.py", "from ..compiler import parser"),
        ("runtime/table.py", "import lark.exceptions"),
        ("runtime/targets/zero.py", "from os import path"),
        ("runtime/targets/zero.py", "from dmspec.runtime import sim"),
        ("runtime/targets/zero.py", "from .. import live"),
        ("compiler/parser.py", "import runtime.plan"),
    ],
)
def test_a_planted_import_is_caught(name: str, code: str) -> None:
    folder = name.rpartition("/")[0].replace("/", ".")
    assert forbidden_imports(ast.parse(code), name, f"dmspec.{folder}")


def too_long() -> dict[str, int]:
    """Return each file, and each function, that is longer than the rule allows, with its length."""
    found: dict[str, int] = {}
    for file in python_files():
        tree = parsed(file)
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > MAXIMUM_FILE_LINES:
            found[name_of(file)] = lines
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAXIMUM_FUNCTION_LINES:
                    found[f"{name_of(file)}:{node.name}"] = length
    return found


def test_nothing_is_too_long() -> None:
    found = too_long()
    assert {name: length for name, length in found.items() if name not in LONG} == {}
    assert [name for name in LONG if name not in found] == [], "not too long any more: take it off the list"


@every_file
def test_an_ignored_type_error_names_its_code(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"#\s*type:\s*ignore(?!\[[a-z])", text) == []  # the code is in brackets


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


SKIPS = {
    "pytest.skip", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif", "unittest.skip",
    "unittest.skipIf", "unittest.skipUnless",
}  # fmt: skip


def files_of_tests() -> list[Path]:
    return [file for file in python_files() if name_of(file).startswith("tests/")]


@pytest.mark.parametrize("file", files_of_tests(), ids=name_of)
def test_only_the_conftest_skips(file: Path) -> None:
    if name_of(file) == "tests/conftest.py":
        return
    named = {dotted(node) for node in ast.walk(parsed(file))}
    froms = {module for _, module in imported(parsed(file), "tests")}
    assert not (named | froms) & SKIPS, "use pytest.mark.requires, which .ci/run can read"


@pytest.mark.parametrize("file", files_of_tests(), ids=name_of)
def test_no_test_sleeps_to_wait(file: Path) -> None:
    named = {dotted(node) for node in ast.walk(parsed(file))}
    froms = {module for _, module in imported(parsed(file), "tests")}
    assert not (named | froms) & {"time.sleep", "asyncio.sleep"}
