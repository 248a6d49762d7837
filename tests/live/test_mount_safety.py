"""Whose a mount is, what of the host a spec can reach, and that nothing of a spec is ever run."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmspec.runtime import wire
from dmspec.runtime.backing import open_file
from dmspec.runtime.errors import StoreError
from dmspec.runtime.paths import MOST_LINKS, place

from .conftest import Mount, command, left_over, opened

NOBODY = 65534
ONE_DISK = "disk pv1 64KiB\ndevice a { linear pv1 }\n"

@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# Whose it is


@pytest.mark.requires("fuse")
def test_all_that_a_mount_makes_is_the_users_own(mount: Mount, runtime_folder: Path) -> None:
    stack = mount(ONE_DISK)
    own = {stack.dir: 0o700, stack.device("a"): 0o600, stack.disk("pv1"): 0o600, stack.disk("pv1").parent: 0o700,
           runtime_folder: 0o700, wire.socket_path(stack.dir): 0o600}
    for path, mode in own.items():
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (mode, os.geteuid()), path
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in runtime_folder.iterdir())


@pytest.mark.requires("fuse", "root")
def test_nobody_else_gets_in_unless_all_may(mount: Mount, tmp_path: Path) -> None:
    """To others the mount is shut whatever its modes say; ``--allow-other`` opens it, and its files say so."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(folder.stat().st_mode | 0o011)
    stack = mount(ONE_DISK)
    with somebody_else(), pytest.raises(PermissionError):
        os.stat(stack.device("a"))  # noqa: PTH116
    stack.umount()
    done = command("mount", stack.spec, stack.dir, "--allow-other", "--quiet")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(stack.dir.stat().st_mode) == 0o755
    with somebody_else(), opened(stack.device("a")) as file:
        assert os.pwrite(file, b"x" * 512, 0) == 512
        socket = wire.socket_path(stack.dir)
        assert not os.access(socket, os.R_OK | os.W_OK, effective_ids=True)
    assert stack.device("a").read_bytes()[:512] == b"x" * 512
    stack.umount()


# What a spec can reach


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("name", ["../out.img", "/nowhere/out.img", "sub/../../out.img"])
def test_a_spec_names_files_beside_it_only(tmp_path: Path, runtime_folder: Path, name: str) -> None:
    folder = tmp_path / "specs" / "one"
    (tmp_path / "mnt").mkdir()
    folder.mkdir(parents=True)
    spec = folder / "spec.dms"
    spec.write_text(f'disk pv1 64KiB file="{name}"\ndevice a {{ linear pv1 }}\n')
    done = command("mount", spec, tmp_path / "mnt")
    assert done.returncode == 2
    assert "a spec may only name files beside it or below" in done.stderr
    assert "--allow-path" in done.stderr
    assert not list(tmp_path.rglob("*.img"))
    assert left_over(runtime_folder) == []


@pytest.mark.requires("fuse")
def test_allow_path_lets_a_spec_name_files_elsewhere(tmp_path: Path, runtime_folder: Path) -> None:
    for name in ("specs", "data", "mnt"):
        (tmp_path / name).mkdir()
    spec = tmp_path / "specs" / "spec.dms"
    spec.write_text(f'disk pv1 64KiB file="../data/one.img"\ndisk pv2 64KiB file="{tmp_path}/data/two.img"\n'
                    "device a { mirror pv1 pv2 log=core region=4KiB nosync }\n")
    assert command("mount", spec, tmp_path / "mnt", "--allow-path", tmp_path / "mnt").returncode == 2
    assert command("mount", spec, tmp_path / "mnt", "--allow-path", tmp_path / "data").returncode == 0
    assert command("umount", tmp_path / "mnt").returncode == 0
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["one.img", "two.img"]
    assert [(tmp_path / "data" / name).stat().st_size for name in ("one.img", "two.img")] == [65536, 65536]
    assert left_over(runtime_folder) == []


def test_where_files_may_lie(tmp_path: Path) -> None:
    base, data = tmp_path / "specs", tmp_path / "data"
    assert place("a.img", base, []) == (base, ("a.img",))
    assert place("sub/a.img", base, []) == (base, ("sub", "a.img"))
    assert place("../data/sub/a.img", base, [data]) == (data, ("sub", "a.img"))
    for outside in ("../data", "../dataset/a.img", "../data/../a.img", "/a.img"):
        with pytest.raises(StoreError, match="--allow-path"):
            place(outside, base, [data])


