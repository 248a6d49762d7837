"""What the dmsetup binary of Debian 12 (1.02.185) printed, command after command, against what ours prints.

`recorded.txt` was made with that binary, unmodified, on this emulator's ioctl core (its ioctls were led to a mount
by a preloaded library).  `1|` is stdout, `2|` stderr, `=` the exit status.  Read-ahead values are those of the
recorded guest: the binary looked for them in the sysfs of the machine that it ran on.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from .machine import Machine

RECORDED = Path(__file__).parent / "recorded.txt"


def recorded() -> list[tuple[str, str, str, int]]:
    calls = []
    out = err = command = ""
    for line in RECORDED.read_text().splitlines():
        if line.startswith("$ "):
            command, out, err = line.removeprefix("$ dmsetup "), "", ""
        elif line.startswith("1|"):
            out += line[2:] + "\n"
        elif line.startswith("2|"):
            err += line[2:] + "\n"
        else:
            calls.append((command, out, err, int(line.removeprefix("= "))))
    return calls


def test_dmsetup_prints_what_the_binary_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    calls = recorded()
    assert len(calls) > 140
    for command, out, err, status in calls:
        words, _, stdin = command.partition("<<<")
        got = machine.run(*shlex.split(words), stdin=stdin.strip().replace("\\n", "\n").encode())
        assert got == (out, err, status), command
