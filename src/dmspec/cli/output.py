"""What every command shares in speaking to its user: exit statuses, the two consoles, JSON, progress.

Results go to stdout and everything else to stderr. rich is imported only when something is to be printed with
it, and honours NO_COLOR by itself.
"""

import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EXIT_OK: Final = 0  # everything was as expected
EXIT_CHECK_FAILED: Final = 1  # a check of the spec failed
EXIT_USAGE: Final = 2  # wrong usage or a wrong spec; click's own status for usage
EXIT_MACHINE: Final = 3  # this machine lacks something that the command needs
EXIT_INTERNAL: Final = 70  # a bug of ours; EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED: Final = 130  # Ctrl-C
EXIT_PIPE_CLOSED: Final = 141  # the reader of our output went away


class Failure(click.ClickException):
    """An end that a user can understand: a message on stderr and an exit status."""

    def __init__(self, exit_status: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status

    def show(self, file: Any = None) -> None:
        """Print the message to stderr, with the command's name before it."""
        click.echo(f"dmspec: {self.format_message()}", file=file, err=True)


def die(exit_status: int, message: str) -> NoReturn:
    """End the command with this status and this message; `finally` blocks still run."""
    raise Failure(exit_status, message)


def stdout() -> "Console":
    """Return the console for results."""
    return _console(sys.stdout)


def stderr() -> "Console":
    """Return the console for progress and remarks."""
    return _console(sys.stderr)


@cache
def _console(stream: TextIO) -> "Console":
    """Make one console per stream; a test replaces sys.stdout, and wants a new one then."""
    from rich.console import Console

    class PipeConsole(Console):
        """A console that lets a broken pipe through, to be handled where all of them are."""

        def on_broken_pipe(self) -> None:
            """Raise the error that is being handled: rich would exit with 1, which here is a failed check."""
            raise  # noqa: PLE0704 - rich calls this from its handler of BrokenPipeError

    return PipeConsole(file=stream, highlight=False, soft_wrap=True)


def progress() -> "Progress":
    """Return a progress bar on stderr, to use with `with`; where stderr is no terminal it shows nothing."""
    from rich.progress import Progress

    console = stderr()
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def print_json(shape: str, version: int, body: Mapping[str, Any]) -> None:
    """Print a document of a versioned shape: its first member is the shape's name with the version.

    A reader checks that member first. The version grows when a member changes its meaning or goes away; new
    members may come at any time.
    """
    click.echo(json.dumps({shape: version, **body}, indent=2, ensure_ascii=False))
