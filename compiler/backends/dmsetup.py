"""The stack as a shell script of `dmsetup` calls, for a real machine.

Disks become shell variables, to be set to block devices; a device is known as /dev/mapper/NAME.  A segment
that takes the size of its devices has it worked out here, from the disks' sizes in the spec.
"""

from __future__ import annotations

import shlex
from typing import Final

from dmspec.compiler.backends.base import Backend, BackendError
from dmspec.compiler.kernel import natural_length
from dmspec.runtime.plan import Device, Plan
from dmspec.runtime.units import SECTOR_BYTES, bytes_text


def emit(plan: Plan) -> bytes:
    """The script."""
    sizes: dict[str, int] = {disk.name: disk.sectors for disk in plan.disks}
    paths = {disk.name: "$" + _variable(disk.name) for disk in plan.disks}
    if len(set(paths.values())) < len(paths):
        raise BackendError("two disks would have the same shell variable: rename one")
    lines = ["#!/bin/sh", f"# The devices of {plan.files[0]}, made with dmsetup.", "set -eu", ""]
    for disk in plan.disks:
        size = bytes_text(disk.sectors * SECTOR_BYTES)
        lines.append(f': "${{{_variable(disk.name)}:?set it to a block device of {size} for {disk.name}}}"')
    for device in plan.devices:
        table, end = _table(device, sizes)
        sizes[device.name] = end
        lines += ["", _create(device, [_with_paths(line, paths) for line in table])]
        paths[device.name] = f"/dev/mapper/{device.name}"
    lines += ["", "# To remove them again:"]
    lines += [f"# dmsetup remove {shlex.quote(device.name)}" for device in reversed(plan.devices)]
    return ("\n".join(lines) + "\n").encode()


def _variable(name: str) -> str:
    return "".join(char.upper() if char.isalnum() else "_" for char in name)


def _table(device: Device, sizes: dict[str, int]) -> tuple[list[str], int]:
    """The table with every length a number, and the device's size."""
    done: list[str] = []
    end = 0
    for line in device.table:
        words = line.split()
        if len(words) > 2 and words[1] == "*":
            length = natural_length(words[2], words[3:], sizes)
            if length is None:
                raise BackendError(f"the size of {device.name} is only known while it runs: give its segment one")
            words[1] = str(length)
        if len(words) < 3 or not words[0].isdigit() or not words[1].isdigit():
            raise BackendError(f"{device.name}: not a table line: {line!r}")
        end = int(words[0]) + int(words[1])
        done.append(" ".join(words))
    return done, end


def _with_paths(line: str, paths: dict[str, str]) -> str:
    """The line for a shell's double quotes, with paths where it has names of disks and devices."""
    start, length, target, *params = line.split()
    words = [paths[word] if word in paths else _escaped(word) for word in params]
    return " ".join([start, length, _escaped(target), *words])


def _escaped(word: str) -> str:
    return "".join("\\" + char if char in '\\"$`' else char for char in word)


def _create(device: Device, table: list[str]) -> str:
    command = ["dmsetup", "create", shlex.quote(device.name)]
    if device.uuid:
        command += ["--uuid", shlex.quote(device.uuid)]
    if device.read_only:
        command.append("--readonly")
    if len(table) == 1:
        return " ".join([*command, "--table", f'"{table[0]}"'])
    return "\n".join([" ".join([*command, "<<EOF"]), *table, "EOF"])


DMSETUP: Final = Backend("dmsetup", "a shell script that makes the devices with dmsetup", emit)