def test_a_spec_goes_through_no_link(tmp_path: Path) -> None:
    """Not as the file itself and not on the way to it; nothing is made behind it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there.img").write_bytes(bytes(512))
    base = tmp_path / "specs"
    base.mkdir()
    (base / "sub").symlink_to(outside)
    (base / "file.img").symlink_to(outside / "there.img")
    for below in (["sub", "there.img"], ["sub", "new.img"], ["file.img"]):
        with pytest.raises(StoreError, match="symbolic link"):
            open_file(base, below, 1)
    assert sorted(path.name for path in outside.iterdir()) == ["there.img"]


def test_what_the_person_types_may_go_through_links_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "relative").symlink_to("absolute")
    (tmp_path / "real" / "up").symlink_to("..")
    for base in ("real", "absolute", "relative", "relative/up/real"):
        open_file(tmp_path / base, ["disk.img"], 1).close()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StoreError, match="too many symbolic links"):
        open_file(tmp_path / "loop", ["disk.img"], 1)
    with pytest.raises(StoreError, match="No such file"):
        open_file(tmp_path / "none", ["disk.img"], 1)
    assert MOST_LINKS >= 8


@pytest.mark.requires("root")
def test_a_link_that_another_user_has_planted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    link = tmp_path / "store"
    link.symlink_to(tmp_path / "mine")
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(StoreError, match="symbolic link of another user"):
        open_file(link, ["disk.img"], 1)
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.requires("fuse", "root")
def test_a_store_behind_such_a_link_is_refused(tmp_path: Path, runtime_folder: Path) -> None:
    for name in ("victim", "mnt"):
        (tmp_path / name).mkdir()
    (tmp_path / "store").symlink_to("victim")
    os.lchown(tmp_path / "store", NOBODY, NOBODY)
    (tmp_path / "spec.dms").write_text(ONE_DISK)
    done = command("mount", tmp_path / "spec.dms", tmp_path / "mnt", "--store", tmp_path / "store")
    assert (done.returncode, "symbolic link of another user" in done.stderr) == (2, True)
    assert not list((tmp_path / "victim").iterdir())
    assert left_over(runtime_folder) == []


# Nothing of a spec is run


@pytest.mark.requires("fuse")
def test_a_spec_is_never_given_to_a_shell(tmp_path: Path, runtime_folder: Path) -> None:
    """Whatever a shell would run is a name here, in every string that a spec can have; a shell would leave a file."""
    (tmp_path / "mnt").mkdir()
    evil = f"$(touch {tmp_path}/ran)"
    for number, word in enumerate([f"`touch {tmp_path}/ran`", f";touch {tmp_path}/ran;", f"|touch {tmp_path}/ran",
                                   evil, f"'$(touch {tmp_path}/ran)'"]):
        spec = tmp_path / f"{number}.dms"
        name = word.replace("/", "_").replace("\\", "_")
        spec.write_text(f'disk pv1 64KiB file="{name}.img"\ndevice a {{ linear pv1 }}\n')
        done = command("mount", spec, tmp_path / "mnt")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{name}.img").exists()
        asked = command("do", tmp_path / "mnt", f'message a "{evil}"')
        assert "Traceback" not in asked.stderr
        assert command("umount", tmp_path / "mnt").returncode == 0
    assert not (tmp_path / "ran").exists()
    assert left_over(runtime_folder) == []


@pytest.mark.requires("fuse")
def test_what_a_mount_starts(tmp_path: Path, runtime_folder: Path) -> None:
    """Watched by the interpreter's own audit hooks: a mount and its end start Python and nothing else."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "spec.dms").write_text(ONE_DISK)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn'):\n"
        f"        with open({str(tmp_path / 'started')!r}, 'a') as file:\n"
        "            file.write(f'{event} {arguments[0]!s}\\n')\n"
        "sys.addaudithook(watch)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-m", "dmspec"]
    for arguments in (["mount", tmp_path / "spec.dms", tmp_path / "mnt"],
                      ["do", tmp_path / "mnt", "suspend a\nresume a"], ["umount", tmp_path / "mnt"]):
        subprocess.run([*run, *map(str, arguments)], env=environment, check=True, capture_output=True)
    started = (tmp_path / "started").read_text().splitlines()
    assert started
    assert {line.rpartition("/")[2].partition(".")[0].rstrip("0123456789") for line in started} == {"python"}
    assert left_over(runtime_folder) == []
