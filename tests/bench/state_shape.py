"""How should state be held: plain data or generators?  The mirror's write path, both ways.

Run it with ``python -m tests.bench.state_shape`` from the checkout.  Both versions use the same
engine, disks, region hash and log, and write 4 KiB to two legs.  ``plain`` is the real mirror;
``generator`` is a worker written as a generator with the same steps.

Measured on 2 cores, CPython 3.11, medians of 7 interleaved rounds:

=============================================  ===========  ===========
what                                           plain        generator
=============================================  ===========  ===========
a 4 KiB write to two legs, in simulation       26.1 us      26.7 us
back to the state after 50 writes              0.36 ms      1.64 ms
                                               (copied)     (replayed)
=============================================  ===========  ===========

What decided: a generator cannot be copied (``TypeError: cannot pickle 'generator' object``), so an
explorer would replay the whole prefix of a run to get back to a state, which costs more with every
step; the plain form is copied, and can be hashed and compared.  And the generator is not quicker.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from dmspec.runtime import control
from dmspec.runtime.backing import SparseMemory
from dmspec.runtime.bio import Bio, Op
from dmspec.runtime.eras import ERAS
from dmspec.runtime.frames import WaitForBios
from dmspec.runtime.mapped_device import MappedDevice
from dmspec.runtime.region_hash import State
from dmspec.runtime.sim import SimEngine
from dmspec.runtime.stack import Stack
from dmspec.runtime.targets.base import SUBMITTED, TargetType
from dmspec.runtime.targets.mirror import MIRROR, Mirror
from dmspec.runtime.task import Enter, Frame, Latch, Outcome, Return, Task, Wait

WRITES = 2000
ROUNDS = 7


class GeneratorMirror(Mirror):
    """The write path as a generator; all else is the mirror's."""

    def _construct_state(self) -> None:
        super()._construct_state()
        self.arrived = Latch("writes")
        self.process = self._worker()
        worker = Task(self.stack.engine, "generator worker")
        worker.start(Driver(self))

    def map(self, bio: Bio) -> int:
        if bio.op is not Op.WRITE:
            return super().map(bio)
        bio.hook = self.regions.region_of(bio)
        self.queue.append(bio)
        self.arrived.release()
        return SUBMITTED

    def _worker(self) -> Generator[Outcome, Any, None]:
        self.queue: list[Bio] = []
        while True:
            while not self.queue:
                yield Wait(self.arrived, "for writes")
            bios, self.queue = self.queue, []
            ready = [bio for bio in bios if self.regions.state(self.regions.region_of(bio)) is not State.RECOVERING]
            self.regions.inc_pending(ready)
            frame = self.log.flush()
            assert frame is None, "the core log has nothing to wait for"
            for bio in ready:
                yield from self._write(bio)

    def _write(self, bio: Bio) -> Generator[Outcome, Any, None]:
        owner = WaitForBios([], "legs")
        owner.pending = len(self.legs)
        clones = []
        for leg in self.legs:
            clone = bio.clone(owner)
            clone.device = leg.device
            clone.sector = leg.offset + bio.first_sector - self.begin
            clones.append(clone)
            clone.submit()
        while owner.pending:
            yield Wait(owner.latch, "for the legs")
        bio.complete(max(clone.status for clone in clones))


class Driver(Frame):
    """Steps the generator."""

    def __init__(self, mirror: GeneratorMirror) -> None:
        self.mirror = mirror

    def start(self, task: Task) -> Outcome:
        del task
        return next(self.mirror.process)


GENERATOR = TargetType("mirror", MIRROR.version, MIRROR.signature, MIRROR.params, MIRROR.doc, GeneratorMirror)


class Writes(Frame):
    """Write 4 KiB after 4 KiB."""

    def __init__(self, device: MappedDevice, count: int) -> None:
        self.device = device
        self.count = count
        self.buffer = bytes(range(256)) * 16

    def start(self, task: Task) -> Outcome:
        del task
        if not self.count:
            return Return(0)
        self.count -= 1
        bio = Bio(Op.WRITE, self.device, self.count % 256 * 8, 8, self.buffer)
        return Enter(WaitForBios([bio], "the write"), "start")


def build(kind: TargetType) -> tuple[SimEngine, MappedDevice]:
    engine = SimEngine()
    stack = Stack(engine, ERAS["now"], {"mirror": kind})
    for name in ("pv1", "pv2"):
        stack.add_disk(name, 4096, SparseMemory())
    md = control.create(stack, "vol")
    lines = ["0 4096 mirror core 2 1024 nosync 2 pv1 0 pv2 0 1 handle_errors"]
    for frame in (control.Load(md, control.resolve_lines(stack, lines)), control.DoResume(md)):
        task = Task(engine, "setup")
        task.start(frame)
        engine.run()
        assert task.value == 0
    return engine, md


def run(kind: TargetType, writes: int) -> tuple[SimEngine, MappedDevice]:
    engine, md = build(kind)
    task = Task(engine, "writer")
    task.start(Writes(md, writes))
    engine.run()
    assert task.ended
    return engine, md


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {"plain": [], "generator": []}
    for _ in range(ROUNDS):
        for name, kind in (("plain", MIRROR), ("generator", GENERATOR)):
            times[name].append(seconds(partial(run, kind, WRITES)) / WRITES * 1e6)
    for name, values in times.items():
        print(f"{name:10} {statistics.median(values):6.1f} us a 4 KiB write ({min(values):.1f} to {max(values):.1f})")
    _engine, md = run(MIRROR, 50)
    copies = [seconds(lambda: copy.deepcopy(md.stack)) * 1e3 for _ in range(ROUNDS)]
    replays = [seconds(lambda: run(GENERATOR, 50)) * 1e3 for _ in range(ROUNDS)]
    print(f"back to the state after 50 writes: copying {statistics.median(copies):.2f} ms (plain), "
          f"replaying {statistics.median(replays):.2f} ms (generator)")
    _engine, md = run(GENERATOR, 50)
    try:
        copy.deepcopy(md.stack)
    except TypeError as error:
        print(f"copying the generator version: TypeError: {error}")


if __name__ == "__main__":
    main()
