"""What an operation is: one declaration, one registry line (in :mod:`dmspec.runtime.registry`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..signature import Signature

if TYPE_CHECKING:
    from ..process import ProcessTask
    from ..task import Outcome

Perform = Callable[["ProcessTask", dict[str, Any]], "Outcome"]


@dataclass(frozen=True, slots=True)
class OperationType:
    """One thing that a process can do.

    ``perform`` answers as a task's step does (:mod:`dmspec.runtime.task`).  ``later`` says, in
    words for a diagnostic, with what the operation comes when it parses but cannot run yet.
    """

    name: str
    signature: Signature
    doc: str
    perform: Perform | None = None
    is_fault: bool = False
    later: str = ""


@dataclass(frozen=True, slots=True)
class ConditionType:
    """Something that ``if`` and ``await`` ask.  ``holds`` must not change anything."""

    name: str
    signature: Signature
    doc: str
    holds: Callable[["ProcessTask", dict[str, Any]], bool] | None = None
    later: str = ""
