"""Tables that a real kernel was given, most of them wrong: what it said of each, word for word.

The lines are those of the recording f2-invalid-tables (four disks of 2048 sectors).  Lines that
dmsetup itself refuses before the kernel sees them, and targets of a later step, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dmspec.runtime import control
from dmspec.runtime.registry import TARGETS

from .shell import LATER, CreateWithTable
from .transcript import Player

RECORDED = Path(__file__).parent / "recorded" / "f2-invalid-tables.out"
START = '$ dmsetup create d --table "'
FROM_DMSETUP = ("Invalid format on line", "Target type name")
TINY: list[int] = []


def _cases() -> Iterator[tuple[str, list[str]]]:
    """Each table, and what was printed after it."""
    table = ""
    printed: list[str] = []
    for line in RECORDED.read_text().splitlines():
        if line.startswith(START):
            if table:
                yield table, printed
            table, printed = line.removeprefix(START).removesuffix('"'), []
        elif table and not line.startswith("#"):
            printed.append(line)
    yield table, printed


def _wanted() -> list[tuple[str, list[str]]]:
    found = []
    for table, printed in _cases():
        kinds = [words[2] for part in table.split("\\n") if len(words := part.split()) > 2]
        if not kinds or any(kind in LATER for kind in kinds) or any(p.startswith(FROM_DMSETUP) for p in printed):
            continue
        if "7:99" not in table:                  # that kernel made the loop device when it was asked for
            found.append((table, printed))
    return found


CASES = _wanted()


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 90
    assert {kind for table, _printed in CASES for kind in TARGETS if f" {kind} " in f"{table} "} == \
        set(TARGETS) - {"raid"}, "the recording has no table of raid"


def _play(player: Player, table: str, printed: list[str]) -> list[str]:
    """What differs for one table."""
    log = control.create(player.stack, "tiny") if "/dev/mapper/tiny" in table else None
    if log is not None:
        player.run(CreateWithTable(player.stack, log, [f"0 {TINY.pop(0)} linear /dev/loop2 0"]))
    player.stack.log_lines.clear()
    md = control.create(player.stack, "d")
    lines = [line for line in table.split("\\n") if line.strip() and not line.startswith("#")]
    task = player.run(CreateWithTable(player.stack, md, lines))
    got = [f"kernel: {level}: {text}" for level, text in player.stack.log_lines]
    if task.value == 0:
        got += control.status_lines(md, table=True) + control.status_lines(md)
        player.run(control.Remove(md))
    else:
        got.append("[exit 1]")
    if log is not None:
        player.run(control.Remove(log))
    wanted = [line for line in printed if line and not line.startswith(("device-mapper: reload", "Command failed"))]
    return [] if sorted(got) == sorted(wanted) else [f"{table}: expected {wanted}, got {got}"]


def test_the_kernel_said_the_same() -> None:
    player = Player(4, 2048)
    TINY[:] = [1, 2, 3]
    differences = []
    for table, printed in CASES:
        differences += _play(player, table, printed)
    assert not differences, "\n".join(differences)
