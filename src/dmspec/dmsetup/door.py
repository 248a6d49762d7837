"""The way to a mount: one connection for each question, and which mount is meant."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmspec.runtime import wire
from dmspec.runtime.ioctl_format import decode, encode

ENVIRONMENT: Final = "DMSPEC_MOUNT"


class NoMountError(Exception):
    """There is no mount to talk to, or it has ended."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block device of the mounted stack.  ``set_up``: it has been given a table once, so sysfs has it.

    ``opens``: how often its file is open, as far as FUSE has told; ``held``: a table has it.  ``deps``: what its live
    table uses.
    """

    major: int
    minor: int
    kernel: str
    name: str
    sectors: int
    set_up: bool
    node: bool
    read_only: bool
    io_min: int
    io_opt: int
    read_ahead: int = 256
    uuid: str = ""
    suspended: bool = False
    opens: int = 0
    held: bool = False
    deps: tuple[tuple[int, int], ...] = ()

    @property
    def number(self) -> str:
        """``major:minor``."""
        return f"{self.major}:{self.minor}"


class Door:
    """Asks the mount that listens at this socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, question: str, **more: Any) -> dict[str, Any]:
        """The answer to a question that has one."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            try:
                with wire.short_name(self.path) as name:
                    connection.connect(name)
                wire.send(connection, {"dmspec": wire.PROTOCOL, "ask": question, **more})
                answer = wire.receive(connection)
            except (OSError, wire.WireError) as error:
                raise NoMountError(f"the mount does not answer: {error}") from None
        if answer is None:
            raise NoMountError("the mount has ended")
        if "problem" in answer:
            raise NoMountError(str(answer["problem"]))
        return answer

    def ioctl(self, nr: int, data: bytes) -> tuple[int, bytes]:
        """Run a device-mapper ioctl: its errno, and the buffer afterwards."""
        answer = self.ask("ioctl", nr=nr, data=data)
        return int(answer["errno"]), answer["data"] + data[len(answer["data"]):]

    def blocks(self) -> list[Block]:
        """All block devices."""
        return [Block(block["major"], block["minor"], block["kernel"], decode(block.get("name", b"")),
                      block["sectors"], block["set_up"], block["node"], block["read_only"], block["io_min"],
                      block["io_opt"], block["read_ahead"], decode(block.get("uuid", b"")),
                      bool(block.get("suspended")), block["opens"], block["held"],
                      tuple((major, minor) for major, minor in block["deps"]))
                for block in self.ask("blocks")["blocks"]]

    def node(self, name: str, *, there: bool) -> None:
        """Make or remove a device's file in /dev/mapper."""
        self.ask("node", name=encode(name), there=there)

    def set_read_ahead(self, number: str, sectors: int) -> None:
        """Tell a device's queue how far reads are to run ahead."""
        self.ask("set", number=number, read_ahead=sectors)

    def mountpoint(self) -> str:
        """Where the devices are files."""
        return str(self.ask("where")["mountpoint"])


def find(mountpoint: str | None) -> Door:
    """The mount that was named, else that of the environment, else the only one there is."""
    mountpoint = mountpoint or os.environ.get(ENVIRONMENT)
    try:
        if mountpoint:
            path = wire.socket_path(mountpoint)
            if not path.exists():
                raise NoMountError(f"nothing of dmspec is mounted at {mountpoint}")
            return Door(path)
        answering = [path for path in sorted(wire.folder().glob("*.sock")) if _answers(path)]
    except (OSError, wire.WireError) as error:
        raise NoMountError(str(error)) from None
    if not answering:
        raise NoMountError("nothing of dmspec is mounted; `dmspec mount FILE DIR` does that")
    if len(answering) > 1:
        raise NoMountError(f"{len(answering)} stacks are mounted; say which: --mount DIR, or {ENVIRONMENT}")
    return Door(answering[0])


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            with wire.short_name(path) as name:
                connection.connect(name)
        except OSError:
            return False
    return True
