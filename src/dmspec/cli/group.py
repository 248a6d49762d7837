"""The click group behind `dmspec`: it imports a command late, and lets no traceback reach a user.

Everything that can leave a command ends here in an exit status and, at most, a short message: an expected
failure in its own status, Ctrl-C in 130, a reader that closed the pipe in a silent 141 (what a program killed
by SIGPIPE has), and a mistake of ours in 70 with the traceback in a file.
"""

import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, TextIO

import click

from dmspec import __version__
from dmspec.cli.output import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_PIPE_CLOSED, Failure


class CommandEntry(NamedTuple):
    """One subcommand: its name, the module that defines `command`, and its line in `dmspec --help`."""

    name: str
    module: str
    summary: str


class _PipeClosedError(Exception):
    """Carries a broken pipe past click, which would answer it with status 1: in dmspec, a failed check."""


class DmspecGroup(click.Group):
    """A group whose commands come from a tuple of entries, each imported when it is first asked for."""

    def __init__(self, *args: Any, entries: Sequence[CommandEntry] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = {entry.name: entry for entry in entries}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the entries."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command, or None where there is no such name."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = import_module(entry.module).command
        assert isinstance(command, click.Command), entry.module
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; for a mistyped one, suggest those that are near."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, self.entries, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the entries alone, importing none of them."""
        if self.entries:
            with formatter.section("Commands"):
                formatter.write_dl([(entry.name, entry.summary) for entry in self.entries.values()])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; `--help` prints from in here, so a pipe may break here too."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            raise _PipeClosedError from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeClosedError from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and leave the process with its exit status."""
        call = {"complete_var": complete_var, "windows_expand_args": windows_expand_args, **extra}
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **call)
        try:
            returned = super().main(args, prog_name, standalone_mode=False, **call)
            sys.stdout.flush()
            status = returned if isinstance(returned, int) else EXIT_OK
        except Failure as failure:
            failure.show()
            status = failure.exit_status
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            status = EXIT_INTERRUPTED
        except (_PipeClosedError, BrokenPipeError):
            status = _after_broken_pipe()
        except Exception:  # noqa: BLE001 - it is reported, in full, in a file
            status = report_internal_error()
        sys.exit(status)


def _after_broken_pipe() -> int:
    """Tell a reader that went away (`dmspec run X | head`), nobody's error, from any other broken pipe."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]
    if not closed:
        return report_internal_error()
    # The interpreter flushes the streams once more at its end, and must not complain then.
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in closed:
        os.dup2(null, stream.fileno())
    os.close(null)
    return EXIT_PIPE_CLOSED


def _reader_is_gone(stream: TextIO) -> bool:
    """Say whether writing to this stream raises SIGPIPE from now on."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError):  # a stream that is closed, or is no file
        return False


def report_internal_error() -> int:
    """Write the traceback of the exception in hand to a file, name the file on stderr, return the status."""
    error = sys.exc_info()[1]
    if isinstance(error, _PipeClosedError):
        error = error.__cause__
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    report = "\n".join(
        [
            f"dmspec {__version__}, Python {sys.version.split()[0]}",
            f"arguments: {sys.argv[1:]!r}",
            "",
            traceback.format_exc(),
        ]
    )
    try:
        descriptor, path = tempfile.mkstemp(prefix="dmspec-internal-error-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(report)
        where = f"the traceback is in {path}"
    except OSError as unwritable:
        where = f"the traceback could not be written ({unwritable.strerror})"
    click.echo(f"dmspec: internal error: {summary}; this is our bug: {where}", err=True)
    return EXIT_INTERNAL


assert EXIT_PIPE_CLOSED == 128 + signal.SIGPIPE
assert EXIT_INTERRUPTED == 128 + signal.SIGINT
