"""Control flow, instruction by instruction."""

import pytest

from dmspec.compiler import compile_text
from dmspec.runtime.plan import Process

HEAD = "disk d 8MiB\ndisk e 8MiB\ndevice x { linear d }\nlock vg\n"
Code = list[tuple[str, dict[str, object]]]


def process(body: str, before: str = "") -> Process:
    compiled = compile_text(f"{HEAD}{before}\nprocess p {{\n{body}\n}}\n")
    assert compiled.plan is not None, compiled.diagnostics
    return compiled.plan.process("p")


def code(body: str, before: str = "") -> Code:
    """The process's code; of operations only the first argument's value."""
    shown: Code = []
    for instr in process(body, before).code:
        if instr.op in ("flush", "fail"):
            shown.append((instr.op, {"on": next(iter(instr.args.values()))}))
        else:
            shown.append((instr.op, instr.args))
    return shown


def flush(name: str) -> tuple[str, dict[str, object]]:
    return ("flush", {"on": name})


END: tuple[str, dict[str, object]] = ("end", {})


def test_an_empty_process_ends() -> None:
    assert code("") == [END]


def test_statements_follow_each_other_however_they_are_separated() -> None:
    expected = [flush("d"), flush("e"), flush("x"), END]
    assert code("flush d\nflush e\nflush x") == expected
    assert code("flush d; flush e;;flush x;") == expected
    assert code("flush d  flush e flush x") == expected
    assert code("flush d # one\n\n  # two\nflush \\\n e\n; flush x") == expected


def test_with() -> None:
    assert code("with vg { flush d }") == [("lock", {"name": "vg"}), flush("d"), ("unlock", {"name": "vg"}), END]


def test_if_and_else() -> None:
    asked = {"condition": "suspended", "args": {"device": "x"}}
    assert code("if suspended(x) { flush d }") == [("branch", {**asked, "negate": False, "to": 2}), flush("d"), END]
    assert code("if not suspended x { flush d } else { flush e }\nflush x") == [
        ("branch", {**asked, "negate": True, "to": 3}), flush("d"), ("jump", {"to": 4}), flush("e"), flush("x"),
        END,
    ]


def test_else_if_is_an_if_in_an_else() -> None:
    chained = code("if suspended x { flush d } else if failed d { flush e } else { flush x }")
    nested = code("if suspended x { flush d } else { if failed d { flush e } else { flush x } }")
    assert chained == nested
    assert [op for op, _ in chained] == ["branch", "flush", "jump", "branch", "flush", "jump", "flush", "end"]
    assert [args["to"] for op, args in chained if "to" in args] == [3, 7, 6, 7]


def test_repeat_has_a_counter_of_its_own() -> None:
    assert code("repeat 3 { flush d repeat 2 { flush e } }") == [
        ("loop", {"slot": 0, "times": 3, "to": 6}),
        flush("d"),
        ("loop", {"slot": 1, "times": 2, "to": 5}),
        flush("e"),
        ("jump", {"to": 2}),
        ("jump", {"to": 0}),
        END,
    ]
    assert process("repeat 3 { repeat 2 { } } repeat 1 { }").slots == 3


def test_choose() -> None:
    assert code("choose { flush d } or { } or { flush e }\nflush x") == [
        ("choose", {"to": [1, 3, 4]}), flush("d"), ("jump", {"to": 5}), ("jump", {"to": 5}), flush("e"),
        flush("x"), END,
    ]


def test_parallel() -> None:
    assert code("parallel { flush d } { flush e flush x }") == [
        ("fork", {"starts": [1, 3], "to": 6}), flush("d"), END, flush("e"), flush("x"), END, END,
    ]


