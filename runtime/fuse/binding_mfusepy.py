"""mfusepy on libfuse 3: the kernel's writeback cache, requests of 1 MiB, fallocate."""

import contextlib
import ctypes
import os
from types import ModuleType
from typing import Any

from dmspec.runtime.fuse.adapter import (
    BACKGROUND_REQUESTS,
    IDLE_THREADS,
    REQUEST_BYTES,
    THREADS,
    Callbacks,
    Files,
    callback_table,
)
from dmspec.runtime.fuse.libraries import BindingName

ATTRIBUTE_SECONDS = 0.1

_ATOMIC_O_TRUNC = 1 << 3
_AUTO_INVAL_DATA = 1 << 12
_READDIRPLUS = 1 << 13
_SPLICE = 7 << 7
_WRITEBACK_CACHE = 1 << 16


class _Libfuse3(Callbacks):
    """What only libfuse 3's table has."""

    def truncate_fuse_3(self, path: bytes | None, length: int, info: Any) -> int:
        """Tell the handle too, which mfusepy leaves out: it is how ftruncate(2) differs from O_TRUNC."""
        name = None if path is None else os.fsdecode(path)
        return self.files.truncate(name, length, info.contents.fh if info else None)


class Mfusepy:
    """The binding; `libraries.Binding` says what its methods are for."""

    name: BindingName = "mfusepy"
    has_writeback_cache = True
    has_device_loop = True
    passes_short_writes = False

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module
        with contextlib.suppress(OSError):  # libfuse ends its threads with it; glibc aborts if it cannot load it then
            ctypes.CDLL("libgcc_s.so.1")
        self._table = callback_table(module.fuse_operations)
        notify = module._libfuse.fuse_lowlevel_notify_inval_inode
        notify.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64, ctypes.c_int64)
        module._libfuse.fuse_get_session.restype = ctypes.c_void_p
        module._libfuse.fuse_get_session.argtypes = (ctypes.c_void_p,)

    def run(self, files: Files, mountpoint: str, options: dict[str, Any]) -> None:
        """Mount and serve.

        Timeouts go by name because libfuse moved the members of its configuration more than once. libfuse
        allows ten threads since 3.12 and any number before, when it did not know the option.
        """
        module = self._module
        options |= {
            "entry_timeout": 0,
            "negative_timeout": 0,
            "attr_timeout": ATTRIBUTE_SECONDS,
            "max_idle_threads": IDLE_THREADS,
        }
        if (module.fuse_version_major, module.fuse_version_minor) >= (3, 12):
            options["max_threads"] = THREADS
        module.fuse_operations = self._table
        members = {"files": files, "file_info": module.fuse_file_info}
        type("Session", (_Libfuse3, module.FUSE), members)(files, mountpoint, **options)

    def configure(self, connection: Any, *, writeback_cache: bool) -> None:
        """Choose the cache, and as many waiting requests as there are threads to hold them."""
        unwanted = _ATOMIC_O_TRUNC | _AUTO_INVAL_DATA | _READDIRPLUS | _SPLICE
        wanted = _WRITEBACK_CACHE & connection.capable if writeback_cache else 0
        connection.want = connection.want & ~unwanted | wanted
        connection.max_write = REQUEST_BYTES
        connection.max_background = BACKGROUND_REQUESTS
        connection.congestion_threshold = BACKGROUND_REQUESTS

    def session(self) -> int:
        """Ask libfuse, which knows it per thread and request."""
        return int(self._module._libfuse.fuse_get_context().contents.fuse)

    def descriptor(self, session: int) -> int:
        """Ask libfuse."""
        library = self._module._libfuse
        return int(library.fuse_session_fd(ctypes.c_void_p(library.fuse_get_session(session))))

    def exit(self, session: int) -> None:
        """Set the flag that each thread looks at after a request."""
        self._module._libfuse.fuse_exit(ctypes.c_void_p(session))

    def forget_attributes(self, session: int, inode: int) -> None:
        """Invalidate attributes only: the offset -1 spares the inode's pages, which may wait for us."""
        library = self._module._libfuse
        library.fuse_lowlevel_notify_inval_inode(library.fuse_get_session(session), inode, -1, 0)
