"""Runs scripts of the real LVM2 and dmeventd through `dmspec exec`, and writes what came of it: `make real-binaries`.

The same scripts run on a real kernel (`--kernel`), and the outcomes are compared.

Each script gets a mount of its own with four disks, taken down and brought up again where it says so.  The exit status
is 0 when every command line ended as its script says, and everything that it proves is so.
"""

from __future__ import annotations

import argparse
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[2]))

from tests.real_binaries import guest

from dmspec.runtime import wire

HERE: Final = Path(__file__).resolve().parent
SCRIPTS: Final = HERE / "scripts"
CHECKOUT: Final = HERE.parents[1]
DMSPEC: Final = (sys.executable, "-m", "dmspec")
_ENDS: Final = re.compile(r"^# (RESTART|POWER CUT)$", re.MULTILINE)
SPEC: Final = "".join(f"disk pv{number} 64MiB\n" for number in range(1, 5))


@dataclass(frozen=True)
class Line:
    """One thing that a script did: ``kind`` is t (a command line), no (one that has to fail), prove, or fault."""

    kind: str
    status: int
    text: str
    said: str

    @property
    def good(self) -> bool:
        """Whether it ended as the script says."""
        return self.kind == "no" if self.kind in ("no", "bad") else not self.status


@dataclass
class Result:
    """How a script went."""

    path: Path
    title: str
    lines: list[Line] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether everything ended as it says."""
        return not self.problem and bool(self.lines) and all(line.good for line in self.lines)


def run_in_guest(path: Path, work: Path, seconds: float) -> Result:
    """Run one script on a real kernel."""
    began = time.monotonic()
    text = path.read_text()
    result = Result(path, text.splitlines()[0].removeprefix("# "))
    folder = work / path.stem
    folder.mkdir()
    (folder / "results").touch()
    try:
        status = guest.run(f'. "$LIB"\n{text}', folder, seconds)
        if status not in (0, 1):
            result.problem = f"the script ended with {status}"
    except subprocess.TimeoutExpired:
        result.problem = f"no end after {seconds:.0f} s"
    result.lines = lines_of(folder / "results")
    result.seconds = time.monotonic() - began
    return result


def lines_of(results: Path) -> list[Line]:
    """What a script has noted."""
    found = []
    for line in results.read_text().splitlines():
        kind, code, shown, said = line.split("\t", 3)
        found.append(Line(kind, int(code), shown, said))
    return found


def run_script(path: Path, work: Path, seconds: float) -> Result:
    """Run one script on a mount of its own."""
    began = time.monotonic()
    text = path.read_text()
    result = Result(path, text.splitlines()[0].removeprefix("# "))
    machine = Machine(work / path.stem)
    first, *others = _ENDS.split(text)
    parts = [("", first), *zip(others[::2], others[1::2], strict=True)]
    try:
        for end, part in parts:
            if end:
                machine.stop(end)
                machine.note(end)
            machine.start()
            status = machine.run(f'. "$LIB"\n{part}', seconds)
            if status not in (0, 1):
                result.problem = f"the script ended with {status}"
    except subprocess.TimeoutExpired:
        result.problem = f"no end after {seconds:.0f} s"
    finally:
        machine.stop("FORCE")
    result.lines = lines_of(machine.results)
    result.seconds = time.monotonic() - began
    return result


class Machine:
    """A stack with four disks, whose contents stay when it is stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mountpoint, self.scratch, self.results = folder / "mount", folder / "scratch", folder / "results"
        for made in (folder, self.mountpoint, self.scratch):
            made.mkdir()
        self.results.touch()
        (folder / "disks.dms").write_text(SPEC)
        (folder / "dmspec").write_text(f'#!/bin/sh\nexec {sys.executable} -m dmspec "$@"\n')
        (folder / "dmspec").chmod(0o755)
        self.environment = {
            **os.environ, "LIB": os.fspath(HERE / "lib.sh"), "SCRATCH": os.fspath(self.scratch),
            "RESULTS": os.fspath(self.results), "DMSPEC": os.fspath(folder / "dmspec"),
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}

    def start(self) -> None:
        """Mount it."""
        subprocess.run([*DMSPEC, "mount", "--quiet", "--store", self.folder / "store", self.folder / "disks.dms",
                        self.mountpoint], check=True, timeout=120)

    def stop(self, how: str) -> None:
        """As a machine is shut down (RESTART), or as it loses its power (POWER CUT)."""
        server = wire.holder(self.mountpoint)
        if how == "POWER CUT" and server is not None:
            os.kill(server, signal.SIGKILL)
            wire.wait_gone(self.mountpoint, 60)
        subprocess.run([*DMSPEC, "umount", *(["--force"] if how != "RESTART" else []), self.mountpoint],
                       capture_output=True, check=how == "RESTART", timeout=120)

    def note(self, what: str) -> None:
        """A line of the table."""
        with self.results.open("a") as results:
            results.write(f"fault\t0\t{what.lower()}\t\n")

    def run(self, script: str, seconds: float) -> int:
        """Run a shell's commands with what it prints kept."""
        (self.folder / "part.sh").write_text(script)
        with (self.folder / "output").open("ab") as output:
            return subprocess.run(
                [*DMSPEC, "exec", "--mount", self.mountpoint, "--log", self.folder / "log", "--", "sh",
                 self.folder / "part.sh"], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=self.environment, check=False, timeout=seconds).returncode


