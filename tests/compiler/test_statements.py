"""Loose statements for a stack that is there already."""

import pytest

from dmspec.compiler import compile_statements, compile_text
from dmspec.runtime.plan import Plan, to_bytes

SPEC = """
disk pv1 64MiB
disk pv2 64MiB
device vol { mirror pv1 pv2 handle_errors }
filesystem fs on vol
lock vg
process app { write fs }
scenario s { run app; always no-deadlock }
"""


@pytest.fixture
def plan() -> Plan:
    made = compile_text(SPEC).plan
    assert made is not None
    return made


@pytest.mark.parametrize(("text", "operations"), [
    ("", ["end"]),
    ("fail pv1", ["fail", "end"]),
    ("fail pv1  heal pv1; flush vol\nread fs # x", ["fail", "heal", "flush", "read", "end"]),
    ("with vg { await event vol within=1s }", ["lock", "await", "unlock", "end"]),
    ("lvm.reload_noflush vol { linear pv2 }", ["enter", "load", "suspend", "resume", "leave", "end"]),
    ("repeat 2 { lvm.reload_noflush vol { linear pv2 } }",
     ["loop", "enter", "load", "suspend", "resume", "leave", "jump", "end"]),
    ("create x { linear pv1 } read x", ["create", "read", "end"]),
    ("expect error EIO { write vol }", ["try", "write", "end-try", "end"]),
    ("await done app", ["await", "end"]),
])
def test_statements(plan: Plan, text: str, operations: list[str]) -> None:
    compiled = compile_statements(text, plan)
    assert compiled.plan is not None, compiled.diagnostics
    assert [process.name for process in compiled.plan.processes] == ["do"]
    assert [instr.op for instr in compiled.plan.process("do").code] == operations
    assert compiled.plan.disks == plan.disks
    assert compiled.plan.devices == plan.devices
    assert compiled.plan.scenarios == []
    to_bytes(compiled.plan)


@pytest.mark.parametrize(("text", "codes"), [
    ("wrte vol", ["DM201"]),
    ("lvm.repiar vol", ["DM201"]),
    ("lwm.repair vol", ["DM201"]),
    ("fail pv3; with vh { }", ["DM101", "DM101"]),
    ("disk pv3 8MiB", ["DM201"]),
    ("write vol size=; read vol at=1x", ["DM006", "DM208"]),
    ("{", ["DM009", "DM011"]),
    ("}", ["DM009"]),
    ('read "', ["DM008"]),
    ("read vol\0", ["DM003"]),
    ("repeat 2 {" * 100, ["DM005"]),
    ("write size=\n" * 40, ["DM006"] * 25),
])
def test_what_is_wrong_is_said(plan: Plan, text: str, codes: list[str]) -> None:
    compiled = compile_statements(text, plan)
    assert compiled.plan is None
    assert [one.code for one in compiled.diagnostics][:len(codes)] == codes


def test_devices_that_came_since_the_plan(plan: Plan) -> None:
    assert compile_statements("read snap", plan).plan is not None
    assert compile_statements("read snap", plan, devices=["snap"]).plan is not None
    refused = compile_statements("read snp", plan, devices=["snap"])
    assert [one.help for one in refused.diagnostics] == ["did you mean `snap`?"]
