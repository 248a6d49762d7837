"""A directory of fixed-size files over an `Export`, in the terms of fusepy's Operations API.

Both bindings run this same class. What the kernel believes about our files decides most of what is here:

* **The size is the kernel's.** With the writeback cache (libfuse 3) the kernel takes a file's size when it
  first sees the file and then trusts itself: it ignores the size in every later answer, and a write beyond
  the end makes the file longer in its eyes before we hear of it. No timeout changes that. What does change
  it is truncate(2) to the size that we confirm, so `sizes.KernelSizes` truncates our own file to the
  device's true size whenever the two may differ: after a write-back beyond the end, and when a device was
  reloaded with another size.
* **O_TRUNC arrives as truncate(0).** We never ask for the kernel's "atomic O_TRUNC", which would set its
  idea of the size to 0. So opening with O_TRUNC comes as a truncate to 0 without a file handle, which we
  accept and ignore as a block device does; the kernel then takes the true size from our answer. ftruncate(2)
  and other sizes are EINVAL.
* **Names live for zero seconds** in the kernel's caches, so that devices come and go at once. Attributes
  live for a tenth of a second under the writeback cache, or every buffered write would cost a GETATTR. A
  lookup carries the attributes too, so only fstat(2) can be late, and only with the mode.
* **No extended attributes, no access.** A handler that is not there costs one request per mount; a
  handler that says no costs one per write (security.capability).

Every exception ends here. An OSError is an answer; anything else is a bug of ours, which is handed to
`on_bug` and answered with EIO, because fusepy would call it EINVAL and go on.
"""

import ctypes
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

from dmspec.runtime.fuse.export import Export, Straight
from dmspec.runtime.fuse.sizes import KernelSizes
from dmspec.runtime.fuse.threads import keep_state

# As many as the kernel gives, which is 1 MiB, less 64 KiB: `piped` has no room for all of it, and a chunk of a snapshot
# should not lie in two requests.
REQUEST_BYTES = 960 << 10
BLOCK_BYTES = 4096

# Each waiting request holds a thread. The kernel sends at most BACKGROUND_REQUESTS of those that no program
# waits for (write-back, read-ahead), so however many of them a suspended device keeps, threads remain for
# everything else.
BACKGROUND_REQUESTS = 4096
THREADS = 2 * BACKGROUND_REQUESTS

# How long the end of an opening may be on its way after the close(2) that caused it.
RELEASE_SECONDS = 0.2

# Of those that wait for work only a few are kept, since requests go round among them and find each one's memory cold.
IDLE_THREADS = 8

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10


@dataclass(slots=True)
class Handle:
    """One opening of one file; ``inode`` is known from its end on, and only to the device loop."""

    name: str
    write: bool
    straight: Straight | None = None
    inode: int = 0


def fail(number: int) -> NoReturn:
    """Answer a request with an errno."""
    raise OSError(number, os.strerror(number))


