"""Our mount beside QEMU's storage daemon, nbdkit with nbdfuse and the plain file: ``make bench``.

Every contender is up all the time and each work is done by all of them in turn, again and again, so a machine that is
busy with other things slows all of them down alike; what counts are the ratios of medians.  The backing files lie in
memory (``--folder``).  ``--short`` does an eighth of the work in three rounds; ``--only TEXT`` picks rows and
``--group`` groups; ``--markdown docs/benchmarks.md`` puts the tables there.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench.mount.contenders import CannotStart, Contender, Makers
from tests.bench.mount.work import COPY_ON_WRITE, MIB, WORKS, Corrupt, Work

SIZE_BYTES: Final = 256 * MIB
PEER: Final = "qemu-storage-daemon"
OURS: Final = "dmspec"
MARK: Final = "<!-- make bench -->"

# What a server still does when a work is done, as ours when it drops a page cache, counts as its own and is to be over
# when the next one's turn comes.
SETTLE_SECONDS: Final = 0.08


@dataclass
class Cell:
    """What one contender did in one row."""

    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0

    @property
    def spread(self) -> float:
        """Half of what lies between the quartiles, as a part of the median."""
        if len(self.rates) < 3:
            return 0.0
        low, _middle, high = statistics.quantiles(self.rates, n=4)
        return (high - low) / 2 / self.median


@dataclass
class Group:
    """Contenders that are compared; ``makers`` by name, in the order of the table's columns."""

    title: str
    makers: dict[str, Callable[[], Contender]]
    works: list[Work]
    bar: Callable[[Work], float]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)


def groups(make: Makers) -> list[Group]:
    """Linear, mirror and snapshot, each beside what QEMU has for it."""
    def lesser(work: Work) -> float:
        return 1.0 if work.buffered else 0.8

    return [
        Group("linear", {"plain file": make.plain, PEER: make.qemu_raw, "nbdkit + nbdfuse": make.nbdkit,
                         OURS: make.ours_linear}, WORKS, lambda work: work.linear_bar),
        Group("mirror", {PEER: make.qemu_quorum, OURS: make.ours_mirror}, WORKS, lesser),
        Group("snapshot", {PEER: make.qemu_qcow2, OURS: make.ours_snapshot}, [COPY_ON_WRITE, *WORKS], lesser),
    ]


class Bench:
    """Runs groups and prints what came of it."""

    def __init__(self, scratch: Path, *, rounds: int, short: bool, only: str) -> None:
        self.scratch = scratch
        self.rounds = rounds
        self.short = short
        self.only = only
        self.bars: list[tuple[str, bool]] = []

    def run(self, group: Group) -> None:
        """Measure a whole group."""
        works = [work for work in group.works if self.only in work.name]
        for work in (work for work in works if work.fresh):
            for _ in range(self.rounds):
                for name, maker in group.makers.items():
                    contender = maker()
                    try:
                        self._measure(group, work, name, contender)
                    finally:
                        contender.stop()
        contenders = {}
        try:
            for name, maker in group.makers.items():
                contenders[name] = maker()
            for contender in contenders.values():
                _fill(contender.path)
            for work in (work for work in works if not work.fresh):
                for _ in range(self.rounds):
                    for name, contender in contenders.items():
                        self._measure(group, work, name, contender)
                print(f"  {group.title}: {work.name}: "
                      f"{self._ratio(group, work)[0]:.2f} of {PEER}", file=sys.stderr, flush=True)
            group.peaks = {name: contender.peak_mib() for name, contender in contenders.items() if contender.pids}
        finally:
            for contender in contenders.values():
                contender.stop()
        self.bars += [self._bar(group, work) for work in works]

    def _measure(self, group: Group, work: Work, name: str, contender: Contender) -> None:
        cell = group.cells.setdefault(work.name, {}).setdefault(name, Cell())
        if cell.problem:
            return
        before = contender.cpu_seconds()
        try:
            rate = work.run(contender.path, self.scratch, self.short)
        except Corrupt as problem:
            cell.problem = str(problem)
        except subprocess.CalledProcessError as problem:
            cell.problem = f"{problem.cmd[0]} fails"
        else:
            cell.rates.append(rate)
            threading.Event().wait(SETTLE_SECONDS)
            cell.cpu_seconds.append(contender.cpu_seconds() - before)

    def _ratio(self, group: Group, work: Work) -> tuple[float, Cell, Cell]:
        cells = group.cells[work.name]
        ours, peer = cells[OURS], cells[PEER]
        return (ours.median / peer.median if peer.median else 0.0), ours, peer

    def _bar(self, group: Group, work: Work) -> tuple[str, bool]:
        """A peer that cannot do it at all is no measure; ours has to do it all the same."""
        ratio, ours, peer = self._ratio(group, work)
        bar = group.bar(work)
        if ours.problem:
            return f"{group.title}: {work.name}: {ours.problem}", False
        if peer.problem:
            return f"{group.title}: {work.name}: {PEER}: {peer.problem}; ours is right", True
        return f"{group.title}: {work.name}: {ratio:.2f}, wanted {bar}", ratio >= bar


