"""A counterexample as a sequence diagram."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from dmspec.cli import main
from dmspec.runtime.explore.explain import Counterexample, Edge, Step
from dmspec.runtime.explore.mermaid import sequence_diagram

SPEC = """
lock a
lock b
process one { with a { with b { } } }
process two { with b { with a { } } }
scenario main {
    run one two
    always no-deadlock
    expect violation of no-deadlock
}
"""


def test_what_the_command_writes(tmp_path: Path) -> None:
    spec, out = tmp_path / "spec.dms", tmp_path / "out.mmd"
    spec.write_text(SPEC)
    result = CliRunner().invoke(main, ["explore", str(spec), "-q", "--mermaid", str(out)])
    assert result.exit_code == 0, result.output
    lines = out.read_text().splitlines()
    assert lines[0] == "sequenceDiagram"
    assert "    participant l0 as one" in lines
    assert "    l0->>l0: takes lock a" in lines
    assert sum("(in the cycle)" in line for line in lines) == 4


def test_every_line_is_one_that_mermaid_reads() -> None:
    steps = [Step(0, "setup", "setup", [], {}),
             Step(1, "app", "task", [("app", 'write "x"; #1 <y>\nz'), ("vol", "held")], {}),
             Step(2, "kmirrord vol", "task", [], {}), Step(3, "pv1", "task", [("pv1", "FAILED 5")], {})]
    example = Counterexample("s", "no-deadlock", "all; stand", steps, [Edge("process app", "lock vg", "why")], [],
                             ["app", "vol", "pv1"])
    text = sequence_diagram(example)
    assert "participant l3 as kmirrord vol" in text
    for line in text.splitlines()[3:]:
        assert re.fullmatch(r"    (participant l\d as .+|l\d->>l\d: .+|Note over l\d(,l\d)?: .+)", line), line
        said = line.partition(": ")[2]
        assert not re.search(r"[<>\"]|;(?<!#\d\d;)(?<!quot;)(?<!lt;)(?<!gt;)", said), line


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    spec = tmp_path / "spec.dms"
    spec.write_text(SPEC)
    result = CliRunner().invoke(main, ["explore", str(spec), "-q", "--mermaid", str(tmp_path / "no" / "out")])
    assert result.exit_code == 2
    assert "cannot write" in result.output