def version_of(program: str) -> str:
    """What a program says that it is."""
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0].split(":", 1)[1].strip() if ":" in said else "?"


HEAD: Final = """\
# The real binaries on the emulator

Made by `make real-binaries`: unmodified LVM2 and dmeventd (LVM2 {lvm}), run by `dmspec exec`; what that does not
emulate is in [exec.md](exec.md).
"""
CASES: Final = """
## The recorded kernel's cases, with the unmodified dmsetup

`make kernel-cases DMSETUP=real`: the scripts that Linux 6.1.176 was recorded with, and what they print compared line
by line.

| Case | Output |
|---|---|
"""
MAIL: Final = """
## The mail, with the real programs

`specs/mail/real-lvm.sh`: `lvcreate -s` takes a second snapshot of a mirror that is written to, the leg on pv1 fails
just before the step, and dmeventd is there to repair.

```
{table}
```

The same on Linux 6.1.176, in a guest (strace holds lvcreate before the ioctl while the leg fails):

```
{kernel}
```

There it is chance whether the writer has a write under way when `suspend vg-vol` begins: of eight runs lvcreate hung in
seven, and succeeded in one, on a busy machine.

The deadlock, as `dmspec do DIR --waits` shows it (process ids differ from run to run):

```
{cycle}
```
"""
LOST: Final = """
Where lvcreate succeeds and the writer hangs, the event has got lost: while lvcreate has the volume suspended dmeventd
is told not to watch it, and when it begins again it waits for more events than there are at that moment, of which the
failure is one already.
"""
SCRIPTS_HEAD: Final = """
## LVM2 and dmeventd

The scripts are those of `tests/real_binaries/scripts`; each has four emulated disks of 64 MiB.  What is *proved* is
looked at on the devices.  The last column compares with the same script on a real kernel, in a User-mode Linux guest
with the same LVM2: whether each command line ends as it does there, and each proof says the same.

| Script | About | Command lines | Proofs | Outcome | On Linux 6.1.176 |
|---|---|---|---|---|---|
"""
# A guest is not started again, and a real kernel has targets that are not emulated.
NOT_IN_GUEST: Final = ("80-restart", "90-not-emulated")
GUEST_STEPS: Final = ("create vg-snap2", "create vg-snap2-cow", "suspend vg-vol", "resume vg-vol")


def recorded_cases() -> tuple[str, bool]:
    """The scripts that a real kernel was recorded with, run with the unmodified dmsetup."""
    ran = subprocess.run([sys.executable, HERE.parent / "kernel_cases" / "run.py", "--real"], capture_output=True,
                         text=True, check=False)
    print(ran.stdout, end="")
    rows = [line.rpartition(" (")[0].split(": ", 1) for line in ran.stdout.splitlines()
            if line.endswith(" s)") and not line.startswith(" ")]
    return CASES + "".join(f"| {name} | {said} |\n" for name, said in rows), not ran.returncode and bool(rows)


def mail() -> tuple[str, bool]:
    """What comes of a leg's failure at each step of a real `lvcreate -s`."""
    ran = subprocess.run(["sh", CHECKOUT / "specs" / "mail" / "real-lvm.sh"], capture_output=True, text=True,
                         check=False)
    lines = ran.stdout.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("the leg fails before")]
    shown = lines[heads[0]:] if heads else []
    print("\n".join(shown))
    cycle = [line.strip() for line in lines if line.strip().startswith(("* ", "the cycle"))]
    text = MAIL.format(table="\n".join(shown), cycle="\n".join(cycle), kernel=mail_in_guest())
    is_lost = any(line.split()[-4:] == ["exit", "0", "hangs", "no"] for line in shown)
    return text + (LOST if is_lost else ""), bool(cycle)