class Files:
    """The operations that a binding registers: every public method is a callback."""

    use_ns = True
    flag_nullpath_ok = True
    flag_nopath = True

    def __init__(
        self,
        export: Export,
        sizes: KernelSizes,
        *,
        passes_short_writes: bool,
        for_everybody: bool = False,
        on_mounted: Callable[[Any | None], None],
        on_bug: Callable[[BaseException], None],
        on_end: Callable[[], None],
    ) -> None:
        self._export = export
        self._sizes = sizes
        self._passes_short_writes = passes_short_writes
        self._folder_mode, self._file_modes = (0o755, (0o666, 0o444)) if for_everybody else (0o700, (0o600, 0o400))
        self._on_mounted = on_mounted
        self._on_bug = on_bug
        self._on_end = on_end
        self._handles: dict[int, Handle] = {}
        self._numbers = count(1)
        self._opening = threading.Lock()
        self._closing: set[int] = set()
        self._closed = threading.Condition()
        self._born_ns = time.time_ns()
        self._owner = (os.geteuid(), os.getegid())
        self._working_directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
        self.forget_pages: Callable[[int], None] | None = None

    def init(self, path: str) -> None:
        """Take note that the kernel has accepted the mount.

        libfuse changes to "/" when it starts, even in the foreground, which would give every relative path
        of the export another meaning. So we go back first.
        """
        self.init_with_config(None, None)

    def init_with_config(self, connection: Any | None, config: Any | None) -> None:
        """Do the same with libfuse 3, where the connection's flags can be chosen."""
        os.fchdir(self._working_directory)
        os.close(self._working_directory)
        self._on_mounted(connection)

    def destroy(self, path: str) -> None:
        """Take note that libfuse is about to free its session."""
        self._on_end()

    def _bug(self, problem: BaseException) -> None:
        self._on_bug(problem)

    def _size(self, name: str) -> int:
        try:
            return self._export.size_bytes(name)
        except KeyError:
            fail(errno.ENOENT)

    def _is_read_only(self, name: str) -> bool:
        try:
            return self._export.is_read_only(name)
        except KeyError:
            fail(errno.ENOENT)

    def _name(self, path: str | None, fh: int | None) -> str:
        """Name the file of a request; with a handle there is no path, which saves libfuse work."""
        if fh:
            return self._handle(fh).name
        assert path is not None
        return path[1:]

    def _handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is None:
            fail(errno.EBADF)
        return handle

    def _written_names(self) -> set[str]:
        return {handle.name for handle in list(self._handles.values()) if handle.write}

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, int]:
        """Describe the directory or a file; the GETATTR of a writer that ran over the end tells it ENOSPC."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | self._folder_mode, "st_nlink": 2, **self._of_all()}
        name = self._name(path, fh)
        if fh:
            if self._sizes.take_overrun(name):
                fail(errno.ENOSPC)
            self._sizes.check(name)
        return self._attributes(name)

    def _attributes(self, name: str) -> dict[str, int]:
        size = self._size(name)
        mode = stat.S_IFREG | self._file_modes[self._is_read_only(name)]
        self._sizes.told(name, size)
        shape = {"st_size": size, "st_blocks": -(-size // 512), "st_blksize": BLOCK_BYTES}
        return {"st_mode": mode, "st_nlink": 1, **shape, **self._of_all()}

    def _of_all(self) -> dict[str, int]:
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._born_ns)
        return {"st_uid": self._owner[0], "st_gid": self._owner[1], **times}

    def set_times(self, fh: int) -> dict[str, int] | None:
        """Accept the times that the kernel keeps, which it sends with each fsync(2), and describe the file.

        None where a writer is still to hear that it ran over the end, which is for `getattr` to say.
        """
        name = self._handle(fh).name
        return None if self._sizes.has_overrun(name) else self._attributes(name)

    def readdir(self, path: str | None, fh: int) -> Iterable[str]:
        """List the devices that are there now."""
        return [".", "..", *self._export.names()]

    def open(self, path: str, flags: int) -> int:
        """Open a device; O_TRUNC, O_CREAT and O_APPEND mean nothing to one."""
        return self._open_file(path, flags)[0]

    def _open_file(self, path: str, flags: int) -> tuple[int, bool, bool]:
        """Open a device, and tell whether its cached pages stay, and whether writes go past them.

        A block device's page cache lives until the last close, so the first opening starts without one. One that is
        read-only can be opened for writing, as any block device can, and refuses each write: so no page may be
        written in the cache, where nobody would hear of it.
        """
        name = path[1:]
        write = flags & os.O_ACCMODE != os.O_RDONLY
        refuses = write and self._is_read_only(name)
        self._size(name)
        self._export.open(name, write=write)
        with self._opening:
            is_open_elsewhere = any(handle.name == name for handle in self._handles.values())
            number = next(self._numbers)
            self._handles[number] = Handle(name, write, self._export.straight(name))
        return number, is_open_elsewhere, refuses

    def note_inode(self, fh: int, inode: int) -> None:
        """Take note of the number by which the kernel knows the file of an opening that ends."""
        handle = self._handles.get(fh)
        if handle is not None:
            handle.inode = inode

    def release(self, path: str | None, fh: int) -> int:
        """End an opening after its last close; with a device's last opening its page cache goes, as a block device's
        does, and not with its next one, which would have to wait for that.
        """
        with self._opening:
            handle = self._handles.pop(fh)
            was_last = not any(other.name == handle.name for other in self._handles.values())
            if was_last:
                self._sizes.take_overrun(handle.name)
        self._export.close(handle.name, write=handle.write)
        with self._closed:
            self._closing.discard(fh)
            self._closed.notify_all()
        if was_last and handle.inode and self.forget_pages is not None:
            self.forget_pages(handle.inode)
        return 0

    def straight(self, fh: int) -> Straight | None:
        """Give the quick way of an opening, if it has one."""
        handle = self._handles.get(fh)
        return handle.straight if handle is not None else None

    def read(self, fh: int, offset: int, buffer: memoryview) -> int:
        return self._export.read(self._handle(fh).name, offset, buffer)

    def write(self, fh: int, offset: int, buffer: memoryview, *, from_page_cache: bool) -> int:
        """Write; with libfuse 3, what does not fit whole is ENOSPC although the part that fits is written.

        A block device cuts such a write short. But nobody waits for the count of a write-back, whose
        write(2) has long been answered, and the kernel makes EIO of a short O_DIRECT write. As an error it
        reaches the program, from fsync(2) or close(2) in the first case. With libfuse 2 the kernel passes
        short counts on.
        """
        name = self._handle(fh).name
        if from_page_cache and offset + len(buffer) > self._size(name):
            self._sizes.overrun(name)
        done = self._export.write(name, offset, buffer)
        if done < len(buffer) and not self._passes_short_writes:
            fail(errno.ENOSPC)
        return done

    def flush(self, path: str | None, fh: int) -> int:
        """Let a close(2) be the end of it: nothing of ours may still be busy with the file."""
        self._sizes.settle(self._handle(fh).name)
        with self._closed:
            self._closing.add(fh)
        return 0

    def settle_closes(self) -> None:
        """Wait until openings that programs have closed are ended here too.

        A block device is released before close(2) returns, and whoever counts its openings then may rely on it; the
        kernel tells us of it in a request that nobody waits for. Before that it has asked for a flush, as it does
        at the close of each duplicate of a file descriptor too: then no release follows, and the opening is not
        waited for again until its next flush.
        """
        with self._closed:
            closing = set(self._closing)
            self._closed.wait_for(lambda: not closing & self._closing, RELEASE_SECONDS if closing else 0)
            self._closing -= closing

    def fsync(self, path: str | None, datasync: int, fh: int) -> int:
        """Flush through all layers; a block device has no times of its own, so fdatasync is the same."""
        self._export.flush(self._handle(fh).name)
        return 0

    def fallocate(self, path: str | None, mode: int, offset: int, length: int, fh: int) -> int:
        """Discard (punch a hole), make zeros, or confirm that the range is there; nothing makes a device longer.

        As with a block device (block/fops.c) there can be zeros whatever the device is, at the worst written ones;
        mke2fs asks for its journal's.
        """
        name = self._handle(fh).name
        size = self._size(name)
        if not self._handle(fh).write:
            fail(errno.EBADF)
        kind = mode & ~_KEEP_SIZE
        if kind not in (0, _PUNCH_HOLE, _ZERO_RANGE):
            fail(errno.EOPNOTSUPP)
        if kind == _PUNCH_HOLE or mode == _ZERO_RANGE | _KEEP_SIZE:
            length = min(length, size - offset)
        elif offset + length > size:
            fail(errno.ENOSPC)
        if length > 0 and kind == _PUNCH_HOLE:
            self._export.discard(name, offset, length)
        elif length > 0 and kind == _ZERO_RANGE:
            self._zero(fh, offset, length)
        return 0

    def _zero(self, fh: int, offset: int, length: int) -> None:
        handle = self._handle(fh)
        try:
            self._export.discard(handle.name, offset, length)
        except OSError as problem:
            if problem.errno != errno.EOPNOTSUPP:
                raise
            zeros = memoryview(bytes(min(length, REQUEST_BYTES)))
            for start in range(offset, offset + length, len(zeros)):
                piece = zeros[:offset + length - start]
                if handle.straight is None or not handle.straight.write(start, piece):
                    self._export.write(handle.name, start, piece)

    def truncate(self, path: str | None, length: int, fh: int | None = None) -> int:
        """Accept the size that the device has, and O_TRUNC; a device cannot be cut or extended from here."""
        size = self._size(self._name(path, fh))
        if length == size or (length == 0 and not fh):
            return 0
        fail(errno.EINVAL)

    def utimens(self, path: str | None, times: tuple[int, int] | None = None) -> int:
        """Accept times: the kernel keeps them itself and would fail a close(2) if we refused."""
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Report the volumes' sizes as space that is all in use, since no new file fits."""
        sizes = []
        for name in self._export.names():
            try:
                sizes.append(self._export.size_bytes(name))
            except KeyError:
                continue
        blocks = sum(-(-size // BLOCK_BYTES) for size in sizes)
        return {
            "f_bsize": BLOCK_BYTES,
            "f_frsize": BLOCK_BYTES,
            "f_blocks": blocks,
            "f_files": len(sizes),
            "f_namemax": 255,
        }

    def _refuse(self, *_: Any) -> NoReturn:
        """Refuse to make, remove, rename or re-own a file: the export alone says what is there."""
        fail(errno.EPERM)

    create = mknod = mkdir = symlink = link = unlink = rmdir = rename = chmod = chown = _refuse


Operation = Callable[..., int | None]

_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.restype = ctypes.py_object
_memory_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_READABLE = 0x100
_WRITABLE = 0x200

_TRANSFER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_longlong, ctypes.c_void_p
)


def callback_table(table: Any, *more: tuple[str, Any]) -> type[ctypes.Structure]:
    """Derive a library's table of callbacks in which read and write take plain addresses.

    ctypes makes an object of every typed pointer and a copy of every path, on each call, and neither is
    wanted here.
    """
    own = {"read": (_TRANSFER,), "write": (_TRANSFER,)}
    fields = [(name, *own.get(name, rest)) for name, *rest in table._fields_]
    return type("fuse_operations", (ctypes.Structure,), {"_fields_": [*fields, *more]})


class Callbacks:
    """The C-level callbacks in which both bindings differ from their library.

    The libraries' own read and write decode the path, copy every buffer twice and cannot set flags on an
    opening. These hand the request's own memory on. `_wrapper` replaces the libraries' error handling.
    """

    files: Files
    file_info: Any

    def _wrapper(self, function: Operation, *arguments: Any) -> int:
        keep_state()
        try:
            return function(*arguments) or 0
        except OSError as problem:
            return -(problem.errno or errno.EIO)
        except UnicodeDecodeError:
            return -errno.ENOENT
        except BaseException as problem:  # noqa: BLE001 - it goes on to serve(), which raises it after unmounting
            self.files._bug(problem)
            return -errno.EIO

    def open(self, path: bytes, info: Any) -> int:
        """Open a file and say what becomes of its cached pages."""
        fields = info.contents
        fields.fh, fields.keep_cache, fields.direct_io = self.files._open_file(os.fsdecode(path), fields.flags)
        return 0

    def read(self, path: int, memory: int, size: int, offset: int, info: int) -> int:
        """Read into the reply's own memory."""
        with _memory_view(memory, size, _WRITABLE) as buffer:
            return self.files.read(self.file_info.from_address(info).fh, offset, buffer)

    def write(self, path: int, memory: int, size: int, offset: int, info: int) -> int:
        """Write from the request's own memory."""
        fields = self.file_info.from_address(info)
        with _memory_view(memory, size, _READABLE) as buffer:
            return self.files.write(fields.fh, offset, buffer, from_page_cache=bool(fields.writepage))
