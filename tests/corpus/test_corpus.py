"""The corpus on the emulator, in process: what the guest's kernel and its dmsetup said, word for word."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator

import pytest
from tests.dmsetup.machine import LocalDoor, Machine

from dmspec.runtime.registry import TARGETS

from .notation import COMMANDS, DISKS, TABLES, Entry, read_commands, read_tables, split_command, without_prose

_FAILED = re.compile(r"device-mapper: \w+ ioctl on d .*failed: (.*)")


def new_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The guest has all its modules loaded, and nothing but what device-mapper itself does goes on in it."""
    machine = Machine(monkeypatch, LocalDoor(DISKS))
    machine.door.questions.core.load_module("raid")
    return machine


def log_lines(machine: Machine, prefix: str) -> list[str]:
    lines = [f"{prefix}{level}: {text}" for level, text in machine.door.stack.log_lines]
    machine.door.stack.log_lines.clear()
    return lines


def played(machine: Machine, table: str) -> Iterator[str]:
    """The facts of one table."""
    machine.good("create", "d", "--notable")
    for word in ("load", "resume"):
        _out, said, status = machine.run(word, "d", stdin=f"{table}\n".encode())
        if status:
            for line in said.splitlines()[:-1]:
                match = _FAILED.fullmatch(line)
                yield f"{word:7} {match[1] if match else line}"
            break
    else:
        for word in ("table", "status"):
            yield from (f"{word:7} {line}".rstrip() for line in machine.good(word, "d").splitlines())
        deps = machine.good("deps", "d")
        if not deps.startswith("0 "):
            yield f"deps    {deps.partition(':')[2].strip()}"
    yield from log_lines(machine, "log     ")
    machine.good("remove", "d")


@pytest.fixture(scope="module")
def tables() -> list[Entry]:
    return read_tables(TABLES.read_text())[0]


def test_each_table_is_taken_or_refused_as_the_kernel_does(tables: list[Entry],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    differences = []
    for entry in tables:
        facts = list(played(new_machine(monkeypatch), entry.given))
        if facts != entry.facts:
            differences.append("\n".join([f"tables.txt, line {entry.line}:", f"> {entry.given}",
                                          *(f"  kernel {fact}" for fact in entry.facts if fact not in facts),
                                          *(f"  dmspec {fact}" for fact in facts if fact not in entry.facts)]))
    assert not differences, f"{len(differences)} of {len(tables)} differ\n" + "\n".join(differences)


def answered(machine: Machine, given: str) -> list[str]:
    """The facts of one command."""
    command, text = split_command(given)
    match command.split():
        case ["open", name]:
            machine.hold(name)
            return ["= 0"]
        case ["close", name]:
            machine.let_go(name)
            return ["= 0"]
    out, err, status = machine.run(*shlex.split(command)[1:], stdin=(text or "").encode())
    lines = [f"{mark}|{line}" for mark, said in (("1", out), ("2", err)) for line in said.splitlines()]
    return without_prose(given, [*lines, *log_lines(machine, "k|"), f"= {status}"])


def test_dmsetup_says_what_the_binary_says_on_a_real_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, _after = read_commands(COMMANDS.read_text())
    assert len(entries) > 700
    differences = []
    machine = new_machine(monkeypatch)
    for entry in entries:
        machine = new_machine(monkeypatch) if entry.heading else machine
        facts = answered(machine, entry.given)
        if facts != entry.facts:
            shown = difflib.unified_diff(entry.facts, facts, "kernel", "dmspec", n=0, lineterm="")
            differences.append("\n".join([f"commands.txt, line {entry.line}: $ {entry.given}",
                                          *(f"  {line}" for line in shown if line[:2] not in ("--", "++", "@@"))]))
    assert not differences, f"{len(differences)} of {len(entries)} differ\n" + "\n".join(differences)


def test_every_target_is_there_with_tables_of_both_kinds(tables: list[Entry]) -> None:
    assert len(tables) >= 500
    for kind in TARGETS:
        facts = [entry.facts for entry in tables if f" {kind} " in f"{entry.given} "]
        assert sum(one[0].startswith("table ") for one in facts) >= 3, kind
        refused = sum(one[0].startswith(("load ", "resume ")) for one in facts)
        assert refused >= 3 or kind == "error", kind
