"""`dmspec check`: parse and check specs, and say everything that is wrong with them."""

from __future__ import annotations

import click

from dmspec.cli.output import EXIT_OK, EXIT_USAGE, die, print_json, stdout

CHECK_SHAPE_VERSION = 1


@click.command(short_help="Parse and check specs.")
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON (shape dmspec_check, version 1).")
@click.option("--explain", metavar="CODE", help="Say what a diagnostic's code means, such as DM006.")
def command(files: tuple[str, ...], as_json: bool, explain: str | None) -> int:
    """Parse and check specs; everything wrong in them is shown at once.

    The exit status is 2 where there is an error.
    """
    if explain is not None:
        return _explain(explain)
    if not files:
        raise click.UsageError("Missing argument 'FILE...'.")
    from dmspec.cli.plans import show_diagnostics
    from dmspec.compiler import compile_file

    found = {name: compile_file(name) for name in files}
    wrong = any(not one.ok for one in found.values())
    if as_json:
        from dmspec.compiler.render import to_json

        body = {"ok": not wrong, "files": [
            {"file": name, "ok": one.ok, "diagnostics": to_json(one.diagnostics)}
            for name, one in found.items()
        ]}
        print_json("dmspec_check", CHECK_SHAPE_VERSION, body)
    else:
        for name, one in found.items():
            show_diagnostics(one.diagnostics)
            if one.ok:
                stdout().print(f"{name}: ok", markup=False)
    return EXIT_USAGE if wrong else EXIT_OK


def _explain(code: str) -> int:
    from dmspec.compiler.diagnostics import CODES, did_you_mean

    one = CODES.get(code.upper())
    if one is None:
        hint = did_you_mean(code.upper(), CODES)
        die(EXIT_USAGE, f"no diagnostic has the code {code!r}" + (f"; {hint}" if hint else ""))
    click.echo(f"{one.code}: {one.title}\n\n{one.explanation}")
    return EXIT_OK
