"""One mount from its beginning to its end.

libfuse's own way to end on SIGTERM closes the connection first and unmounts then, which throws away what the
page cache still holds. Here the order is the other way round. The binding runs in a thread of its own; the
thread that called `serve` waits, takes the signals, and ends the mount from outside, as umount(8) would,
while requests are still served: first the files are synced, then the mount goes, and only then does `serve`
return, so that the caller may tear its devices down.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from dmspec.runtime.fuse import mounts, threads
from dmspec.runtime.fuse.adapter import REQUEST_BYTES, Files
from dmspec.runtime.fuse.device_loop import DeviceLoop, is_connected
from dmspec.runtime.fuse.export import Export, MountFailed, MountStuck
from dmspec.runtime.fuse.helper import Guardian
from dmspec.runtime.fuse.inbox import Event, Inbox
from dmspec.runtime.fuse.libraries import Binding, load_binding
from dmspec.runtime.fuse.sizes import KernelSizes

_FILESYSTEM, _SUBTYPE = mounts.FILESYSTEM_TYPE.split(".")


class Mount:
    """What the server may do with its mount while it is being served."""

    def __init__(self, session: "_Session") -> None:
        self._session = session
        self.mountpoint = session.mountpoint
        self.binding = session.binding.name

    def refresh(self, name: str) -> None:
        """Make the kernel use a device's new size, before the next system call sees it.

        To be called after a device got another size, and not while it is suspended. Without it a program
        that has the file open, and the first stat(2) of any other, still see the old size.
        """
        self._session.sizes.refresh(name)

    def settle_closes(self) -> None:
        """Wait for the end of openings that programs have closed, so that the export's count of them is true."""
        self._session.files.settle_closes()

    def stop(self) -> None:
        """Sync, unmount and let `serve` return; may be called from any thread and does not wait."""
        self._session.inbox.put(Event.STOP)


def serve(
    export: Export,
    mountpoint: str | os.PathLike[str],
    *,
    binding: Literal["auto", "mfusepy", "fusepy"] = "auto",
    single_thread: bool = False,
    debug: bool = False,
    on_ready: Callable[[Mount], None] | None = None,
    on_give_up: Callable[[], None] | None = None,
    grace_seconds: float = 10.0,
    writeback_cache: bool = True,
    allow_other: bool = False,
) -> None:
    """Show the export's devices as files and block until they are unmounted.

    Unmounting by hand, SIGINT, SIGTERM, SIGHUP and `Mount.stop` all end it in order, and a killed server's
    mount is taken away by a guardian process. Signals are only taken when this runs in the main thread.

    A device that stays suspended can hold the end up. After `grace_seconds`, or at a second signal,
    `on_give_up` is called and must make requests that wait inside the export return, if with an error; after
    another such time the mount is cut off, and MountStuck raised if requests wait even then.

    With libfuse 3 the page cache writes back later, as a block device's does, unless `writeback_cache` is
    False; then each write(2) reaches the export before it returns. `mounts.tune` tells what speaks for that
    where the server is not root or Linux is older than 6.2.

    Only this user can see the files, root included only if that is this user; with `allow_other` every user can,
    and may read and write them.

    An exception other than OSError from the export is a bug: the request gets EIO, the mount ends, and the
    exception is raised here.
    """
    path = mounts.absolute(mountpoint)
    if not Path(path).is_dir():
        raise MountFailed(f"{path} is not a directory")
    session = _Session(export, path, load_binding(binding), on_ready, on_give_up, grace_seconds, writeback_cache,
                       allow_other)
    session.run(single_thread=single_thread, debug=debug)