def _fill(path: Path) -> None:
    """Write every byte once, so that no row is about space that is being allocated."""
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={SIZE_BYTES // MIB}", "conv=notrunc,fsync"],
                   check=True, stderr=subprocess.DEVNULL)


def _cell(group: Group, work: Work, name: str) -> str:
    cells = group.cells[work.name]
    cell, peer = cells[name], cells[PEER]
    if cell.problem:
        return cell.problem
    number = f"{cell.median:,.0f}" if cell.median >= 100 else f"{cell.median:.3g}"
    text = f"{number} ±{cell.spread:.0%}"
    if name != PEER and peer.median:
        text += f" (**{cell.median / peer.median:.2f}**)" if name == OURS else f" ({cell.median / peer.median:.2f})"
    return text


def _cpu(group: Group, work: Work) -> str:
    cells = group.cells[work.name]
    ours, peer = (sum(cells[name].cpu_seconds) for name in (OURS, PEER))
    return f"{ours / peer:.2f}" if peer and cells[OURS].rates and cells[PEER].rates else "-"


def tables(done: Iterable[Group]) -> str:
    """The results in Markdown."""
    lines: list[str] = []
    for group in done:
        works = [work for work in group.works if work.name in group.cells]
        names = list(group.makers)
        lines += [f"### {group.title}", "", "| work | " + " | ".join(names) + " | server CPU, dmspec to QEMU |",
                  "|---|" + "---|" * (len(names) + 1)]
        lines += [f"| {work.name} | " + " | ".join(_cell(group, work, name) for name in names)
                  + f" | {_cpu(group, work)} |" for work in works]
        lines += ["", "Peak memory of the servers: "
                  + ", ".join(f"{name} {peak:.0f} MiB" for name, peak in group.peaks.items()) + ".", ""]
    return "\n".join(lines)


def machine() -> str:
    """What it was measured on, in a line."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown processor")
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    version = subprocess.run(["qemu-storage-daemon", "--version"], capture_output=True, text=True, check=False)
    return (f"{cores} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}, "
            f"{(version.stdout.splitlines() or ['no QEMU'])[0]}")


def main() -> int:
    """Run what the command line asks for; the last line says how many bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--group", default="", choices=["", "linear", "mirror", "snapshot"])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    if asked.markdown and not asked.markdown.is_file():
        parser.error(f"--markdown {asked.markdown}: there is no such page")
    scratch = Path(tempfile.mkdtemp(prefix="dmspec-bench-", dir=asked.folder))
    mounts = Path(tempfile.mkdtemp(prefix="dmspec-bench-"))
    rounds = asked.rounds or (3 if asked.short else 9)
    bench = Bench(scratch, rounds=rounds, short=asked.short, only=asked.only)
    done = []
    try:
        for group in groups(Makers(scratch, mounts, SIZE_BYTES)):
            if asked.group in ("", group.title):
                bench.run(group)
                done.append(group)
    except CannotStart as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 3
    finally:
        shutil.rmtree(scratch)
        shutil.rmtree(mounts)
    text = f"{machine()}; medians of {rounds} interleaved rounds, ± half the interquartile range.\n\n{tables(done)}"
    verdict = [f"not met: {what}" for what, met in bench.bars if not met]
    verdict.append(f"{sum(met for _what, met in bench.bars)} of {len(bench.bars)} bars met")
    print("\n".join([text, *verdict]))
    if asked.markdown:
        put(asked.markdown, "\n\n".join([text.strip(), "\n".join(f"- {line}" for line in verdict)]))
    return 0


def put(file: Path, text: str) -> None:
    """Put it between the two marks of a page."""
    before, mark, rest = file.read_text().partition(MARK)
    _old, end, after = rest.partition(MARK)
    file.write_text(f"{before}{mark}\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    raise SystemExit(main())
