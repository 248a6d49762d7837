"""What a backend is: a plan in another form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmspec.runtime.plan import Plan


class BackendError(Exception):
    """A plan has no such form; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One form.  ``later`` says with what it comes, where it is known but not there yet.

    ``emit`` makes the contents of the file that `dmspec compile` writes.
    """

    name: str
    doc: str
    emit: Callable[[Plan], bytes] | None = None
    later: str = ""
