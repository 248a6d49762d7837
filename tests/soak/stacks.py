"""The stacks of a soak, and what is done to each of them while writers are at work."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, Protocol

VOLUME_BYTES: Final = 1 << 20
COW_BYTES: Final = 512 << 10


class Mounted(Protocol):
    """What an action needs of a mount."""

    def do(self, text: str) -> str:
        """Do it; the answer is an errno's name, or empty."""

    def status(self, device: str) -> str: ...


def sure(mounted: Mounted, text: str) -> None:
    """Do it; it has to go well."""
    error = mounted.do(text)
    assert not error, f"{text!r}: {error}"


@dataclass
class Kind:
    """A stack: ``spec`` for a life, ``act`` for one thing done to it.

    ``facts`` are what LVM would have in its metadata, written before anything is done about it.
    """

    facts: dict[str, str] = field(default_factory=dict)
    faults: int = 0
    suspends: int = 0

    def spec(self) -> str:
        return f"disk pv1 {VOLUME_BYTES}\ndevice vol {{ linear pv1 }}\n"

    def after_mount(self, mounted: Mounted) -> None:
        """Bring it to what the facts say."""

    def act(self, mounted: Mounted, draw: random.Random) -> None:
        self.suspend(mounted, draw)

    def suspend(self, mounted: Mounted, draw: random.Random) -> None:
        """Suspend and resume, one way or another, sometimes with the same table loaded anew."""
        how = draw.choice(["", " nolockfs", " noflush nolockfs"])
        load = draw.choice(["", "load vol table=table-of(vol)\n"])
        mounted.do(f"{load}suspend vol{how}\nresume vol")
        self.suspends += 1


class Linear(Kind):
    """The disk's reads fail now and then, its writes too."""

    def act(self, mounted: Mounted, draw: random.Random) -> None:
        if draw.random() < 0.5:
            self.suspend(mounted, draw)
            return
        what = draw.choice(["reads", "writes", "all", "all range=64KiB+64KiB"])
        mounted.do(f"fail pv1 {what}")
        self.faults += 1
        mounted.do("heal pv1")


class Striped(Linear):
    """Chunks over two disks."""

    def spec(self) -> str:
        return (f"disk pv1 {VOLUME_BYTES // 2}\ndisk pv2 {VOLUME_BYTES // 2}\n"
                "device vol { striped pv1 pv2 chunk=16KiB }\n")


class Mirror(Kind):
    """A leg fails under load, is taken out, comes back, and is brought in sync again.

    The fact ``leg`` is the leg that alone is left, as long as that is so, ``legs`` the order of both.
    """

    top: str = "vol"

    def spec(self) -> str:
        return (f"disk pv1 {VOLUME_BYTES}\ndisk pv2 {VOLUME_BYTES}\ndisk log 64KiB\n" + self.base("vol"))

    def base(self, name: str) -> str:
        left = self.facts.get("leg")
        if left:
            return f"device {name} {{ linear {left} }}\n"
        return f"device {name} {{ {self.mirror()} }}\n"

    def mirror(self) -> str:
        """The first leg is the one that a resynchronisation copies from."""
        return f"mirror {self.facts.get('legs', 'pv1 pv2')} log=log region=32KiB handle_errors"

    def after_mount(self, mounted: Mounted) -> None:
        if self.facts.get("leg"):
            self.bring_back(mounted)

    def act(self, mounted: Mounted, draw: random.Random) -> None:
        choice = draw.random()
        if self.facts.get("leg"):
            self.bring_back(mounted)
        elif choice < 0.3:
            self.suspend(mounted, draw)
        elif choice < 0.5:
            leg = draw.choice(["pv1", "pv2"])
            mounted.do(f"fail {leg} reads range=128KiB+64KiB")
            mounted.do(f"heal {leg}")
            self.faults += 1
        elif " AA " not in mounted.status(self.top):
            self.forget_errors(mounted)
        elif self.in_sync(mounted):
            leg, other = draw.choice([("pv1", "pv2"), ("pv2", "pv1")])
            mounted.do(draw.choice([f"fail {leg}", f"fail {leg} writes", f"detach {leg}"]))
            self.faults += 1
            self.repair(mounted, leg, other)

    def in_sync(self, mounted: Mounted) -> bool:
        words = mounted.status(self.top).split()
        done, _, total = words[words.index("mirror") + 4].partition("/")
        return done == total

    def repair(self, mounted: Mounted, leg: str, other: str) -> None:
        """The other leg alone; then both, with everything copied."""
        self.facts["leg"] = other
        sure(mounted, f"load {self.top} {{ linear {other} }}\nsuspend {self.top} noflush nolockfs\nresume {self.top}")
        mounted.do(f"heal {leg}")
        self.bring_back(mounted)

    def forget_errors(self, mounted: Mounted) -> None:
        """A leg that a read has found wanting lacks nothing; a table loaded anew knows nothing of the error."""
        mounted.do(f"load {self.top} {{ {self.mirror()} }}\nsuspend {self.top} noflush nolockfs\n"
                   f"resume {self.top}")

    def bring_back(self, mounted: Mounted) -> None:
        """The leg that is left is the first one, from which the other is filled.

        The word ``sync`` counts at each resume, so it does not stay in the table (tests/verify/test_found.py).
        """
        left = self.facts["leg"]
        self.facts["legs"] = "pv1 pv2" if left == "pv1" else "pv2 pv1"
        sure(mounted, f"load {self.top} {{ {self.mirror()} sync }}\n"
                      f"suspend {self.top} noflush nolockfs\nresume {self.top}")
        if not mounted.do(f"await insync({self.top}) within=20s"):
            del self.facts["leg"]
            self.forget_errors(mounted)


class Snapshots(Mirror):
    """An origin over a mirror, with a snapshot that fills, is removed, and must show what it showed at first."""

    top = "real"

    def spec(self) -> str:
        snap = "device snap { snapshot real cow P chunk=4KiB }\n" if self.facts.get("snap") else ""
        return (f"disk pv1 {VOLUME_BYTES}\ndisk pv2 {VOLUME_BYTES}\ndisk log 64KiB\ndisk cow {COW_BYTES}\n"
                + self.base("real") + snap + "device vol { snapshot-origin real }\n")

    def act(self, mounted: Mounted, draw: random.Random) -> None:
        choice = draw.random()
        if choice < 0.1 and self.facts.pop("snap", ""):
            # What cannot be written is not written as invalid either, so the store is not to be used again.
            mounted.do("fail cow writes")
            mounted.do("heal cow")
            self.faults += 1
        elif choice < 0.2 and self.facts.pop("snap", ""):
            mounted.do("remove snap")
        else:
            super().act(mounted, draw)


KINDS: Final[dict[str, type[Kind]]] = {"linear": Linear, "striped": Striped, "mirror": Mirror, "snapshot": Snapshots}
