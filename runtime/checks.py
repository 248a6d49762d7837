"""What must hold: ``always``, ``sometimes`` or ``finally``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .signature import Kind, Signature, opt, pos, signature


@dataclass(frozen=True, slots=True)
class CheckType:
    """One check.  ``later`` says with what it comes when it parses but cannot run yet."""

    name: str
    signature: Signature
    doc: str
    later: str = ""


CHECK_TYPES: Final = (
    CheckType("no-deadlock", signature(), "Every process can go on or has ended."),
    CheckType("no-error", signature(), "No control operation fails, outside `expect error`."),
    CheckType("no-io-error", signature(pos("process", Kind.PROCESS, repeated=True, default=())),
              "No read, write or flush of these processes (none named: of any) fails."),
    CheckType("legs-agree", signature(pos("device", Kind.DEVICE)),
              "At rest, the legs of a mirror are equal in every region that is in sync."),
    CheckType("frozen", signature(pos("device", Kind.DEVICE), opt("since", Kind.WORD, "create")),
              "A device's contents do not change by themselves."),
    CheckType("resumed-at-end", signature(), "No device is left suspended."),
    CheckType("no-lost-write", signature(pos("device", Kind.TARGETABLE, repeated=True, default=())),
              "What was acknowledged can be read afterwards."),
    CheckType("no-race", signature(), "No two processes are inside suspend and resume of one device.",
              later="`dmspec explore`"),
    CheckType("model-agrees", signature(pos("device", Kind.DEVICE, repeated=True)),
              "Every read is one that the model of legal contents allows.", later="`dmspec test`"),
    CheckType("insync", signature(pos("device", Kind.DEVICE)), "The condition of that name."),
    CheckType("overflow", signature(pos("device", Kind.DEVICE)), "The condition of that name."),
    CheckType("invalid", signature(pos("device", Kind.DEVICE)), "The condition of that name."),
)
