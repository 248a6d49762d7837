"""The corpus's two notations: files that hold what is given, which people write, and what came of it, recorded.

`tables.txt`: lines with ``>`` are one table (several in a row: several segments).  Below it is what a new device ``d``
made of it, one fact a line:

| word | what |
|---|---|
| `load` | why the load failed: the errno's text, or what dmsetup itself said |
| `resume` | why the resume failed |
| `table`, `status` | a line of `dmsetup table`, of `dmsetup status` once nothing changes any more |
| `deps` | the devices that it uses, in dmsetup's order |
| `log` | a line of the kernel's log: level, text |

`commands.txt`: a line with ``$`` is a call of dmsetup (``<<<`` gives its standard input, with \\n and \\t), or ``open
NAME`` and ``close NAME``, which hold a device open.  Below it are ``1|`` lines of stdout, ``2|`` of stderr, ``k|`` of
the kernel's log, and ``= `` the exit status.  A section begins with ``##``, on a machine without any device.

Of dmsetup's help only names are kept: its sentences are those of its authors, and ours are others.

Both: ``#`` is a remark, and stays where it is when a file is recorded anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
TABLES: Final = HERE / "tables.txt"
COMMANDS: Final = HERE / "commands.txt"

# loop0 and up, in sectors.
DISKS: Final = (8192, 8192, 8192, 8192, 128, 1)
_INDENT: Final = "    "


@dataclass
class Entry:
    """A table or a command line, the remarks before it, and what came of it; ``heading`` begins a section."""

    given: str
    facts: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    heading: str = ""
    line: int = 0


def read_tables(text: str) -> tuple[list[Entry], list[str]]:
    """The tables, and what stands behind the last one."""
    entries: list[Entry] = []
    before: list[str] = []
    given: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.startswith(">"):
            given.append(line[2:])
            continue
        if given:
            entries.append(Entry("\n".join(given), [], before, line=number - len(given)))
            before, given = [], []
        if line.startswith(_INDENT):
            entries[-1].facts.append(line.removeprefix(_INDENT))
        else:
            before.append(line)
    return entries, before[:-1]


def write_tables(entries: list[Entry], after: list[str]) -> str:
    """The file again."""
    lines: list[str] = []
    for entry in entries:
        lines += entry.before
        lines += [f"> {line}" for line in entry.given.split("\n")]
        lines += [_INDENT + fact for fact in entry.facts]
    return "\n".join([*lines, *after]) + "\n"


def read_commands(text: str) -> tuple[list[Entry], list[str]]:
    """The commands, and what stands behind the last one."""
    entries: list[Entry] = []
    before: list[str] = []
    heading = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("$ "):
            entries.append(Entry(line[2:], [], before, heading, number))
            before, heading = [], ""
        elif line[:2] in ("1|", "2|", "k|", "= "):
            entries[-1].facts.append(line)
        else:
            before.append(line)
            heading = line[3:] if line.startswith("## ") else heading
    return entries, before


def write_commands(entries: list[Entry], after: list[str]) -> str:
    """The file again."""
    lines: list[str] = []
    for entry in entries:
        lines += [*entry.before, f"$ {entry.given}", *entry.facts]
    return "\n".join([*lines, *after]) + "\n"


_COLUMN: Final = re.compile(r"2\|  ([\w?]+) +- .*?( \[[\w ]+\])?$")
_SAID: Final = ("2|Operator ", "2|Unrecognised", "2|Selection syntax", "2|Use 'help'")
_SYNOPSIS: Final = ("2|\t", "2|        [", "2|dmsetup")


def without_prose(given: str, facts: list[str]) -> list[str]:
    """What a command said without the sentences of a help text; the synopsis stays once, with `dmsetup help`."""
    kept: list[str] = []
    helping = False
    for line in facts:
        if line in ("2|Usage:", "2|Selection operands"):
            helping = True
            kept.append(line)
            continue
        helping = helping and line.startswith("2|") and line != "2|Mapped Device Name Fields"
        if not helping:
            column = _COLUMN.match(line)
            kept.append(f"2|  {column[1]} -{column[2] or ''}" if column else line)
        elif line.startswith(_SAID) or (given == "dmsetup help" and line.startswith(_SYNOPSIS)):
            kept.append(line)
    return kept


def split_command(given: str) -> tuple[str, str | None]:
    """A command line, and what it gets on standard input."""
    words, has_input, text = given.partition(" <<< ")
    if not has_input:
        return given, None
    return words, text.replace("\\n", "\n").replace("\\t", "\t")
