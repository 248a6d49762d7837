"""`dmspec umount DIR`."""

import contextlib
import os
import signal

import click

from dmspec.cli.output import EXIT_OK, EXIT_USAGE, die

ANSWER_SECONDS = 5.0
END_SECONDS = 10.0


@click.command("umount")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--force", is_flag=True, help="Cut the mount off even though I/O is held in it; that I/O fails.")
def command(directory: str, *, force: bool) -> int:
    """Unmount a stack: write back, sync, take its devices down, close its disks."""
    from dmspec.runtime import wire

    try:
        if force:
            return _force(directory)
        for answer in wire.ask(directory, "stop"):
            if answer.get("waiting"):
                click.echo(f"dmspec: I/O waits for {', '.join(answer['waiting'])}: suspended; resume it, "
                           "or that I/O fails soon", err=True)
        wire.wait_gone(directory)
    except wire.WireError as error:
        die(EXIT_USAGE, str(error))
    return EXIT_OK


def _force(directory: str) -> int:
    """Ask the server to let go of everything; one that does not is cut off, and ended."""
    from dmspec.runtime import wire
    from dmspec.runtime.fuse import force_unmount

    asked = cut = False
    with contextlib.suppress(wire.WireError):
        for _answer in wire.ask(directory, "stop", force=True, within_s=ANSWER_SECONDS):
            asked = True
    if not asked or not wire.wait_gone(directory, END_SECONDS):
        cut = force_unmount(directory)
    server = wire.holder(directory)
    if server is not None and not wire.wait_gone(directory, END_SECONDS):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
        wire.wait_gone(directory)
    if not (asked or cut or server is not None):
        die(EXIT_USAGE, f"nothing of dmspec is mounted at {directory}")
    return EXIT_OK
