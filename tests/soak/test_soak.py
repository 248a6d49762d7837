"""A short soak; ``make soak`` is the long one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.soak.lanes import Lost, Model
from tests.soak.stacks import KINDS

ROOT = Path(__file__).parents[2]


@pytest.mark.requires("fuse", "libfuse3")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost(kind: str) -> None:
    """In a process of its own, whose servers are processes that it begins afresh."""
    done = subprocess.run([sys.executable, "-m", "tests.soak.run", "--kills", "2", "--seed", "7", "--kind", kind],
                          cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("losses: 0\n")
    found = re.search(rf"^{kind}: (\d+) operations, .* 2 kills, (\d+) orderly ends, (\d+) reassemblies", done.stdout,
                      re.MULTILINE)
    assert found is not None, done.stdout
    assert int(found[1])
    assert int(found[3]) == 2 + int(found[2]) + 1


def test_a_loss_is_seen() -> None:
    """The model takes what was acknowledged, or a write whose end nobody heard of, and nothing else."""
    model = Model(4096)
    model.doubtful.append((0, b"a" * 512))
    model.check(b"a" * 512 + bytes(3584), "not heard of")
    model.check(bytes(4096), "not heard of")
    model.done(0, b"b" * 1024)
    model.check(b"b" * 1024 + bytes(3072), "acknowledged")
    for found in (bytes(4096), b"a" * 512 + b"b" * 512 + bytes(3072), b"b" * 1024 + bytes(3071) + b"c"):
        with pytest.raises(Lost):
            model.check(found, "lost")
    model.doubtful.append((100, b"c" * 2000))
    model.done(600, b"d" * 512)
    assert model.doubtful == [(100, b"c" * 500), (1112, b"c" * 988)]
