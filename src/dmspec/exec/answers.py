"""What each call of a program gets: the kernel's own answer, or one about the emulated devices."""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmspec.dmsetup.door import Block, Door, NoMountError
from dmspec.exec import blocks, files, memory, nodes, seccomp
from dmspec.exec.control import Control
from dmspec.exec.files import AT_FDCWD, Found
from dmspec.runtime.live_export import name_of_number

if TYPE_CHECKING:
    from dmspec.exec.seccomp import Call, Listener
    from dmspec.exec.story import Story
    from dmspec.exec.sysfs import SysTree
    from dmspec.exec.view import View

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_KEPT_FLAGS: Final = os.O_ACCMODE | os.O_DIRECT | os.O_SYNC | os.O_DSYNC | os.O_NONBLOCK | os.O_APPEND
_EVERY_USER: Final = ["0", "0", "4294967295"]
_NOTHING: Final = b"/bin/true\0"  # shorter than /sbin/modprobe, in whose place it is written
_CLOSE_SECONDS: Final = 5.0


class Answers:
    """``mount`` is a file descriptor of the folder in which the devices are files."""

    def __init__(self, listener: Listener, door: Door, mount: int, view: View, sys_tree: SysTree,
                 story: Story) -> None:
        self.listener = listener
        self.door = door
        self.mount = mount
        self.view = view
        self.sys_tree = sys_tree
        self.story = story
        self.files = files.OpenFiles(os.fstat(mount).st_dev)
        self.control = Control(self)
        self.is_real_root = Path("/proc/self/uid_map").read_text().split() == _EVERY_USER
        self.refreshing = threading.Lock()
        self._calls: Mapping[int, Callable[[Call], bool]] = {
            seccomp.OPEN: lambda call: self._open(call, AT_FDCWD, 0, call.args[1]),
            seccomp.CREAT: lambda call: self._open(call, AT_FDCWD, 0, os.O_CREAT | os.O_WRONLY | os.O_TRUNC),
            seccomp.OPENAT: lambda call: self._open(call, call.signed(0), 1, call.args[2]),
            seccomp.OPENAT2: self._openat2,
            seccomp.STAT: lambda call: self._stat_path(call, AT_FDCWD, 0, 1, 0),
            seccomp.LSTAT: lambda call: self._stat_path(call, AT_FDCWD, 0, 1, _AT_SYMLINK_NOFOLLOW),
            seccomp.FSTAT: lambda call: self._tell(call, self.files.at(call, call.signed(0)), 1),
            seccomp.NEWFSTATAT: lambda call: self._stat_path(call, call.signed(0), 1, 2, call.args[3]),
            seccomp.STATX: lambda call: self._stat_path(call, call.signed(0), 1, 4, call.args[2], extended=True),
            seccomp.MKNOD: lambda call: self._mknod(call, AT_FDCWD, 0),
            seccomp.MKNODAT: lambda call: self._mknod(call, call.signed(0), 1),
            seccomp.CHOWN: lambda call: self._chown(call, AT_FDCWD, 0, follow=True),
            seccomp.LCHOWN: lambda call: self._chown(call, AT_FDCWD, 0, follow=False),
            seccomp.FCHOWNAT: lambda call: self._chown(call, call.signed(0), 1,
                                                       follow=not call.args[4] & _AT_SYMLINK_NOFOLLOW),
            seccomp.IOCTL: self._ioctl,
            seccomp.EXECVE: self._execve,
        }

    def answer(self, call: Call) -> None:
        """Answer a call, whatever happens; emulated failures are errnos."""
        try:
            self._calls[call.number](call)
        except OSError as error:
            self.listener.fail(call, error.errno or errno.EIO)
        except NoMountError:
            self.listener.fail(call, errno.ENXIO)
        except BaseException:
            self.listener.fail(call, errno.EIO)
            raise

    def refresh(self) -> list[Block]:
        """Bring /dev and /sys up to date."""
        with self.refreshing:
            found = self.door.blocks()
            self.view.update(found)
            self.sys_tree.update(found)
            return found

    def block(self, number: str) -> Block | None:
        """A block device as it is now."""
        return next((block for block in self.door.blocks() if block.number == number), None)

    def _execve(self, call: Call) -> bool:
        """A modprobe for device-mapper's modules has nothing to do but to say so; the kernel runs anything else."""
        path = memory.read_path(call.thread, call.args[0])
        if path is not None and path.rpartition(b"/")[2] == b"modprobe":
            words = memory.read_strings(call.thread, call.args[1])[1:]
            modules = [word for word in words if not word.startswith(b"-")]
            if modules and all(word.startswith((b"dm-", b"dm_")) for word in modules) \
                    and self.listener.is_valid(call):
                for word in modules:
                    self.control.load_module(os.fsdecode(word[3:]))
                memory.write_anyway(call.thread, call.args[0], _NOTHING)
        return self.listener.go_on(call)

    # Opening

    def _openat2(self, call: Call) -> bool:
        flags = struct.unpack("<Q", memory.read(call.thread, call.args[2], 8))[0]
        return self._open(call, call.signed(0), 1, flags)

    def _open(self, call: Call, directory: int, at: int, flags: int) -> bool:
        path = memory.read_path(call.thread, call.args[at])
        if path is None:
            return self.listener.go_on(call)
        if path.startswith(b"/sys/") or path in (b"/dev", b"/dev/", b"/dev/mapper", b"/dev/mapper/"):
            self.refresh()
        if flags & os.O_PATH == os.O_PATH:
            return self.listener.go_on(call)
        if path == b"/proc/partitions":
            return self._text(call, flags, files.partitions(self.door.blocks()))
        if files.is_mount_table(path):
            numbers = {block.number for block in self.door.blocks()}
            return self._text(call, flags, files.mount_table(call, path, numbers))
        found = files.at_path(call, directory, path, follow=not flags & os.O_NOFOLLOW)
        if found is None or not self.listener.is_valid(call):
            return self.listener.go_on(call)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return self.listener.fail(call, errno.EEXIST)
        if flags & os.O_DIRECTORY:
            return self.listener.fail(call, errno.ENOTDIR)
        fd = self.files.new_control() if found.node == nodes.CONTROL else self._open_block(found, flags)
        try:
            return self.listener.hand_over(call, fd, close_on_exec=bool(flags & os.O_CLOEXEC))
        finally:
            os.close(fd)

    def _text(self, call: Call, flags: int, text: bytes) -> bool:
        """An open file with this text, in place of one of /proc."""
        fd = os.memfd_create("proc", os.MFD_CLOEXEC)
        try:
            os.write(fd, text)
            os.lseek(fd, 0, os.SEEK_SET)
            return self.listener.hand_over(call, fd, close_on_exec=bool(flags & os.O_CLOEXEC))
        finally:
            os.close(fd)

    def _open_block(self, found: Found, flags: int) -> int:
        """An open file of the mount; ``EBUSY`` for one that is to be exclusive while a table has the device."""
        if flags & os.O_EXCL:
            block = self.block(found.node.number)
            if block is not None and block.held:
                raise blocks.fail(errno.EBUSY)
        try:
            return self._mounted(found.node, flags & _KEPT_FLAGS)
        except FileNotFoundError:
            raise blocks.fail(errno.ENXIO) from None

    def _mounted(self, node: nodes.Node, flags: int) -> int:
        return os.open(name_of_number(node.major, node.minor), flags | os.O_CLOEXEC, dir_fd=self.mount)

    # The stat family

    def _stat_path(self, call: Call, directory: int, at: int, to: int, flags: int, *, extended: bool = False) -> bool:
        path = memory.read_path(call.thread, call.args[at]) if call.args[at] else b""
        if path is None:
            return self.listener.go_on(call)
        if path:
            if path.startswith(b"/sys/"):
                self.refresh()
            found = files.at_path(call, directory, path, follow=not flags & _AT_SYMLINK_NOFOLLOW)
        else:
            found = self.files.at(call, directory) if flags & _AT_EMPTY_PATH else None
        return self._tell(call, found, to, extended=extended)

    def _tell(self, call: Call, found: Found | None, to: int, *, extended: bool = False) -> bool:
        if found is None or not self.listener.is_valid(call):
            return self.listener.go_on(call)
        told = (nodes.statx_bytes if extended else nodes.stat_bytes)(found.node, found.status)
        memory.write(call.thread, call.args[to], told)
        return self.listener.succeed(call)

    # Nodes

    def _mknod(self, call: Call, directory: int, at: int) -> bool:
        path = memory.read_path(call.thread, call.args[at])
        if path is None or not self.listener.is_valid(call):
            return self.listener.go_on(call)
        mode, device = call.args[at + 1], call.args[at + 2]
        node = nodes.Node((device & 0xFFF00) >> 8, (device & 0xFF) | ((device >> 12) & 0xFFF00), stat.S_ISBLK(mode))
        if not node.is_block and node != nodes.CONTROL:
            return self.listener.go_on(call)
        folder, _, name = path.rstrip(b"/").rpartition(b"/")
        parent = files.open_path(call, directory, (folder or b"/") if path.startswith(b"/") else folder or b".",
                                 os.O_DIRECTORY)
        try:
            nodes.make(os.fsdecode(name), node, stat.S_IMODE(mode) & ~_umask(call), dir_fd=parent)
            if os.path.samestat(os.fstat(parent), (self.view.dev / "mapper").stat()):
                self.door.node(os.fsdecode(name), there=True)
        finally:
            os.close(parent)
        return self.listener.succeed(call)

    def _chown(self, call: Call, directory: int, at: int, *, follow: bool) -> bool:
        """In a user namespace a node cannot be given to the group `disk`, as libdm does; that is no failure."""
        path = memory.read_path(call.thread, call.args[at]) if not self.is_real_root else None
        if path is None or files.at_path(call, directory, path, follow=follow) is None:
            return self.listener.go_on(call)
        return self.listener.succeed(call)

    # ioctls

    def _ioctl(self, call: Call) -> bool:
        found = self.files.at(call, call.signed(0))
        if found is None:
            return self.listener.go_on(call)
        number = call.args[1] & 0xFFFFFFFF
        if found.node == nodes.CONTROL:
            if (number >> 8) & 0xFF != seccomp.DM_TYPE:
                return self.listener.fail(call, errno.ENOTTY)
            return self.control.ioctl(call, number)
        block = self.block(found.node.number)
        if block is None:
            return self.listener.fail(call, errno.ENXIO)
        return self._block_ioctl(call, number, block, found.node)

    def _block_ioctl(self, call: Call, number: int, block: Block, node: nodes.Node) -> bool:
        thread, address = call.thread, call.args[2]
        if number in blocks.QUERIES:
            form, value = blocks.QUERIES[number]
            memory.write(thread, address, struct.pack(f"<{form}", value(block)))
        elif number == blocks.HDIO_GETGEO and block.name:
            memory.write(thread, address, bytes(16))
        elif number in (blocks.BLKDISCARD, blocks.BLKZEROOUT):
            if not _may_write(call):
                raise blocks.fail(errno.EBADF)
            start, length = blocks.read_range(thread, address, block)
            if not self.listener.is_valid(call):
                return False
            self._with_file(node, os.O_RDWR | os.O_DIRECT if number == blocks.BLKZEROOUT else os.O_RDWR,
                            lambda fd: (blocks.zero_out if number == blocks.BLKZEROOUT else blocks.discard)
                            (fd, start, length))
        elif number == blocks.BLKFLSBUF:
            self._with_file(node, os.O_RDONLY, blocks.flush)
        elif number == blocks.BLKROSET:
            self.door.ask("set", number=block.number,
                          read_only=bool(struct.unpack("<i", memory.read(thread, address, 4))[0]))
        elif number in (blocks.BLKRASET, blocks.BLKFRASET):
            self.door.ask("set", number=block.number, read_ahead=address & 0xFFFFFFFF)
        elif number == blocks.BLKRRPART:
            raise blocks.fail(errno.EINVAL)
        elif number == blocks.BLKSECDISCARD:
            raise blocks.fail(errno.EOPNOTSUPP)
        elif number != blocks.BLKBSZSET:
            raise blocks.fail(errno.ENOTTY)
        return self.listener.succeed(call)

    def _with_file(self, node: nodes.Node, flags: int, work: Callable[[int], Any]) -> None:
        fd = self._mounted(node, flags)
        try:
            work(fd)
        finally:
            os.close(fd)

    def settle(self, number: str) -> bool:
        """Wait until the mount knows of every close of a device: FUSE tells it after close(2) has returned.

        False where it knew, and a device in use is in use.
        """
        until = time.monotonic() + _CLOSE_SECONDS
        pause = 0.0
        while time.monotonic() < until:
            block = self.block(number)
            if block is None or not block.opens or block.opens <= self.files.count(number):
                return bool(pause)
            pause = min(pause * 2, 0.05) or 0.0005
            time.sleep(pause)
        return True


def _umask(call: Call) -> int:
    with open(f"/proc/{call.thread}/status") as lines:
        return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0)


def _may_write(call: Call) -> bool:
    with open(f"/proc/{call.thread}/fdinfo/{call.signed(0)}") as lines:
        flags = next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)
    return flags & os.O_ACCMODE != os.O_RDONLY
