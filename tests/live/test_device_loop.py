"""What serves /dev/fuse beside libfuse."""

from pathlib import Path

import pytest

from .conftest import Mount

pytestmark = pytest.mark.requires("fuse", "libfuse3")


def test_no_thread_of_libfuse_takes_requests_off_the_device(mount: Mount) -> None:
    """One that waited for the first of them could get a large read, whose answer its socket does not take."""
    stack = mount("disk pv1 1MiB\ndevice vol { linear pv1 }\n", "mfusepy")
    waiting = [task.joinpath("wchan").read_text() for task in Path(f"/proc/{stack.server}/task").iterdir()]
    assert len(waiting) > 5
    assert not [place for place in waiting if place.startswith("fuse_dev")]
