"""A checked spec: names resolved, arguments converted, procedures put in; only the control flow is still a tree.

What a plan has as data the model has as the plan's own classes; only processes and properties wait for
:mod:`dmspec.compiler.lower`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dmspec.runtime.plan import Check, Device, Disk, Filesystem, Lock, Property, Scenario


@dataclass(frozen=True, slots=True)
class Place:
    """A file of the plan and a line in it."""

    file: int
    line: int


@dataclass(frozen=True, slots=True)
class Perform:
    """An operation with all its arguments."""

    place: Place
    op: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Locked:
    """A body with a lock held."""

    place: Place
    lock: str
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """Bodies side by side."""

    place: Place
    bodies: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """One of several bodies."""

    place: Place
    bodies: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A body, several times; ``None``: for ever."""

    place: Place
    times: int | None
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Conditional:
    """One body or the other."""

    place: Place
    condition: str
    args: dict[str, Any]
    negate: bool
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Awaited:
    """Wait for a condition."""

    place: Place
    condition: str
    args: dict[str, Any]
    within_ns: int | None


@dataclass(frozen=True, slots=True)
class Caught:
    """A body in which an error is expected (``must``) or allowed."""

    place: Place
    errno: str | None
    must: bool
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Inlined:
    """A procedure's body, where it was called."""

    place: Place
    procedure: str
    body: tuple[Step, ...]


Step = Perform | Locked | Forked | Chosen | Repeated | Conditional | Awaited | Caught | Inlined


@dataclass(frozen=True, slots=True)
class ProcessModel:
    """A process before it is flattened."""

    name: str
    body: tuple[Step, ...]
    line: int


@dataclass
class Model:
    """A whole spec."""

    files: list[str] = field(default_factory=list)
    source_sha256: str = ""
    kernel: str = "now"
    disks: list[Disk] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    filesystems: list[Filesystem] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    processes: list[ProcessModel] = field(default_factory=list)
    scenarios: list[Scenario] = field(default_factory=list)
    properties: list[Property] = field(default_factory=list)


__all__ = [
    "Awaited", "Caught", "Check", "Chosen", "Conditional", "Forked", "Inlined", "Locked", "Model", "Perform",
    "Place", "ProcessModel", "Repeated", "Step",
]
