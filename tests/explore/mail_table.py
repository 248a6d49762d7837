"""What the search of every scenario of the mail came to, as the table in docs/mail.md.

``make mail-table`` explores all of them to their end, one after the other, which takes the better part of an hour, and
writes the rows; ``python -m tests.explore.mail_table passthrough locked`` only prints those two, ``--write`` puts
them into the document as well and leaves the other rows as they are.  It ends with 1 where a verdict is not the one
that the spec states, and writes nothing of such a scenario.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from dmspec.compiler import compile_file
from dmspec.runtime.explore import Explorer
from dmspec.runtime.explore.judge import judge
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import scenario_of, scenarios_of

ROOT = Path(__file__).parents[2]
MAIL = ROOT / "specs" / "mail"
DOCUMENT = ROOT / "docs" / "mail.md"
HEAD = "| Scenario | holds | violated, after so many steps | states | transitions | depth | ends | seconds |"


# Their spaces are large, and every check of theirs is violated: there is nothing to prove.
NOTHING_HOLDS = ("independent", "without_the_rule", "self_sufficient_no_lock", "self_sufficient_too_early")


def scenarios() -> list[tuple[Plan, str]]:
    """All of them, in the order of the table."""
    plans = [compile_file(path).plan for path in sorted(MAIL.glob("*.dms"))]
    return [(plan, one.name) for plan in plans if plan is not None for one in scenarios_of(plan)
            if one.name not in NOTHING_HOLDS]


def known_rows() -> dict[str, str]:
    """The rows that the document has, by scenario."""
    _rule, *lines = DOCUMENT.read_text().partition(HEAD)[2].lstrip("\n").split("\n")
    return {line.split("`")[1]: line for line in itertools.takewhile(lambda line: line.startswith("|"), lines)}


def row(plan: Plan, name: str) -> str | None:
    """Explore one to its end; ``None``: it does not come to what it says."""
    begun = time.process_time()
    found = Explorer(plan, name).run()
    seconds = time.process_time() - begun
    verdicts = judge(scenario_of(plan, name), found)
    if not found.complete or not all(one.ok for one in verdicts):
        return None
    holds = ", ".join(one.name for one in verdicts if one.word == "holds")
    violated = ", ".join(f"{one.name} {one.steps}" for one in verdicts if one.violated)
    progress = found.progress
    return (f"| `{name}` | {holds} | {violated} | {progress.states:,} | {progress.transitions:,} | {progress.depth} "
            f"| {progress.ends} | {seconds:,.0f} |")


def write(rows: dict[str, str]) -> None:
    """Put rows into the document's table in place of those of the same scenarios."""
    known = known_rows() | rows
    before, head, rest = DOCUMENT.read_text().partition(HEAD)
    assert head, "the document has no such table"
    rule, *lines = rest.lstrip("\n").split("\n")
    end = next(at for at, line in enumerate(lines) if not line.startswith("|"))
    table = [known[name] for _plan, name in scenarios() if name in known]
    DOCUMENT.write_text("\n".join([before + head, rule, *table, *lines[end:]]))


def main() -> int:
    """Explore what the command line names."""
    parser = argparse.ArgumentParser(description="Explore the scenarios of the mail to their end.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/mail.md")
    args = parser.parse_args()
    wrong = 0
    for plan, name in scenarios():
        if args.names and name not in args.names and name.partition("@")[0] not in args.names:
            continue
        line = row(plan, name)
        print(line or f"{name}: not what the spec says", flush=True)
        wrong += line is None
        if line is not None and args.write:
            write({name: line})
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
