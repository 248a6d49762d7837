"""The shell of the recordings: what a command line does and prints.

:class:`Script` is a command line as a frame of the simulator; :class:`Commands` knows dmsetup and the few tools
that the recorded scripts use.  A command that is not known here raises :class:`Unknown`.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dmspec.runtime import control
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.block import BlockDevice
from dmspec.runtime.errors import DmError
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.stack import Stack
from dmspec.runtime.task import DONE, Enter, Frame, Latch, Outcome, Return, Task, Wait

if TYPE_CHECKING:
    from .transcript import Player

ERRORS = {5: "Input/output error", 6: "No such device or address", 16: "Device or resource busy",
          19: "No such device", 22: "Invalid argument"}


# Targets of a step that may not be here yet; a recording that needs one is left out until it is.
LATER = {"raid", "snapshot-merge"} - set(TARGETS)

# How long it takes to start a command in the guest of the recordings, as its README measured.
COMMAND_NS = 70_000_000


class Unknown(Exception):
    """A command that the player does not play."""


class Script(Frame):
    """A command line: commands between ``;``, loops over numbers written out."""

    def __init__(self, player: Player, line: str) -> None:
        self.player = player
        self.commands = list(_commands(line))
        self.lines: list[str] = []
        self.status = 0
        self.finish: Callable[[object], int] = lambda _result: 0
        self.created = ""

    def start(self, task: Task) -> Outcome:
        del task
        if not self.commands:
            return Return(self.status)
        return Enter(Passing(COMMAND_NS), "begin")

    def begin(self, task: Task) -> Outcome:
        del task
        return self._begin(self.commands.pop(0))

    def ended(self, task: Task) -> Outcome:
        self.status = self.finish(self.result)
        return self.start(task)

    def _begin(self, words: list[str]) -> Outcome:
        try:
            frame = Commands(self).begin(words)
        except DmError as error:
            self.status = self.dm_failed(words, error.errno)
            return Enter(Nothing(), "start")
        return Enter(frame, "ended")

    def dm_failed(self, words: list[str], error: int) -> int:
        """What dmsetup says of a failed ioctl."""
        names = {"create": "create", "load": "reload", "reload": "reload"}
        verb = names.get(words[1], words[1])
        name = words[2] if not words[2].startswith("-") else words[-1]
        number = ""
        if words[1] == "create" and self.created:
            verb, number = "reload", f"({self.created})"
        self.lines.append(f"device-mapper: {verb} ioctl on {name} {number} failed: {ERRORS[error]}")
        self.lines.append("Command failed.")
        return 1


class Passing(Frame):
    """Time passes."""

    def __init__(self, ns: int) -> None:
        self.ns = ns
        self.latch = Latch("the start of a command")
        self.begun = False

    def start(self, task: Task) -> Outcome:
        if self.begun:
            return DONE
        self.begun = True
        task.engine.at(task.engine.now_ns + self.ns, self.latch)
        return Wait(self.latch, "to be started")


class Nothing(Frame):
    def start(self, task: Task) -> Outcome:
        del task
        return DONE


def _commands(line: str) -> Iterator[list[str]]:
    loop = re.match(r"for (\w+) in ([\d ]+); do (.*); done\Z", line)
    if loop:
        for number in loop[2].split():
            body = re.sub(rf"\${loop[1]}\b|\b{loop[1]}(?= \*)", number, loop[3])
            yield from _commands(body)
        return
    for part in line.split("; "):
        part = re.sub(r"\$\(\((\d+) \* (\d+)\)\)", lambda m: str(int(m[1]) * int(m[2])), part)
        if "$(" in part or "|" in part or "<" in part or ">" in part:
            raise Unknown(line)
        yield shlex.split(part)


class Commands:
    """Each command gives a frame; ``script.finish`` prints and gives the exit status."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.player = script.player
        self.stack = script.player.stack

    def begin(self, words: list[str]) -> Frame:
        known = {"put": self.put, "first": self.first, "hd": self.hexdump, "sum": self.sha}
        if words[0] in known:
            return known[words[0]](words)
        if words[0] == "losetup":
            return self._print([])
        if words[0] == "blank":
            disk = self.stack.disks[f"loop{words[1]}"]
            disk.backing.write(0, memoryview(bytes(disk.sectors * 512)))
            return self._print([])
        if words[0] == "cp":
            self._copy(words[1], words[2])
            return self._print([])
        if words[:2] == ["dd", "if=/dev/null"] and words[3:] == ["conv=notrunc,fsync", "status=none"]:
            return self._fsync(words[2].removeprefix("of="))
        if words[:2] == ["blockdev", "--getsz"]:
            return self._print([str(self.player.device(words[2]).sectors)])
        if words[0] != "dmsetup":
            raise Unknown(" ".join(words))
        verb = words[1].replace("reload", "load")
        method = getattr(self, f"dm_{verb}", None)
        if method is None:
            raise Unknown(" ".join(words))
        frame: Frame = method(words)
        return frame

    def _ioctl(self, words: list[str]) -> None:
        def finish(result: object) -> int:
            if isinstance(result, int) and result < 0:
                return self.script.dm_failed(words, -result)
            return 0
        self.script.finish = finish

    def _print(self, lines: list[str]) -> Frame:
        def finish(_result: object) -> int:
            self.script.lines += lines
            return 0
        self.script.finish = finish
        return Nothing()

    # dmsetup

    def dm_create(self, words: list[str]) -> Frame:
        if "-r" in words or "--uuid" in words or "-j" in words:
            raise Unknown(" ".join(words))
        md = control.create(self.stack, words[2])
        if "--notable" in words:
            return self._print([])
        self.script.created = md.number
        self._ioctl(words)
        return CreateWithTable(self.stack, md, self._table(words))

    def _table(self, words: list[str]) -> list[str]:
        table = words[words.index("--table") + 1]
        if LATER & set(table.replace("\\n", " ").split()):
            raise Unknown(table)
        return table.split("\\n")

    def dm_load(self, words: list[str]) -> Frame:
        name = words[2]
        lines = self._table(words)
        self._ioctl(words)
        return control.Load(self.stack.device(name), control.resolve_lines(self.stack, lines))

    def dm_suspend(self, words: list[str]) -> Frame:
        self._ioctl(words)
        return control.DoSuspend(self.stack.device(words[-1]), noflush="--noflush" in words,
                                 lockfs="--nolockfs" not in words)

    def dm_resume(self, words: list[str]) -> Frame:
        self._ioctl(words)
        return control.DoResume(self.stack.device(words[-1]))

    def dm_remove(self, words: list[str]) -> Frame:
        if "--force" in words or "--retry" in words or "--deferred" in words:
            raise Unknown(" ".join(words))
        self._ioctl(words)
        return control.Remove(self.stack.device(words[-1]))

    def dm_clear(self, words: list[str]) -> Frame:
        self._ioctl(words)
        return control.Clear(self.stack.device(words[-1]))

    def dm_status(self, words: list[str]) -> Frame:
        return self._lines(words, table=False)

    def dm_table(self, words: list[str]) -> Frame:
        return self._lines(words, table=True)

    def _lines(self, words: list[str], *, table: bool) -> Frame:
        if "--target" in words or "-u" in words:
            raise Unknown(" ".join(words))
        names = [word for word in words[2:] if not word.startswith("-")]
        lines: list[str] = []
        for name in names or sorted(self.stack.devices):
            found = control.status_lines(self.stack.device(name), table=table, inactive="--inactive" in words)
            prefix = "" if names else f"{name}: "
            lines += [prefix + line for line in found or [""]]
        return self._print(lines)

    def dm_info(self, words: list[str]) -> Frame:
        text = " ".join(words[2:])
        names = [words[-1]] if words[-1] in self.stack.devices else sorted(self.stack.devices)
        if text.startswith("-c --noheadings -o name,attr,events"):
            with_open = "open" in text
            return self._print([":".join([name, *_attributes(self.stack, name, with_open)]) for name in names])
        if text == "-c":
            head = "Name             Maj Min Stat Open Targ Event  UUID                            "
            return self._print([head, *[_row(self.stack, name) for name in names]])
        if len(words) == 3:
            return self._print(_info(self.stack, words[2]))
        raise Unknown(" ".join(words))

    def dm_deps(self, words: list[str]) -> Frame:
        lines = []
        names = words[2:]
        for name in names or sorted(self.stack.devices):
            found = control.dependencies(self.stack.device(name))
            places = " ".join(f"({device.major}, {device.minor})" for device in found)
            prefix = "" if names else f"{name}: "
            lines.append(f"{prefix}{len(found)} dependencies\t:" + (f" {places}" if places else ""))
        return self._print(lines)

    def dm_message(self, words: list[str]) -> Frame:
        """An answer that ends a line of its own is printed as it is."""
        answer = control.message(self.stack.device(words[2]), int(words[3]), " ".join(words[4:]))
        return self._print(answer.removesuffix("\n").split("\n") if answer else [])

    # I/O

    def _copy(self, source: str, to: str) -> None:
        """``cp`` between a disk's file and another one."""
        disk = re.match(r"/tmp/disk(\d)\Z", source)
        if disk:
            found = self.stack.disks[f"loop{disk[1]}"]
            data = bytearray(found.sectors * 512)
            found.backing.read(0, memoryview(data))
            self.player.files[to] = bytes(data)
        elif (disk := re.match(r"/tmp/disk(\d)\Z", to)) and source in self.player.files:
            self.stack.disks[f"loop{disk[1]}"].backing.write(0, memoryview(self.player.files[source]))
        else:
            raise Unknown(f"cp {source} {to}")

    def _fsync(self, path: str) -> Frame:
        """``dd`` that writes nothing and then calls fsync: a flush."""
        def finish(result: object) -> int:
            assert isinstance(result, list)
            if any(result):
                self.script.lines.append(f"dd: fsync failed for '{path}': {ERRORS[max(result)]}")
            return int(any(result))
        self.script.finish = finish
        return Fsync(self.player.device(path))

    def put(self, words: list[str]) -> Frame:
        path, sector, seed, count = words[1], int(words[2]), words[3], int(words[4])

        def finish(result: object) -> int:
            assert isinstance(result, list)
            if not any(result):
                return 0
            self.script.lines.append(f"dd: error writing '{path}': {ERRORS[max(result)]}")
            return 1
        self.script.finish = finish
        return Pieces(Op.WRITE, self.player.device(path), sector, bytearray(pattern(seed, count)))

    def _read(self, words: list[str], sectors: int, show: Callable[[bytes], list[str]]) -> Frame:
        path, sector = words[1], int(words[2])
        frame = Pieces(Op.READ, self.player.device(path), sector, bytearray(sectors * 512))

        def finish(result: object) -> int:
            assert isinstance(result, list)
            if any(result):
                self.script.lines += [f"dd: error reading '{path}': {ERRORS[max(result)]}", ""]
            else:
                self.script.lines += show(bytes(frame.buffer))
            return 0
        self.script.finish = finish
        return frame

    def first(self, words: list[str]) -> Frame:
        return self._read(words, 1, lambda data: [data[:24].decode().replace("\0", "0")])

    def sha(self, words: list[str]) -> Frame:
        return self._read(words, int(words[3]), lambda data: [hashlib.sha256(data).hexdigest()])

    def hexdump(self, words: list[str]) -> Frame:
        return self._read(words, int(words[3]), hexdump)


