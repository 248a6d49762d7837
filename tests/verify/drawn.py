"""Draws short operation sequences over stacks of linear, striped, mirror and snapshot devices.

A sequence is drawn step by step on the emulator, so that what is drawn next can depend on what is there.  Few steps
are meant to fail; those that do are as welcome as the others.  A step that blocks (a write to a suspended device,
or to a mirror that has to be repaired) goes on in the background, on both sides.  The last steps heal the disks
and resume the devices; a sequence in which something is still blocked then is thrown away, because it would
wedge the guest.
"""

from __future__ import annotations

from random import Random
from typing import Any

from dmspec.runtime.mapped_device import MappedDevice
from dmspec.verify.emulate import Emulated, NoRest
from dmspec.verify.steps import DiskSpec, Outcome, Played, step

DISKS = (DiskSpec("pv1", 2048), DiskSpec("pv2", 2048), DiskSpec("pv3", 1024), DiskSpec("log", 64),
         DiskSpec("cow1", 512), DiskSpec("cow2", 128))
MOST_BLOCKED = 2


class Drawing:
    """One sequence under way."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.on = Emulated(DISKS)
        self.count = 0
        self.blocked = 0

    def pick(self, *values: Any) -> Any:
        return self.random.choice(values)

    def do(self, op: str, **args: Any) -> Outcome:
        outcome = self.on.do(step(op, **args))
        self.blocked += outcome.blocked
        return outcome

    @property
    def devices(self) -> list[str]:
        return sorted(self.on.world.stack.devices)

    def device(self) -> MappedDevice:
        return self.on.world.stack.devices[self.pick(*self.devices)]

    def place(self, sectors: int) -> tuple[int, int]:
        """A range of a device: first sector and length, mostly small, seldom at odd sectors."""
        unit = self.pick(8, 8, 8, 1)
        length = self.random.randint(1, 16) * self.pick(1, 1, 4) * unit
        length = min(length, sectors)
        return min(self.random.randint(0, max(sectors // unit, 1)) * unit, sectors - length), length

    # Tables

    def lower(self) -> str:
        return str(self.pick("pv1", "pv2", "pv3"))

    def linear(self) -> list[str]:
        lines, start = [], 0
        for _ in range(self.pick(1, 1, 2, 3)):
            length = self.random.randint(1, 32) * 16
            kind = self.pick("linear", "linear", "linear", "zero", "error")
            params = f"{self.lower()} {self.random.randint(0, 32) * 8}" if kind == "linear" else ""
            lines.append(f"{start} {length} {kind} {params}".rstrip())
            start += length
        return lines

    def striped(self) -> list[str]:
        chunk, count = self.pick(8, 16, 24), self.pick(2, 3)
        legs = " ".join(f"{self.lower()} {index * 128}" for index in range(count))
        return [f"0 {chunk * count * self.random.randint(1, 8)} striped {count} {chunk} {legs}"]

    def mirror(self) -> list[str]:
        legs = self.pick(["pv1 0", "pv2 0"], ["pv1 0", "pv2 64"], ["pv1 0", "pv2 0", "pv3 0"])
        words = [str(self.pick(16, 64, 128)), *self.pick([], ["nosync"], ["sync"])]
        if self.pick(False, True):
            log = f"disk {len(words) + 1} log {' '.join(words)}"
        else:
            log = f"core {len(words)} {' '.join(words)}"
        features = self.pick("", " 1 handle_errors", " 1 handle_errors", " 2 handle_errors keep_log")
        return [f"0 {self.pick(512, 960)} mirror {log} {len(legs)} {' '.join(legs)}{features}"]

    def snapshot(self, base: str, cow: str) -> list[str]:
        length = self.on.world.stack.devices[base].sectors
        return [f"0 {length} snapshot {base} {cow} {self.pick('P', 'P', 'PO', 'N')} {self.pick(8, 8, 16, 32)}"]

    def table(self) -> list[str]:
        made: list[str] = self.pick(self.linear, self.striped, self.mirror)()
        return made

    # What is there at first

    def stack(self) -> None:
        shape = self.pick("linear", "striped", "mirror", "mirror", "snapshot", "snapshot", "snapshot-of-mirror")
        if not shape.startswith("snapshot"):
            self.do("create", name="vol", table=getattr(self, shape)())
            return
        table = self.mirror() if shape == "snapshot-of-mirror" else [f"0 {self.pick(512, 1024)} linear pv1 0"]
        if self.do("create", name="base", table=table).error:
            return
        length = self.on.world.stack.devices["base"].sectors
        if self.pick(False, True):
            self.do("write", target="base", at=0, size=16384, pattern="before")
        self.do("create", name="snap1", table=self.snapshot("base", self.pick("cow1", "cow2")))
        if self.pick(False, True):
            self.do("create", name="vol", table=[f"0 {length} snapshot-origin base"])

    # Steps

    def races(self, name: str, first: int, length: int) -> bool:
        """Whether a write would run at once with something that it could overtake."""
        for number in self.on.pending:
            other = self.on.steps[number]
            if other.op != "write" or other.args["target"] != name:
                return True
            begin = other.args["at"] // 512
            if begin < first + length and first < begin + other.args["size"] // 512:
                return True
        return False

    def a_write(self) -> None:
        md = self.device()
        self.count += 1
        first, length = self.place(md.sectors)
        if length > 0 and not self.races(md.name, first, length):
            self.do("write", target=md.name, at=first * 512, size=length * 512, pattern=f"w{self.count}")

    def a_read(self) -> None:
        md = self.device()
        first, length = self.place(md.sectors)
        if length > 0 and not self.on.pending:
            self.do("read", target=md.name, at=first * 512, size=length * 512)

    def a_discard(self) -> None:
        md = self.device()
        first, length = self.place(md.sectors)
        if length > 0 and not self.on.pending:
            self.do("discard", target=md.name, at=first * 512, size=length * 512)

    def a_flush(self) -> None:
        if not self.on.pending:
            self.do("flush", target=self.device().name)

    def a_fault(self) -> None:
        self.do("fail", disk=self.pick("pv1", "pv2", "pv1", "log", "cow1"), what=self.pick("all", "writes"))

    def a_heal(self) -> None:
        for layer in self.on.layers:
            if layer.faults:
                self.do("heal", disk=layer.disk.name)
                return

    def a_load(self) -> None:
        md = self.device()
        if md.name == "base":
            return
        self.do("load", device=md.name, table=self.table())
        if self.pick(True, False):
            self.a_suspend(md)

    def a_clear(self) -> None:
        self.do("clear", device=self.device().name)

    def a_suspend(self, md: MappedDevice | None = None) -> None:
        md = md or self.device()
        flags = {"noflush": self.pick(False, True), "nolockfs": self.pick(False, True)}
        self.do("suspend", device=[md.name], **flags)
        if self.pick(True, True, False):
            self.do("resume", device=[md.name])

    def a_resume(self) -> None:
        self.do("resume", device=[self.device().name])

    def a_remove(self) -> None:
        """By force only when nothing is blocked: whether a dd that fails closes the device in time is a race."""
        force = self.pick(False, False, True) and not self.on.pending
        self.do("remove", device=[self.device().name], force=force)

    def a_rename(self) -> None:
        md = self.device()
        if md.name in ("vol", "other"):
            self.do("rename", device=md.name, new_name="other" if md.name == "vol" else "vol")
        else:
            self.do("rename", device=md.name, uuid=self.pick("U-1", "U-2"))

    def a_message(self) -> None:
        self.do("message", device=self.device().name, text=self.pick("hello", "@cancel_deferred_remove", "@nothing"))

    def a_snapshot(self) -> None:
        if "base" not in self.devices or "snap2" in self.devices:
            return
        origin = self.on.world.stack.devices.get("vol")
        orderly = origin is not None and not origin.suspended and self.pick(True, True, False)
        if orderly:
            self.do("suspend", device=["vol"])
        self.do("create", name="snap2", table=self.snapshot("base", self.pick("cow2", "cow1")))
        if orderly:
            self.do("resume", device=["vol"])

    def a_creation(self) -> None:
        name = self.pick("vol", "other")
        if name not in self.devices:
            self.do("create", name=name, table=self.table())

    def more(self) -> None:
        often = [self.a_write, self.a_write, self.a_write, self.a_read, self.a_read]
        act = self.pick(*often, self.a_discard, self.a_flush, self.a_fault, self.a_fault, self.a_heal, self.a_load,
                        self.a_load, self.a_clear, self.a_suspend, self.a_suspend, self.a_resume, self.a_remove,
                        self.a_rename, self.a_message, self.a_snapshot, self.a_snapshot, self.a_creation)
        if self.devices or act == self.a_creation:
            act()

    def end(self) -> None:
        for layer in self.on.layers:
            if layer.faults:
                self.do("heal", disk=layer.disk.name)
        for name in self.devices:
            if self.on.world.stack.devices[name].suspended:
                self.do("resume", device=[name])
        self.do("look")


def sequence(seed: int) -> Played | None:
    """The sequence of a seed, as it went on the emulator; ``None``: it is none that can be compared."""
    drawing = Drawing(seed)
    try:
        drawing.stack()
        for _ in range(drawing.random.randint(5, 12)):
            drawing.more()
            if drawing.blocked > MOST_BLOCKED:
                break
        drawing.end()
    except NoRest:
        return None
    if drawing.on.pending:
        return None
    played = drawing.on.played(f"seed {seed}")
    if drawing.on.pending or any(error == "blocked" for _data, error in played.contents.values()):
        return None
    return played
