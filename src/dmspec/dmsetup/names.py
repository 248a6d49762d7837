r"""Names as the kernel and /dev/mapper have them: what udev would not take is written as ``\xNN``.

The mode is `auto` unless the command line says `hex` (encode everything, also backslashes) or `none`.
"""

from __future__ import annotations

import re
from typing import Final

from dmspec.runtime.ioctl_format import NAME_BYTES, UUID_BYTES, encode

_SAFE: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#+-.:=@_")
_TWICE: Final = "\\x5cx"
_CODE: Final = re.compile(rb"\\x([0-9A-Fa-f]{1,2})")


class BadNameError(Exception):
    """A name that cannot be used; the text has a line for each thing that is said about it."""


def mangle(text: str, what: str, mode: str, most: int = NAME_BYTES) -> str:
    """The kernel's form of a name."""
    if mode == "none" or not text:
        return text
    data = encode(text)
    out = bytearray()
    position = 0
    has_codes = has_raw = False
    while position < len(data):
        byte = data[position]
        if mode == "auto" and data[position:position + 2] == b"\\x":
            if len(data) - position < 4 or has_raw:
                raise BadNameError(_mixed(text, what))
            out += data[position:position + 4]
            position += 4
            has_codes = True
            continue
        if byte in _SAFE:
            out.append(byte)
        else:
            if mode != "hex" and has_codes:
                raise BadNameError(_mixed(text, what))
            out += b"\\x%02x" % byte
            has_raw = True
        position += 1
    if len(out) >= most:
        raise BadNameError(f'Mangled form of the {what} too long for "{text}".')
    return out.decode()


def _mixed(text: str, what: str) -> str:
    return f'The {what} "{text}" contains mixed mangled and unmangled characters or it\'s already mangled improperly.'


def unmangle(text: str, mode: str) -> str:
    """A kernel's name as it is shown."""
    if mode == "none":
        return text
    plain = _CODE.sub(lambda match: bytes([int(match[1], 16)]), encode(text))
    return plain.decode("utf-8", "surrogateescape")


def check_once(text: str, what: str, mode: str, then: str = "This is not allowed in auto mode.") -> None:
    """Refuse a name that has been encoded twice."""
    if mode == "auto" and _TWICE in text:
        raise BadNameError(f'The {what} "{text}" seems to be mangled more than once. {then}')


def shown(text: str, what: str, mode: str) -> str:
    """A kernel's name as it is shown; refused if the kernel has it in a form that udev would not take."""
    check_once(text, what, mode)
    if mode == "auto" and any(byte not in _SAFE and byte != ord("\\") for byte in encode(text)):
        raise BadNameError(f'The {what} "{text}" should be mangled but it contains blacklisted characters.')
    return unmangle(text, mode)


def device_name(text: str, mode: str) -> str:
    """A name for an ioctl, from the command line."""
    if len(encode(text)) >= NAME_BYTES:
        raise BadNameError(f'Name "{text}" too long.')
    check_once(text, "name", mode)
    try:
        return mangle(text, "name", mode)
    except BadNameError as error:
        raise BadNameError(f'{error}\nFailed to mangle device name "{text}".') from None


def new_name(text: str, mode: str) -> str:
    """The name that a device is to get."""
    if "/" in text:
        raise BadNameError(f'Name "{text}" invalid. It contains "/".')
    if len(encode(text)) >= NAME_BYTES:
        raise BadNameError(f'Name "{text}" too long')
    if not text:
        raise BadNameError("Non empty new name is required.")
    check_once(text, "new name", mode)
    try:
        return mangle(text, "new name", mode)
    except BadNameError as error:
        raise BadNameError(f'{error}\nFailed to mangle new device name "{text}"') from None


def uuid(text: str, mode: str, what: str = "UUID") -> str:
    """A uuid for an ioctl; ``what`` is "new UUID" for one that is to be set."""
    if what != "UUID" and len(encode(text)) >= UUID_BYTES:
        raise BadNameError(f'Uuid "{text}" too long')
    check_once(text, what, mode)
    try:
        return mangle(text, what, mode, UUID_BYTES)
    except BadNameError as error:
        tail = "device uuid" if what == "UUID" else "new device uuid"
        raise BadNameError(f'{error}\nFailed to mangle {tail} "{text}".') from None
