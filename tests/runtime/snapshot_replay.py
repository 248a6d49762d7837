"""Runs the commands of a recorded case on the emulator and prints what the recording would have printed.

Only what the recorded commands need is understood: lists of commands, one kind of loop, ``dmsetup`` and the
helpers of the cases.  The text of an answer is that of dmsetup, dd and the kernel's log.
"""

import errno
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field

from snapshot_machine import DISK_SECTORS, Machine, pattern

from dmspec.runtime import control
from dmspec.runtime.errors import DmError

_LOOP = re.compile(r"for (\w) in ([\d ]+); do (.*); done")
_SUM = re.compile(r"\$\(\((\w) \* (\d+)\)\)")


@dataclass
class Step:
    """A command line, what it printed, and what the kernel logged meanwhile."""

    command: str
    output: list[str] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)


def cases(text: str) -> dict[str, list[Step]]:
    """The recording by headings."""
    found: dict[str, list[Step]] = {}
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("##### "):
            steps = found.setdefault(line[6:], [])
        elif line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif line.startswith("# left over: "):
            steps.append(Step("ends", [line]))
        elif line.startswith("kernel: "):
            steps[-1].kernel.append(line[8:])
        elif steps and not line.startswith("# "):
            steps[-1].output.append(line)
    for steps in found.values():
        for step in steps:
            while step.output and not step.output[-1]:
                step.output.pop()
    return found


class Shell:
    """``run`` answers the lines that a command prints; the last exit status counts, as in a shell."""

    def __init__(self, heading: str) -> None:
        self.machine = Machine()
        self.machine.poke(0, 0, pattern("A", DISK_SECTORS))
        if heading.startswith("3."):
            self.machine.poke(1, 0, pattern("cow", 64))
        self.lines: list[str] = []
        self.status = 0

    def run(self, command: str) -> list[str]:
        self.lines = []
        self.status = 0
        loop = _LOOP.fullmatch(command)
        if command == "ends":
            self._ends()
        elif command.startswith("printf "):
            self._poke(command)
        elif loop:
            for word in loop[2].split():
                body = loop[3].replace(f"${loop[1]}", word)
                self._command(_SUM.sub(lambda match, value=word: str(int(value) * int(match[2])), loop[3])
                              if "$((" in loop[3] else body)
        else:
            for part in _split(command):
                self._command(part)
        if self.status:
            self.lines.append(f"[exit {self.status}]")
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        return self.lines

    def _command(self, text: str) -> None:
        words = shlex.split(text)
        self.status = 0
        if words[0] == "dmsetup":
            self._dmsetup(words[1], words[2:])
        elif words[0] == "put":
            if self.machine.put(words[1], int(words[2]), words[3], int(words[4])):
                self.lines.append(f"dd: error writing '{words[1]}': Input/output error")
                self.status = 1
        elif words[0] == "first":
            self._read(words[1], lambda: self.machine.first(words[1], int(words[2])))
        elif words[0] in ("sum", "hd"):
            tool = self.machine.sum if words[0] == "sum" else self.machine.hd
            self.lines += tool(words[1], int(words[2]), int(words[3])).splitlines()
        elif words[0] == "blockdev":
            self.lines.append(str(self.machine.named(words[2]).sectors))
        else:
            assert words[0] == "losetup", text

    def _read(self, name: str, tool: Callable[[], str]) -> None:
        text = tool()
        self.lines += [f"dd: error reading '{name}': Input/output error", ""] if text == "EIO" else [text]

    def _poke(self, command: str) -> None:
        match = re.fullmatch(r"printf '(.*)' \| dd of=/tmp/disk(\d) bs=1 seek=(\d+) .*", command)
        assert match, command
        data = bytes(int(octal, 8) if octal else ord(char)
                     for octal, char in re.findall(r"\\(\d{3})|(.)", match[1]))
        self.machine.poke(int(match[2]), int(match[3]), data)

    def _ends(self) -> None:
        for name in ("snap", "snap2", "org", "cow", "cow2"):
            if name in self.machine.stack.devices:
                self.machine.remove(name)
        left = [f"{name}\t({device.number})" for name, device in sorted(self.machine.stack.devices.items())]
        self.lines.append(f"# left over: {' '.join(left) or 'No devices found'} ")

    # dmsetup

    def _dmsetup(self, verb: str, words: list[str]) -> None:
        simple = {"resume": self.machine.resume, "suspend": self.machine.suspend, "remove": self.machine.remove}
        if verb == "create":
            self._create(words)
        elif verb == "load":
            assert self.machine.load(words[0], words[2]) == 0
        elif verb in simple:
            if words[0] not in self.machine.stack.devices:
                self._failed(verb, words[0], "", errno.ENXIO)
            else:
                assert simple[verb](words[0]) == 0
        else:
            self._show(verb, words)

    def _create(self, words: list[str]) -> None:
        machine = self.machine
        if words[1] == "--notable":
            control.create(machine.stack, words[0])
            return
        number = f"254:{machine.stack.free_minor()}"
        error = machine.create(words[0], words[2])
        assert isinstance(error, int)
        if error:
            self._failed("reload", words[0], f"({number})", -error)

    def _failed(self, verb: str, name: str, number: str, error: int) -> None:
        self.lines += [f"device-mapper: {verb} ioctl on {name} {number} failed: {os.strerror(error)}",
                       "Command failed."]
        self.status = 1

    def _show(self, verb: str, words: list[str]) -> None:
        machine = self.machine
        names = [word for word in words if not word.startswith("-")]
        if verb == "info":
            self.lines += self._info(names[0] if names[0] in machine.stack.devices else None)
            return
        tool = machine.table if verb == "table" else machine.status
        if names and names[0] not in machine.stack.devices:
            self._failed(verb, names[0], "", errno.ENXIO)
        elif names:
            self.lines.append(tool(names[0], inactive="--inactive" in words))
        elif verb == "deps":
            for name in sorted(machine.stack.devices):
                devices = control.dependencies(machine.device(name))
                listed = " ".join(f"({device.major}, {device.minor})" for device in devices)
                self.lines.append(f"{name}: {len(devices)} dependencies\t: {listed}")
        else:
            self.lines += [f"{name}: {tool(name)}" for name in sorted(machine.stack.devices)]

    def _info(self, name: str | None) -> list[str]:
        devices = self.machine.stack.devices
        if name is None:
            return [f"{one}:L--w:{devices[one].event_nr}" for one in sorted(devices)]
        device = devices[name]
        return [f"Name:              {name}", "State:             ACTIVE", "Read Ahead:        256",
                "Tables present:    LIVE", f"Open count:        {device.open_count}",
                f"Event number:      {device.event_nr}",
                f"Major, minor:      {device.major}, {device.minor}", "Number of targets: 1"]


def _split(command: str) -> list[str]:
    """A list of commands at its semicolons, none of which is quoted in the recordings."""
    return [part.strip() for part in command.split(";")]


def replay(heading: str, steps: list[Step]) -> list[str]:
    """Where the emulator differs from the recording, as lines to read."""
    shell = Shell(heading)
    differences: list[str] = []
    for step in steps:
        try:
            output = shell.run(step.command)
        except (AssertionError, DmError) as error:
            differences.append(f"$ {step.command}\n  raised {error!r}")
            continue
        if output != step.output:
            differences.append("\n  ".join([f"$ {step.command}", "recorded:", *step.output, "here:", *output]))
    recorded = [line for step in steps for line in step.kernel]
    logged = shell.machine.kernel()
    if logged != recorded:
        differences.append("\n  ".join(["kernel log, recorded:", *recorded, "here:", *logged]))
    return differences
