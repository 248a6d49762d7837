"""What the FUSE layer needs from whoever has devices to show, and how it says that it cannot go on.

This file is the whole seam between dmspec and FUSE: it knows neither device-mapper nor a FUSE library. Names
are file names, sizes and offsets are bytes, and failures are `OSError` with the errno that the caller of
read(2) or write(2) is to see.
"""

from collections.abc import Sequence
from typing import Protocol


class Pages(Protocol):
    """The bytes of a request that lie in pages of the kernel and have been copied nowhere yet."""

    def rewind(self, *, last: bool) -> None:
        """Have the next `put` begin with the first byte; after the last time there is no other."""
        ...

    def put(self, descriptor: int, offset: int, length: int) -> None:
        """Move the next bytes to a file; EINVAL where its filesystem takes no pages."""
        ...

    def buffer(self) -> memoryview:
        """Give the bytes in memory, whatever has been put; after that nothing can be."""
        ...


class Straight(Protocol):
    """A quick way to one opened device; the buffers are as for `Export`.

    False for an answer: nothing was done that counts, so the long way has to be taken.
    """

    def read(self, offset: int, buffer: memoryview) -> bool:
        """Fill all of the buffer without waiting for anything but the bytes."""
        ...

    def write(self, offset: int, buffer: memoryview) -> bool:
        """Write all of the buffer without waiting for anything but the bytes."""
        ...

    def write_pages(self, offset: int, length: int, pages: Pages) -> bool:
        """Do the same with bytes that are in no buffer yet."""
        ...


class Export(Protocol):
    """Block devices to be shown as files; every method is called from many threads at once.

    A buffer is the request's own memory. It is only valid until the method returns, so an implementation
    that needs the bytes for longer must copy them.
    """

    def names(self) -> Sequence[str]:
        """Give the names of the devices that are visible now, sorted."""
        ...

    def size_bytes(self, name: str) -> int:
        """Give the size of a device, without waiting for its I/O; KeyError when there is no such device."""
        ...

    def is_read_only(self, name: str) -> bool:
        """Tell whether writes are refused; KeyError when there is no such device."""
        ...

    def open(self, name: str, *, write: bool) -> None:
        """Count an opening of the device, or raise OSError to refuse it."""
        ...

    def close(self, name: str, *, write: bool) -> None:
        """Take back an opening; the kernel tells us after the program's close has returned, so it is late."""
        ...

    def straight(self, name: str) -> Straight | None:
        """Give the quick way to a device that is open under this name, if there is one."""
        ...

    def read(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from any offset and tell how many bytes it got; fewer only at the end of the
        device.

        It blocks while the device is suspended. Each blocked call holds one thread, and the mount has
        plenty.
        """
        ...

    def write(self, name: str, offset: int, buffer: memoryview) -> int:
        """Write the buffer at any offset and tell how many bytes went in.

        As on a block device, a write across the end is cut short there and one at or after the end is
        ENOSPC.
        """
        ...

    def flush(self, name: str) -> None:
        """Make every write that was answered durable, through all layers."""
        ...

    def discard(self, name: str, offset: int, length: int) -> None:
        """Drop a range that lies within the device, so that it reads as zeros afterwards; otherwise
        EOPNOTSUPP.

        The zeros are no courtesy. Our files are regular files, where punching a hole means zeros, and mke2fs
        leaves out writing its empty inode tables and journal when punching worked. A stack whose discard is
        only a hint must therefore raise EOPNOTSUPP; mke2fs then writes the zeros itself.
        """
        ...


class FuseUnavailable(Exception):
    """The machine lacks something that a mount needs; `remedy` is the command that brings it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}\n  remedy: {remedy}" if remedy else message)
        self.remedy = remedy


class MountFailed(Exception):
    """The mount could not be made although the machine has what it needs."""


class MountStuck(Exception):
    """The mount is gone, but requests still wait inside the export: tear nothing down yet."""
