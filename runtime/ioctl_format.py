"""The bytes of device-mapper's ioctls: ``struct dm_ioctl`` and what follows it.

Layout and flags are those of include/uapi/linux/dm-ioctl.h (reference: dm-core.md, section 2); the
recorded case g-ioctl shows them from the outside.  Text is kept as :class:`str`; bytes that are no
UTF-8 survive as surrogates.  Reading never fails: whoever reads checks bounds first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

DM_VERSION: Final = 0
REMOVE_ALL: Final = 1
LIST_DEVICES: Final = 2
DEV_CREATE: Final = 3
DEV_REMOVE: Final = 4
DEV_RENAME: Final = 5
DEV_SUSPEND: Final = 6
DEV_STATUS: Final = 7
DEV_WAIT: Final = 8
TABLE_LOAD: Final = 9
TABLE_CLEAR: Final = 10
TABLE_DEPS: Final = 11
TABLE_STATUS: Final = 12
LIST_VERSIONS: Final = 13
TARGET_MSG: Final = 14
DEV_SET_GEOMETRY: Final = 15
DEV_ARM_POLL: Final = 16
GET_TARGET_VERSION: Final = 17

READONLY: Final = 1 << 0
SUSPEND: Final = 1 << 1
EXISTS: Final = 1 << 2
PERSISTENT_DEV: Final = 1 << 3
STATUS_TABLE: Final = 1 << 4
ACTIVE_PRESENT: Final = 1 << 5
INACTIVE_PRESENT: Final = 1 << 6
BUFFER_FULL: Final = 1 << 8
SKIP_BDGET: Final = 1 << 9
SKIP_LOCKFS: Final = 1 << 10
NOFLUSH: Final = 1 << 11
QUERY_INACTIVE: Final = 1 << 12
UEVENT_GENERATED: Final = 1 << 13
UUID: Final = 1 << 14
SECURE_DATA: Final = 1 << 15
DATA_OUT: Final = 1 << 16
DEFERRED_REMOVE: Final = 1 << 17
INTERNAL_SUSPEND: Final = 1 << 18
IMA_MEASUREMENT: Final = 1 << 19

HEADER_BYTES: Final = 312
SMALLEST_BYTES: Final = 305
DATA_OFFSET: Final = 305
SPEC_BYTES: Final = 40
NAME_BYTES: Final = 128
UUID_BYTES: Final = 129
LARGEST_BYTES: Final = 1 << 30
MOST_TARGETS: Final = 1 << 20

_HEADER: Final = struct.Struct("<6Ii3IQ128s129s7s")
_VERSION: Final = struct.Struct("<3I")
_SPEC: Final = struct.Struct("<QQiI16s")
_U64: Final = struct.Struct("<Q")
assert _HEADER.size == HEADER_BYTES
assert _SPEC.size == SPEC_BYTES


def encode(text: str) -> bytes:
    """Text as the bytes that it was read from."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Bytes up to the first NUL, as text."""
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def encode_dev(major: int, minor: int) -> int:
    """``huge_encode_dev``."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_dev(dev: int) -> tuple[int, int]:
    """``huge_decode_dev``: major and minor."""
    return (dev & 0xFFF00) >> 8, (dev & 0xFF) | ((dev >> 12) & 0xFFF00)


def align(size: int) -> int:
    """The next multiple of eight."""
    return (size + 7) & ~7


def read_version(data: bytes) -> tuple[int, int, int]:
    """The interface version that stands at the front."""
    major, minor, patch = _VERSION.unpack_from(data)
    return major, minor, patch


def write_version(version: tuple[int, int, int]) -> bytes:
    """The three numbers that the kernel writes back to every caller."""
    return _VERSION.pack(*version)


@dataclass(slots=True)
class Header:
    """``struct dm_ioctl``.  ``tail`` is the unused rest, its ``data[7]``."""

    version: tuple[int, int, int] = (4, 0, 0)
    data_size: int = HEADER_BYTES
    data_start: int = 0
    target_count: int = 0
    open_count: int = 0
    flags: int = 0
    event_nr: int = 0
    padding: int = 0
    dev: int = 0
    name: str = ""
    uuid: str = ""
    tail: bytes = bytes(7)

    @classmethod
    def read(cls, data: bytes) -> Header:
        """Take at least :data:`SMALLEST_BYTES`; what is missing behind them counts as zeros."""
        values = _HEADER.unpack_from(data.ljust(HEADER_BYTES, b"\0"))
        size, start, targets, opened, flags, event_nr, padding, dev, name, uuid, tail = values[3:]
        return cls((values[0], values[1], values[2]), size, start, targets, opened, flags, event_nr, padding, dev,
                   decode(name[:NAME_BYTES - 1]), decode(uuid[:UUID_BYTES - 1]), tail)

    def write(self) -> bytes:
        """All 312 bytes."""
        return _HEADER.pack(*self.version, self.data_size, self.data_start, self.target_count, self.open_count,
                            self.flags, self.event_nr, self.padding, self.dev, encode(self.name)[:NAME_BYTES - 1],
                            encode(self.uuid)[:UUID_BYTES - 1], self.tail)


@dataclass(slots=True)
class Spec:
    """``struct dm_target_spec`` with its string: one target of a table, or of a status."""

    start: int
    length: int
    kind: str
    text: str
    status: int = 0


class BadSpecError(Exception):
    """The specs of a table do not lie within the caller's buffer."""


