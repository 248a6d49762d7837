"""Writers of a soak, each with a part of the volume of its own and a model of what that part may hold."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

LANE_BYTES: Final = 128 << 10
DEADLINE_SECONDS: Final = 60.0

# What a program may meet: the disks' errors, and those of a mount whose server has been killed.
EXPECTED: Final = (errno.EIO, errno.ENXIO, errno.ENOTCONN, errno.ECONNABORTED, errno.EPIPE, errno.ENOENT, errno.EBADF)


class Lost(AssertionError):
    """A byte that was acknowledged and flushed is not there."""


class Model:
    """``settled`` is there for certain; ``doubtful`` are later writes, in order, each of which may be there or not.

    A write is in doubt while it is under way, after it has failed, and, if it was buffered, until an fsync has ended
    well.  Between several doubtful writes to a byte any may have been the last to reach the disk.  With ``anything`` a
    program is at work whose bytes nobody else knows.
    """

    def __init__(self, size: int) -> None:
        self.settled = bytearray(size)
        self.doubtful: list[tuple[int, bytes]] = []
        self.anything = False

    def done(self, offset: int, data: bytes) -> None:
        """A write is acknowledged and on the disks, and so is nothing else in its range."""
        self.settled[offset:offset + len(data)] = data
        kept = []
        for start, other in self.doubtful:
            if start < offset:
                kept.append((start, other[:offset - start]))
            if start + len(other) > offset + len(data):
                begin = max(offset + len(data), start)
                kept.append((begin, other[begin - start:]))
        self.doubtful = kept

    def check(self, found: bytes, what: str) -> None:
        """Raise :class:`Lost` unless every byte is one that may be there."""
        if self.anything or found == self.settled:
            return
        for at in range(0, len(found), 512):
            if found[at:at + 512] != self.settled[at:at + 512]:
                for index in range(at, at + 512):
                    if found[index] != self.settled[index] and not any(
                            start <= index < start + len(data) and data[index - start] == found[index]
                            for start, data in self.doubtful):
                        raise Lost(f"{what}: byte {index} is {found[index]:#x}, not {self.settled[index]:#x}, "
                                   f"and none of {len(self.doubtful)} doubtful writes")

    def adopt(self, found: bytes, what: str) -> None:
        """What was found is there from now on."""
        self.check(found, what)
        self.settled[:] = found
        self.doubtful.clear()
        self.anything = False


class Lane:
    """One writer: a thread that works on its part of a file until it is told to stop or the mount is gone."""

    def __init__(self, number: int, draw: random.Random) -> None:
        self.number = number
        self.draw = draw
        self.base = number * LANE_BYTES
        self.model = Model(LANE_BYTES)
        self.operations = 0
        self.errors = 0
        self.problem: BaseException | None = None
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self, path: Path) -> None:
        self.stop.clear()
        self.thread = threading.Thread(target=self._run, args=(path,), name=f"lane {self.number}", daemon=True)
        self.thread.start()

    def join(self) -> None:
        """A thread that does not end is stuck in a system call."""
        assert self.thread is not None
        self.thread.join(DEADLINE_SECONDS)
        if self.thread.is_alive():
            raise AssertionError(f"lane {self.number} is stuck")
        if self.problem is not None:
            raise self.problem

    def _run(self, path: Path) -> None:
        try:
            self.work(path)
        except OSError as problem:
            if problem.errno not in EXPECTED:
                self.problem = problem
        except BaseException as problem:  # noqa: BLE001 - raised again by join()
            self.problem = problem

    def work(self, path: Path) -> None:
        raise NotImplementedError


class DirectLane(Lane):
    """Blocks by O_DIRECT: an answered write is on the disks."""

    def work(self, path: Path) -> None:
        memory = mmap.mmap(-1, 65536)
        file = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            while not self.stop.is_set():
                size = self.draw.choice([512, 4096, 4096, 16384, 65536])
                offset = self.draw.randrange(0, LANE_BYTES - size + 1, 512)
                self._one(file, memory, offset, size)
        finally:
            with suppress(OSError):
                os.close(file)

    def _one(self, file: int, memory: mmap.mmap, offset: int, size: int) -> None:
        buffer = memoryview(memory)[:size]
        if self.draw.random() < 0.3:
            if os.preadv(file, [buffer], self.base + offset) == size:
                whole = bytearray(self.model.settled)
                whole[offset:offset + size] = buffer
                self.model.check(bytes(whole), f"lane {self.number} reads")
                self.operations += 1
            return
        data = self.draw.randbytes(16) * (size // 16)
        buffer[:] = data
        self.model.doubtful.append((offset, data))
        try:
            if os.pwrite(file, buffer, self.base + offset) < size:
                self.errors += 1
                return
        except OSError as problem:
            self.errors += 1
            if problem.errno != errno.EIO:
                raise
            return
        self.model.done(offset, data)
        self.operations += 1


class BufferedLane(Lane):
    """Any alignment and size through the page cache, as fsx does it; settled by fsync."""

    def work(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR)
        try:
            while not self.stop.is_set():
                for _ in range(self.draw.randrange(1, 12)):
                    size = self.draw.randrange(1, 9000)
                    offset = self.draw.randrange(LANE_BYTES - size)
                    data = self.draw.randbytes(1) * size
                    self.model.doubtful.append((offset, data))
                    if os.pwrite(file, data, self.base + offset) < size:  # a page in the middle could not be read
                        self.errors += 1
                    self.operations += 1
                reads_it = self.draw.random() < 0.5 or self._reads_it(file)
                self._sync(file)
                if not reads_it and not self.errors:
                    raise Lost(f"lane {self.number} does not read what it wrote, and the fsync after that ended well")
        finally:
            with suppress(OSError):
                os.close(file)

    def _reads_it(self, file: int) -> bool:
        """What was written last is what is read, also before it is on the disks.

        A write-back that has failed may have taken it out of the page cache; then the fsync says so.
        """
        found = os.pread(file, LANE_BYTES, self.base)
        expected = bytearray(self.model.settled)
        for offset, data in self.model.doubtful:
            expected[offset:offset + len(data)] = data
        return len(found) < LANE_BYTES or found == expected

    def _sync(self, file: int) -> None:
        try:
            os.fsync(file)
        except OSError as problem:
            self.errors += 1
            if problem.errno != errno.EIO:
                raise
            return
        if not self.errors:
            for offset, data in list(self.model.doubtful):
                self.model.settled[offset:offset + len(data)] = data
            self.model.doubtful.clear()
        self.operations += 1


class ProgramLane(Lane):
    """dd and fio, each a program of its own that writes, syncs, and whose bytes are looked at."""

    programs = 0

    def __init__(self, number: int, draw: random.Random, scratch: Path, program: str) -> None:
        super().__init__(number, draw)
        self.program = program
        self.source = scratch / f"source{number}"

    def work(self, path: Path) -> None:
        while not self.stop.is_set():
            done = self._dd(path) if self.program == "dd" else self._fio(path)
            self.programs += 1
            if done.returncode:
                self.errors += 1
                return
            self.operations += LANE_BYTES // 4096

    def _dd(self, path: Path) -> subprocess.CompletedProcess[bytes]:
        data = self.draw.randbytes(4096) * (LANE_BYTES // 4096)
        self.source.write_bytes(data)
        self.model.doubtful.append((0, data))
        how = self.draw.choice([["oflag=direct"], ["conv=fsync"]])
        done = self._run_program(["dd", f"if={self.source}", f"of={path}", "bs=16k", f"seek={self.base // 16384}",
                                  "conv=notrunc,nocreat", *how])
        if not done.returncode:
            self.model.done(0, data)
        return done

    def _fio(self, path: Path) -> subprocess.CompletedProcess[bytes]:
        """It verifies what it has written; its bytes are then taken as they are."""
        self.model.anything = True
        done = self._run_program(["fio", "--name=soak", f"--filename={path}", f"--offset={self.base}",
                                  f"--size={LANE_BYTES}", "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--direct=1",
                                  "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--end_fsync=1",
                                  "--output=/dev/null", "--thread", "--allow_file_create=0",
                                  "--verify_state_save=0"])
        if not done.returncode:
            with path.open("rb") as file:
                file.seek(self.base)
                found = file.read(LANE_BYTES)
            if len(found) == LANE_BYTES:
                self.model.adopt(found, "fio")
        return done

    @staticmethod
    def _run_program(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{command[0]} is stuck") from None
