"""`dmspec log DIR`."""

import click

from dmspec.cli.output import EXIT_OK, EXIT_USAGE, die


@click.command("log")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option("--clear", is_flag=True, help="Show each line once only: the next time, what has come since.")
def command(directory: str, *, clear: bool) -> int:
    """Show what the kernel would have logged about a mounted stack: level and text, as dmesg has them."""
    from dmspec.dmsetup.door import NoMountError, find

    try:
        lines = find(directory).ask("log", clear=clear)["lines"]
    except NoMountError as error:
        die(EXIT_USAGE, str(error))
    for level, text in lines:
        click.echo(f"{level}: {text}")
    return EXIT_OK
