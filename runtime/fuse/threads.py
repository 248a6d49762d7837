"""Lets libfuse's threads keep their Python state between requests, which halves what a small request costs.

ctypes gives a thread that Python did not start a new thread state for each callback and throws it away
afterwards, together with a stack that is mapped and unmapped each time. One extra PyGILState_Ensure keeps
it. When libfuse ends the thread, the opposite must happen, or every burst of requests would leave some
memory behind. A destructor of thread-local storage would run after glibc has cleared Python's own, so this
uses the one for C++ objects, which runs before. A C library without it goes without the gain.
"""

import ctypes
import threading
from typing import Any

_LOCKED = 0
_kept = threading.local()
_at_thread_exit: Any = getattr(ctypes.CDLL(None), "__cxa_thread_atexit_impl", None)


def _release(_nothing: int | None) -> None:
    ctypes.pythonapi.PyGILState_Release(_LOCKED)


_leave = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_release)


def exempt() -> None:
    """Say that Python itself started the calling thread and will take its state away."""
    _kept.done = True


def keep_state() -> None:
    """Keep the calling thread's Python state until the thread ends; cheap when that is done already."""
    if not hasattr(_kept, "done"):
        _kept.done = True
        if _at_thread_exit is not None:
            ctypes.pythonapi.PyGILState_Ensure()
            _at_thread_exit(_leave, None, _at_thread_exit)