def write_specs(specs: Iterable[Spec]) -> bytes:
    """Specs as a table load has them: each ``next`` counts from its own spec."""
    out = bytearray()
    for spec in specs:
        text = encode(spec.text) + b"\0"
        size = align(SPEC_BYTES + len(text))
        out += _SPEC.pack(spec.start, spec.length, spec.status, size, encode(spec.kind)[:15]) + text
        out += bytes(-len(out) % 8)
    return bytes(out)


def read_table(data: bytes, first: int, count: int) -> list[Spec]:
    """What ``populate_table`` of drivers/md/dm-ioctl.c finds: ``next`` counts from the spec before.

    :class:`BadSpecError` where the kernel says "unable to find target".
    """
    specs: list[Spec] = []
    offset, step = 0, first
    for _ in range(count):
        here = offset + step
        if step < SPEC_BYTES or here + SPEC_BYTES >= len(data):
            raise BadSpecError
        start, length, status, step, kind = _SPEC.unpack_from(data, here)
        end = data.find(b"\0", here + SPEC_BYTES)
        if end < 0:
            raise BadSpecError
        specs.append(Spec(start, length, decode(kind), decode(data[here + SPEC_BYTES:end]), status))
        offset = here
    return specs


def write_status(specs: Sequence[Spec], room: int) -> tuple[bytes, int, bool]:
    """``retrieve_status``: the bytes, how many of them count, and whether the room was too small.

    Here each ``next`` counts from the first spec, and the padding behind the last one does not count.
    """
    out = bytearray()
    used = 0
    for spec in specs:
        remaining = room - len(out)
        if remaining <= SPEC_BYTES:
            return bytes(out), used, True
        text = encode(spec.text) + b"\0"
        remaining -= SPEC_BYTES
        if len(text) >= remaining:
            return bytes(out), used, True
        used = len(out) + SPEC_BYTES + len(text)
        out += _SPEC.pack(spec.start, spec.length, 0, align(used), encode(spec.kind)[:15]) + text
        out += bytes(align(used) - used)
    return bytes(out), used, False


def read_status(data: bytes, first: int, count: int) -> list[Spec]:
    """What libdm makes of a status: the specs, as far as they are whole."""
    specs: list[Spec] = []
    offset = first
    for _ in range(count):
        if offset + SPEC_BYTES > len(data):
            break
        start, length, status, step, kind = _SPEC.unpack_from(data, offset)
        specs.append(Spec(start, length, decode(kind), decode(data[offset + SPEC_BYTES:]), status))
        offset = first + step
    return specs


