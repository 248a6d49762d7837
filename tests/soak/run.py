"""A soak: ``make soak``.  Mounts under load whose disks fail and come back, and whose server is killed again and again.

Each life of a server begins with a mount over the disk files that the last one left.  Everything on it is compared
with what every writer knows (:class:`tests.soak.lanes.Model`): that is the check of each reassembly.  Then the writers
work (O_DIRECT blocks, writes of any alignment through the page cache, dd, fio with its own verification), while things
are done to the stack (:mod:`tests.soak.stacks`); and at a drawn moment the server gets SIGKILL.  No writer and no
program may be stuck then, and no mount be left.  Now and then a life ends with an orderly unmount instead.

The last line is ``losses: 0`` if all went well.  ``--seed`` draws the same lives again, as far as threads let it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.process
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.soak.lanes import LANE_BYTES, BufferedLane, DirectLane, Lane, Lost, ProgramLane
from tests.soak.stacks import COW_BYTES, KINDS, VOLUME_BYTES, Kind

from dmspec.compiler import compile_statements
from dmspec.runtime import wire
from dmspec.runtime.fuse import mounts
from dmspec.runtime.plan import Plan, from_bytes, to_bytes

ANSWER_SECONDS: Final = 60.0
PRELOAD: Final = ["dmspec.cli.mount", "dmspec.runtime.server", "dmspec.compiler"]


def serve(arguments: list[str]) -> None:
    """What a server's process runs: the command itself."""
    from dmspec.cli import main

    sys.argv = ["dmspec", *arguments]
    main()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + ANSWER_SECONDS
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"in vain: {what}")
        pause.wait(0.005)


class Life:
    """One mount, from its beginning to its end."""

    def __init__(self, folder: Path, kind: Kind, context: multiprocessing.context.ForkServerContext) -> None:
        self.dir = folder / "mnt"
        self.spec = folder / "soak.dms"
        self.spec.write_text(kind.spec())
        self.process: multiprocessing.process.BaseProcess = context.Process(
            target=serve, args=(["mount", os.fspath(self.spec), os.fspath(self.dir), "--store",
                                 os.fspath(folder / "store"), "--foreground", "--quiet"],))
        self.process.start()
        until(self._answers, "the mount")
        self.plan = self._ask_plan()

    def _answers(self) -> bool:
        if not self.process.is_alive():
            raise AssertionError(f"the mount ended at once with {self.process.exitcode}")
        with suppress(wire.WireError):
            list(wire.ask(self.dir, "status", within_s=ANSWER_SECONDS))
            return True
        return False

    def _ask_plan(self) -> Plan:
        [answer] = wire.ask(self.dir, "plan", within_s=ANSWER_SECONDS)
        return from_bytes(answer["plan"])

    def do(self, text: str) -> str:
        """Do it; the answer is an errno's name, or empty."""
        compiled = compile_statements(text, self.plan)
        assert compiled.plan is not None, (text, [one.message for one in compiled.diagnostics])
        error = ""
        for answer in wire.ask(self.dir, "run", plan=to_bytes(compiled.plan), within_s=ANSWER_SECONDS):
            if "problem" in answer:
                raise AssertionError(f"{text!r}: {answer['problem']}")
            if "end" in answer:
                error = answer["error"]
        return error

    def status(self, device: str) -> str:
        [answer] = wire.ask(self.dir, "status", within_s=ANSWER_SECONDS)
        return "; ".join(next(one["status"] for one in answer["devices"] if one["name"] == device))

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.gone()

    def umount(self) -> None:
        list(wire.ask(self.dir, "stop", within_s=ANSWER_SECONDS))
        self.gone()

    def gone(self) -> None:
        """Neither a process nor a mount is left."""
        self.process.join(ANSWER_SECONDS)
        if self.process.is_alive():
            raise AssertionError("the server is stuck")
        until(lambda: mounts.topmost(self.dir) is None, "the mount's end")


