"""The three processes of `dmspec exec`: the command in front, the supervisor, and the program.

The program is in the front's process group and session, so a terminal's signals reach it as if it had been started
alone.  The supervisor is its parent, and the nearest one of everything that it leaves behind: it may then look
into their memory under any setting of Yama, and it stays for a daemon that the program has started.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from dmspec.dmsetup.door import ENVIRONMENT, Door
from dmspec.exec import seccomp
from dmspec.exec.answers import Answers
from dmspec.exec.story import Story
from dmspec.exec.supervisor import Supervisor
from dmspec.exec.sysfs import SysTree
from dmspec.exec.view import View

_PR_SET_CHILD_SUBREAPER: Final = 36
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)
_LEFT_TO_PROGRAM: Final = (signal.SIGINT, signal.SIGQUIT)


class CannotRun(Exception):
    """The program could not be started; ``errno`` says why, or is 0 where this machine lacks something."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True)
class Job:
    """What is to be run: the program's words, and where the stack is mounted."""

    words: Sequence[str]
    mountpoint: str
    door: Door
    keep_daemons: bool
    story: Story


def run(job: Job, on_bug: Callable[[BaseException], None]) -> int | None:
    """Run it and return its wait status; ``None`` when the supervisor has been killed meanwhile."""
    seccomp.check()
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _supervise(job, writer, on_bug)
    os.close(writer)
    said: dict[str, Any] = {}
    handlers = [(number, signal.signal(number, lambda number, _frame: _pass_on(said, number)))
                for number in _PASSED_ON]
    handlers += [(number, signal.signal(number, signal.SIG_IGN)) for number in _LEFT_TO_PROGRAM]
    try:
        with open(reader, encoding="utf-8") as lines:
            for line in lines:
                said.update(json.loads(line))
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    if "problem" in said:
        os.waitpid(child, 0)
        raise CannotRun(said["problem"], said["errno"])
    status = said.get("status")
    if not job.keep_daemons or status is None:
        os.waitpid(child, 0)
    return status


def _pass_on(said: dict[str, Any], number: int) -> None:
    if "program" in said:
        with contextlib.suppress(ProcessLookupError):
            os.kill(said["program"], number)


def _supervise(job: Job, writer: int, on_bug: Callable[[BaseException], None]) -> NoReturn:
    """The supervisor's process."""
    def tell(**what: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, json.dumps(what).encode() + b"\n")

    status = 1
    try:
        for number in (*_PASSED_ON, *_LEFT_TO_PROGRAM):
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        supervisor = _start(job, tell, writer, on_bug)
        supervisor.serve(keep_daemons=job.keep_daemons)
        status = 0
    except CannotRun as problem:
        tell(problem=str(problem), errno=problem.errno)
    except seccomp.Unavailable as problem:
        tell(problem=str(problem), errno=0)
    except Exception as error:  # noqa: BLE001 - it is reported in full
        on_bug(error)
    finally:
        os._exit(status)


def _start(job: Job, tell: Callable[..., None], writer: int, on_bug: Callable[[BaseException], None]) -> Supervisor:
    lock = job.door.path.with_suffix(".lock")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # of the machine, whose /dev stays
    mount = os.open(job.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sys_tree = SysTree()
    view = View(job.mountpoint)
    directory = Path.cwd()
    blocks = job.door.blocks()
    try:
        view.enter(blocks, sys_tree)
        sys_tree.update(blocks)
    except OSError as error:
        raise CannotRun(f"a /dev of its own cannot be made for the program: {error}") from None
    own, theirs = socket.socketpair()
    program = os.fork()
    if not program:
        own.close()
        os.close(writer)
        _become(job, theirs, directory)
    theirs.close()
    os.setsid()
    tell(program=program)
    data, fds, _flags, _address = socket.recv_fds(own, 4096, 1)
    if not fds:
        os.waitpid(program, 0)
        raise CannotRun(data.decode(errors="replace") or "the program's process has been killed")
    answers = Answers(seccomp.Listener(fds[0]), job.door, mount, view, sys_tree, job.story)
    failure = bytearray()

    def ended(status: int) -> None:
        with contextlib.suppress(OSError):
            own.setblocking(False)
            failure.extend(own.recv(4096))
        if failure:
            number, _, text = failure.decode(errors="replace").partition(" ")
            tell(problem=text, errno=int(number))
        else:
            tell(status=status)
        os.close(writer)
        for fd in range(3):
            os.dup2(null, fd)

    return Supervisor(answers, program, lock, ended, on_bug)


def _become(job: Job, tell: socket.socket, directory: Path) -> NoReturn:
    """The program's process: nothing but system calls after the filter is there."""
    try:
        for number in (*_PASSED_ON, *_LEFT_TO_PROGRAM, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.chdir(directory)  # what is mounted over it now, if anything is
        environment = {**os.environ, ENVIRONMENT: job.mountpoint, "DM_DISABLE_UDEV": "1"}
        try:
            listener = seccomp.install()
        except seccomp.Unavailable as problem:
            tell.send(str(problem).encode())
            os._exit(1)
        socket.send_fds(tell, [b"x"], [listener])
        try:
            os.execvpe(job.words[0], list(job.words), environment)
        except OSError as error:
            tell.send(f"{error.errno} {job.words[0]}: {error.strerror}".encode())
    finally:
        os._exit(127)


