"""The text of a plan's files, if they can be read and are still what the plan was made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmspec.runtime.plan import Plan

LIBRARY: Final = "<dmspec>/"  # how a plan names a file of the library that dmspec ships


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a plan: its name there, and its lines."""

    name: str
    lines: list[str]


def read_sources(plan: Plan, path: str) -> list[Source]:
    """Read all files of the plan that `path` came to, in the plan's order; nothing unless they are the plan's own.

    Line numbers of other texts than those that were compiled would mislead.
    """
    from dmspec.compiler.source import SourceError

    try:
        texts = [_text(name, Path(path), first=at == 0) for at, name in enumerate(plan.files)]
    except (OSError, SourceError):
        return []
    digest = hashlib.sha256()
    for name, text in zip(plan.files, texts, strict=True):
        data = text.encode()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    if digest.hexdigest() != plan.source_sha256:
        return []
    return [Source(name, text.split("\n")[:-1] if text.endswith("\n") else text.split("\n"))
            for name, text in zip(plan.files, texts, strict=True)]


def _text(name: str, path: Path, *, first: bool) -> str:
    from dmspec.compiler.source import of_text, read

    if name.startswith(LIBRARY):
        from importlib.resources import files

        shipped = files("dmspec.library").joinpath(name.removeprefix(LIBRARY))
        return of_text(shipped.read_text(encoding="utf-8"), name).text
    beside = path.parent / name
    return read(path if first and not beside.exists() else beside, plan_name=name).text
