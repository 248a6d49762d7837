"""What becomes of a device's page cache: when it goes, and what zeros that a program asks for do to it."""

import errno
import os
from unittest.mock import Mock as Anything

import pytest

from dmspec.runtime.fuse.adapter import Files
from dmspec.runtime.fuse.sizes import KernelSizes

from .conftest import BINDINGS, MIB, Mount, fails_with, opened
from .memory_export import MemoryExport
from .test_fuse_adapter import fallocate

KEEP_SIZE, ZERO_RANGE = 1, 16


def test_it_goes_with_the_last_close() -> None:
    """As a block device's does; who opens it next need not wait for that."""
    export = MemoryExport(None)
    for name in "ab":
        export.add(name, MIB)
    files = Files(export, KernelSizes(Anything(), export.size_bytes), passes_short_writes=False, on_mounted=Anything(),
                  on_bug=Anything(), on_end=Anything())
    forgotten: list[int] = []
    first, second, other = (files.open(f"/{name}", os.O_RDWR) for name in "aab")
    files.forget_pages = forgotten.append
    for handle, inode in ((first, 7), (other, 8)):
        files.note_inode(handle, inode)
        files.release(None, handle)
    assert forgotten == [8]
    files.note_inode(second, 7)
    files.release(None, second)
    assert forgotten == [8, 7]
    unknown = files.open("/a", os.O_RDONLY)
    files.release(None, unknown)
    assert forgotten == [8, 7]


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("discards", [False, True])
def test_zeros_can_be_had_of_any_device(mount: Mount, binding: str, discards: bool) -> None:
    table = "linear pv1" if discards else "snapshot pv1 cow chunk=16KiB"
    stack = mount(f"disk pv1 8MiB\ndisk cow 20MiB\ndevice vol {{ {table} }}\n", binding)
    with opened(stack.device("vol")) as file:
        os.pwrite(file, b"z" * 8 * MIB, 0)
        os.fsync(file)
        os.pwrite(file, b"y" * 8 * MIB, 0)
        fallocate(file, ZERO_RANGE, 4096, 3 * MIB + 512)
        fallocate(file, ZERO_RANGE | KEEP_SIZE, 8 * MIB - 4096, 8192)
        wanted = b"y" * 4096 + bytes(3 * MIB + 512) + b"y" * (5 * MIB - 4096 - 512 - 4096) + bytes(4096)
        assert os.pread(file, 8 * MIB, 0) == wanted
        with fails_with(errno.ENOSPC):
            fallocate(file, ZERO_RANGE, 8 * MIB - 4096, 8192)
        assert os.fstat(file).st_size == 8 * MIB
    with opened(stack.device("vol"), os.O_RDONLY) as file:
        assert os.pread(file, 8 * MIB, 0) == wanted
        with fails_with(errno.EBADF):
            fallocate(file, ZERO_RANGE, 0, 4096)
    stack.ok("fail pv1" if discards else "fail cow")
    with opened(stack.device("vol")) as file, fails_with(errno.EIO):
        fallocate(file, ZERO_RANGE, 0, 4096)


@pytest.mark.requires("fuse")
@pytest.mark.parametrize("binding", BINDINGS)
def test_an_fsync_leaves_all_but_the_times_as_they_are(mount: Mount, binding: str) -> None:
    """It tells the server of the times first."""
    stack = mount("disk pv1 1MiB\ndevice vol { linear pv1 }\n", binding)
    path = stack.device("vol")
    before = path.stat()
    with opened(path) as file:
        for second in range(3):
            os.pwrite(file, b"x" * 4096, second * 4096)
            os.fsync(file)
            os.utime(file, (1000 + second, 2000 + second))
            os.fsync(file)
            after = os.fstat(file)
            for field in ("st_size", "st_blocks", "st_mode", "st_ino", "st_uid", "st_gid", "st_nlink", "st_blksize"):
                assert getattr(after, field) == getattr(before, field), field


def test_a_writer_that_ran_over_the_end_hears_of_it_from_libfuse() -> None:
    export = MemoryExport(None)
    export.add("a", MIB)
    sizes = KernelSizes(Anything(), export.size_bytes)
    files = Files(export, sizes, passes_short_writes=False, on_mounted=Anything(), on_bug=Anything(), on_end=Anything())
    handle = files.open("/a", os.O_RDWR)
    said = files.set_times(handle)
    assert said is not None
    assert said["st_size"] == MIB
    sizes.forget_attributes = Anything()
    sizes.overrun("a")
    assert files.set_times(handle) is None
    with fails_with(errno.ENOSPC):
        files.getattr(None, handle)
    assert files.set_times(handle) == said
    with fails_with(errno.EBADF):
        files.set_times(handle + 1)