def mail_in_guest() -> str:
    """Some of these steps on a real kernel."""
    out = ""
    for step in GUEST_STEPS:
        with working_folder(keep=False) as folder:
            guest.run(f"STEP='{step}'\n. {HERE}/mail-guest.sh\n", Path(folder), 300)
            out += (Path(folder) / "output").read_text()
    print(out)
    return out.strip()


def compared(result: Result, real: Result | None) -> str:
    """A script's outcome beside that on a real kernel."""
    if real is None:
        return "not run there"
    ours, theirs = ([(line.kind, line.status, line.text) for line in one.lines] for one in (result, real))
    if ours == theirs and not real.problem:
        return "the same"
    different = [one[2] for one, other in zip(ours, theirs, strict=False) if one != other]
    return f"different: {', '.join(f'`{text}`' for text in different) or real.problem or 'it is shorter'}"


def table(results: list[Result], real: list[Result], more: str) -> str:
    """The document."""
    by_name = {one.path.stem: one for one in real}
    out = HEAD.format(lvm=version_of("lvm")) + more + SCRIPTS_HEAD
    for result in results:
        name = result.path.stem
        commands = sum(line.kind in ("t", "no", "bad") for line in result.lines)
        proofs = sum(line.kind == "prove" for line in result.lines)
        bad = sum(not line.good for line in result.lines)
        outcome = "all as it should be" if result.good else result.problem or f"{bad} not as it should be"
        out += f"| [{name}](#{name}) | {result.title} | {commands} | {proofs} | {outcome} | "
        out += f"{compared(result, by_name.get(name))} |\n"
    for result in results:
        out += f"\n### {result.path.stem}\n\n{result.title}.\n\n| | Outcome |\n|---|---|\n"
        out += "".join(f"{_row(line)}\n" for line in result.lines)
        out += f"| *{result.problem}* | |\n" if result.problem else ""
    return out


def _row(line: Line) -> str:
    text = line.text.replace("|", "\\|")
    if line.kind == "fault":
        return f"| *{text}* | |"
    if line.kind == "prove":
        return f"| *proved: {text}* | {'yes' if line.good else '**no**'} |"
    if line.kind == "no":
        return f"| `{text}` | exit {line.status}, as it should: {line.said} |"
    outcome = "ok" if line.good else f"**exit {line.status}**: {line.said}"
    return f"| `{text}` | {outcome} |"


@contextmanager
def working_folder(*, keep: bool) -> Iterator[str]:
    """Removed at the end unless it is to be kept."""
    folder = tempfile.mkdtemp(prefix="dmspec-real-")
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the scripts that are wanted."""
    parser = argparse.ArgumentParser(prog="real-binaries", description=__doc__)
    parser.add_argument("scripts", nargs="*", help="which ones, by the beginning of their names; without names all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--all", action="store_true", help="a real kernel too, the cases, the mail (20 minutes)")
    parser.add_argument("--kernel", action="store_true", help="on a real kernel (User-mode Linux) instead")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=900, help="when a script is stopped")
    parser.add_argument("--keep", action="store_true", help="keep the outputs, and say where")
    options = parser.parse_args(arguments)
    paths = [path for path in sorted(SCRIPTS.glob("*.sh"))
             if not options.scripts or path.name.startswith(tuple(options.scripts))]
    run = run_in_guest if options.kernel else run_script
    with working_folder(keep=options.keep) as folder:
        if options.keep:
            print(f"outputs are in {folder}", file=sys.stderr)
        with ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(lambda path: run(path, Path(folder), options.seconds), paths))
        for result in results:
            print(f"{result.path.stem}: {'good' if result.good else result.problem or 'BAD'} ({result.seconds:.0f} s)")
            for line in result.lines:
                if not line.good:
                    print(f"    {line.kind} {line.status}: {line.text}: {line.said}")
    more, others_good, real = "", True, list[Result]()
    if options.all:
        with working_folder(keep=False) as folder, ThreadPoolExecutor(2) as pool:
            cases = pool.submit(recorded_cases)
            inside = [path for path in paths if path.stem not in NOT_IN_GUEST]
            real = [run_in_guest(path, Path(folder), options.seconds) for path in inside]
            for text, is_good in (cases.result(), mail()):
                more += text
                others_good = others_good and is_good
    if options.write:
        options.write.parent.mkdir(exist_ok=True)
        options.write.write_text(table(results, real, more))
    good = sum(result.good for result in results)
    print(f"{good} of {len(results)} scripts good")
    return 0 if good == len(results) and others_good else 1


if __name__ == "__main__":
    sys.exit(main())
