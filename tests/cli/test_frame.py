"""Whatever happens in a command, a user gets an exit status and at most a short message."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dmspec import __version__
from dmspec.cli import COMMANDS, main, output
from dmspec.cli.group import CommandEntry

PLANTED = """
import os, signal, sys
import click
from dmspec.cli import main, output

@main.command("planted")
def planted():
    {body}

main(prog_name="dmspec")
"""


@pytest.fixture
def plant() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Add a command called `planted` for one test."""

    def add(body: Callable[[], object]) -> None:
        main.add_command(click.Command("planted", callback=body))

    yield add
    main.commands.pop("planted", None)


def run_planted(body: str) -> subprocess.CompletedProcess[str]:
    code = PLANTED.format(body=body)
    command = [sys.executable, "-c", code, "planted"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_each_command_is_there(entry: CommandEntry) -> None:
    command = import_module(entry.module).command
    assert isinstance(command, click.Command)
    result = invoke(entry.name, "--help")
    assert result.exit_code == 0
    if entry.name == "dmsetup":  # it says what dmsetup says, on the stream on which that says it
        assert result.output.startswith("Usage:\n\ndmsetup\n")
    else:
        assert result.stdout.startswith(f"Usage: dmspec {entry.name} ")
    assert entry.summary.endswith(".")


def test_help_imports_no_command_and_no_rich() -> None:
    code = """
import sys
from dmspec.cli import COMMANDS, main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
late = {entry.module for entry in COMMANDS}
late |= {"rich", "lark", "msgpack", "dmspec.compiler", "dmspec.runtime"}
sys.exit(", ".join(late & set(sys.modules)) or 0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"dmspec {__version__}\n")


@pytest.mark.parametrize("arguments", [["--no-such"], ["no-such"], ["doctor", "surplus"], []])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_mistyped_command_gets_a_suggestion() -> None:
    assert "Did you mean 'doctor'?" in invoke("doctr").stderr


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_what_a_command_returns_is_its_status(
    plant: Callable[[Callable[[], object]], None], returned: int | None, status: int
) -> None:
    plant(lambda: returned)
    assert invoke("planted").exit_code == status


def test_die(plant: Callable[[Callable[[], object]], None]) -> None:
    plant(lambda: output.die(output.EXIT_MACHINE, "no libfuse here"))
    result = invoke("planted")
    assert (result.exit_code, result.stderr) == (3, "dmspec: no libfuse here\n")


def test_an_unexpected_exception_is_ours_and_its_traceback_is_in_a_file(
    plant: Callable[[Callable[[], object]], None],
) -> None:
    def fail() -> None:
        raise KeyError("wanted")

    plant(fail)
    result = invoke("planted")
    assert result.exit_code == 70
    message = "dmspec: internal error: KeyError: 'wanted'; this is our bug: the traceback is in "
    assert result.stderr.startswith(message)
    report = Path(result.stderr.rsplit(" in ", 1)[1].strip())
    assert report.parent == Path(tempfile.gettempdir())
    assert "in fail" in report.read_text()
    assert __version__ in report.read_text()
    report.unlink()


def test_an_internal_error_where_nothing_can_be_written(
    plant: Callable[[Callable[[], object]], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise RuntimeError

    plant(fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    result = invoke("planted")
    assert result.exit_code == 70
    assert result.stderr == (
        "dmspec: internal error: RuntimeError: ; this is our bug: "
        "the traceback could not be written (No such file or directory)\n"
    )


def test_control_c() -> None:
    run = run_planted("os.kill(os.getpid(), signal.SIGINT); signal.pause()")
    assert run.returncode == 128 + signal.SIGINT
    assert run.stderr.strip() == ""


@pytest.mark.parametrize(
    "body",
    [
        "[click.echo('x' * 1000) for _ in range(1000)]",
        "[output.stdout().print('x' * 1000) for _ in range(1000)]",
        "sys.stdout.write('x')",  # noticed when flushing only
    ],
)
def test_a_reader_that_goes_away_is_met_with_silence(body: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", PLANTED.format(body=body), "planted"]
    run = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, "")


def test_help_into_a_closed_pipe_is_silent() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "dmspec", "--help"]
    run = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, "")


def test_another_broken_pipe_is_not_silent() -> None:
    run = run_planted("raise BrokenPipeError(32, 'a socket of ours')")
    assert run.returncode == 70
    assert "a socket of ours" in run.stderr


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.text import Text

    monkeypatch.setenv("FORCE_COLOR", "1")
    for wanted in (True, False):
        monkeypatch.setenv("NO_COLOR", "" if wanted else "1")
        with CliRunner().isolation() as (out, _, _):
            output.stdout().print(Text("red", "red"))
            assert (b"\x1b[31m" in out.getvalue()) is wanted
