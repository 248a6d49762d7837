"""Recordings of a real kernel, played on the simulator and compared line by line.

A section is left out only by name, with its reason, in :data:`LEFT_OUT`; a test fails when such a
section would play after all, so the list can only shrink.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .transcript import Player, Section, Step, Unknown, sections

RECORDED = Path(__file__).parent / "recorded"

LATER_TARGET = "needs a target of a later step (delay, flakey)"
SHELL = "needs shell commands beyond device-mapper's (dd, kill, pipes, files below a disk)"
OTHER = "needs a dmsetup command that the command-line step brings"
SIGNAL = "needs a suspend that a signal interrupts"

LEFT_OUT: dict[str, dict[str, str]] = {
    "c-mirror-failure": {"5": OTHER, "21": LATER_TARGET, "22": LATER_TARGET, "23": OTHER, "24": SHELL,
                         "25": LATER_TARGET, "26": SHELL, "27": LATER_TARGET, "28": LATER_TARGET, "29": SHELL},
    "e-snapshot-of-mirror": {"0": SHELL, "1": OTHER, "7": SIGNAL},
}


def _load(name: str) -> Iterator[tuple[str, Section]]:
    for section in sections((RECORDED / f"{name}.out").read_text()):
        yield section.title.split()[0].rstrip("."), section


def _player(name: str, number: str) -> Player:
    """The disks of the recording, as its script leaves them before each section."""
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


def _output(player: Player, step: Step) -> tuple[list[str], list[str]]:
    """What the recording has and what the player prints, background commands asked where recorded."""
    got = player.play(step.command)
    expected = [_fold(line) for line in step.output]
    while expected and not expected[-1]:
        expected.pop()
    asked = list(dict.fromkeys(match[1] for line in expected if (match := re.match(r"\((\w+)\) ", line))))
    for name in asked:
        for _ in range(sum(1 for line in expected if re.match(rf"\({name}\) (ended|still blocked)", line))):
            got += player.look(name)
    got = [_fold(line) for line in got]
    while got and not got[-1]:
        got.pop()
    return sorted_background(expected), sorted_background(got)


def sorted_background(lines: list[str]) -> list[str]:
    """Output of the command itself first, then that of background commands by name, each in order."""
    own = [line for line in lines if not re.match(r"\(\w+\) ", line)]
    theirs = [line for line in lines if re.match(r"\(\w+\) ", line)]
    return own + sorted(theirs, key=lambda line: line.split(")")[0])


def _cases() -> Iterator[tuple[str, str]]:
    for name in ("c-mirror-failure", "d-snapshot", "e-snapshot-of-mirror"):
        for number, _section in _load(name):
            yield name, number


def _plays(name: str, number: str, section: Section) -> None:
    player = _player(name, number)
    for step in section.steps:
        expected, got = _output(player, step)
        assert got == expected, f"after: {step.command}"
    got_kernel = [f"kernel: {level}: {text}" for level, text in player.stack.log_lines]
    if name != "e-snapshot-of-mirror":           # that script throws the log of its last steps away
        assert got_kernel == _kernel(section.kernel)


@pytest.mark.parametrize(("name", "number"), list(_cases()))
def test_recorded_section(name: str, number: str) -> None:
    section = dict(_load(name))[number]
    if number in LEFT_OUT.get(name, {}):
        with pytest.raises((Unknown, AssertionError)):
            _plays(name, number, section)
        return
    _plays(name, number, section)
