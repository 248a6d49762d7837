"""The Promela model of a scenario: SPIN agrees with the spec, and with `dmspec explore`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dmspec.cli import main
from dmspec.compiler import compile_file, compile_text
from dmspec.compiler.backends import BackendError
from dmspec.compiler.backends.promela import emit
from dmspec.runtime.explore import Explorer
from dmspec.runtime.explore.judge import judge
from dmspec.runtime.plan import Plan
from dmspec.runtime.runner import scenario_of, scenarios_of

from .pan import verdicts

MAIL = Path(__file__).parents[2] / "specs" / "mail"


def plan_of(path: Path) -> Plan:
    """Compile a spec that has nothing wrong."""
    plan = compile_file(path).plan
    assert plan is not None
    return plan


ALL = [(path.stem, one.name) for path in sorted(MAIL.glob("*.dms")) for one in scenarios_of(plan_of(path))]
SLOW = (pytest.mark.slow, pytest.mark.timeout(3600))
# Their models have so many states that two of their kind are enough for every day.
LARGE = ("without_the_rule", "that_waits", "live_real", "passthrough_scan@2.6.32", "second_snapshot@2.6.32")


@pytest.mark.requires("spin", "gcc")
@pytest.mark.parametrize(("spec", "name"), [
    # The two younger kernels differ in nothing that a model has, so one of them is enough here.
    pytest.param(spec, name, marks=SLOW if name.endswith("@2.6.34") or name in LARGE else ()) for spec, name in ALL])
def test_spin_says_what_the_spec_says(spec: str, name: str, tmp_path: Path) -> None:
    """And what the explorer sees with a quick look, of what it may see."""
    plan = plan_of(MAIL / f"{spec}.dms")
    expected = scenario_of(plan, name).violations
    found = verdicts(plan, name, tmp_path)
    asked = {check.name for check in scenario_of(plan, name).checks}
    assert {check: violated for check, violated in found.items() if check in asked} == {
        check: check in expected for check in found if check in asked}
    seen = Explorer(plan, name).look_quickly().findings
    assert [check for check in found if check in asked and found[check]] == \
        [check for check in found if check in seen]


@pytest.mark.requires("spin", "gcc")
@pytest.mark.parametrize(("spec", "name"), ALL)
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_spin_and_the_explorer_agree(spec: str, name: str, tmp_path: Path) -> None:
    """Each looks at everything; where violations are expected the explorer may stop when it has seen them."""
    plan = plan_of(MAIL / f"{spec}.dms")
    found = verdicts(plan, name, tmp_path)
    scenario = scenario_of(plan, name)
    exploration = Explorer(plan, name, quick=True, stop_when_all_found=bool(scenario.violations)).run()
    compared = 0
    for verdict in judge(scenario, exploration):
        if verdict.name in found and verdict.word != "unknown":
            assert verdict.violated == found[verdict.name], verdict
            compared += 1
    assert compared


EVERYTHING = """
disk pv1 8MiB
disk pv2 8MiB
device vol { mirror pv1 pv2 nosync handle_errors }
filesystem fs on vol
lock a
lock b
process p {
    parallel { with a { write fs } } { expect error { create vol { linear pv1 } } }
    repeat 2 { choose { suspend vol  resume vol } or { freeze fs  thaw fs } }
    if suspended(vol) { resume vol } else { flush fs }
    expect error EBUSY { with b { create vol } }
    expect state vol ACTIVE
}
process q { await event vol within=1s  sleep 1s }
scenario main "a bit of everything" {
    run p
    fault fail pv2 writes at=any most=1
    fault heal pv2 at=any most=1
    always no-deadlock
    always no-error
    finally resumed-at-end
}
"""


def text_plan(text: str) -> Plan:
    """Compile a text that has nothing wrong."""
    compiled = compile_text(text, "spec.dms")
    assert compiled.plan is not None, [one.message for one in compiled.diagnostics]
    return compiled.plan


@pytest.mark.requires("spin", "gcc")
def test_every_instruction_has_a_form(tmp_path: Path) -> None:
    """Nobody repairs the mirror, so the write that it holds keeps whoever waits for it."""
    found = verdicts(text_plan(EVERYTHING), "main", tmp_path)
    assert found["no-deadlock"]
    assert not found["expectation"]


LOCKS = """
lock a
lock b
process one { with a { with b { } } }
process two { with b { with a { } } }
scenario main {
    run one two
    always no-deadlock
}
"""


@pytest.mark.requires("spin", "gcc")
@pytest.mark.parametrize(("text", "violated"), [
    (LOCKS, True),
    (LOCKS.replace("with b { with a", "with a { with b"), False),
    (LOCKS.replace("with b { }", "with a { }"), False),  # one that holds a lock may take it again
])
def test_locks(text: str, violated: bool, tmp_path: Path) -> None:
    assert verdicts(text_plan(text), "main", tmp_path)["no-deadlock"] is violated


ERRORS = """
disk pv1 8MiB
device vol { linear pv1 }
lock a
process p { PART }
process q { with a { } }
scenario main {
    run p q
    fault fail pv1 at=start
    always no-deadlock
    always no-io-error p
    always no-error
}
"""


@pytest.mark.requires("spin", "gcc")
@pytest.mark.parametrize(("part", "violated"), [
    ("with a { write vol }", {"no-io-error"}),
    ("with a { expect error EIO { write vol } }", set()),
    ("expect error EIO { with a { write vol } }", set()),
    ("expect error ENOSPC { write vol }", {"no-io-error"}),
    ("expect error { parallel { write vol } { } }", set()),
    ("parallel { write vol } { }", {"no-io-error"}),
    ("suspend vol\n write vol", {"no-deadlock"}),
    ("create vol", {"no-error"}),
    ("expect error { resume vol }", {"expectation"}),
    ("expect state vol SUSPENDED", {"expectation"}),
])
def test_what_errors_come_to(part: str, violated: set[str], tmp_path: Path) -> None:
    plan = text_plan(ERRORS.replace("PART", part))
    found = verdicts(plan, "main", tmp_path)
    assert {check for check, bad in found.items() if bad} == violated
    exploration = Explorer(plan, "main").run()
    assert {one.name for one in judge(scenario_of(plan, "main"), exploration) if one.violated} == violated


@pytest.mark.requires("spin", "gcc")
@pytest.mark.parametrize(("most", "violated"), [(1, set()), (2, {"no-io-error"})])
def test_a_raid1_holds_nothing(most: int, violated: set[str], tmp_path: Path) -> None:
    faults = "\n".join(f"fault fail pv{leg} at=any" for leg in range(1, most + 1))
    plan = text_plan(f"""
