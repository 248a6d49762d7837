"""docs/mutation.md: how many mutants are noticed, and for each other one the reason (:mod:`tests.mutation.reasons`)."""

from __future__ import annotations

from tests.mutation.mutants import ROOT, Mutant
from tests.mutation.reasons import MISSING, reason

DOCUMENT = ROOT / "docs" / "mutation.md"
INTRODUCTION = """# Mutation testing

Made by `make mutation`; do not edit. What a mutant is, is mutmut's business: one small change of one function or method
(not of a property, a type annotation, a docstring or a constant of a class or module). `tests/mutation/run.py` plants
each in turn and runs the tests that reach the changed line, the quickest first, until one fails or {:g} s of processor
time are used up, so the figures are lower bounds.

"""


def write(survivors: list[Mutant], groups: dict[str, list[int]], most_seconds: float) -> None:
    """Write it."""
    text = [INTRODUCTION.format(most_seconds), "| Module | Mutants | Noticed | |\n|---|---|---|---|\n"]
    rows = [*groups.items(), ("all", [sum(count for count, _ in groups.values()), sum(n for _, n in groups.values())])]
    text += [f"| {name} | {count} | {noticed} | {100 * noticed / count:.1f} % |\n" for name, (count, noticed) in rows]
    by_reason: dict[str, list[Mutant]] = {}
    for one in survivors:
        by_reason.setdefault(reason(one), []).append(one)
    for why in sorted(by_reason, key=lambda why: (why != MISSING, -len(by_reason[why]), why)):
        text.append(f"\n## {why} ({len(by_reason[why])})\n\n")
        text += [f"- {one.function}: {_code(one.before)} → {_code(one.after)}\n" for one in by_reason[why]]
    DOCUMENT.write_text("".join(text), encoding="utf-8")


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"
