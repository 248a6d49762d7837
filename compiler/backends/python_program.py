"""The scenarios as a Python program: the spec, and a few lines that run it and say what came of it."""

from __future__ import annotations

from typing import Final

from dmspec.compiler.backends.base import Backend, BackendError
from dmspec.runtime.plan import Plan

_HEAD: Final = '''"""The scenarios of {name}, as a program.  Made by `dmspec compile --to python`."""

import sys

from dmspec.compiler import compile_text
from dmspec.compiler.render import render
from dmspec.runtime.runner import run_scenario, scenarios_of

SPEC = """\\
{spec}"""


def main() -> int:
    """Run every scenario once; 1 when one of them does not come to what it says."""
    compiled = compile_text(SPEC, {name!r})
    if compiled.plan is None:
        print(render(compiled.diagnostics), file=sys.stderr)
        return 2
    results = [run_scenario(compiled.plan, one.name) for one in scenarios_of(compiled.plan)]
    for result in results:
        print(f"{{result.scenario}}: {{result.verdict}}, {{result.steps}} steps")
        for check in result.checks:
            print(f"    {{'ok' if check.ok else 'FAILED':8}}{{check.words}}", check.text)
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
'''


def emit(plan: Plan, text: str) -> bytes:
    """The program."""
    if not text:
        raise BackendError("a Python program is made from a spec, not from a compiled plan")
    spec = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return _HEAD.format(name=plan.files[0], spec=spec if spec.endswith("\n") else spec + "\n").encode()


PYTHON: Final = Backend("python", "a Python program that runs the scenarios", emit, wants_text=True)
