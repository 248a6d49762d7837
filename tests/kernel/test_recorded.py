"""Recordings of a real kernel, played on the simulator and compared line by line.

A section is left out only by name, with its reason, in :data:`LEFT_OUT`; a test fails when such a
section would play after all, so the list can only shrink.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .scripts import Cue, plan
from .shell import Unknown
from .transcript import Player, Section, Step, sections

RECORDED = Path(__file__).parents[1] / "kernel_cases" / "recorded"

RAID = "needs a target of a later step (raid)"
SHELL = "needs shell commands beyond device-mapper's (dd, kill, pipes, files below a disk)"
OTHER = "needs a dmsetup command that the command-line step brings"
SIGNAL = "needs a suspend that a signal interrupts"

LEFT_OUT: dict[str, dict[str, str]] = {
    "b-mirror": {},
    "c-mirror-failure": {"5": OTHER, "23": OTHER, "24": SHELL, "29": SHELL},
    "e-snapshot-of-mirror": {"0": SHELL, "1": OTHER, "7": SIGNAL},
    "h-others": {"raid": RAID},
}

# These go on from section to section with the same disks and devices; every section of the others stands alone.
CONTINUED = ("b-mirror", "h-others")

# Those whose scripts do more between their steps than their output shows.
CUED = ("b-mirror", "c-mirror-failure", "h-others")

# Steps that look at a mirror, or at its log's bitmap, while regions are synchronised: how far that has come depends
# on how fast the machine starts commands.
DURING_SYNCHRONISATION = [
    ("b-mirror", "disk log: nosync and sync given over a log in sync, over a blank one", 3),
]

# What their scripts do before the first section.
BEFORE = {
    "b-mirror": [
        'dmsetup create leg1 --table "0 2048 delay /dev/loop1 0 0 /dev/loop1 0 100"',
        'dmsetup create leg2 --table "0 2048 delay /dev/loop2 0 0 /dev/loop2 0 100"',
        "put /dev/loop0 0 A 2048",
    ],
    "h-others": [],
}


def _load(name: str) -> Iterator[tuple[str, Section]]:
    for section in sections((RECORDED / f"{name}.out").read_text()):
        yield section.title if name in CONTINUED else section.title.split()[0].rstrip("."), section


def _cues(name: str, section: Section) -> list[Cue]:
    """What comes before each step, where that is not plain from the output."""
    if name not in CUED:
        return [Cue() for _ in section.steps]
    cues = plan((RECORDED / f"{name}.sh").read_text())[section.title]
    if name in CONTINUED:
        return cues
    for cue in cues:            # a section that stands alone begins with new disks
        cue.before = [one for one in cue.before if not isinstance(one, str)]
    return cues


def _player(name: str, number: str) -> Player:
    """The disks of the recording, as its script leaves them before each section."""
    if name in CONTINUED:
        return Player(5 if name == "h-others" else 4, 8192)
    if name == "c-mirror-failure":
        return Player(4, 2048)
    player = Player(5, 2048 if name == "d-snapshot" else 4096)
    player.play("put /dev/loop0 0 A 2048")
    if number.startswith("3") and name == "d-snapshot":
        player.play("put /dev/loop1 0 cow 64")
    if name == "e-snapshot-of-mirror":
        player.play("put /dev/loop1 0 A 2048")
    return player


def _fold(line: str) -> str:
    """dmsetup prints two blanks where it has no device number to show."""
    line = re.sub(r"still blocked after .*", "still blocked", line)
    return re.sub(r" +failed:", " failed:", line)


def _kernel(lines: list[str]) -> list[str]:
    """What is compared of the kernel log: not the loop driver's lines."""
    return [line for line in lines if "device-mapper" in line]


def _output(player: Player, step: Step, cue: Cue) -> tuple[list[str], list[str]]:
    """What the recording has and what the player prints, background commands asked where recorded."""
    for one in cue.before:
        if isinstance(one, str):
            player.play(one)
        else:
            player.sleep(one)
    began_ns = player.engine.now_ns
    got = player.play(step.command)
    if cue.took_ms is not None:
        took_ms = (player.engine.now_ns - began_ns) // 1_000_000
        assert cue.took_ms[0] <= took_ms <= cue.took_ms[1], f"{step.command} took {took_ms} ms"
    for line in step.output:
        if stands := re.match(r"\((\w+)\) (?:ended|still blocked after (\d+))", line):
            got += player.look(stands[1], float(stands[2]) / 10 if stands[2] else None)
    return _folded(step.output), _folded(got)


def _folded(lines: list[str]) -> list[str]:
    """Without empty lines at the end; the command's own output first, then that of background commands by name."""
    lines = [_fold(line) for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    own = [line for line in lines if not re.match(r"\(\w+\) ", line)]
    theirs = [line for line in lines if re.match(r"\(\w+\) ", line)]
    return own + sorted(theirs, key=lambda line: line.split(")")[0])


def _differences(player: Player, name: str, section: Section) -> list[str]:
    """Every step whose output is not the recorded one, and the kernel log if that is not."""
    found = []
    logged = len(player.stack.log_lines)
    for step, cue in zip(section.steps, _cues(name, section), strict=True):
        expected, got = _output(player, step, cue)
        if _masked(name, section, step, expected) != _masked(name, section, step, got):
            found.append("\n  ".join([f"after: {step.command}", *difflib.ndiff(expected, got)]))
    kernel = [f"kernel: {level}: {text}" for level, text in player.stack.log_lines[logged:]]
    if kernel != _kernel(section.kernel) and name != "e-snapshot-of-mirror":
        found.append("\n  ".join(["kernel log", *difflib.ndiff(_kernel(section.kernel), kernel)]))
    return found                      # the script e-snapshot-of-mirror throws the log of its last steps away


def _masked(name: str, section: Section, step: Step, lines: list[str]) -> list[str]:
    """Counts seen while regions are synchronised differ from run to run on the real kernel too."""
    if step.command.endswith(", repeatedly, changes only)"):
        return lines[-1:]
    number = next(index for index, one in enumerate(section.steps) if one is step)
    if (name, section.title, number) not in DURING_SYNCHRONISATION:
        return lines
    return [re.sub(r" \d+/8 |(?<=^00000400  )\w\w", "N", line) for line in lines]


CASES = [(name, number) for name in ("c-mirror-failure", "d-snapshot", "e-snapshot-of-mirror")
         for number, _section in _load(name)]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_recorded_section(name: str, number: str) -> None:
    section = dict(_load(name))[number]
    player = _player(name, number)
    if number not in LEFT_OUT.get(name, {}):
        assert not (found := _differences(player, name, section)), "\n".join(found)
        return
    with pytest.raises((Unknown, AssertionError)):
        assert not _differences(player, name, section)


@pytest.mark.parametrize("name", CONTINUED)
def test_recorded_script(name: str) -> None:
    """A section that is left out has to differ, or ends with a command that the player does not know."""
    player = _player(name, "")
    for command in BEFORE[name]:
        player.play(command)
    found: dict[str, list[str]] = {}
    for title, section in _load(name):
        try:
            found[title] = _differences(player, name, section)
        except Unknown as unknown:
            found[title] = [f"not known: {unknown}"]
    differing = {title: lines for title, lines in found.items() if lines}
    unexpected = [line for title, lines in differing.items() if title not in LEFT_OUT[name] for line in [title, *lines]]
    assert not unexpected, "\n".join(unexpected)
    assert sorted(differing) == sorted(LEFT_OUT[name]), "these would play after all"
