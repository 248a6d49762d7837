"""What the binary's recording does not show: help against the installed binary, trees, nodes, several buffers."""

from __future__ import annotations

import subprocess

import pytest
from tests.corpus.notation import without_prose

from dmspec.dmsetup import names
from dmspec.dmsetup.blockdev import block_of
from dmspec.runtime import ioctl_format as form

from .machine import Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def names_in(text: str) -> list[str]:
    """Commands, options and columns: the sentences beside them are our own."""
    return without_prose("dmsetup help", [f"2|{line}" for line in text.splitlines()])


@pytest.mark.requires("dmsetup")
@pytest.mark.parametrize("words", [["help"], ["help", "-c"], ["--help"], ["nonsense"], ["create", "a", "b", "c"], []])
def test_help_is_that_of_the_binary(machine: Machine, words: list[str]) -> None:
    real = subprocess.run(["dmsetup", *words], capture_output=True, text=True, check=False)
    out, err, status = machine.run(*words)
    assert (out, status) == (real.stdout, real.returncode)
    assert names_in(err) == names_in(real.stderr)


def test_a_table_of_many_targets_takes_a_larger_buffer(machine: Machine) -> None:
    lines = [f"{index * 8} 8 linear /dev/loop0 {index * 8}" for index in range(900)]
    machine.good("create", "a", stdin="\n".join(lines).encode())
    machine.door.calls.clear()
    assert machine.good("table", "a").splitlines() == [line.replace("/dev/loop0", "7:0") for line in lines]
    assert machine.door.calls == [form.TABLE_STATUS] * 3


def test_a_path_without_a_node_is_no_device_for_a_table(machine: Machine) -> None:
    machine.good("create", "a", "--notable")
    machine.good("create", "b", "--notable")
    machine.good("load", "a", "--table", "0 8 zero")
    assert machine.run("load", "b", "--table", "0 8 linear /dev/mapper/a 0")[2] == 1
    machine.good("load", "b", "--table", "0 8 linear 254:0 0")
    machine.good("resume", "a")
    machine.good("load", "b", "--table", "0 8 linear /dev/mapper/a 0")
    machine.good("create", "c", "--notable", "--addnodeoncreate")
    machine.good("load", "b", "--table", "0 8 linear /dev/mapper/c 0")
    assert machine.good("info", "/dev/mapper/a").startswith("Name:              a\n")


def test_trees(machine: Machine) -> None:
    machine.good("create", "leg0", "--table", "0 8 linear /dev/loop0 0")
    machine.good("create", "leg1", "--table", "0 8 linear /dev/loop1 0")
    machine.good("create", "m", "--table", "0 8 mirror core 1 8 2 /dev/mapper/leg0 0 /dev/mapper/leg1 0")
    machine.good("create", "a", "--table", "0 8 linear /dev/mapper/m 0")
    assert machine.good("ls", "--tree") == (
        "a (254:3)\n `-m (254:2)\n    |-leg1 (254:1)\n    |  `- (7:1)\n    `-leg0 (254:0)\n       `- (7:0)\n")
    assert machine.good("ls", "--tree", "-o", "inverted") == (
        " (7:1)\n `-leg1 (254:1)\n    `-m (254:2)\n       `-a (254:3)\n"
        " (7:0)\n `-leg0 (254:0)\n    `-m (254:2)\n       `-a (254:3)\n")
    assert machine.good("info", "-c", "--noheadings", "-o", "name,names_using_dev,devs_used,device_ref_count", "m") \
        == "m:a:leg1,leg0:1\n"


def test_ls_and_deps_by_name(machine: Machine) -> None:
    machine.good("create", "a", "--table", "0 8 linear /dev/loop2 0")
    machine.good("create", "b", "--table", "0 8 linear /dev/mapper/a 0")
    assert machine.good("deps", "-o", "devname") == "a: 1 dependencies\t: (loop2)\nb: 1 dependencies\t: (a)\n"
    assert machine.good("deps", "-o", "blkdevname", "b") == "1 dependencies\t: (dm-0)\n"
    assert machine.good("ls", "-o", "blkdevname") == "a\t(dm-0)\nb\t(dm-1)\n"


@pytest.mark.parametrize("table", ["", "\n\n", "# nothing\n"])
def test_an_empty_table_makes_a_device_without_one(machine: Machine, table: str) -> None:
    machine.good("create", "a", stdin=table.encode())
    assert machine.good("info", "-c", "--noheadings", "-o", "attr", "a") == "---w\n"


def test_a_name_that_is_no_text(machine: Machine) -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    machine.good("create", name, "--table", "0 8 zero")
    assert machine.good("ls") == f"{name}\t(254:0)\n"
    assert list(machine.door.stack.devices) == [r"\xff\xfe"]
    machine.good("remove", name)


@pytest.mark.parametrize(("plain", "kernel"), [("a b", r"a\x20b"), ("ab", "ab"), ("ä", r"\xc3\xa4"),
                                               (r"a\x20b", r"a\x20b")])
def test_mangling(plain: str, kernel: str) -> None:
    assert names.device_name(plain, "auto") == kernel
    assert names.unmangle(kernel, "auto") == plain.replace(r"\x20", " ")
    assert names.device_name(plain, "none") == plain


def test_which_device_a_path_means(machine: Machine) -> None:
    machine.good("create", "a", "--table", "0 8 zero")
    blocks = machine.door.blocks()
    found = block_of("/dev/mapper/a", blocks, "/mnt")
    assert found is not None
    assert (found.sectors, found.kernel) == (8, "dm-0")
    assert block_of("/mnt/a", blocks, "/mnt") is found
    assert block_of("/dev/dm-0", blocks, "/mnt") is found
    loop = block_of("/dev/loop1", blocks, "/mnt")
    assert loop is not None
    assert loop.sectors == 16384
    assert block_of("/dev/sda", blocks, "/mnt") is None