class CreateWithTable(Frame):
    """``dmsetup create``: load, resume; the device goes again when one of them fails."""

    def __init__(self, stack: Stack, md: MappedDevice, lines: list[str]) -> None:
        self.stack = stack
        self.md = md
        self.lines = lines
        self.error = 0

    def start(self, task: Task) -> Outcome:
        del task
        return Enter(control.Load(self.md, control.resolve_lines(self.stack, self.lines)), "loaded")

    def loaded(self, task: Task) -> Outcome:
        return Enter(control.DoResume(self.md), "resumed") if self.result >= 0 else self.resumed(task)

    def resumed(self, task: Task) -> Outcome:
        del task
        self.error = self.result
        return Enter(control.Remove(self.md), "removed") if self.error < 0 else DONE

    def removed(self, task: Task) -> Outcome:
        del task
        return Return(self.error)


class Fsync(Frame):
    """A flush by somebody who has the device open."""

    def __init__(self, device: BlockDevice) -> None:
        self.device = device

    def start(self, task: Task) -> Outcome:
        del task
        self.device.open_count += 1
        return Enter(WaitForBios([Bio(Op.FLUSH, self.device, 0, 0)], "fsync"), "flushed")

    def flushed(self, task: Task) -> Outcome:
        del task
        self.device.open_count -= 1
        return Return(self.result)


