"""`dmspec exec`."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmspec.cli.output import EXIT_INTERNAL, EXIT_MACHINE, EXIT_USAGE, die

if TYPE_CHECKING:
    from dmspec.dmsetup.door import Door
    from dmspec.exec.story import Story

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_BY_SIGNAL = 128


class _WithProgram(click.Command):
    """What follows the first `--` is the program, whatever is in it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put it aside."""
        at = args.index("--") if "--" in args else len(args)
        args, program = args[:at], args[at + 1:]
        if not program and not {"-h", "--help"} & set(args):
            die(EXIT_USAGE, "no program; write it behind `--`: dmspec exec --mount DIR -- dmsetup ls")
        ctx.meta["program"] = program
        return super().parse_args(ctx, args)


@click.command("exec", cls=_WithProgram, options_metavar="[--mount DIR | FILE] -- PROGRAM...")
@click.argument("file", metavar="", required=False, type=click.Path())
@click.option("--mount", "mountpoint", metavar="DIR", type=click.Path(exists=True, file_okay=False),
              help="Where the stack is mounted; without it and FILE, $DMSPEC_MOUNT or the only mount there is.")
@click.option("--log", metavar="FILE", help="Append what is asked of device-mapper to FILE (`-` is stderr), in "
                                            "dmsetup's words.")
@click.option("--when", "whens", metavar="'COMMAND DEVICE' STATEMENT", nargs=2, multiple=True,
              help="Just before that is first done to that device (`suspend vg-lv`), do STATEMENT (`fail pv1`).")
@click.pass_context
def command(ctx: click.Context, file: str | None, mountpoint: str | None, log: str | None,
            whens: tuple[tuple[str, str], ...]) -> int:
    """Run the unmodified PROGRAM (dmsetup, LVM2, dmeventd, mkfs, a script) on a mounted stack.

    It and everything that it starts believe that the stack is the machine's: /dev/mapper/control takes ioctls, the
    spec's disks are block devices /dev/NAME, and /dev has no others.  No root and no kernel module are needed.

    With FILE the stack is mounted for PROGRAM alone, and ends with it.  With --mount it stays, and so do daemons
    (dmeventd) that PROGRAM leaves behind.  The status is PROGRAM's.
    """
    words: list[str] = ctx.meta["program"]
    if file and mountpoint:
        die(EXIT_USAGE, "either a FILE or --mount DIR, not both")
    if file and not Path(file).is_file():
        die(EXIT_USAGE, f"{file}: no such file")
    if not file:
        return _run(words, mountpoint, log, whens, keep_daemons=True)
    with _mounted(file) as folder:
        return _run(words, folder, log, whens, keep_daemons=False)


@contextlib.contextmanager
def _mounted(file: str) -> Iterator[str]:
    """A mount of a spec for as long as the program runs."""
    dmspec = [sys.executable, "-m", "dmspec"]
    with tempfile.TemporaryDirectory(prefix="dmspec-exec-") as folder:
        mounted = subprocess.run([*dmspec, "mount", "--quiet", "--disks", file, folder], check=False)
        if mounted.returncode:
            sys.exit(mounted.returncode)
        try:
            yield folder
        finally:
            if subprocess.run([*dmspec, "umount", folder], capture_output=True, check=False).returncode:
                subprocess.run([*dmspec, "umount", "--force", folder], check=False)


def _story(door: "Door", folder: str, log: str | None, whens: tuple[tuple[str, str], ...]) -> "Story":
    """What is to be told, and what is to be done at which moment."""
    from dmspec.cli.do import compiled
    from dmspec.exec.story import Story, When, open_log

    actions = []
    for moment, text in whens:
        words = moment.split()
        if len(words) != 2:
            die(EXIT_USAGE, f"--when {moment!r}: a command and a device are wanted, as in 'suspend vg-lv'")
        plan = compiled(folder, text)
        if plan is None:
            sys.exit(EXIT_USAGE)
        actions.append(When(words[0], words[1], plan, text))
    try:
        return Story(door, lambda plan: _perform(folder, plan), open_log(log) if log else None, actions)
    except OSError as error:
        die(EXIT_USAGE, f"{log}: {error.strerror}")


def _perform(folder: str, plan: bytes) -> None:
    from dmspec.runtime import wire

    for _answer in wire.ask(folder, "run", plan=plan):
        pass


def _run(words: list[str], mountpoint: str | None, log: str | None, whens: tuple[tuple[str, str], ...], *,
         keep_daemons: bool) -> int:
    from dmspec.cli.group import report_internal_error
    from dmspec.dmsetup.door import NoMountError, find
    from dmspec.exec import seccomp
    from dmspec.exec.launch import CannotRun, Job, run

    def on_bug(error: BaseException) -> None:
        try:
            raise error
        except BaseException:  # noqa: BLE001 - it is reported, in full, in a file
            report_internal_error()

    try:
        door = find(str(Path(mountpoint).resolve()) if mountpoint else None)
        folder = door.mountpoint()
        status = run(Job(words, folder, door, keep_daemons, _story(door, folder, log, whens)), on_bug)
    except NoMountError as error:
        die(EXIT_USAGE, str(error))
    except seccomp.Unavailable as error:
        die(EXIT_MACHINE, f"exec does not work here: {error}")
    except CannotRun as error:
        if not error.errno:
            die(EXIT_MACHINE, f"exec does not work here: {error}")
        die(_NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTABLE, str(error))
    if status is None:
        die(EXIT_INTERNAL, "the supervisor has been killed; the program runs on, and its calls fail with ENOSYS")
    return _exit_status(status)


def _exit_status(status: Any) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _BY_SIGNAL - code