class Soak:
    """One stack through many lives."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name = name
        self.kind: Kind = KINDS[name]()
        self.folder = folder
        self.draw = random.Random(f"{name} {seed}")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        (folder / "mnt").mkdir(parents=True)
        self.lanes: list[Lane] = [self._lane(number) for number in range(VOLUME_BYTES // LANE_BYTES)]
        self.frozen: bytes | None = None
        self.kills = self.ends = self.checks = self.snapshots_checked = 0

    def _lane(self, number: int) -> Lane:
        draw = random.Random(self.draw.random())
        if number == 6:
            return ProgramLane(number, draw, self.folder, "dd")
        if number == 7:
            return ProgramLane(number, draw, self.folder, "fio" if shutil.which("fio") else "dd")
        return DirectLane(number, draw) if number % 2 else BufferedLane(number, draw)

    def live(self) -> None:
        """One life: mount, check, work, end."""
        if self.name == "snapshot" and not self.kind.facts.get("snap"):
            self._new_snapshot()
        life = Life(self.folder, self.kind, self.context)
        try:
            self.kind.after_mount(life)
            self.check(life)
            busy = [lane for lane in self.lanes if not isinstance(lane, ProgramLane) or self.draw.random() < 0.5]
            for lane in busy:
                lane.errors = 0
                lane.start(life.dir / "vol")
            self._trouble(life, busy)
        except Lost as loss:
            life.process.kill()
            raise Lost(f"{self.name}, life {self.kills + self.ends}: {loss}") from None
        except BaseException:
            life.process.kill()
            raise

    def _trouble(self, life: Life, busy: list[Lane]) -> None:
        """Do things to the stack until the drawn moment; the kill comes from a timer, so also amid them."""
        orderly = self.draw.random() < 0.1
        moment = self.draw.uniform(0.02, 0.8)
        ended = threading.Event()
        problems: list[BaseException] = []

        def act() -> None:
            try:
                while not ended.is_set():
                    self.kind.act(life, self.draw)
            except wire.WireError:
                if not ended.is_set():
                    problems.append(AssertionError("the server has gone by itself"))
            except BaseException as problem:  # noqa: BLE001 - raised below
                problems.append(problem)

        actor = threading.Thread(target=act, name="actor", daemon=True)
        actor.start()
        ended.wait(moment)
        ended.set()
        if orderly:
            actor.join(ANSWER_SECONDS)
            for lane in busy:
                lane.stop.set()
            for lane in busy:
                lane.join()
            life.umount()
            self.ends += 1
        else:
            life.kill()
            self.kills += 1
            for lane in busy:
                lane.stop.set()
            for lane in busy:
                lane.join()
            actor.join(ANSWER_SECONDS)
        if actor.is_alive():
            raise AssertionError("what was being done to the stack is stuck")
        if problems:
            raise problems[0]

    def check(self, life: Life) -> None:
        """What the last life was told is done is there."""
        data = (life.dir / "vol").read_bytes()
        assert len(data) == VOLUME_BYTES
        for lane in self.lanes:
            lane.model.adopt(data[lane.base:lane.base + LANE_BYTES],
                             f"lane {lane.number}")
        self.checks += 1
        if self.kind.facts.get("snap"):
            self._check_snapshot(life, data)

    def _check_snapshot(self, life: Life, data: bytes) -> None:
        if self.frozen is None:
            self.frozen = data
        if "Invalid" in life.status("snap"):
            del self.kind.facts["snap"]
            return
        found = (life.dir / "snap").read_bytes()
        if found != self.frozen:
            at = next(at for at in range(len(found)) if found[at] != self.frozen[at])
            raise Lost(f"the snapshot does not show what it showed at first, from byte {at} on")
        self.snapshots_checked += 1

    def _new_snapshot(self) -> None:
        """The next life has a new one, of what is there at its beginning; lvcreate wipes the header first."""
        self.kind.facts["snap"] = "yes"
        self.frozen = None
        store = self.folder / "store"
        store.mkdir(exist_ok=True)
        with (store / "cow.img").open("r+b" if (store / "cow.img").exists() else "w+b") as file:
            file.truncate(COW_BYTES)
            file.write(bytes(4096))

    def figures(self) -> str:
        operations = sum(lane.operations for lane in self.lanes)
        programs = sum(lane.programs for lane in self.lanes if isinstance(lane, ProgramLane))
        return (f"{self.name}: {operations} operations, {programs} programs (dd, fio), {self.kind.faults} faults, "
                f"{self.kind.suspends} suspends, {self.kills} kills, {self.ends} orderly ends, "
                f"{self.checks} reassemblies right, {self.snapshots_checked} snapshots right")


def soak(kills: int, seed: int, kinds: list[str], say: Callable[[str], None]) -> list[Soak]:
    """Run until so many servers have been killed; the stacks take turns, a life each."""
    folder = Path(tempfile.mkdtemp(prefix="dmspec-soak-"))
    soaks = [Soak(name, folder / name, seed) for name in kinds]
    done = 0
    try:
        while done < kills:
            for one in soaks:
                one.live()
            done = sum(one.kills for one in soaks)
            say(f"{done} of {kills} kills")
        for one in soaks:
            if one.name == "snapshot" and not one.kind.facts.get("snap"):
                one._new_snapshot()
            life = Life(one.folder, one.kind, one.context)
            one.kind.after_mount(life)
            one.check(life)
            life.umount()
    finally:
        for one in soaks:
            left = mounts.topmost(one.folder / "mnt")
            if left is not None:
                mounts.force_unmount(one.folder / "mnt")
        shutil.rmtree(folder, ignore_errors=True)
    return soaks


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    asked = parser.parse_args()
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts are taken away
    try:
        soaks = soak(asked.kills, asked.seed, asked.kind or list(KINDS),
                     lambda text: print(f"\r{text}", end="", file=sys.stderr, flush=True))
    except Lost as loss:
        print(f"\nseed {asked.seed}: {loss}\nlosses: 1")
        return 1
    print(file=sys.stderr)
    for one in soaks:
        print(one.figures())
    kills = sum(one.kills for one in soaks)
    print(f"{kills} kills in {time.monotonic() - begun:.0f} s; no stuck process, no mount left")
    print("losses: 0")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