@dataclass(frozen=True, slots=True)
class NameEntry:
    """One device in ``struct dm_name_list``.  ``uuid`` is ``None`` where it was not asked for."""

    dev: int
    name: str
    event_nr: int = 0
    uuid: str | None = None


def write_names(entries: Sequence[NameEntry]) -> bytes:
    """``list_devices``: name, event number and flags, and the uuid where there is one."""
    out = bytearray()
    for index, entry in enumerate(entries):
        body = encode(entry.name) + b"\0"
        body += bytes(align(12 + len(body)) - 12 - len(body))
        flags = 0 if entry.uuid is None else 1 if entry.uuid else 2
        body += struct.pack("<2I", entry.event_nr, flags)
        if entry.uuid:
            uuid = encode(entry.uuid) + b"\0"
            body += uuid + bytes(align(len(uuid)) - len(uuid))
        step = 12 + len(body) if index + 1 < len(entries) else 0
        out += struct.pack("<QI", entry.dev, step) + body
    return bytes(out)


def read_names(data: bytes, first: int) -> list[NameEntry]:
    """The devices of a list; an entry with device 0 says that there are none."""
    entries: list[NameEntry] = []
    offset = first
    while offset + 12 <= len(data):
        dev, step = struct.unpack_from("<QI", data, offset)
        if not dev:
            break
        name = data[offset + 12:].split(b"\0", 1)[0]
        behind = offset + align(12 + len(name) + 1)
        event_nr = struct.unpack_from("<I", data, behind)[0] if behind + 4 <= len(data) else 0
        entries.append(NameEntry(dev, decode(name), event_nr))
        if not step:
            break
        offset += step
    return entries


def write_deps(devs: Sequence[int]) -> bytes:
    """``struct dm_target_deps``."""
    return struct.pack(f"<2I{len(devs)}Q", len(devs), 0, *devs)


def read_deps(data: bytes, first: int) -> list[int]:
    """The device numbers of a deps answer."""
    if first + 8 > len(data):
        return []
    (count,) = struct.unpack_from("<I", data, first)
    count = min(count, (len(data) - first - 8) // 8)
    return list(struct.unpack_from(f"<{count}Q", data, first + 8))


Version = tuple[str, tuple[int, int, int]]


def write_versions(versions: Sequence[Version]) -> tuple[bytes, int]:
    """``list_versions``: the bytes, and how many the kernel says it needs, which is more."""
    out = bytearray()
    needed = 0
    for index, (name, version) in enumerate(versions):
        text = encode(name) + b"\0"
        needed += 16 + len(text) + 7
        size = align(16 + len(text))
        step = size if index + 1 < len(versions) else 0
        out += struct.pack("<4I", step, *version) + text
        out += bytes(size - 16 - len(text))
    return bytes(out), needed


def read_versions(data: bytes, first: int) -> list[Version]:
    """Target types with their versions."""
    versions: list[Version] = []
    offset = first
    while offset + 16 <= len(data):
        step, major, minor, patch = struct.unpack_from("<4I", data, offset)
        versions.append((decode(data[offset + 16:]), (major, minor, patch)))
        if not step:
            break
        offset += step
    return versions


def write_message(sector: int, text: str) -> bytes:
    """``struct dm_target_msg``."""
    return _U64.pack(sector) + encode(text) + b"\0"


def text_at(data: bytes, offset: int) -> str | None:
    """A string within the parameters; ``None`` where it begins before them or has no end."""
    if offset < DATA_OFFSET or offset >= len(data):
        return None
    end = data.find(b"\0", offset)
    return None if end < 0 else decode(data[offset:end])


def read_message(data: bytes, offset: int) -> tuple[int, str] | None:
    """Sector and words of a message; ``None`` where it does not lie within the parameters."""
    text = text_at(data, offset + 8) if offset >= DATA_OFFSET else None
    return None if text is None else (_U64.unpack_from(data, offset)[0], text)
