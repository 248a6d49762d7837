"""What a recorded script does that its output does not show: when it sleeps, and which disks it writes to.

A script (``recorded/*.sh``) and its output go through the same sections.  :func:`plan` gives for each section one
:class:`Cue` for each command line that the output shows, in order: what comes before it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

# How many command lines each helper of a script shows.
SHOWN = {"x": 1, "q": 1, "bg": 1, "took": 1, "make": 1, "ends": 1, "sync_of": 1,
         "st": 2, "swap": 2, "fail": 2, "heal": 2}
SILENT = ("r", "wt", "uname", "disks", ".", "busybox", "done", "fi", "echo")


@dataclass
class Cue:
    """Before a command line: sleeps (in seconds) and hidden commands, in order; how long it may take."""

    before: list[float | str] = field(default_factory=list)
    took_ms: tuple[int, int] | None = None


def plan(text: str) -> dict[str, list[Cue]]:
    """By title; what comes before the first heading has none."""
    found: dict[str, list[Cue]] = {}
    title = ""
    for line in _flat(_without_functions(text.splitlines())):
        words = shlex.split(line, comments=True)
        if words and words[0] == "h":
            title = words[1]
        elif words:
            _add(found.setdefault(title, [Cue()]), line, words)
    for cues in found.values():
        if not cues[-1].before:
            cues.pop()
    return found


def _add(cues: list[Cue], line: str, words: list[str]) -> None:
    """The last cue is that of the next command line."""
    name = words[0]
    if name == "sleep":
        cues[-1].before.append(float(words[1]))
    elif name == "legs":
        cues[-1].before += ["blank 0", "blank 1", "blank 2", "blank 3"]
        cues += [Cue() for _ in range(int(words[1]) + 1)]
    elif name in SHOWN:
        if name == "took":
            cues[-1].took_ms = int(words[1]), int(words[2])
        cues += [Cue() for _ in range(SHOWN[name])]
    elif name not in SILENT:
        cues[-1].before += [part for part in line.split("; ") if part not in ("done", "fi")]


def _without_functions(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if re.match(r"\w+\(\) \{\Z", line):
            inside = True
        if not inside and not re.match(r"\w+\(\) \{ .*\}\Z", line):
            yield line.strip()
        if line == "}":
            inside = False


def _flat(lines: Iterator[str]) -> Iterator[str]:
    """Loops written out; what is in an ``if`` is done."""
    for line in lines:
        loop = re.match(r"for \w+ in (.*); do( .*)?\Z", line)
        if loop and not loop[2]:
            body = []
            for inner in lines:
                if inner == "done":
                    break
                body.append(inner)
            for _ in shlex.split(loop[1]):
                yield from body
        else:
            yield re.sub(r"if (.*); then\Z", r"\1", line)
