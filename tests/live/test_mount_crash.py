"""What lasts: an orderly restart, a killed server, signals; and what is refused before anything is changed."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dmspec.runtime.backing import open_file
from dmspec.runtime.errors import StoreError
from dmspec.runtime.server import MountServer

from .conftest import (
    BINDINGS,
    KIB,
    MIB,
    InThread,
    Mount,
    Stack,
    command,
    direct,
    hashes,
    left_over,
    opened,
    plan_of,
    until,
)

pytestmark = pytest.mark.requires("fuse")

STACK = """
disk pv1 4MiB
disk pv2 4MiB
disk log 1MiB
disk cow 2MiB
device base { mirror pv1 pv2 log=log region=64KiB handle_errors }
device snap { snapshot base cow P chunk=4KiB }
device vol  { snapshot-origin base }
"""
MIRROR = """
disk pv1 4MiB
disk pv2 4MiB
disk log 1MiB
device vol { mirror pv1 pv2 log=log region=64KiB handle_errors }
"""
TWO_BINDINGS = pytest.mark.parametrize("binding", BINDINGS)


def legs_agree(stack: Stack) -> bool:
    return stack.disk("pv1").read_bytes() == stack.disk("pv2").read_bytes()


# Restart


@TWO_BINDINGS
def test_log_and_snapshot_store_come_back(mount: Mount, binding: str) -> None:
    stack = mount(STACK, binding)
    until(lambda: stack.in_sync("base"), "the first resynchronisation")
    stack.device("vol").write_bytes(b"old" * 200 * KIB)
    stack.ok("write vol at=1MiB size=64KiB pattern=NEW\nwrite snap at=2MiB size=8KiB pattern=OWN")
    expected = {name: (stack.status(name), stack.device(name).read_bytes()) for name in ("base", "vol", "snap")}
    stack.umount()
    assert legs_agree(stack)
    stack = mount(STACK, binding)
    assert {name: (stack.status(name), stack.device(name).read_bytes()) for name in expected} == expected
    stack.ok("write vol at=3MiB size=4KiB pattern=MORE")
    assert stack.status("snap") != expected["snap"][0]
    stack.umount()


def test_after_an_orderly_end_nothing_is_resynchronised(mount: Mount) -> None:
    stack = mount(MIRROR)
    until(lambda: stack.in_sync("vol"), "the first resynchronisation")
    stack.ok("write vol at=0 size=4MiB pattern=ALL")
    stack.umount()
    with stack.disk("pv2").open("r+b") as file:  # would be put right by a resynchronisation
        file.write(b"different")
    stack = mount(MIRROR)
    assert stack.in_sync("vol")
    stack.umount()
    assert stack.disk("pv2").read_bytes()[:9] == b"different"


def test_the_mirror_below_a_snapshot_is_taken_down_in_order(mount: Mount) -> None:
    """The devices were not made in the order in which they lie on each other."""
    stack = mount("use lvm\n" + MIRROR + "disk cow 2MiB\n")
    until(lambda: stack.in_sync("vol"), "the first resynchronisation")
    stack.ok("lvm.create_snapshot vol name=snap cow=cow")
    stack.ok("write vol at=0 size=4MiB pattern=ALL")
    stack.umount()
    stack = mount(MIRROR)
    assert " 64/64 " in stack.status("vol")
    stack.umount()


@pytest.mark.requires("root", "unshare")
@TWO_BINDINGS
def test_a_copy_of_the_mount_in_another_namespace_does_not_keep_it(mount: Mount, binding: str) -> None:
    stack = mount(MIRROR, binding, foreground=True)
    assert stack.process is not None
    until(lambda: stack.in_sync("vol"), "the first resynchronisation")
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo there; read end"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"there\n"
        stack.device("vol").write_bytes(b"new!" * MIB)
        stack.process.send_signal(signal.SIGTERM)
        said, problems = stack.process.communicate()
        assert (stack.process.returncode, problems) == (0, ""), said
        service.communicate(b"\n")
    assert stack.disk("pv2").read_bytes() == b"new!" * MIB


@TWO_BINDINGS
def test_only_dirty_regions_are_resynchronised_after_a_kill(mount: Mount, runtime_folder: Path, binding: str) -> None:
    stack = mount(MIRROR, binding)
    until(lambda: stack.in_sync("vol"), "the first resynchronisation")
    stack.ok("write vol at=0 size=4MiB pattern=OLD\nsuspend vol\nresume vol\ndelay pv2 3600s writes")
    writing = InThread(direct, stack.device("vol"), b"x" * 4096, MIB)
    until(lambda: stack.disk("pv1").read_bytes()[MIB:MIB + 4096] == b"x" * 4096, "the write on one leg")
    stack.kill()
    with suppress(OSError):
        writing.result()
    assert not legs_agree(stack)
    with stack.disk("pv2").open("r+b") as file:  # in a region that nobody wrote to
        file.seek(2 * MIB)
        file.write(b"different")
    stack = mount(MIRROR, binding)
    until(lambda: stack.in_sync("vol"), "the resynchronisation")
    assert stack.device("vol").read_bytes()[MIB:MIB + 4096] == b"x" * 4096
    stack.umount()
    first, second = (stack.disk(leg).read_bytes() for leg in ("pv1", "pv2"))
    assert second[2 * MIB:2 * MIB + 9] == b"different"
    assert first[:2 * MIB] == second[:2 * MIB]
    assert left_over(runtime_folder) == []


@TWO_BINDINGS
def test_what_was_fsynced_survives_a_kill_in_the_middle_of_writes(mount: Mount, binding: str) -> None:
    stack = mount(MIRROR, binding)
    synced: dict[int, bytes] = {}
    last: dict[int, set[bytes]] = {}

    def write(lane: int) -> None:
        draw = random.Random(lane)
        with suppress(OSError), opened(stack.device("vol")) as descriptor:
            while True:
                block = draw.randrange(128) * 8 + lane
                data = draw.randbytes(8) * 512
                last.setdefault(block, set()).add(data)
                os.pwrite(descriptor, data, block * 4096)
                os.fsync(descriptor)
                synced[block] = data
                last[block] = {data}

    writers = [threading.Thread(target=write, args=(lane,), daemon=True) for lane in range(4)]
    for writer in writers:
        writer.start()
    until(lambda: len(synced) > 60, "some synced writes")
    stack.kill()
    for writer in writers:
        writer.join(20)
        assert not writer.is_alive()
    stack = mount(MIRROR, binding)
    contents = stack.device("vol").read_bytes()
    for block, data in synced.items():
        assert contents[block * 4096:(block + 1) * 4096] in last[block] | {data}
    until(lambda: stack.in_sync("vol"), "the resynchronisation")
    assert stack.device("vol").read_bytes() == contents
    stack.umount()
    assert legs_agree(stack)


@TWO_BINDINGS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_mount_in_order(
    mount: Mount, runtime_folder: Path, binding: str, number: signal.Signals
) -> None:
    stack = mount(MIRROR, binding, foreground=True)
    with opened(stack.device("vol")) as descriptor:  # open, and not synced
        os.pwrite(descriptor, b"buffered", 12345)
        os.kill(stack.server, number)
        assert stack.ended() == (0, "")
    for leg in ("pv1", "pv2"):
        assert stack.disk(leg).read_bytes()[12345:12353] == b"buffered"
    assert left_over(runtime_folder) == []


# Bad input: an error that says what is wrong, and nothing changed


def damage(name: str, offset: int, data: bytes) -> Callable[[Path], None]:
    def do(store: Path) -> None:
        with (store / f"{name}.img").open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return do


def resize(name: str, size: int) -> Callable[[Path], None]:
    return lambda store: os.truncate(store / f"{name}.img", size)


def replace_by_link(store: Path) -> None:
    (store / "pv1.img").rename(store / "elsewhere")
    (store / "pv1.img").symlink_to("elsewhere")


def replace_by_folder(store: Path) -> None:
    (store / "pv1.img").unlink()
    (store / "pv1.img").mkdir()


def replace_by_pipe(store: Path) -> None:
    (store / "pv1.img").unlink()
    os.mkfifo(store / "pv1.img")


def nothing(store: Path) -> None:
    del store


SNAP = "disk pv1 1MiB\ndisk cow {size}\ndevice snap {{ snapshot pv1 cow P chunk=4KiB }}\n"
LOGGED = "disk pv1 1MiB\ndisk cow {size}\ndevice m {{ mirror pv1 pv1b log=cow region=1KiB }}\ndisk pv1b 1MiB\n"
BAD = {
    "cow magic": (SNAP, "1MiB", damage("cow", 0, b"junk"), "Invalid or corrupt snapshot"),
    "cow version": (SNAP, "1MiB", damage("cow", 8, struct.pack("<I", 99)), "unable to handle snapshot disk version 99"),
    "cow too small": (SNAP, "4KiB", nothing, "Failed to read snapshot metadata"),
    "log too small": (LOGGED, "1KiB", nothing, "too small"),
    "truncated": (SNAP, "1MiB", resize("pv1", MIB - 512), "1048064 bytes, but the spec's disk has 1048576"),
    "too large": (SNAP, "1MiB", resize("pv1", MIB + 1), "1048577 bytes, but the spec's disk has 1048576"),
    "a link": (SNAP, "1MiB", replace_by_link, "a symbolic link"),
    "a folder": (SNAP, "1MiB", replace_by_folder, "Is a directory"),
    "a pipe": (SNAP, "1MiB", replace_by_pipe, "not a regular file"),
    "a gap": ("disk pv1 1MiB\ndisk cow {size}\ndevice m {{ 0 8 linear pv1 0  16 8 linear pv1 8 }}", "1MiB", nothing,
              "error"),
    "too large a disk": (SNAP + "disk huge 4000000TiB\n", "1MiB", nothing, "File too large"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_changed(tmp_path: Path, runtime_folder: Path, case: str) -> None:
    text, size, break_it, says = BAD[case]
    store, mountpoint = tmp_path / "disks", tmp_path / "mnt"
    mountpoint.mkdir()
    good = MountServer(plan_of(SNAP.format(size="1MiB")), spec_folder=tmp_path, store=store)
    good.export.write("snap", 0, memoryview(b"good" * 16 * KIB))
    good.close()
    if size != "1MiB":
        (store / "cow.img").unlink()
    break_it(store)
    spec = tmp_path / "spec.dms"
    spec.write_text(text.format(size=size))
    before = hashes(store, mountpoint)
    done = command("mount", spec, mountpoint, "--store", store)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith(("dmspec: ", "error"))
    assert "Traceback" not in done.stderr
    assert hashes(store, mountpoint) == before
    assert left_over(runtime_folder) == []


def test_a_disk_file_belongs_to_one_mount(mount: Mount, tmp_path: Path) -> None:
    stack = mount(SNAP.format(size="1MiB"))
    other = tmp_path / "other"
    other.mkdir()
    before = hashes(tmp_path / "one" / "disks", other)
    done = command("mount", stack.spec, other, "--store", tmp_path / "one" / "disks")
    assert (done.returncode, done.stderr) == (2, f"dmspec: {stack.disk('pv1')}: in use by another mount\n")
    assert hashes(tmp_path / "one" / "disks", other) == before


def test_bad_mountpoints_and_stores(mount: Mount, tmp_path: Path, runtime_folder: Path) -> None:
    stack = mount(SNAP.format(size="1MiB"), memory=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "free").mkdir()
    before = hashes(tmp_path / "full", tmp_path / "free")
    for directory, store, says in [
        (stack.dir, "s", f"a stack is mounted at {stack.dir} already"),
        (tmp_path / "full", "s", f"{tmp_path / 'full'}: not empty"),
        (tmp_path / "none", "s", "does not exist"),
        (tmp_path / "full" / "file", "s", "is a file"),
        (tmp_path / "free", "full/file/s", "Not a directory"),
        (tmp_path / "free", "/proc/dmspec-cannot-be-here", "/proc/dmspec-cannot-be-here: "),
        (tmp_path / "free", "free/inside", "the store cannot be inside the mountpoint"),
    ]:
        done = command("mount", stack.spec, directory, "--store", tmp_path / store)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert hashes(tmp_path / "full", tmp_path / "free") == before
        assert not (tmp_path / "s").exists()
    stack.umount()
    assert left_over(runtime_folder) == []


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(512))
    (tmp_path / "disk.img").chmod(0)
    tmp_path.chmod(0o711)
    monkeypatch.chdir(tmp_path)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(StoreError, match=r"disk\.img: Permission denied"):
            open_file(Path(), ["disk.img"], 1)
        with pytest.raises(StoreError, match=r"new\.img: Permission denied" if root else ""):
            open_file(Path(), ["new.img" if root else "disk.img"], 1)
    finally:
        if root:
            os.seteuid(0)
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"]


def test_a_log_of_another_size_is_taken_as_the_kernel_takes_it(mount: Mount) -> None:
    """Bits that are there are believed, by their number; further ones are of regions that are not in sync."""
    text = MIRROR.replace("handle_errors", "")
    stack = mount(text)
    until(lambda: stack.in_sync("vol"), "the first resynchronisation")
    stack.umount()
    header = stack.disk("log").read_bytes()[:16]
    assert struct.unpack("<IIQ", header)[2] == 64
    stack = mount(text.replace("64KiB", "128KiB"))
    assert " 32/32 " in stack.status("vol")
    stack.umount()
    assert struct.unpack("<IIQ", stack.disk("log").read_bytes()[:16])[2] == 32
    with stack.disk("pv2").open("r+b") as file:
        file.write(b"different")
        file.seek(3 * MIB)
        file.write(b"different")
    stack = mount(text)
    until(lambda: stack.in_sync("vol"), "the other half")
    stack.umount()
    contents = stack.disk("pv2").read_bytes()
    assert contents[:9] == b"different"
    assert contents[3 * MIB:3 * MIB + 9] == bytes(9)


def test_a_mount_that_cannot_be_shown_takes_its_new_files_back(tmp_path: Path, runtime_folder: Path) -> None:
    (tmp_path / "spec.dms").write_text(MIRROR)
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ("import dmspec.runtime.wire as w\n"
         "def refuse(path): raise OSError(28, 'No space left on device')\n"
         "w.short_name = refuse\n"
         "from dmspec.cli import main; main()"), "mount", str(tmp_path / "spec.dms"), str(tmp_path / "mnt"),
         "--store", str(tmp_path / "disks")],
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 70
    assert "internal error" in done.stderr
    assert not (tmp_path / "disks").exists()
    assert list((tmp_path / "mnt").iterdir()) == []