class _Session:
    def __init__(
        self,
        export: Export,
        mountpoint: str,
        binding: Binding,
        on_ready: Callable[[Mount], None] | None,
        on_give_up: Callable[[], None] | None,
        grace_seconds: float,
        writeback_cache: bool,
        allow_other: bool,
    ) -> None:
        self.mountpoint = mountpoint
        self.binding = binding
        self.inbox = Inbox()
        self._guardian = Guardian(mountpoint)
        self.sizes = KernelSizes(self._guardian, export.size_bytes)
        self.files = Files(
            export,
            self.sizes,
            passes_short_writes=binding.passes_short_writes,
            for_everybody=allow_other,
            on_mounted=self._mounted,
            on_bug=self._bug,
            on_end=self._forget,
        )
        self._allow_other = allow_other
        self._writeback_cache = writeback_cache and binding.has_writeback_cache
        self._on_ready = on_ready
        self._on_give_up = on_give_up
        self._grace_seconds = grace_seconds
        self._entry: mounts.MountEntry | None = None
        self._bugs: list[BaseException] = []
        self._libfuse: int | None = None
        self._descriptor = -1
        self._libfuse_lock = threading.Lock()
        self._device_loop: DeviceLoop | None = None
        self._single_thread = False

    def run(self, *, single_thread: bool, debug: bool) -> None:
        self._single_thread = single_thread
        options = {
            "foreground": True,
            "nothreads": single_thread,
            "debug": debug,
            "fsname": _SUBTYPE,
            "subtype": _SUBTYPE,
            "nosuid": True,
            "nodev": True,
            **({"allow_other": True} if self._allow_other else {}),
        }
        loop = threading.Thread(target=self._loop, args=(options,), name="fuse", daemon=True)
        try:
            with self.inbox.signals():
                loop.start()
                self._attend()
            loop.join(self._grace_seconds)
            self._clear_away()
        finally:
            self._guardian.dismiss()
            self.inbox.close()
        if self._bugs:
            raise self._bugs[0]
        if loop.is_alive():
            raise MountStuck(f"{self.mountpoint} is unmounted, but requests still wait inside the export")
        if self._entry is None:
            raise MountFailed(f"libfuse could not mount {self.mountpoint}; its reason is on standard error")

    def _loop(self, options: dict[str, Any]) -> None:
        """Run the binding; how libfuse ends is of no interest, for it calls every abort an error."""
        threads.exempt()
        try:
            with contextlib.suppress(RuntimeError):
                self.binding.run(self.files, self.mountpoint, options)
        except BaseException as problem:  # noqa: BLE001 - raised by run() in the caller's thread
            self._bugs.append(problem)
        finally:
            if self._device_loop is not None:
                self._device_loop.finish()
            self.inbox.put(Event.ENDED)

    def _mounted(self, connection: Any | None) -> None:
        """Take over from libfuse, which calls this while the kernel waits for the first answer."""
        self._libfuse = self.binding.session()
        if connection is not None:
            self.binding.configure(connection, writeback_cache=self._writeback_cache)
        self._entry = mounts.topmost(self.mountpoint)
        if self._entry is None:
            raise MountFailed(f"{self.mountpoint} is not in the mount table")
        self._guardian.watch(self._entry)
        self._descriptor = self.binding.descriptor(self._libfuse)
        if self.binding.has_device_loop and not self._single_thread:
            with contextlib.suppress(OSError):  # then libfuse does it all, as without it
                self._device_loop = DeviceLoop(self.files, self._descriptor, self._exit)
                self.files.forget_pages = self._device_loop.forget_pages
        if self._writeback_cache:
            self.sizes.forget_attributes = self._forget_attributes
        self.inbox.put(Event.MOUNTED)

    def _bug(self, problem: BaseException) -> None:
        self._bugs.append(problem)
        self.inbox.put(Event.STOP)

    def _forget(self) -> None:
        with self._libfuse_lock:
            self._libfuse = None

    def _forget_attributes(self, inode: int) -> None:
        with self._libfuse_lock:
            if self._libfuse is not None:
                self.binding.forget_attributes(self._libfuse, inode)

    def _attend(self) -> None:
        """Wait for the end of the mount, or bring it about."""
        while True:
            event = self.inbox.get()
            if event is Event.ENDED:
                return
            if event is not Event.MOUNTED:
                self._end()
                return
            assert self._entry is not None
            mounts.tune(self._entry, read_ahead_kib=REQUEST_BYTES >> 10)
            with contextlib.suppress(OSError):
                Path(self.mountpoint).stat()  # so that something is asked, for which the device loop waits to begin
            if self._on_ready is not None:
                try:
                    self._on_ready(Mount(self))
                except BaseException as problem:  # noqa: BLE001 - raised by run() once the mount is gone
                    self._bug(problem)

    def _end(self) -> None:
        """End the mount in order, and with growing force when that takes too long."""
        threading.Thread(target=self._unmount, name="unmount", daemon=True).start()
        if self._ends_soon():
            return
        if self._on_give_up is not None:
            try:
                self._on_give_up()
            except BaseException as problem:  # noqa: BLE001 - raised by run() once the mount is gone
                self._bugs.append(problem)
            if self._ends_soon():
                return
        if self._entry is not None:
            mounts.abort(self._entry)
            mounts.unmount_exactly(self._entry)
        self._exit()

    def _ends_soon(self) -> bool:
        """Wait for the end within the time of grace, or until the user insists with another signal."""
        deadline = monotonic() + self._grace_seconds
        while event := self.inbox.get(max(0.0, deadline - monotonic())):
            if event is Event.ENDED:
                return True
            if event is Event.SIGNAL:
                return False
        return False

    def _unmount(self) -> None:
        """Have the mount written back and taken away, and hang up on programs that keep files open.

        A mount namespace that was made meanwhile, by a container or a service, has a copy of the mount, which keeps the
        connection alive.  Whoever is in there is hung up on too.
        """
        with contextlib.suppress(OSError):
            is_gone = self._guardian.leave(sorted(self.files._written_names()))
            loop = self._device_loop
            if is_gone and not (is_connected(self._descriptor) if loop is None else loop.is_connected()):
                return
            if self._entry is not None and mounts.abort(self._entry):
                return
            if is_gone and loop is not None:
                loop.end()
            else:
                self._exit()
                self._guardian.poke()

    def _exit(self) -> None:
        with self._libfuse_lock:
            if self._libfuse is not None:
                self.binding.exit(self._libfuse)

    def _clear_away(self) -> None:
        """Unmount what libfuse left: after an abort from outside it takes the mount for gone."""
        if self._entry is not None and mounts.is_mounted(self._entry):
            with contextlib.suppress(OSError):
                mounts.unmount_exactly(self._entry)