class Pieces(Frame):
    """Direct I/O in pieces of at most 128 KiB, one after the other, as dd does it."""

    def __init__(self, op: Op, device: BlockDevice, sector: int, buffer: bytearray) -> None:
        self.op = op
        self.device = device
        self.sector = sector
        self.buffer = buffer
        self.done = 0
        self.opened = False
        self.results: list[int] = []

    def start(self, task: Task) -> Outcome:
        del task
        if not self.opened:
            self.opened = True
            self.device.open_count += 1
        self.results += self.result or []
        left = len(self.buffer) // 512 - self.done
        if not left or any(self.results):
            self.device.open_count -= 1
            return Return(self.results)
        count = min(left, 256)
        bio = Bio(self.op, self.device, self.sector + self.done, count, self.buffer, self.done * 512)
        self.done += count
        return Enter(WaitForBios([bio], "I/O"), "start")


def pattern(seed: str, sectors: int) -> bytes:
    """The ``pat`` of the recordings: a line of text in each sector."""
    lines = []
    for index in range(sectors):
        line = f"{seed} sector {index:08d} "
        lines.append(line + "." * (511 - len(line)) + "\n")
    return "".join(lines).encode()


def hexdump(data: bytes) -> list[str]:
    """``hexdump -C``."""
    lines: list[str] = []
    previous = b""
    starred = False
    for offset in range(0, len(data), 16):
        row = data[offset:offset + 16]
        if row == previous:
            if not starred:
                lines.append("*")
            starred = True
            continue
        previous, starred = row, False
        left, right = (" ".join(f"{byte:02x}" for byte in half) for half in (row[:8], row[8:]))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{offset:08x}  {left}  {right}  |{text}|")
    lines.append(f"{len(data):08x}")
    return lines


