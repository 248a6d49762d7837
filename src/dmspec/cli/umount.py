"""`dmspec umount DIR`."""

import click

from dmspec.cli.output import EXIT_USAGE, die


@click.command("umount")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--force", is_flag=True, help="Cut the mount off even though I/O is held in it; that I/O fails.")
def command(directory: str, *, force: bool) -> int:
    """Unmount a stack: write back, sync, take its devices down, close its disks."""
    from dmspec.runtime import wire
    from dmspec.runtime.fuse import force_unmount

    if force:
        force_unmount(directory)
        return 0
    try:
        server = wire.ask(directory, "stop")
        for _answer in server:
            pass
        wire.wait_gone(directory)
    except wire.WireError as error:
        die(EXIT_USAGE, str(error))
    return 0
