"""Opening files that a spec or a command line names, without being led elsewhere.

Two kinds of names are told apart.  What the person typed (a store, an allowed path) may go through symbolic links, as
long as nobody but that person or root has made them.  What a spec says lies below such a folder and goes through no
link at all.  Every step is taken from the folder that was opened in the step before, so nothing can be put in the way
between a check and its use.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from .errors import StoreError

MOST_LINKS: Final = 40
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened_folder(base: Path, below: Sequence[str] = ()) -> Iterator[int]:
    """A folder that the person named, then folders below it; a descriptor for ``dir_fd``."""
    folder = _follow(base)
    try:
        for name in below:
            inner = _step(folder, name, base)
            os.close(folder)
            folder = inner
            if stat.S_ISLNK(os.fstat(folder).st_mode):
                raise StoreError(f"{base.joinpath(*below)}: `{name}` is a symbolic link; a spec goes through none")
        yield folder
    finally:
        os.close(folder)


def _follow(path: Path) -> int:
    """Open a folder, through links of this user and of root only."""
    todo = list(reversed(path.parts[1:] if path.is_absolute() else path.parts))
    folder = _step(None, "/" if path.is_absolute() else ".", path)
    links = 0
    try:
        while todo:
            inner = _step(folder, todo.pop(), path)
            status = os.fstat(inner)
            if not stat.S_ISLNK(status.st_mode):
                os.close(folder)
                folder = inner
                continue
            try:
                links += 1
                if status.st_uid not in (0, os.geteuid()):
                    raise StoreError(f"{path}: goes through a symbolic link of another user")
                if links > MOST_LINKS:
                    raise StoreError(f"{path}: too many symbolic links")
                target = Path(os.readlink("", dir_fd=inner))
            finally:
                os.close(inner)
            if target.is_absolute():
                os.close(folder)
                folder = _step(None, "/", path)
            todo += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _step(folder: int | None, name: str, path: Path) -> int:
    try:
        return os.open(name, _LOOK, dir_fd=folder)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None


def place(name: str, beside: Path, allowed: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """Where a file lies that a spec names: a folder that the command line allows, and the way from there.

    That is the spec's own folder, or one of ``allowed``.
    """
    path = Path(name)
    if not path.is_absolute() and ".." not in path.parts:
        return beside, path.parts
    whole = Path(os.path.normpath(beside / path))
    for folder in allowed:
        known = os.path.normpath(folder)
        if whole != Path(known) and whole.is_relative_to(known):
            return folder, whole.relative_to(known).parts
    raise StoreError(f"{name}: a spec may only name files beside it or below; `--allow-path {whole.parent}` lets it "
                     "name this one")
