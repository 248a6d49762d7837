"""A stack as the FUSE layer shows it: each mapped device is a file of its size.

Reads and writes of whole sectors go down as one bio whose data is the request's own memory.  Others
go through :mod:`dmspec.runtime.byte_io`, which reads, changes and writes the edge sectors.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .bio import Bio, Op
from .byte_io import ReadBytes, WriteBytes, WriteRanges
from .live import Abandoned, LiveEngine
from .mapped_device import MappedDevice
from .task import Frame
from .units import SECTOR_BYTES

if TYPE_CHECKING:
    from .stack import Stack


class LiveExport:
    """The mapped devices of a stack that have a size.  Failures are :class:`OSError`."""

    def __init__(self, stack: Stack, engine: LiveEngine) -> None:
        self.stack = stack
        self.engine = engine
        self.ranges = WriteRanges()

    def names(self) -> Sequence[str]:
        """Devices without a table have no size and are left out."""
        return sorted(name for name, md in list(self.stack.devices.items()) if md.sectors)

    def size_bytes(self, name: str) -> int:
        return self._known(name).sectors * SECTOR_BYTES

    def is_read_only(self, name: str) -> bool:
        return self._known(name).read_only

    def open(self, name: str, *, write: bool) -> None:
        device = self._device(name)
        if write and device.read_only:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        self.engine.call(lambda: self.stack.hold(device))

    def close(self, name: str, *, write: bool) -> None:
        del write
        device = self.stack.devices.get(name)
        if device is not None:
            self.engine.call(lambda: self.stack.release(device))

    def read(self, name: str, offset: int, buffer: memoryview) -> int:
        device = self._device(name)
        size = device.sectors * SECTOR_BYTES
        length = max(min(len(buffer), size - offset), 0)
        if not length:
            return 0
        first = offset // SECTOR_BYTES
        if offset % SECTOR_BYTES == 0 and length % SECTOR_BYTES == 0:
            self._do(Bio(Op.READ, device, first, length // SECTOR_BYTES, buffer))
            return length
        buffer[:length] = self._run(ReadBytes(device, offset, length))
        return length

    def write(self, name: str, offset: int, buffer: memoryview) -> int:
        device = self._device(name)
        size = device.sectors * SECTOR_BYTES
        if offset >= size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        length = min(len(buffer), size - offset)
        if offset % SECTOR_BYTES == 0 and length % SECTOR_BYTES == 0:
            self._do(Bio(Op.WRITE, device, offset // SECTOR_BYTES, length // SECTOR_BYTES, buffer))
        elif length:
            self._run(WriteBytes(device, offset, bytes(buffer[:length]), ranges=self.ranges))
        return length

    def flush(self, name: str) -> None:
        self._do(Bio(Op.FLUSH, self._device(name), 0, 0))

    def discard(self, name: str, offset: int, length: int) -> None:
        """Whole sectors are discarded, parts of sectors at the edges are zeroed."""
        device = self._device(name)
        if not (device.supports_discard and device.discard_zeroes):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        end = offset + length
        first = -(-offset // SECTOR_BYTES)
        last = end // SECTOR_BYTES
        if first >= last:
            self.write(name, offset, memoryview(bytes(length)))
            return
        if offset % SECTOR_BYTES:
            self.write(name, offset, memoryview(bytes(first * SECTOR_BYTES - offset)))
        if end % SECTOR_BYTES:
            self.write(name, last * SECTOR_BYTES, memoryview(bytes(end - last * SECTOR_BYTES)))
        self._do(Bio(Op.DISCARD, device, first, last - first))

    def _do(self, bio: Bio) -> None:
        try:
            status = self.engine.do_bio(bio)
        except Abandoned:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        if status:
            raise OSError(status, os.strerror(status))

    def _run(self, frame: Frame) -> Any:
        try:
            value = self.engine.run(frame, "file I/O")
        except Abandoned:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
        if isinstance(value, int) and value < 0:
            raise OSError(-value, os.strerror(-value))
        return value

    def _known(self, name: str) -> MappedDevice:
        device = self.stack.devices.get(name)
        if device is None or not device.sectors:
            raise KeyError(name)
        return device

    def _device(self, name: str) -> MappedDevice:
        try:
            return self._known(name)
        except KeyError:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO)) from None
