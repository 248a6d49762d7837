"""An export of plain memory that tests command: a program that serves it and takes orders on standard input.

Each order is a line of JSON, `[method, argument, ...]`, naming a method of `MemoryExport` or of the mount;
the answer is a line of JSON, `{"ok": result}` or `{"error": text}`. The first line of output is `{"ok":
"ready"}`, the last one says how `serve` ended.
"""

import argparse
import errno
import json
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmspec.runtime.fuse import Mount, serve


@dataclass
class Device:
    """One device: a file to hold it, a gate that is shut while it is suspended, and faults to show."""

    descriptor: int
    size_bytes: int
    read_only: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    fault: int | None = None
    bug: bool = False
    discards: bool = True
    waiting: int = 0
    opens: int = 0

    def pass_gate(self) -> None:
        """Wait while suspended, and fail as ordered."""
        if not self.gate.is_set():
            self.waiting += 1
            self.gate.wait()
            self.waiting -= 1
        if self.bug:
            raise AssertionError("a planted bug")
        if self.fault is not None:
            raise OSError(self.fault, os.strerror(self.fault))


class MemoryExport:
    """Devices in memory, or in the files of a folder when they must outlive the server."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._devices: dict[str, Device] = {}
        self.calls: Counter[str] = Counter()

    def add(self, name: str, size_bytes: int, read_only: bool = False) -> None:
        """Make a device appear."""
        if self._folder is None:
            descriptor = os.memfd_create(name)
        else:
            descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, size_bytes)
        self._devices[name] = Device(descriptor, size_bytes, read_only)
        self._devices[name].gate.set()

    def remove(self, name: str) -> None:
        """Make a device disappear."""
        os.close(self._devices.pop(name).descriptor)

    def resize(self, name: str, size_bytes: int) -> None:
        """Give a device another size."""
        os.ftruncate(self._devices[name].descriptor, size_bytes)
        self._devices[name].size_bytes = size_bytes

    def suspend(self, name: str) -> None:
        """Make the device's I/O wait."""
        self._devices[name].gate.clear()

    def resume(self, name: str) -> None:
        """Let it go on."""
        self._devices[name].gate.set()

    def resume_all(self) -> None:
        """Let everything go on."""
        for device in self._devices.values():
            device.gate.set()

    def set(self, name: str, attribute: str, value: Any) -> None:
        """Plant a fault, a bug or a missing ability."""
        setattr(self._devices[name], attribute, value)

    def waiting(self, name: str) -> int:
        """Count the requests that wait at the gate."""
        return self._devices[name].waiting

    def opens(self, name: str) -> int:
        """Count the openings."""
        return self._devices[name].opens

    def counted(self, call: str) -> int:
        """Count the calls of a method so far."""
        return self.calls[call]

    def content(self, name: str, offset: int, length: int) -> str:
        """Show what is stored, behind the kernel's back."""
        return os.pread(self._devices[name].descriptor, length, offset).hex()

    def names(self) -> list[str]:
        return sorted(self._devices)

    def size_bytes(self, name: str) -> int:
        return self._devices[name].size_bytes

    def is_read_only(self, name: str) -> bool:
        return self._devices[name].read_only

    def open(self, name: str, *, write: bool) -> None:
        self._devices[name].opens += 1

    def close(self, name: str, *, write: bool) -> None:
        if name in self._devices:
            self._devices[name].opens -= 1

    def straight(self, name: str) -> None:
        """There is no quick way to it."""

    def read(self, name: str, offset: int, buffer: memoryview) -> int:
        self.calls["read"] += 1
        device = self._devices[name]
        device.pass_gate()
        return os.preadv(device.descriptor, [buffer], offset)

    def write(self, name: str, offset: int, buffer: memoryview) -> int:
        self.calls["write"] += 1
        device = self._devices[name]
        if device.read_only:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        device.pass_gate()
        room = device.size_bytes - offset
        if room <= 0 and len(buffer):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwritev(device.descriptor, [buffer[:room]], offset)

    def flush(self, name: str) -> None:
        self.calls["flush"] += 1
        self._devices[name].pass_gate()

    def discard(self, name: str, offset: int, length: int) -> None:
        self.calls["discard"] += 1
        device = self._devices[name]
        device.pass_gate()
        if not device.discards:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.pwrite(device.descriptor, bytes(length), offset)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _obey(export: MemoryExport, mount: Mount) -> None:
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        target = mount if method in ("refresh", "stop") else export
        try:
            _say({"ok": getattr(target, method)(*arguments)})
        except (OSError, KeyError) as problem:
            _say({"error": repr(problem)})


def main() -> None:
    """Serve until unmounted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--binding", default="auto")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", action="append", default=[], help="NAME=BYTES")
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--give-up", action="store_true", help="resume everything when the end takes too long")
    arguments = parser.parse_args()
    export = MemoryExport(arguments.folder)
    for device in arguments.device:
        name, _, size = device.partition("=")
        export.add(name, int(size))

    def ready(mount: Mount) -> None:
        _say({"ok": "ready"})
        threading.Thread(target=_obey, args=(export, mount), daemon=True).start()

    try:
        serve(
            export,
            arguments.mountpoint,
            binding=arguments.binding,
            single_thread=arguments.single,
            debug=arguments.debug,
            on_ready=ready,
            on_give_up=export.resume_all if arguments.give_up else None,
            grace_seconds=arguments.grace,
        )
    except Exception as problem:  # noqa: BLE001 - the test judges it
        _say({"ended": repr(problem)})
    else:
        _say({"ended": None})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
