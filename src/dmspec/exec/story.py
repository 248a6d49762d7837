"""What the programs ask of device-mapper, in dmsetup's words: a log of it, and things to be done at a chosen moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TextIO

from dmspec.runtime import ioctl_format as form
from dmspec.runtime.errors import errno_name

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Door

COMMANDS: Final = {
    form.DM_VERSION: "version", form.REMOVE_ALL: "remove_all", form.LIST_DEVICES: "ls", form.DEV_CREATE: "create",
    form.DEV_REMOVE: "remove", form.DEV_RENAME: "rename", form.DEV_STATUS: "info", form.DEV_WAIT: "wait",
    form.TABLE_LOAD: "load", form.TABLE_CLEAR: "clear", form.TABLE_DEPS: "deps", form.LIST_VERSIONS: "targets",
    form.TARGET_MSG: "message", form.DEV_SET_GEOMETRY: "setgeometry", form.DEV_ARM_POLL: "poll",
    form.GET_TARGET_VERSION: "target-version",
}
# What only asks is not told: LVM asks for the same thing dozens of times.
_TOLD: Final = frozenset({"create", "remove", "remove_all", "rename", "load", "clear", "message", "suspend", "resume",
                          "wait"})
_FLAGS: Final = ((form.NOFLUSH, "noflush"), (form.SKIP_LOCKFS, "nolockfs"), (form.DEFERRED_REMOVE, "deferred"),
                 (form.READONLY, "readonly"))


@dataclass(frozen=True)
class When:
    """Before the first ``command`` on ``device``, ``action`` is done (a compiled process ``do``)."""

    command: str
    device: str
    action: bytes
    text: str


def command_of(nr: int, flags: int) -> str:
    """The word of dmsetup for an ioctl."""
    if nr == form.DEV_SUSPEND:
        return "suspend" if flags & form.SUSPEND else "resume"
    if nr == form.TABLE_STATUS:
        return "table" if flags & form.STATUS_TABLE else "status"
    return COMMANDS.get(nr, f"ioctl {nr}")


def who_is(thread: int) -> str:
    """A program's name with its process id, as the log and the waiting graph call it."""
    try:
        with open(f"/proc/{thread}/status") as lines:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
        with open(f"/proc/{fields['Tgid']}/comm") as file:
            return f"{file.read().strip()}[{fields['Tgid']}]"
    except (OSError, KeyError):
        return f"process[{thread}]"


@dataclass
class Story:
    """``log`` is where lines go, if they do; ``whens`` what is still to be done."""

    door: Door
    perform: Callable[[bytes], None]
    log: TextIO | None = None
    whens: list[When] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, thread: int, nr: int, data: bytes) -> str:
        """A command is about to be run; who runs it."""
        who = who_is(thread)
        if (self.log is None and not self.whens) or len(data) < form.SMALLEST_BYTES:
            return who
        header = form.Header.read(data)
        command, name = command_of(nr, header.flags), self._name(header)
        with self.lock:
            due = [when for when in self.whens if (when.command, when.device) == (command, name)]
            self.whens = [when for when in self.whens if when not in due]
        for when in due:
            self._write(f"dmspec: {when.text}")
            self.perform(when.action)
        if command in _TOLD:
            flags = "".join(f" {word}" for bit, word in _FLAGS if header.flags & bit)
            self._write(f"{who} {command} {name}{flags}{self._more(command, header, data)}")
        return who

    def after(self, who: str, nr: int, data: bytes, error: int) -> None:
        """It has ended."""
        if error and self.log is not None and len(data) >= form.SMALLEST_BYTES:
            header = form.Header.read(data)
            command = command_of(nr, header.flags)
            if command in _TOLD:
                self._write(f"{who} {command} {self._name(header)} = {errno_name(error)}")

    def _write(self, line: str) -> None:
        if self.log is not None:
            self.log.write(f"{line}\n")
            self.log.flush()

    def _name(self, header: form.Header) -> str:
        if header.name:
            return header.name
        for block in self.door.blocks() if header.uuid or header.dev else ():
            if block.name and (header.uuid == block.uuid if header.uuid
                               else form.encode_dev(block.major, block.minor) == header.dev):
                return block.name
        return header.uuid

    @staticmethod
    def _more(command: str, header: form.Header, data: bytes) -> str:
        if command == "rename":
            return f" {form.text_at(data, header.data_start)}"
        if command == "wait":
            return f" {header.event_nr}"
        if command == "load":
            try:
                specs = form.read_table(data, header.data_start, min(header.target_count, 64))
            except form.BadSpecError:
                return ""
            return "".join(f"\n    {spec.start} {spec.length} {spec.kind} {spec.text}".rstrip() for spec in specs)
        return ""


def open_log(path: str) -> TextIO:
    """A file that several writers may append lines to; ``-`` is stderr as it is now."""
    if path == "-":
        return os.fdopen(os.dup(2), "a")
    return open(path, "a")
