"""`dmspec shell DIR`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from dmspec.cli.output import EXIT_USAGE, die


@click.command("shell", context_settings={"allow_interspersed_args": False})
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.argument("words", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def command(directory: str, words: tuple[str, ...]) -> int:
    """Run a shell, or COMMAND, in which `dmsetup` and `blockdev` know the stack mounted at DIR.

    Where the machine allows it, /dev/mapper is DIR in there, and nowhere else. The status is COMMAND's.
    """
    from dmspec.dmsetup.door import NoMountError, find
    from dmspec.dmsetup.surroundings import enter, write_programs

    mountpoint = Path(directory).resolve()
    try:
        find(str(mountpoint)).mountpoint()
    except NoMountError as error:
        die(EXIT_USAGE, str(error))
    arguments = list(words[1:] if words[:1] == ("--",) else words) or [os.environ.get("SHELL") or "/bin/sh"]
    with tempfile.TemporaryDirectory(prefix="dmspec-shell-") as folder:
        write_programs(Path(folder))
        environment = dict(os.environ, PATH=f"{folder}:{os.environ.get('PATH', os.defpath)}",
                           DMSPEC_MOUNT=str(mountpoint))

        def prepare() -> None:
            problem = enter(mountpoint)
            if problem:
                os.write(2, f"dmspec: /dev/mapper is not there: {problem}; "
                            f"the devices are in {mountpoint}\n".encode())

        sys.stdout.flush()
        try:
            return subprocess.run(arguments, env=environment, preexec_fn=prepare, check=False).returncode % 256
        except OSError as error:
            die(EXIT_USAGE, f"{arguments[0]}: {error.strerror}")
