"""Small programs for tests of `dmspec exec`; the first argument says which one.  They use nothing but system calls."""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import stat
import struct
import sys
import threading
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<3I5IiIIQ128s129s7s")
LIBC = ctypes.CDLL(None, use_errno=True)


def command(nr: int, control: int, *, name: str = "", event_nr: int = 0, flags: int = 0, size: int = 4096,
            says: int | None = None, start: int = 312) -> tuple[int, bytes]:
    """One ioctl with a buffer of ``size`` bytes that says that it has ``says``: errno, and the buffer afterwards."""
    head = struct.pack("<3I", 4, 0, 0) + struct.pack("<7I", says if says is not None else size, start, 0, 0, flags,
                                                     event_nr, 0)
    buffer = ctypes.create_string_buffer((head + struct.pack("<Q", 0) + name.encode().ljust(128, b"\0"))
                                         .ljust(size, b"\0"), size)
    failed = LIBC.ioctl(control, ctypes.c_ulong(0xC138FD00 | nr), buffer)
    return (ctypes.get_errno() if failed else 0), buffer.raw


def opened() -> int:
    return os.open("/dev/mapper/control", os.O_RDWR)


def block_ioctls(path: str) -> None:
    """What a block device's ioctls say, one a line."""
    fd = os.open(path, os.O_RDWR)
    status = os.fstat(fd)
    print("block", stat.S_ISBLK(status.st_mode), os.major(status.st_rdev), os.minor(status.st_rdev))
    print("stat", stat.S_ISBLK(os.stat(path).st_mode), stat.S_ISBLK(os.lstat(path).st_mode))
    for name, number, form in (("BLKGETSIZE64", 0x80081272, "Q"), ("BLKGETSIZE", 0x1260, "Q"),
                               ("BLKSSZGET", 0x1268, "i"), ("BLKPBSZGET", 0x127B, "I"), ("BLKIOMIN", 0x1278, "I"),
                               ("BLKIOOPT", 0x1279, "I"), ("BLKROGET", 0x125E, "i"), ("BLKRAGET", 0x1263, "q"),
                               ("BLKALIGNOFF", 0x127A, "i"), ("BLKROTATIONAL", 0x127E, "H")):
        answer = fcntl.ioctl(fd, number, bytes(8))
        print(name, struct.unpack_from(f"<{form}", answer)[0])
    os.pwrite(fd, b"\xaa" * 16384, 0)
    fcntl.ioctl(fd, 0x1261)  # BLKFLSBUF
    fcntl.ioctl(fd, 0x1277, struct.pack("<2Q", 0, 4096))  # BLKDISCARD
    fcntl.ioctl(fd, 0x127F, struct.pack("<2Q", 8192, 4096))  # BLKZEROOUT
    print("zeros", [os.pread(fd, 4096, at) == bytes(4096) for at in (0, 4096, 8192, 12288)])
    fcntl.ioctl(fd, 0x1262, 512)  # BLKRASET
    print("read-ahead", struct.unpack("<q", fcntl.ioctl(fd, 0x1263, bytes(8)))[0])
    reader = os.open(path, os.O_RDONLY)
    for name, file, number, argument in (("odd discard", fd, 0x1277, struct.pack("<2Q", 1, 512)),
                                         ("discard beyond the end", fd, 0x1277, struct.pack("<2Q", 1 << 40, 512)),
                                         ("discard by a reader", reader, 0x1277, struct.pack("<2Q", 0, 512)),
                                         ("secure discard", fd, 0x127D, struct.pack("<2Q", 0, 512)),
                                         ("partitions", fd, 0x125F, b"")):
        try:
            fcntl.ioctl(file, number, argument or 0)
            print(name, 0)
        except OSError as error:
            print(name, error.strerror)


