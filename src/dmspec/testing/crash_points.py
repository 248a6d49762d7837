"""Every point of a run at which the power can fail, one by one, and what each leaves.

A run is stopped after each step in which a disk did something.  What was not flushed by then may be on the
disks or not, in any order; of all these images a bounded number is looked at: none of it; all of it; for each
changed page all but that one, that one alone, and that one torn after its first sector that differs.  Each image
is booted and comes to rest; then every check of the scenario is asked, and the model in any case.
"""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dmspec.runtime.block import Backing, DiskIo
from dmspec.runtime.build import build
from dmspec.runtime.contents import Peek, pieces
from dmspec.runtime.plan import Check, Disk, Plan
from dmspec.runtime.power import PowerCut
from dmspec.runtime.registry import TARGETS
from dmspec.runtime.runner import STEP_LIMIT, Running, scenario_of
from dmspec.runtime.sim import FirstChooser, SimEngine
from dmspec.runtime.task import Task
from dmspec.runtime.units import SECTOR_BYTES
from dmspec.runtime.volatile import VolatileMemory
from dmspec.runtime.world import World

MODEL = "model-agrees"


@dataclass(frozen=True, slots=True)
class Image:
    """What a power cut leaves: ``words`` says it, ``pages`` is what is on which disk's page if not the old contents."""

    words: str
    pages: dict[tuple[str, int], bytes]


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image on which something does not hold."""

    step: int
    happened: str
    image: str
    text: str


@dataclass
class CrashReport:
    """What came of one scenario."""

    scenario: str
    points: int = 0
    images: int = 0
    checked: int = 0
    bad: list[BadImage] = field(default_factory=list)


def crash_points(plan: Plan, scenario_name: str, *, folder: Path, fsck: str | None = None, device: str | None = None,
                 most_bad: int = 10, progress: Callable[[CrashReport], None] | None = None) -> CrashReport:
    """Look at every point.  ``folder`` is where the plan's disk files are looked for; ``fsck`` as in the CLI."""
    scenario = scenario_of(plan, scenario_name)
    checks = [*scenario.checks]
    if not any(check.name == MODEL for check in checks):
        checks.append(Check("always", MODEL, {"device": []}))
    engine = SimEngine()
    world = build(plan, engine, disk_factory=lambda disk: _preloaded(disk, folder), target_types=TARGETS,
                  kernel=scenario.kernel)
    running = Running(world, replace(scenario, checks=checks))
    report = CrashReport(scenario_name)
    while running.taken < STEP_LIMIT and len(report.bad) < most_bad:
        if not running.step():
            break
        moved = engine.last if isinstance(engine.last, DiskIo) else None
        if moved is None:
            continue
        report.points += 1
        for image in images(world):
            report.images += 1
            text = _judge(running, image, fsck, device, report)
            if text:
                report.bad.append(BadImage(running.taken, f"{moved.bio!r}", image.words, text))
            if progress is not None:
                progress(report)
    return report


def images(world: World) -> Iterator[Image]:
    """The bounded choice of what may be left now."""
    changed = {(disk.name, page): contents for disk in world.stack.disks.values()
               if isinstance(disk.backing, VolatileMemory) for page, contents in disk.backing.changed().items()}
    yield Image("nothing of what was not flushed is there", {})
    if not changed:
        return
    newest = {place: contents[-1] for place, contents in changed.items()}
    yield Image("all that was not flushed is there", newest)
    for (disk, page), contents in changed.items():
        where = f"page {page} of {disk}"
        torn = _torn(contents[0], contents[-1])
        if torn not in (contents[0], contents[-1]):
            yield Image(f"{where} is torn, and all else is there", newest | {(disk, page): torn})
        if len(changed) > 1:
            yield Image(f"only {where} is there", {(disk, page): contents[-1]})
            yield Image(f"all but {where} is there", {place: data for place, data in newest.items()
                                                      if place != (disk, page)})


def _torn(old: bytes, new: bytes) -> bytes:
    for at in range(0, len(old), SECTOR_BYTES):
        if old[at:at + SECTOR_BYTES] != new[at:at + SECTOR_BYTES]:
            return new[:at + SECTOR_BYTES] + old[at + SECTOR_BYTES:]
    return new


def _preloaded(disk: Disk, folder: Path) -> Backing:
    memory = VolatileMemory()
    if disk.file is not None and (folder / disk.file).is_file():
        memory.write(0, memoryview((folder / disk.file).read_bytes()[:disk.sectors * SECTOR_BYTES]))
        memory.flush()
    return memory


def _judge(running: Running, image: Image, fsck: str | None, device: str | None, report: CrashReport) -> str:
    """What is wrong after a boot from the image, in words."""
    booted = copy.deepcopy(running)
    world, engine = booted.world, booted.engine
    for disk in world.stack.disks.values():
        assert isinstance(disk.backing, VolatileMemory)
        disk.backing.leave({page: data for (name, page), data in image.pages.items() if name == disk.name})
    engine.chooser = FirstChooser()
    Task(engine, "power").start(PowerCut(world, "none"))
    # Nothing of the old world may run before the power is gone.
    engine.runnable.rotate(1)
    limit = booted.taken + STEP_LIMIT
    while booted.step():
        if booted.taken > limit:
            return "the machine does not come to rest after the boot"
    report.checked += 1
    booted.come_to_rest(over=True)
    for one in booted.watching:
        if one.text:
            return f"{one.check.name}: {one.text}"
    return _run_fsck(world, fsck, device) if fsck is not None else ""


def _run_fsck(world: World, command: str, device: str | None) -> str:
    """Run a program on a device's contents; its status has to be 0."""
    import shlex

    name = device or next((one.device.name for one in world.filesystems.by_name.values()),
                          next(iter(reversed(world.stack.devices)), ""))
    peek = Peek(world)
    found = peek.device(name)
    if found is None:
        return f"there is no device {name} after the boot"
    with TemporaryDirectory(prefix="dmspec-crash-") as folder:
        path = Path(folder) / name
        with path.open("wb") as file:
            for offset, length in pieces(0, found.sectors * SECTOR_BYTES):
                data = peek.read(found, offset, length)
                if isinstance(data, int):
                    return f"{name} cannot be read after the boot"
                file.write(data)
        words = [word.replace("{device}", str(path)) for word in shlex.split(command)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if not done.returncode:
        return ""
    said = (done.stdout + done.stderr).strip().splitlines()
    return f"`{words[0]}` ends with status {done.returncode}" + (f": {said[-1]}" if said else "")
