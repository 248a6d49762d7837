"""A real ext4 on a mounted mirror: a leg fails under it, is repaired away, and a snapshot is taken under load.

e2fsck -fn is asked about everything, and what is in the files is compared by hash.
"""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import BINDINGS, MIB, InThread, Mount, Stack, command, hashes, until

pytestmark = pytest.mark.requires("fuse", "mkfs.ext4", "e2fsck", "debugfs")

VOLUME = """
use lvm
disk pv1   64MiB
disk pv2   64MiB
disk pvlog  1MiB
disk pv3   32MiB
device vol { mirror pv1 pv2  log=pvlog region=512KiB handle_errors }
"""
SOURCES = Path(__file__).parents[2] / "runtime"
ENVIRONMENT = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C"}


def run(*words: object, **more: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, env=ENVIRONMENT,
                          check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return f"{done.stdout}{done.stderr}"


def is_clean(path: Path) -> None:
    """No error, and no journal that would have to be replayed first."""
    said = run("e2fsck", "-fn", path)
    assert "journal" not in said.lower(), said
    assert "needs_recovery" not in run("dumpe2fs", "-h", path)


def tree(folder: Path) -> Path:
    """Real files: sources, and one large one that no compression makes small."""
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "large").write_bytes(os.urandom(6 * MIB))
    return folder


@contextmanager
def looped(device: Path, where: Path, *options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(["loop", *options]), device, where)
    try:
        yield where
    except BaseException:
        run("umount", "--lazy", where)
        raise
    run("umount", where)


