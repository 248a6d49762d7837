"""Runs the recorded kernel cases on mounts, unchanged, and compares what they print: `make kernel-cases`.

Each case gets a mount of its own and a root of its own (a mount namespace; no privilege is needed where user
namespaces are allowed): there /dev/mapper is the mount, /dev/loop0 and up are its disks, /tmp is empty, and
/oracle/include/lib.sh is the file beside this one.  The last line says `N of M cases equal`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))

from tests.kernel_cases.listed import listed_for
from tests.kernel_cases.masks import comparable

from dmspec.dmsetup.surroundings import write_programs
from dmspec.runtime import wire

HERE: Final = Path(__file__).resolve().parent
CHECKOUT: Final = HERE.parents[1]
SHARED: Final = CHECKOUT.parent / "shared" / "kernel-cases"
# Unchanged copies, for a checkout that stands alone; what else plays recordings reads them too.
COPIES: Final = HERE / "recorded"
QUICK: Final = ("a-basic", "f-control", "f2-invalid-tables")
_DISKS: Final = re.compile(r"^disks (\d+) (\d+)$", re.MULTILINE)
_NEEDED: Final = ("busybox", "awk", "hexdump", "dd", "sha256sum")
# The guest's output went to a console, line by line, and so in the order in which it was written.
_BY_LINES: Final = ("stdbuf", "-oL")


RUNNING: Final[set[subprocess.Popen[bytes]]] = set()
STOPPED: Final[list[bool]] = []


@dataclass
class Result:
    """How a case went: the lines that differ, or why there are none."""

    name: str
    seconds: float = 0.0
    problem: str = ""
    difference: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether it printed what the kernel's guest printed."""
        return not self.problem and not self.difference


