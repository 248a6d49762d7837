"""`use`: libraries beside the spec and those that come with dmspec."""

from pathlib import Path

from dmspec.compiler import compile_file
from dmspec.compiler.api import Compiled


def compiled(folder: Path, spec: str, **libraries: str) -> Compiled:
    for name, text in libraries.items():
        (folder / f"{name}.dms").write_text(text, encoding="utf-8")
    (folder / "spec.dms").write_text(spec, encoding="utf-8")
    return compile_file(folder / "spec.dms")


def codes(one: Compiled) -> list[tuple[str, str]]:
    return [(Path(found.span.source.name).name, found.code) for found in one.diagnostics]


def test_a_library_beside_the_spec(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use mine\ndisk d 8MiB\nprocess p { mine.look d }",
                   mine="use deeper\nprocedure look(what) { deeper.touch what }",
                   deeper="procedure touch(what) { read what }")
    assert one.plan is not None
    assert one.plan.files == ["spec.dms", "mine.dms", "deeper.dms"]
    assert [(step.op, step.file) for step in one.plan.process("p").code] == [
        ("enter", 0), ("enter", 1), ("read", 2), ("leave", 1), ("leave", 0), ("end", 0),
    ]
    assert one.plan.process("p").code[1].args == {"procedure": "deeper.touch"}


def test_a_library_beside_the_spec_comes_before_the_one_of_dmspec(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use lvm\ndisk d 8MiB\nprocess p { lvm.mine d }",
                   lvm="procedure mine(what) { read what }")
    assert one.plan is not None


def test_what_a_library_uses_is_not_seen_through_it(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use mine\ndisk d 8MiB\nprocess p { deeper.touch d }", mine="use deeper",
                   deeper="procedure touch(what) { read what }")
    assert codes(one) == [("spec.dms", "DM201")]


def test_libraries_in_a_circle(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use a", a="use b", b="use a")
    assert codes(one) == [("b.dms", "DM107")]
    assert "a -> b -> a" in one.diagnostics[0].message


def test_a_library_with_more_than_procedures(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use a", a="disk d 8MiB\nkernel now\nprocess p { }\nprocedure x { }")
    assert codes(one) == [("a.dms", "DM108")] * 3


def test_a_library_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.dms").mkdir()
    (tmp_path / "b.dms").write_bytes(b"\xff")
    assert codes(compiled(tmp_path, "use a\nuse b")) == [("spec.dms", "DM001"), ("spec.dms", "DM002")]


def test_errors_in_a_library_are_shown_there_and_name_the_call(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use mine\ndisk d 8MiB\nprocess p { mine.look d }",
                   mine="procedure look(what) { fail other; read what at=1x }")
    assert codes(one) == [("mine.dms", "DM101"), ("mine.dms", "DM208")]
    for found in one.diagnostics:
        assert "`look`" in found.related[0].message
        assert found.related[0].span.line == 3


def test_syntax_errors_in_a_library(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use mine\ndisk d 8MiB\nprocess p { mine.look d }", mine="procedure look(what { }")
    assert codes(one) == [("mine.dms", "DM006")]


def test_a_procedure_that_nobody_calls_is_checked_too(tmp_path: Path) -> None:
    one = compiled(tmp_path, "use mine", mine="""
procedure fine(a, b, n) {
    create {a}-x { 8MiB linear b }
    if exists(a) { write {b}-y at=n } else { a-typo }
    repeat n { with b { load a table=b } }
    expect error n { read a }
    expect sha256 a b same-as=n
    await event a within=n
}
procedure wrong(a) { wrte a; fail a whole; create {c}-x }
""")
    assert codes(one) == [("mine.dms", "DM201"), ("mine.dms", "DM201"), ("mine.dms", "DM207"), ("mine.dms", "DM111")]


SPEC = """use lvm
disk pv1 64MiB
disk pv2 64MiB
disk pv3 16MiB
device vol {{ mirror pv1 pv2 handle_errors }}
process p {{ {} }}
"""


def operations(tmp_path: Path, statements: str) -> list[tuple[str, object]]:
    one = compiled(tmp_path, SPEC.format(statements))
    assert one.plan is not None, codes(one)
    code = one.plan.process("p").code
    return [(step.op, step.args.get("device", step.args.get("name"))) for step in code
            if step.op in ("create", "load", "suspend", "resume")]


def test_lvm_create_snapshot_is_the_sequence_of_lvm(tmp_path: Path) -> None:
    assert operations(tmp_path, "lvm.create_snapshot vol name=snap cow=pv3") == [
        ("create", "vol-real"), ("load", "vol-real"), ("create", "snap-cow"), ("create", "snap"),
        ("load", "snap"), ("load", "vol"), ("suspend", ["vol"]),
        ("resume", ["vol-real", "snap-cow", "snap", "vol"]),
    ]


def test_lvm_repair_reloads_without_flush_on_the_leg_that_is_left(tmp_path: Path) -> None:
    one = compiled(tmp_path, SPEC.format("lvm.repair_node vol pv1 pv2"))
    assert one.plan is not None
    code = [step for step in one.plan.process("p").code if step.op not in ("enter", "leave")]
    assert [step.op for step in code] == [
        "branch", "load", "suspend", "resume", "jump", "branch", "load", "suspend", "resume", "end"]
    assert code[0].args["args"] == {"disk": "pv1"}
    assert code[1].args["table"] == ["0 * linear pv2 0"]
    assert code[2].args == {"device": ["vol"], "noflush": True, "nolockfs": True}
    assert code[6].args["table"] == ["0 * linear pv1 0"]


def test_lvm_repair_needs_no_snapshot_in_the_spec(tmp_path: Path) -> None:
    assert ("load", "vol-real") in operations(tmp_path, "lvm.repair vol")
