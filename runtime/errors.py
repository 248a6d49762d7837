"""The three families of errors, never mixed (README, "Errors").

* a wrong spec is a diagnostic and lives in the compiler;
* an emulated failure is an errno, as data on a bio or as the answer of a control call;
* our bug is an :class:`InternalError`: the trace is kept and the replay command printed.
"""

from __future__ import annotations

import errno as _errno


class DmspecError(Exception):
    """Base of what dmspec raises on purpose; its text is meant for a person."""


class InternalError(DmspecError):
    """An invariant of the emulator does not hold: our bug, never the user's."""


class PlanError(DmspecError):
    """A plan file is damaged, of another version, or inconsistent."""


class StoreError(DmspecError):
    """A disk file cannot be used: wrong size, not a file, or held by another mount."""


class DmError(DmspecError):
    """A control call fails as the kernel's ioctl would.

    ``errno`` is positive.  ``reason`` is the kernel's own wording (``ti->error`` or a
    line for the log) when there is one, else the errno's name.
    """

    def __init__(self, errno: int, reason: str = "") -> None:
        super().__init__(reason or errno_name(errno))
        self.errno = errno
        self.reason = reason


def errno_name(errno: int) -> str:
    """``errno_name(5) == "EIO"``; 0 gives ``"OK"``."""
    if errno == 0:
        return "OK"
    if errno == _errno.EOPNOTSUPP:  # ENOTSUP is the same number; this is the kernel's word
        return "EOPNOTSUPP"
    return _errno.errorcode.get(errno, str(errno))


def errno_number(name: str) -> int | None:
    """``errno_number("EIO") == 5``; ``None`` for a name that is no errno's."""
    value = getattr(_errno, name, None)
    return value if isinstance(value, int) else None