class Recordings:
    """Where scripts and what they printed are: one folder, or the copies in this checkout."""

    def __init__(self, folder: Path | None) -> None:
        if folder is None and SHARED.is_dir():
            folder = SHARED
        self.folder = folder if folder is not None else COPIES

    def names(self) -> list[str]:
        """The cases, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.sh") if path.stem != "lib")

    def text(self, file: str) -> str:
        """A script or a recording."""
        return (self.folder / file).read_text()


@contextmanager
def mounted(folder: Path, script: str) -> Iterator[Path]:
    """A mount with the disks that the script asks for."""
    count, kib = (int(word) for word in _DISKS.findall(script)[0])
    (folder / "case.dms").write_text("".join(f"disk loop{index} {kib}KiB\n" for index in range(count)))
    mountpoint, store = folder / "mount", folder / "store"
    mountpoint.mkdir()
    store.mkdir()
    command = [sys.executable, "-m", "dmspec"]
    subprocess.run([*command, "mount", "--quiet", "--like-dev-mapper", "--store", store, folder / "case.dms",
                    mountpoint], check=True, timeout=120)
    try:
        yield mountpoint
    finally:
        for more in ([], ["--force"]):
            try:
                subprocess.run([*command, "umount", *more, mountpoint], check=True, capture_output=True, timeout=60)
                break
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                continue


def run_case(name: str, recorded: Recordings, work: Path, options: argparse.Namespace) -> Result:
    """Run one case and compare it with its recording."""
    began = time.monotonic()
    folder = work / name
    folder.mkdir()
    script = recorded.text(f"{name}.sh")
    programs = folder / "programs"
    programs.mkdir()
    write_programs(programs)
    for part in ("root", "tmp"):
        (folder / part).mkdir()
    (folder / "case.sh").write_text(script)
    result = Result(name)
    try:
        with mounted(folder, script) as mountpoint:
            output = _in_root(folder, mountpoint, options)
    except subprocess.SubprocessError as error:
        result.problem = str(error)
        output = ""
    (folder / "output").write_text(output)
    expected = comparable(name, recorded.text(f"{name}.out"))
    if not result.problem:
        result.difference = list(difflib.unified_diff(expected, comparable(name, output), "recorded", "emulated",
                                                      lineterm="", n=3))
    result.seconds = time.monotonic() - began
    return result


def _in_root(folder: Path, mountpoint: Path, options: argparse.Namespace) -> str:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    root: list[str | Path] = [sys.executable, HERE / "root.py", folder, mountpoint]
    if options.real:
        root = [sys.executable, "-m", "dmspec", "exec", "--mount", mountpoint, "--",
                sys.executable, HERE / "root.py", folder, "real", *_BY_LINES]
    environment = {
        "PATH": path if options.real else f"{folder / 'programs'}:{path}", "LC_ALL": "C",
        "DMSPEC_MOUNT": os.fspath(mountpoint), "CASE_STORE": os.fspath(folder / "store"), "CASE_LIB": os.fspath(HERE),
        "CASE_PYTHON": sys.executable, "CASE_SOCKET": os.fspath(wire.socket_path(mountpoint)),
        "HOME": "/tmp", **({"CASE_REAL": "1"} if options.real else {}),
        **{name: os.environ[name] for name in ("XDG_RUNTIME_DIR", "TMPDIR") if name in os.environ},
    }
    with (folder / "raw").open("wb") as output, subprocess.Popen(
            [*root, "sh", folder / "case.sh"], stdout=output,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, cwd="/",
            start_new_session=True) as process:
        RUNNING.add(process)
        try:
            process.wait(timeout=options.seconds)
        except subprocess.TimeoutExpired:
            output.write(f"\n# stopped after {options.seconds:.0f} seconds\n".encode())
        finally:
            RUNNING.discard(process)
            _kill(process)
    return (folder / "raw").read_text(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _stop(*_: object) -> None:
    """Ctrl-C, or somebody ends us: the cases end at once, their mounts are taken down, and no more are begun."""
    STOPPED.append(True)
    for process in list(RUNNING):
        _kill(process)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases that are wanted, and say which are equal."""
    parser = argparse.ArgumentParser(prog="kernel-cases", description=__doc__)
    parser.add_argument("cases", nargs="*", help="which ones; without names all")
    parser.add_argument("--recorded", type=Path, default=os.environ.get("DMSPEC_KERNEL_CASES"),
                        help="where the scripts and recordings are (by itself: ../shared/kernel-cases, or copies)")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--real", action="store_true", help="with the unmodified dmsetup, through dmspec exec")
    parser.add_argument("--jobs", type=int, default=4, help="how many at once; most of their time they sleep")
    parser.add_argument("--seconds", type=float, default=1200, help="when a case is stopped")
    parser.add_argument("--keep", action="store_true", help="keep the outputs, and say where")
    options = parser.parse_args(arguments)
    needed = (*_NEEDED, *(("dmsetup", "strace") if options.real else ()))
    lacking = [word for word in needed if shutil.which(word) is None]
    recorded = Recordings(options.recorded)
    names = recorded.names()
    if lacking or not names:
        print(f"lacking here: {', '.join(lacking) or 'recorded cases'}", file=sys.stderr)
        return 3
    wanted = options.cases or (QUICK if options.quick else names)
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    work = Path(tempfile.mkdtemp(prefix="dmspec-kernel-cases-"))
    try:
        results = _run_all([name for name in names if name in wanted], recorded, options, work)
    finally:
        if options.keep:
            print(f"outputs are in {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    equal = sum(result.equal for result in results)
    print(f"{equal} of {len(results)} cases equal")
    return 0 if all(result.equal or result.name in listed_for(real=options.real) for result in results) else 1


def _run_all(names: list[str], recorded: Recordings, options: argparse.Namespace, work: Path) -> list[Result]:
    listed = listed_for(real=options.real)

    def run(name: str) -> Result:
        if name in listed:
            return Result(name, problem=f"listed: {listed[name]}")
        if STOPPED:
            return Result(name, problem="not run: stopped")
        return run_case(name, recorded, work, options)

    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(run, names):
            state = "equal" if result.equal else result.problem or "DIFFERENT"
            print(f"{result.name}: {state} ({result.seconds:.0f} s)")
            for line in result.difference:
                print(f"    {line}")
            sys.stdout.flush()
            results.append(result)
    return results


if __name__ == "__main__":
    sys.exit(main())
