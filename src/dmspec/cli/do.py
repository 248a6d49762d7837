"""`dmspec do DIR STATEMENTS`."""

import sys
from typing import NoReturn

import click

from dmspec.cli.output import EXIT_CHECK_FAILED, EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, die


@click.command("do")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.argument("statements", metavar="STATEMENTS", nargs=-1)
@click.option("--status", "status_only", is_flag=True, help="Show the devices, their tables and their status.")
@click.option("--waits", "waits_only", is_flag=True, help="Show who waits for whom, now.")
@click.option("--run", "names", metavar="NAME", multiple=True,
              help="Begin this process of the mounted spec, or all of a scenario's, and do not wait for its end.")
@click.option("--quiet", is_flag=True, help="Do not show the steps.")
def command(directory: str, statements: tuple[str, ...], *, status_only: bool, waits_only: bool, names: tuple[str, ...],
            quiet: bool) -> int:
    """Do to a mounted stack what a process of a spec does: `dmspec do DIR "fail pv1"`.

    The statements are those of the language, with the names of the mounted spec and of devices that have been
    created since; several go on separate lines or in separate arguments.
    """
    from dmspec.runtime import wire
    from dmspec.runtime.errors import DmspecError

    if [bool(statements), status_only, waits_only, bool(names)].count(True) != 1:
        die(EXIT_USAGE, "say what to do, or --status, or --waits, or --run NAME")
    try:
        if names:
            _only(wire.ask(directory, "start", names=list(names)))
            return EXIT_OK
        if waits_only:
            return _waits(directory)
        return _status(directory) if status_only else _run(directory, "\n".join(statements), quiet=quiet)
    except (wire.WireError, DmspecError) as error:
        die(EXIT_USAGE, str(error))


def _only(answers: object) -> dict[str, object]:
    """The last answer, or an end with the problem that it names."""
    last: dict[str, object] = {}
    for last in answers:  # type: ignore[attr-defined]
        if "problem" in last:
            _problem(last)
    return last


def _problem(answer: dict[str, object]) -> NoReturn:
    if answer.get("internal"):
        die(EXIT_INTERNAL, f"internal error in the mount: {answer['problem']}; this is our bug")
    die(EXIT_USAGE, str(answer["problem"]))


def _status(directory: str) -> int:
    from dmspec.runtime import wire
    from dmspec.runtime.live_processes import lines_of

    answer = _only(wire.ask(directory, "status"))
    devices, processes = answer["devices"], answer["processes"]
    assert isinstance(devices, list)
    assert isinstance(processes, list)
    for device in devices:
        state = "SUSPENDED" if device["suspended"] else "ACTIVE"
        click.echo(f"{device['name']} ({device['number']}): {state}, {device['events']} events, "
                   f"{device['open']} open")
        for table, status in zip(device["table"], device["status"], strict=True):
            click.echo(f"    table   {table}")
            click.echo(f"    status  {status}")
    for line in lines_of(processes):
        click.echo(line)
    return EXIT_OK


def _waits(directory: str) -> int:
    from dmspec.dmsetup.door import NoMountError, find
    from dmspec.exec.waits import edges
    from dmspec.runtime.explore.explain import find_cycle

    try:
        found = edges(find(directory), directory)
    except NoMountError as error:
        die(EXIT_USAGE, str(error))
    cycle = find_cycle(found)
    for edge in found:
        mark = "*" if edge.waiter in cycle and edge.holder in cycle else " "
        click.echo(f"{mark} {edge.waiter} -> {edge.holder}: {edge.why}")
    if not found:
        click.echo("nobody waits")
    if cycle:
        click.echo("the cycle: " + " -> ".join([*cycle, cycle[0]]))
    return EXIT_OK


def compiled(directory: str, text: str) -> bytes | None:
    """Statements for the stack mounted there, as a plan; ``None`` after what is wrong with them was shown."""
    from dmspec.cli.plans import show_diagnostics
    from dmspec.compiler import compile_statements
    from dmspec.runtime import wire
    from dmspec.runtime.plan import from_bytes, to_bytes

    data = _only(wire.ask(directory, "plan"))["plan"]
    assert isinstance(data, bytes)
    result = compile_statements(text, from_bytes(data))
    show_diagnostics(result.diagnostics)
    return to_bytes(result.plan) if result.plan is not None else None


def _run(directory: str, text: str, *, quiet: bool) -> int:
    from dmspec.runtime import wire

    plan = compiled(directory, text)
    if plan is None:
        return EXIT_USAGE
    for answer in wire.ask(directory, "run", plan=plan):
        if "note" in answer and not quiet:
            lane, said = answer["note"]
            click.echo(f"{lane:8} {said}")
        elif "problem" in answer:
            _problem(answer)
        elif "end" in answer:
            for check, said in answer["violations"]:
                click.echo(f"dmspec: {check}: {said}", file=sys.stderr)
            return EXIT_CHECK_FAILED if answer["violations"] or answer["error"] else EXIT_OK
    return EXIT_OK