def wait_is_interrupted(name: str) -> None:
    """A thread waits for an event; meanwhile another one is answered, and a signal ends the wait."""
    control = opened()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    said: list[Any] = []
    waiting = threading.get_native_id()

    def other() -> None:
        # Until the main thread is in its ioctl (16 on x86-64).
        while not Path(f"/proc/self/task/{waiting}/syscall").read_text().startswith("16 "):
            pass
        said.append(command(7, opened(), name=name)[0])
        os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=other).start()
    error, _buffer = command(8, control, name=name)
    print("interrupted", os.strerror(error), said)


def under_fire() -> None:
    """Commands while a timer's signal comes again and again, and the kernel makes them again: each is done once."""
    control = opened()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    errors = [command(nr, control, name=f"fire{number}")[0] for number in range(20) for nr in (3, 6, 10, 4)]
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("errors", sorted(set(errors)))


def wait_for_ever(name: str) -> None:
    control = opened()
    print("waiting", flush=True)
    print(os.strerror(command(8, control, name=name)[0]), flush=True)
    with contextlib.suppress(OSError):
        opened()
    print(os.strerror(ctypes.get_errno()))


def poll_control(name: str) -> None:
    """poll(2) on the control node returns when something happens to a device, once it was armed."""
    control = opened()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    command(16, control)
    print("before", poll.poll(100))
    command(3, opened(), name=name)
    print("after", [event for _fd, event in poll.poll(10_000)])
    command(16, control)
    print("armed again", poll.poll(100))
    command(4, opened(), name=name)
    print("after", [event for _fd, event in poll.poll(10_000)])


def bad_buffers() -> None:
    """Buffers that lie; the errno of each, and that the next good call is answered."""
    control = opened()
    for what, arguments in (("too small", {"says": 100}), ("no room behind the header", {"says": 305, "size": 312}),
                            ("much too big", {"says": (1 << 31)}), ("more than there is", {"says": 1 << 29}),
                            ("a table beyond the end", {"nr": 9, "name": "nobody", "start": 1 << 20}),
                            ("an unknown command", {"nr": 77})):
        given: dict[str, Any] = {"nr": 2, **arguments}
        print(what, os.strerror(command(given.pop("nr"), control, **given)[0]))
    LIBC.ioctl(control, ctypes.c_ulong(0xC138FD02), ctypes.c_void_p(16))
    print("no memory there", os.strerror(ctypes.get_errno()))
    null = os.open("/dev/null", os.O_RDWR)
    print("not the control node", os.strerror(command(2, null)[0]))
    for what, number in (("another ioctl", 0x5401), ("a block ioctl", 0x1260)):
        LIBC.ioctl(control, ctypes.c_ulong(number), ctypes.create_string_buffer(8))
        print(what, os.strerror(ctypes.get_errno()))
    print("and then", os.strerror(command(2, control)[0]))


def nodes(name: str) -> None:
    """What can be done to a node: made, linked, renamed, opened through a link and a relative path, removed."""
    os.umask(0)
    os.chdir("/dev/mapper")
    device = os.stat(name).st_rdev
    os.mknod("made", 0o640 | stat.S_IFBLK, device)
    print("made", oct(os.stat("made").st_mode), os.stat("made").st_rdev == device)
    with contextlib.suppress(FileExistsError):
        os.mknod("made", stat.S_IFBLK, device)
        print("made twice")
    os.rename("made", "renamed")
    (one, two) = ("/dev/here", "link")
    os.symlink("mapper/renamed", one)
    os.symlink("/dev/here", two)
    print("link", stat.S_ISLNK(os.lstat(two).st_mode), stat.S_ISBLK(os.stat(two).st_mode))
    fd = os.open(two, os.O_RDONLY)
    print("opened", os.fstat(fd).st_rdev == device)
    os.mknod("nothing", stat.S_IFBLK, os.makedev(254, 999))
    try:
        os.open("nothing", os.O_RDONLY)
    except OSError as error:
        print("no device", error.strerror)
    for path in (one, two, "renamed", "nothing"):
        os.unlink(path)
    print("left", sorted(os.listdir(".")))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