disk pv1 1MiB
disk pv2 1MiB
device vol {{ raid pv1 pv2 nosync }}
process app {{ write vol }}
process other {{ suspend vol
                resume vol }}
scenario main {{
    run app other
    {faults}
    always no-deadlock
    always no-io-error
}}""")
    found = verdicts(plan, "main", tmp_path)
    assert {check for check, bad in found.items() if bad} == violated


WATCHED = """
disk pv1 256KiB
disk pv2 256KiB
device vol { mirror pv1 pv2 region=64KiB nosync handle_errors }
process app { write vol }
process dmeventd {
    REGISTER
    repeat forever {
        await event vol registered
        if letter vol LETTERS { load vol { linear pv2 }  suspend vol noflush nolockfs  resume vol }
    }
}
process other { create x { linear pv2 @128KiB }  expect error EBUSY { create x }  remove x  create x }
scenario main {
    run app dmeventd other
    fault fail pv1 at=any most=1
    always no-deadlock
    always no-error
    always no-io-error
}
"""


@pytest.mark.requires("spin", "gcc")
@pytest.mark.parametrize(("register", "letters", "stuck"), [
    ("register vol past", "D", False),
    ("register vol", "D", True),                 # the leg may have failed before
    ("register vol past", "D F leg=0", False),
    ("register vol past", "D F U leg=1", True),  # the other leg's letter is A
    ("register vol past  unregister vol", "D", True),
])
def test_what_dmeventd_hears_and_reads(register: str, letters: str, stuck: bool, tmp_path: Path) -> None:
    plan = text_plan(WATCHED.replace("REGISTER", register).replace("LETTERS", letters))
    expected = {"no-deadlock"} if stuck else set()
    assert {check for check, bad in verdicts(plan, "main", tmp_path).items() if bad} == expected
    exploration = Explorer(plan, "main", stop_when_all_found=stuck, most_states=None if stuck else 1_500).run()
    assert set(exploration.findings) == expected


@pytest.mark.parametrize(("line", "said"), [
    ("device d { striped pv1 pv2 chunk=64KiB }", "the target 'striped'"),
    ("device d { 1MiB linear pv1  1MiB linear pv2 }", "a table of 2 segments"),
    ("device l { linear pv1 }\ndevice d { mirror l pv2 }", "leg or log l is a mapped device"),
    ("process p { remove pv force }\ndevice pv { linear pv1 }", "a removal that is forced"),
    ("process p { await merged(pv) }\ndevice pv { linear pv1 }", "`merged(pv)`"),
    ("process p { discard pv1 }", "`discard pv1"),
    ("process p { await insync(pv) }\ndevice pv { linear pv1 }", "`insync(pv)`"),
    ("process p { fail pv1 range=0+4KiB }", "a fault of a range"),
])
def test_what_a_model_cannot_have_is_said(line: str, said: str) -> None:
    plan = text_plan(f"disk pv1 8MiB\ndisk pv2 8MiB\n{line}")
    with pytest.raises(BackendError) as error:
        emit(plan)
    assert said in str(error.value)


def test_the_command() -> None:
    spec = str(MAIL / "locked.dms")
    result = CliRunner().invoke(main, ["compile", spec, "--to", "promela", "--scenario", "locked"])
    assert result.exit_code == 0, result.output
    assert "/* locked.dms:" in result.stdout
    assert "proctype process_lvcreate" in result.stdout


def test_one_scenario_at_a_time() -> None:
    spec = str(MAIL / "independent.dms")
    result = CliRunner().invoke(main, ["compile", spec, "--to", "promela"])
    assert result.exit_code == 2
    assert "--scenario NAME" in result.output
    result = CliRunner().invoke(main, ["compile", spec, "--to", "promela", "--scenario", "nosuch"])
    assert result.exit_code == 2
    assert "it has: independent" in result.output
