"""The forms of a plan."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dmspec.compiler import compile_text
from dmspec.compiler.backends import BACKENDS, BackendError
from dmspec.runtime.plan import Plan, from_bytes

SPEC = """
disk pv1 64MiB
disk pv-2 64MiB
device vol-real uuid="LVM-'x" { mirror pv1 pv-2 handle_errors }
device vol { linear vol-real@1MiB }
device parts read-only { 8s linear pv1@8s
                         8s zero }
filesystem fs on vol
process p { flush fs }
"""
SCRIPT = """#!/bin/sh
# The devices of spec.dms, made with dmsetup.
set -eu

: "${PV1:?set it to a block device of 64MiB for pv1}"
: "${PV_2:?set it to a block device of 64MiB for pv-2}"

dmsetup create vol-real --uuid 'LVM-'"'"'x' --table "0 131072 mirror core 1 1024 2 $PV1 0 $PV_2 0 1 handle_errors"

dmsetup create vol --table "0 129024 linear /dev/mapper/vol-real 2048"

dmsetup create parts --readonly <<EOF
0 8 linear $PV1 8
8 8 zero
EOF

# To remove them again:
# dmsetup remove parts
# dmsetup remove vol
# dmsetup remove vol-real
"""
PICTURE = """flowchart TD
    n5(["fs<br/>filesystem"])
    n4["parts<br/>linear, zero"]
    n3["vol<br/>linear"]
    n2["vol-real<br/>mirror"]
    n0[("pv1<br/>64MiB")]
    n1[("pv-2<br/>64MiB")]
    n5 --> n3
    n2 --> n0
    n2 --> n1
    n3 --> n2
    n4 --> n0
"""


def plan(text: str = SPEC) -> Plan:
    made = compile_text(text, "spec.dms").plan
    assert made is not None
    return made


def emitted(form: str, text: str = SPEC) -> bytes:
    return BACKENDS[form].make(plan(text), text)


def test_every_form_is_there() -> None:
    assert list(BACKENDS) == ["plan", "python", "pytest", "dmsetup", "promela", "mermaid"]


def test_plan() -> None:
    assert from_bytes(emitted("plan")) == plan()


def test_dmsetup() -> None:
    assert emitted("dmsetup").decode() == SCRIPT


def test_dmsetup_is_a_script_that_passes_the_tables_on(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    fake = tmp_path / "dmsetup"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {calls}\n[ $# -gt 3 ] || cat >> {calls}\n')
    fake.chmod(0o755)
    shell = shutil.which("sh")
    assert shell is not None
    subprocess.run([shell], input=emitted("dmsetup"), check=True, stdout=subprocess.DEVNULL,
                   env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PV1": "/dev/a b", "PV_2": "/dev/sdb"})
    lines = calls.read_text().splitlines()
    assert "LVM-'x" in lines
    assert "0 131072 mirror core 1 1024 2 /dev/a b 0 /dev/sdb 0 1 handle_errors" in lines
    assert "8 8 zero" in lines


@pytest.mark.parametrize("text", ["disk a-b 8MiB\ndisk a_b 8MiB"])
def test_dmsetup_says_what_it_cannot_say(text: str) -> None:
    with pytest.raises(BackendError):
        emitted("dmsetup", text)


def test_mermaid() -> None:
    assert emitted("mermaid").decode() == PICTURE
