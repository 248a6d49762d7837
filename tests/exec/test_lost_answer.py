"""An ioctl whose caller a signal takes away at each moment of its answer: what it asked for is done once."""

import ctypes
import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from dmspec.exec import control, seccomp
from dmspec.runtime import ioctl_format as form

BYTES = 512


class Interrupted:
    """A listener whose caller is not there any more when the moment has come, and is again for the next call."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.answers: list[int] = []

    def is_valid(self, call: seccomp.Call) -> bool:
        del call
        return self.moment != "before"

    def succeed(self, call: seccomp.Call) -> bool:
        return self.fail(call, 0)

    def fail(self, call: seccomp.Call, number: int) -> bool:
        del call
        if self.moment:
            return False
        self.answers.append(number)
        return True


class Mount(control.Control):
    """A mount in which a device can be created once."""

    def __init__(self, listener: Interrupted) -> None:
        story = SimpleNamespace(before=lambda *_: "who", after=lambda *_: None)
        super().__init__(SimpleNamespace(listener=listener, story=story, settle=lambda _: False,  # type: ignore[arg-type]
                                         refresh=lambda: None))
        self.listener = listener
        self.created: set[bytes] = set()

    def _ask(self, call: Any, who: str, nr: int, data: bytes) -> tuple[int, bytes]:
        del call, who, nr
        if self.listener.moment == "during":
            self.listener.moment = "before"
        name = data[48:60]
        error = errno.EBUSY if name in self.created else 0
        self.created.add(name)
        return error, data[:20] + bytes([255] * 4) + data[24:form.HEADER_BYTES]


@pytest.mark.parametrize("moment", ["during", "at the end"])
@pytest.mark.parametrize("nr", [form.DEV_CREATE, form.DEV_RENAME])
def test_a_call_that_is_made_again_gets_the_answer_that_was_lost(nr: int, moment: str) -> None:
    listener = Interrupted(moment)
    mount = Mount(listener)
    request = form.Header(name="vol", data_size=BYTES).write().ljust(BYTES, b"\0")
    buffer = ctypes.create_string_buffer(request, BYTES)
    call = seccomp.Call(1, os.getpid(), seccomp.IOCTL, [0, 0xC138FD00 | nr, ctypes.addressof(buffer)])
    assert not mount.ioctl(call, call.args[1])
    listener.moment = ""
    assert mount.ioctl(call, call.args[1])
    assert listener.answers == [0]
    assert buffer.raw[20:24] == bytes([255] * 4)
    ctypes.memmove(buffer, request, BYTES)
    assert mount.ioctl(call, call.args[1])
    assert listener.answers == [0, errno.EBUSY]
