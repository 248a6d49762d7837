"""The quick ones of the recorded cases, on mounts; `make kernel-cases` runs all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "run.py"


@pytest.mark.requires("fuse", "busybox", "dd")
@pytest.mark.timeout(600)  # some 60 s; a loaded machine starts the hundreds of processes slowly
def test_the_quick_cases_are_equal() -> None:
    run = subprocess.run([sys.executable, RUN, "--quick", "--jobs", "3"], capture_output=True, text=True, check=False)
    assert run.stdout.endswith("3 of 3 cases equal\n"), run.stdout + run.stderr
