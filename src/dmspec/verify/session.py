"""Many cases in few boots of the guest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dmspec.runtime.units import MIB
from dmspec.verify.compare import Comparison, Difference, parse
from dmspec.verify.guest import Guest, Run, boot
from dmspec.verify.script import Placed, Script
from dmspec.verify.steps import Played

# So many cases go into one boot; a start takes as long as a dozen steps.
BATCH: Final = 50


class GuestFailed(Exception):
    """The guest did not even begin; the text has what it said."""


@dataclass(slots=True)
class Verdict:
    """What came of one case: ``disks`` are what the guest's disks held at the end, where that is asked for."""

    played: Played
    differences: list[Difference] = field(default_factory=list)
    disks: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """Runs cases in guests, of which so many run at once; ``kernel``, ``targets`` (those that the
    kernel has), ``boots`` and ``seconds`` say what was used.
    """

    guest: Guest
    batch: int = BATCH
    guests: int = 1
    kernel: str = ""
    targets: frozenset[str] = frozenset()
    boots: int = 0
    seconds: float = 0.0

    def _start(self, script: str, disks: Sequence[Path]) -> Run:
        run = boot(self.guest, script, disks)
        self.boots += 1
        self.seconds += run.seconds
        first = run.output.partition("\n")[0]
        if not first.startswith("@kernel ") or "@trouble" in run.output:
            said = "\n".join([run.output[-2000:], run.console[-2000:]]).strip()
            raise GuestFailed(f"the guest did not start as it should:\n{said}")
        self.kernel = first.removeprefix("@kernel ")
        self.targets = frozenset(word for line in run.output.splitlines() if line.startswith("@targets ")
                                 for word in line.split()[1:])
        return run

    def compare(self, cases: Sequence[Played]) -> list[Verdict]:
        """Run all of them; the verdicts are in the order of the cases."""
        share = -(-len(cases) // self.guests)
        parts = [cases[first:first + share] for first in range(0, len(cases), share)]
        with ThreadPoolExecutor(self.guests) as pool:
            return [verdict for part in pool.map(self._compare_part, parts) for verdict in part]

    def _compare_part(self, cases: Sequence[Played]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        while len(verdicts) < len(cases):
            verdicts += self._boot(cases[len(verdicts):len(verdicts) + self.batch])
        return verdicts

    def _boot(self, cases: Sequence[Played]) -> list[Verdict]:
        """Run some cases in one boot; those behind one that wedges the guest are left for the next."""
        script = Script()
        for played in cases:
            script.add(played)
        with tempfile.TemporaryDirectory(prefix="dmspec-verify-") as folder:
            disks = [Path(folder) / name for name in ("disks", "payload", "reads")]
            for disk, size in zip(disks, (script.disks_end, len(script.payload), script.reads_end), strict=True):
                _make_file(disk, size)
            _fill(disks[0], disks[1], script)
            run = self._start(script.text, disks)
            fd = os.open(disks[2], os.O_RDONLY | os.O_CLOEXEC)
            try:
                return self._judge(script.placed, run, fd)
            finally:
                os.close(fd)

    def _judge(self, placed: Sequence[Placed], run: Run, fd: int) -> list[Verdict]:
        reports = parse(run.output)
        if 0 not in reports:
            raise GuestFailed(f"the guest did not come to the first case:\n{run.output[-2000:]}")
        verdicts = []
        for number, one in enumerate(placed):
            if number not in reports:
                break
            comparison = Comparison(one, reports[number], lambda offset, length: os.pread(fd, length, offset))
            held = {disk.name: os.pread(fd, disk.sectors * 512, one.contents[disk.name])
                    for disk in one.played.case.disks}
            verdicts.append(Verdict(one.played, comparison.differences(), held))
        return verdicts


def _make_file(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(-(-max(size, 1) // MIB) * MIB)


def _fill(disks: Path, payload: Path, script: Script) -> None:
    with open(payload, "r+b") as file:
        file.write(script.payload)
    with open(disks, "r+b") as file:
        for placed in script.placed:
            for disk in placed.played.case.disks:
                file.seek(placed.disks[disk.name])
                file.write(disk.contents)