class Writer(threading.Thread):
    """Writes files as long as it may, each of them synced; ``written`` counts those that are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.folder.mkdir()
        self.written = 0
        self.enough = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                with (self.folder / f"{self.written % 20}").open("wb") as file:
                    file.write(os.urandom(100_000))
                    file.flush()
                    os.fsync(file.fileno())
                self.written += 1
        except BaseException as problem:  # noqa: BLE001 - raised again by end()
            self.problem = problem

    def goes_on(self) -> None:
        before = self.written
        until(lambda: self.written > before + 3 or self.problem, "the writer to go on")

    def end(self) -> None:
        self.enough.set()
        self.join(30)
        assert not self.is_alive()
        if self.problem is not None:
            raise self.problem


def fail_and_repair(stack: Stack, node: str) -> None:
    """A leg fails; once the mirror has noticed, it is repaired."""
    stack.ok("fail pv1")
    until(lambda: re.search(" [DF]A ", stack.status(node)), "the mirror to notice")
    stack.ok("lvm.repair vol")
    assert " linear" in stack.status(node)


@pytest.mark.requires("root", "loop", "mount", "umount")
@pytest.mark.parametrize("binding", BINDINGS)
def test_a_busy_filesystem_survives_a_snapshot_and_the_loss_of_a_leg(
    mount: Mount, tmp_path: Path, binding: str
) -> None:
    stack = mount(VOLUME, binding)
    source = tree(tmp_path / "source")
    run("mkfs.ext4", "-q", "-F", "-b", "4096", stack.device("vol"))
    with looped(stack.device("vol"), tmp_path / "fs") as filesystem:
        shutil.copytree(source, filesystem / "tree")
        (filesystem / "old").write_text("before the snapshot")
        writer = Writer(filesystem / "busy")
        writer.start()
        writer.goes_on()
        notes = stack.ok("lvm.create_snapshot vol name=snap cow=pv3").notes
        assert any("to be frozen" in note for note in notes)
        assert any("to be thawed" in note for note in notes)
        is_clean(stack.device("snap"))
        writer.goes_on()
        (filesystem / "new").write_text("after the snapshot")
        fail_and_repair(stack, "vol-real")
        writer.goes_on()
        writer.end()
        expected = hashes(filesystem)
    for name in ("vol", "snap"):
        is_clean(stack.device(name))
    with looped(stack.device("vol"), tmp_path / "fs", "ro") as filesystem:
        assert hashes(filesystem) == expected
    with looped(stack.device("snap"), tmp_path / "fs", "ro") as filesystem:
        assert {path.name for path in filesystem.iterdir()} == {"busy", "lost+found", "old", "tree"}
        assert list(hashes(filesystem / "tree").values()) == list(hashes(source).values())
    stack.umount()
    is_clean(stack.disk("pv2"))


@pytest.mark.parametrize("binding", BINDINGS)
def test_files_by_debugfs_survive_the_loss_of_a_leg_in_the_middle(
    mount: Mount, tmp_path: Path, binding: str
) -> None:
    stack = mount(VOLUME, binding)
    source = tree(tmp_path / "source")
    volume = stack.device("vol")
    run("mkfs.ext4", "-q", "-F", "-b", "4096", volume)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    half = len(files) // 2
    write(volume, tmp_path, {f"f{number}": path for number, path in enumerate(files[:half])})
    stack.ok("fail pv1 writes range=0+64MiB")
    writing = InThread(write, volume, tmp_path, {f"f{number}": path for number, path in enumerate(files[half:], half)})
    until(lambda: " DA " in stack.status("vol"), "the mirror to notice")
    assert not writing.over
    stack.ok("lvm.repair vol")
    writing.result()
    stack.ok("lvm.create_snapshot vol name=snap cow=pv3")
    write(volume, tmp_path, {"later": files[0]})
    for name in ("vol", "snap"):
        is_clean(stack.device(name))
        dumped = tmp_path / f"from-{name}"
        dumped.mkdir()
        run("debugfs", "-R", f"rdump / {dumped}", stack.device(name))
        assert (dumped / "later").exists() == (name == "vol")
        for number, path in enumerate(files):
            assert (dumped / f"f{number}").read_bytes() == path.read_bytes()
    stack.umount()
    is_clean(stack.disk("pv2"))


def write(volume: Path, folder: Path, files: dict[str, Path]) -> None:
    commands = folder / "commands"
    commands.write_text("".join(f"write {path} {name}\n" for name, path in files.items()))
    said = run("debugfs", "-w", "-f", commands, volume)
    assert len(re.findall("Allocated inode", said)) == len(files), said


@pytest.mark.parametrize("binding", BINDINGS)
def test_both_legs_alone_are_the_filesystem(mount: Mount, tmp_path: Path, binding: str) -> None:
    stack = mount(VOLUME, binding)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", stack.device("vol"))
    (tmp_path / "file").write_bytes(os.urandom(3 * MIB))
    write(stack.device("vol"), tmp_path, {"file": tmp_path / "file"})
    until(lambda: stack.in_sync("vol"), "the first resynchronisation")
    stack.umount()
    for leg in ("pv1", "pv2"):
        is_clean(stack.disk(leg))
        run("debugfs", "-R", f"dump file {tmp_path / leg}", stack.disk(leg))
        assert (tmp_path / leg).read_bytes() == (tmp_path / "file").read_bytes()
    assert stack.disk("pv1").read_bytes() == stack.disk("pv2").read_bytes()


@pytest.mark.requires("root", "loop", "mount", "umount")
def test_without_lockfs_the_snapshot_needs_its_journal(mount: Mount, tmp_path: Path) -> None:
    """The counterpart: it is the freeze that the clean snapshot under load is owed to."""
    stack = mount(VOLUME)
    run("mkfs.ext4", "-q", "-F", stack.device("vol"))
    with looped(stack.device("vol"), tmp_path / "fs") as filesystem:
        writer = Writer(filesystem / "busy")
        writer.start()
        writer.goes_on()
        stack.ok("""
            create vol-real
            load   vol-real table=table-of(vol)
            create snap
            load   snap { snapshot vol-real pv3 P chunk=4KiB }
            load   vol { snapshot-origin vol-real }
            suspend vol nolockfs
            resume vol-real snap vol
        """)
        assert "needs_recovery" in run("dumpe2fs", "-h", stack.device("snap"))
        writer.goes_on()
        writer.end()


@pytest.mark.requires("root", "loop", "mount", "umount")
def test_a_mount_that_ends_leaves_no_filesystem_frozen(mount: Mount, tmp_path: Path) -> None:
    stack = mount(VOLUME)
    run("mkfs.ext4", "-q", "-F", stack.device("vol"))
    with looped(stack.device("vol"), tmp_path / "fs") as filesystem:
        stack.ok("suspend vol\nrename vol other\nresume other")  # the name may change while it is frozen
        (filesystem / "written").write_text("not frozen")
        stack.ok("suspend other")
        assert command("umount", "--force", stack.dir).returncode == 0
        stack.gone()
        loop = Path("/sys/block") / Path(source_of(filesystem)).name / "loop" / "backing_file"
        was = loop.read_text()
    until(lambda: not loop.exists() or loop.read_text() != was, "the loop device to be let go")


@pytest.mark.requires("root", "loop", "mount", "umount")
def test_a_killed_server_leaves_no_filesystem_frozen(mount: Mount, tmp_path: Path) -> None:
    """The child that froze it thaws it soon after; a frozen filesystem could not be unmounted."""
    stack = mount(VOLUME)
    run("mkfs.ext4", "-q", "-F", stack.device("vol"))
    filesystem = tmp_path / "fs"
    filesystem.mkdir()
    run("mount", "-o", "loop", stack.device("vol"), filesystem)
    try:
        stack.ok("suspend vol")
        stack.kill()
        stack.gone()
    finally:
        until(lambda: subprocess.run(["umount", filesystem], check=False, capture_output=True).returncode == 0,
              "the filesystem to be thawed and unmounted")


def source_of(where: Path) -> str:
    [line] = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {where} " in line]
    return line.split()[0]
