"""What a backend is: a plan in another form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmspec.runtime.plan import Plan


class BackendError(Exception):
    """A plan has no such form; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One form.

    ``emit`` makes the contents of the file that `dmspec compile` writes, out of a plan and, for a backend that
    ``wants_text``, the text of the spec (empty when there is only a plan).
    """

    name: str
    doc: str
    emit: Callable[..., bytes]
    wants_text: bool = False

    def make(self, plan: Plan, text: str) -> bytes:
        """The contents; raises :class:`BackendError`."""
        return self.emit(plan, text) if self.wants_text else self.emit(plan)
