"""`dmspec dmsetup`."""

import click


@click.command(
    "dmsetup",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
    add_help_option=False,
)
@click.option("--mount", "mountpoint", metavar="DIR", help="Where the stack is mounted.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(mountpoint: str | None, arguments: tuple[str, ...]) -> int:
    """Run dmsetup's own command line on a mounted stack: same options, output and exit status.

    Without --mount it is the mount of $DMSPEC_MOUNT, or the only one there is.
    """
    from dmspec.dmsetup.command import main

    return main(list(arguments), mountpoint)
