"""What serves /dev/fuse beside libfuse."""

import os
from pathlib import Path

import pytest

from .conftest import MIB, Mount, opened

pytestmark = pytest.mark.requires("fuse", "libfuse3")


def test_no_thread_of_libfuse_takes_requests_off_the_device(mount: Mount) -> None:
    """One that waited for the first of them could get a large read, whose answer its socket does not take."""
    stack = mount("disk pv1 1MiB\ndevice vol { linear pv1 }\n", "mfusepy")
    waiting = [task.joinpath("wchan").read_text() for task in Path(f"/proc/{stack.server}/task").iterdir()]
    assert len(waiting) > 5
    assert not [place for place in waiting if place.startswith("fuse_dev")]


def test_large_write_backs_are_moved_as_pages(mount: Mount) -> None:
    """There are pipes for them then, and before that there are none."""
    def pipes() -> int:
        links = [descriptor.readlink() for descriptor in Path(f"/proc/{stack.server}/fd").iterdir()]
        return sum(str(link).startswith("pipe:") for link in links)

    stack = mount("disk pv1 16MiB\ndevice vol { linear pv1 }\n", "mfusepy")
    before = pipes()
    with opened(stack.device("vol")) as file:
        os.pwrite(file, b"x" * 65536, 0)
        os.fsync(file)
        assert pipes() == before
        os.pwrite(file, b"y" * 16 * MIB, 0)
        os.fsync(file)
        assert pipes() >= before + 4