def _stat(stack: Stack, name: str) -> str:
    md = stack.device(name)
    flags = [(md.live, "L"), (md.inactive, "I"), (md.suspended, "s")]
    return "".join(letter if on else "-" for on, letter in flags) + ("r" if md.read_only else "w")


def _attributes(stack: Stack, name: str, with_open: bool) -> list[str]:
    md = stack.device(name)
    return [_stat(stack, name), str(md.event_nr), *([str(md.open_count)] if with_open else [])]


def _row(stack: Stack, name: str) -> str:
    md = stack.device(name)
    targets = len(md.live.targets) if md.live else 0
    return (f"{name:16} {md.major:3} {md.minor:3} {_stat(stack, name)} {md.open_count:4} {targets:4} "
            f"{md.event_nr:6} {md.uuid:32}")


def _info(stack: Stack, name: str) -> list[str]:
    md = stack.device(name)
    tables = " & ".join(word for on, word in ((md.live, "LIVE"), (md.inactive, "INACTIVE")) if on) or "None"
    return [f"Name:              {name}",
            f"State:             {'SUSPENDED' if md.suspended else 'ACTIVE'}",
            "Read Ahead:        256", f"Tables present:    {tables}", f"Open count:        {md.open_count}",
            f"Event number:      {md.event_nr}", f"Major, minor:      {md.major}, {md.minor}",
            f"Number of targets: {len(md.live.targets) if md.live else 0}", ""]
