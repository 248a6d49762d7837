"""Plans: what is not one is refused, whatever it is."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmspec.compiler import compile_file
from dmspec.runtime.errors import PlanError
from dmspec.runtime.plan import MAGIC, VERSION, Instr, Plan, Process, from_bytes, to_bytes
from dmspec.runtime.plan_verify import verify

GOOD = sorted((Path(__file__).parent / "cases" / "good").glob("*.dms"))


def plan_of(file: Path) -> Plan:
    plan = compile_file(file).plan
    assert plan is not None
    return plan


PLANS = [plan_of(file) for file in GOOD]
FORMS = next(plan for file, plan in zip(GOOD, PLANS, strict=True) if file.stem == "forms")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def packed(plan: Any, magic: Any = MAGIC, version: Any = VERSION) -> bytes:
    return bytes(msgpack.packb({"magic": magic, "version": version, "plan": plan}, use_bin_type=True))


@pytest.mark.parametrize("plan", PLANS, ids=[file.stem for file in GOOD])
def test_bytes_and_digest_are_stable(plan: Plan) -> None:
    data = to_bytes(plan)
    assert to_bytes(from_bytes(data)) == data
    assert from_bytes(data).digest() == plan.digest()


@pytest.mark.parametrize("data", [
    b"", b"\xc1", b"\x80", packed({}), packed(asdict(FORMS), magic="x"), packed(asdict(FORMS), version=VERSION + 1),
    packed(asdict(FORMS)) + b"x", packed(asdict(FORMS))[:-1], packed(None), packed([]), b"disk d 8MiB\n",
    b"\x91" * 100_000, b"\xdf\xff\xff\xff\xff", b"\xc7\xff\xff",
])
def test_what_is_no_plan_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError):
        from_bytes(data)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(PlanError):
        from_bytes(data)


@settings(max_examples=300)
@given(st.sampled_from(PLANS), st.data())
def test_a_plan_with_bytes_changed(plan: Plan, data: st.DataObject) -> None:
    raw = bytearray(to_bytes(plan))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(bytes(raw))


@settings(max_examples=500)
@given(st.sampled_from(PLANS), ANYTHING, st.data())
def test_a_plan_with_a_value_changed(plan: Plan, value: Any, data: st.DataObject) -> None:
    tree: Any = copy.deepcopy(asdict(plan))
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.integers(0, 9)):
            node = node[key]
            continue
        if data.draw(st.integers(0, 4)):
            node[key] = value
        else:
            del node[key]
        break
    reads_or_refuses(packed(tree))


def reads_or_refuses(data: bytes) -> None:
    """A changed plan may be a plan still; then it is a whole one."""
    try:
        plan = from_bytes(data)
    except PlanError:
        return
    verify(plan)
    to_bytes(plan)


def with_code(*code: Instr, slots: int = 0) -> Plan:
    return replace(FORMS, processes=[Process("p", [*code, Instr("end")], slots)], scenarios=[], properties=[])


FLUSH = Instr("flush", {"target": "disk"})
BRANCH = {"condition": "failed", "args": {"disk": "pv1"}, "negate": False, "to": 1}


@pytest.mark.parametrize("plan", [
    replace(FORMS, kernel="3.0"),
    replace(FORMS, files=[]),
    replace(FORMS, disks=[]),
    replace(FORMS, disks=[*FORMS.disks, FORMS.disks[0]]),
    replace(FORMS, disks=[replace(FORMS.disks[0], sectors=0), *FORMS.disks[1:]]),
    replace(FORMS, disks=[replace(FORMS.disks[0], sectors=1 << 60), *FORMS.disks[1:]]),
    replace(FORMS, devices=[replace(FORMS.devices[0], table=[])]),
    replace(FORMS, locks=[]),
    replace(FORMS, processes=[]),
    replace(FORMS, processes=[*FORMS.processes, FORMS.processes[0]]),
    replace(FORMS, scenarios=FORMS.scenarios * 2),
    replace(FORMS, scenarios=[replace(FORMS.scenarios[0], violations=["frozen"])]),
    replace(FORMS, scenarios=[replace(FORMS.scenarios[0], kernel="3.0")]),
    with_code(Instr("flush")),
    with_code(Instr("flush", {"target": 3})),
    with_code(Instr("flush", {"target": "disk", "more": 1})),
    with_code(Instr("fly", {})),
    with_code(replace(FLUSH, file=9)),
    with_code(replace(FLUSH, file=-1)),
    with_code(Instr("jump", {"to": 2})),
    with_code(Instr("jump", {"to": -1})),
    with_code(Instr("jump", {"to": True})),
    with_code(Instr("jump", {})),
    with_code(Instr("choose", {"to": []})),
    with_code(Instr("choose", {"to": 1})),
    with_code(Instr("fork", {"starts": [5], "to": 1})),
    with_code(Instr("lock", {"name": "nothing"})),
    with_code(Instr("unlock", {"name": ["lock"]})),
    with_code(Instr("loop", {"slot": 0, "times": 1, "to": 1})),
    with_code(Instr("loop", {"slot": 0, "times": -1, "to": 1}), slots=1),
    with_code(slots=99),
    with_code(Instr("branch", {**BRANCH, "condition": "rain"})),
    with_code(Instr("branch", {**BRANCH, "args": {}})),
    with_code(Instr("branch", {**BRANCH, "negate": 1})),
    with_code(Instr("try", {"errno": "EFUN", "must": True, "to": 1})),
    with_code(Instr("await", {"condition": "failed", "args": {"disk": "pv1"}, "within_ns": -1})),
    replace(FORMS, processes=[replace(FORMS.processes[0], code=[FLUSH])]),
])
def test_inconsistent_plans_are_refused(plan: Plan) -> None:
    with pytest.raises(PlanError):
        verify(plan)
    with pytest.raises(PlanError):
        to_bytes(plan)
    with pytest.raises(PlanError):
        from_bytes(packed(asdict(plan)))


def test_a_plan_finds_its_processes() -> None:
    assert FORMS.process("uses").name == "uses"
    with pytest.raises(PlanError):
        FORMS.process("none")