@pytest.mark.parametrize(("word", "must"), [("expect", True), ("allow", False)])
def test_errors(word: str, must: bool) -> None:
    assert code(f"{word} error ENXIO {{ flush d }}") == [
        ("try", {"errno": "ENXIO", "must": must, "to": 3}), flush("d"),
        ("end-try", {"errno": "ENXIO", "must": must}), END,
    ]
    assert code(f"{word} error {{ }}")[0] == ("try", {"errno": None, "must": must, "to": 2})


def test_await() -> None:
    bare = {"condition": "event", "args": {"device": "x", "registered": False}}
    assert code("await event x") == [("await", {**bare, "within_ns": None}), END]
    assert code("await event(x) within=30s flush d") == [
        ("await", {**bare, "within_ns": 30_000_000_000}), flush("d"), END]


def test_procedures_are_put_in() -> None:
    before = "procedure both(a, b=e) { flush a; flush b }\nprocedure outer(n) { both n; both b=n a={n}2 }"
    assert code("outer d", before + "\ndisk d2 8MiB") == [
        ("enter", {"procedure": "outer"}),
        ("enter", {"procedure": "both"}), flush("d"), flush("e"), ("leave", {"procedure": "both"}),
        ("enter", {"procedure": "both"}), flush("d2"), flush("d"), ("leave", {"procedure": "both"}),
        ("leave", {"procedure": "outer"}),
        END,
    ]


def test_a_parameter_hides_what_is_outside() -> None:
    assert code("p2 e", "procedure p2(d) { flush d }")[1] == flush("e")
    assert code("p2 e", "procedure p2(x) { inner d=x }\nprocedure inner(d, x={d}) { flush x }".replace("{d}", "d"))[
        2] == flush("e")


def test_all_arguments_are_there_with_their_defaults() -> None:
    written = process("write x size=8s fua").code[0]
    assert written.args == {
        "target": "x", "at": None, "size": 4096, "times": 1, "pattern": None, "fua": True}
    suspended = process("suspend x d").code[0]
    assert suspended.args == {"device": ["x", "d"], "noflush": False, "nolockfs": False}


def test_lines_are_those_of_the_text() -> None:
    lines = [(instr.op, instr.line) for instr in process("flush d\n\nrepeat 2 {\n  flush e\n}").code]
    first = HEAD.count("\n") + 3
    assert lines == [("flush", first), ("loop", first + 2), ("flush", first + 3), ("jump", first + 2),
                     ("end", first - 1)]


@pytest.mark.parametrize(("table", "lines"), [
    ("{ linear d }", ["0 * linear d 0"]),
    ("{ linear d@1MiB }", ["0 * linear d 2048"]),
    ("{ linear d @1MiB }", ["0 * linear d 2048"]),
    ("{ 8s linear d\n1KiB error\n}", ["0 8 linear d 0", "8 2 error"]),
    ("{ 8s zero  8s error 8s linear d@8s }", ["0 8 zero", "8 8 error", "16 8 linear d 8"]),
    ('"0 8 zero\\n# remark\\n\\n  8 8 error "', ["0 8 zero", "8 8 error"]),
    ('{ "0 8 zero"\n 8s error }', ["0 8 zero", "8 8 error"]),
    ("{ striped d e@8s chunk=4KiB }", ["0 * striped 2 8 d 0 e 8"]),
    ("{ mirror d e nosync }", ["0 * mirror core 2 1024 nosync 2 d 0 e 0"]),
    ("{ mirror d e log=x region=4KiB handle_errors }", ["0 * mirror disk 2 x 8 2 d 0 e 0 1 handle_errors"]),
    ("{ snapshot d e }", ["0 * snapshot d e P 8"]),
    ("{ snapshot d e N chunk=8KiB }", ["0 * snapshot d e N 16"]),
    ("{ snapshot-origin d }", ["0 * snapshot-origin d"]),
    ("table-of(x)", {"table_of": "x"}),
])
def test_tables(table: str, lines: object) -> None:
    for written in (f"create n {table}", f"create n table={table}"):
        assert process(written).code[0].args["table"] == lines
