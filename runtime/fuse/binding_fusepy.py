"""Classic fusepy on libfuse 2: every write reaches us at once, in requests of up to 128 KiB."""

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

from dmspec.runtime.fuse.adapter import BACKGROUND_REQUESTS, Callbacks, Files, callback_table
from dmspec.runtime.fuse.libraries import BindingName

_REQUEST_BYTES = 128 << 10

_FALLOCATE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_void_p
)
_CALLBACKS_SINCE_2_9: tuple[tuple[str, Any], ...] = (
    ("poll", ctypes.c_void_p),
    ("write_buf", ctypes.c_void_p),
    ("read_buf", ctypes.c_void_p),
    ("flock", ctypes.c_void_p),
    ("fallocate", _FALLOCATE),
)


class _Libfuse2(Callbacks):
    """What fusepy's table lacks and libfuse 2.9 has."""

    def fallocate(self, path: bytes | None, mode: int, offset: int, length: int, info: int) -> int:
        """Pass on what carries discards."""
        return self.files.fallocate(None, mode, offset, length, self.file_info.from_address(info).fh)

    def init(self, connection: int) -> None:
        """Spare the library's call by name."""
        self.files.init("/")


class _CalledByName:
    """Operations as fusepy calls them, by name; mfusepy warns of objects that can be called so."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def __call__(self, name: str, *arguments: Any) -> Any:
        operation: Callable[..., Any] = getattr(self._files, name)
        return operation(*arguments)


class Fusepy:
    """The binding; `libraries.Binding` says what its methods are for."""

    name: BindingName = "fusepy"
    has_writeback_cache = False
    has_device_loop = False
    passes_short_writes = True

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module
        self._table = callback_table(module.fuse_operations, *_CALLBACKS_SINCE_2_9)

    def run(self, files: Files, mountpoint: str, options: dict[str, Any]) -> None:
        """Mount and serve; libfuse 2 has no limit on threads.

        Without the writeback cache the kernel takes sizes from us, and attributes need no time to live: only
        stat(2) asks for them.
        """
        module = self._module
        module.fuse_operations = self._table
        members = {"files": files, "file_info": module.fuse_file_info}
        session = type("Session", (_Libfuse2, module.FUSE), members)
        session(
            _CalledByName(files),
            mountpoint,
            **options,
            entry_timeout=0,
            negative_timeout=0,
            attr_timeout=0,
            big_writes=True,
            max_write=_REQUEST_BYTES,
            max_background=BACKGROUND_REQUESTS,
            congestion_threshold=BACKGROUND_REQUESTS,
            nonempty=True,
        )

    def configure(self, connection: Any, *, writeback_cache: bool) -> None:
        """Do nothing: with libfuse 2 all is said in options."""

    def session(self) -> int:
        """Ask libfuse, which knows it per thread and request."""
        return int(self._module._libfuse.fuse_get_context().contents.fuse)

    def descriptor(self, session: int) -> int:
        """Ask libfuse; a session has one channel."""
        library = self._module._libfuse
        library.fuse_get_session.restype = library.fuse_session_next_chan.restype = ctypes.c_void_p
        channel = library.fuse_session_next_chan(ctypes.c_void_p(library.fuse_get_session(ctypes.c_void_p(session))),
                                                 None)
        return int(library.fuse_chan_fd(ctypes.c_void_p(channel)))

    def exit(self, session: int) -> None:
        """Set the flag that each thread looks at after a request."""
        self._module._libfuse.fuse_exit(ctypes.c_void_p(session))

    def forget_attributes(self, session: int, inode: int) -> None:
        """Do nothing: the kernel's attributes have no time to live."""
