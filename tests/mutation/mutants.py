"""The mutants of a module: what mutmut makes of it, each as the code of one function.

mutmut writes every mutant of a function beside it, under a name of its own, so one compilation has the code of all.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents

ROOT = Path(__file__).parents[2]
_OUTSIDE_A_CLASS = "x_"
_IN_A_CLASS = "xǁ"


@dataclass(frozen=True)
class Mutant:
    """``function`` is its place, as ``region_hash.RegionHash.find``; ``before`` and ``after`` the lines that differ.

    ``line`` is that of the statement in ``path`` that has been changed; ``source`` is the whole original function.
    """

    function: str
    number: int
    path: Path
    line: int
    before: str
    after: str
    source: str
    code: CodeType
    defaults: tuple[Any, ...] | None
    keyword_defaults: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Distinct, and the same as long as the function's text is."""
        return f"{self.function} {self.number}"

    def target(self) -> FunctionType:
        """The function that it stands for."""
        module = importlib.import_module("dmspec.runtime." + self.path.relative_to(ROOT / "runtime")
                                         .with_suffix("").as_posix().replace("/", "."))
        found: Any = module
        for part in self.function.split(".")[1:]:
            found = inspect.getattr_static(found, part)
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        assert isinstance(found, FunctionType)
        return found

    def plant(self) -> None:
        """Make it so, in this process, for good."""
        function = self.target()
        assert self.code.co_freevars == function.__code__.co_freevars
        function.__code__ = self.code
        if self.defaults is not None:
            function.__defaults__ = self.defaults
        if self.keyword_defaults is not None:
            function.__kwdefaults__ = self.keyword_defaults


def mutants_of(path: Path) -> list[Mutant]:
    """All that mutmut makes of a file."""
    text = path.read_text()
    mutated = mutate_file_contents(str(path), text)
    return list(_mutants(path, text, mutated))


def _mutants(path: Path, text: str, mutated: MutatedFile) -> Iterator[Mutant]:
    codes = {code.co_name: code for code in _codes(compile(mutated.code, str(path), "exec"))}
    statements = _statement_lines(text)
    firsts = {name: node.lineno for name, node in _functions(ast.parse(text), "")}
    lines = mutated.code.splitlines()

    def source_of(name: str) -> list[str]:
        span = mutated.line_span_by_function_name[name]
        return _cut_leading(lines[span.start - 1:span.end])

    for name in mutated.mutant_names:
        mangled, _, number = name.rpartition("__mutmut_")
        function = _demangle(mangled)
        before, after = source_of(mangled + "__mutmut_orig"), source_of(name)
        before[0] = before[0].replace(mangled + "__mutmut_orig", function.rpartition(".")[2])
        after[0] = after[0].replace(name, function.rpartition(".")[2])
        first, olds, news = _difference(before, after)
        code = codes[name]
        line = statements.get(firsts[function] + first, firsts[function] + first)
        yield Mutant(
            f"{path.stem}.{function}", int(number), path, line, _one_line(olds), _one_line(news), "\n".join(before),
            code.replace(co_name=function.rpartition(".")[2], co_qualname=function),
            *_defaults("\n".join(after) if not first else ""))


def _codes(code: CodeType) -> Iterator[CodeType]:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from _codes(one)


def _demangle(mangled: str) -> str:
    if mangled.startswith(_IN_A_CLASS):
        return mangled.removeprefix(_IN_A_CLASS).replace("ǁ", ".")
    return mangled.removeprefix(_OUTSIDE_A_CLASS)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")


def _statement_lines(text: str) -> dict[int, int]:
    """For each line the one on which its (innermost) statement begins, as coverage counts them."""
    lines: dict[int, int] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            for line in range(node.lineno, last + 1):
                lines[line] = max(node.lineno, lines.get(line, 0))
    return lines


def _cut_leading(lines: list[str]) -> list[str]:
    """Without the decorators, comments and empty lines in front of ``def``."""
    while not lines[0].lstrip().startswith("def "):
        lines = lines[1:]
    return lines


def _difference(before: list[str], after: list[str]) -> tuple[int, list[str], list[str]]:
    """The index of the first line that differs, and those that do."""
    first = 0
    while before[first:first + 1] == after[first:first + 1] and first < min(len(before), len(after)) - 1:
        first += 1
    last = 0
    while last < min(len(before), len(after)) - first - 1 and before[-1 - last] == after[-1 - last]:
        last += 1
    return first, before[first:len(before) - last], after[first:len(after) - last]


def _one_line(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


def _defaults(source: str) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """The defaults of a function whose head was changed; mutmut changes only those that are plain values."""
    if not source:
        return None, None
    node = ast.parse(inspect.cleandoc("\n" + source) if not source[0].isspace() else "if 1:\n" + source)
    function = next(_functions(node, ""))[1] if not source[0].isspace() else next(_functions(node.body[0], ""))[1]
    given = function.args
    positional = tuple(ast.literal_eval(one) for one in given.defaults)
    keyword = {one.arg: ast.literal_eval(default)
               for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is not None}
    return positional or None, keyword or None
