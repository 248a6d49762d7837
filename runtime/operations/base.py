"""What an operation is: one declaration, one registry line (in :mod:`dmspec.runtime.registry`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmspec.runtime.signature import Kind, Param, Signature
from dmspec.runtime.units import bytes_text, duration_text

if TYPE_CHECKING:
    from dmspec.runtime.process import ProcessTask
    from dmspec.runtime.task import Frame

NO_ERROR: Final = "no-error"
NO_IO_ERROR: Final = "no-io-error"
EXPECTATION: Final = "expectation"

Perform = Callable[["ProcessTask", dict[str, Any]], "Frame | int"]


@dataclass(frozen=True, slots=True)
class OperationType:
    """One thing that a process can do.

    ``perform`` does it: it answers with a frame that does it and ends with a value, or with the value
    at once.  A negative value is an errno; a :class:`~dmspec.runtime.errors.DmError` that ``perform``
    raises means the same.  ``violates`` names the check that is violated when it fails outside of
    ``expect error``.  ``felt_in_io``: a fault of which nothing tells but its disk's I/O and the condition
    ``failed``.
    """

    name: str
    signature: Signature
    doc: str
    perform: Perform
    is_fault: bool = False
    violates: str = NO_ERROR
    felt_in_io: bool = False

    def words(self, args: dict[str, Any]) -> str:
        """The operation as a spec would write it, for the trace."""
        words = [self.name.replace("expect-", "expect ", 1)]
        for param in self.signature:
            value = args.get(param.key)
            if value is None or value is False or value == [] or (value == "" and not param.required):
                continue
            if param.kind is Kind.FLAG:
                words.append(param.name)
            elif param.positional:
                if value != param.default:
                    words.append(_text(param, value))
            elif value != param.default or param.kind is Kind.SIZE:
                words.append(f"{param.name}={_text(param, value)}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class ConditionType:
    """Something that ``if`` and ``await`` ask.  ``holds`` must not change anything.

    ``idle`` says that a process may wait for it for ever, as a daemon does: such a wait is no deadlock
    while the process holds no lock.
    """

    name: str
    signature: Signature
    doc: str
    holds: Callable[[ProcessTask, dict[str, Any]], bool]
    idle: bool = False

    def words(self, args: dict[str, Any]) -> str:
        """The condition as a spec writes it: ``insync(vol)``, ``letter vol D F leg=0``."""
        words = []
        for param in self.signature:
            value = args.get(param.key)
            if param.kind is Kind.FLAG:
                words += [param.name] if value else []
            elif value != param.default:
                words.append(_text(param, value) if param.positional else f"{param.name}={_text(param, value)}")
        plain = all(param.positional and not param.repeated for param in self.signature)
        return f"{self.name}({', '.join(words)})" if plain else " ".join([self.name, *words])


def complete(signature: Signature, args: dict[str, Any]) -> dict[str, Any]:
    """Arguments with the defaults of those that are left out."""
    return {param.key: param.default for param in signature if not param.required} | args


def _text(param: Param, value: Any) -> str:
    if isinstance(value, list) and param.kind not in (Kind.RANGE, Kind.TABLE):
        return " ".join(_one(param.kind, item) for item in value)
    return _one(param.kind, value)


def _one(kind: Kind, value: Any) -> str:
    if kind is Kind.SIZE:
        return bytes_text(value)
    if kind is Kind.DURATION:
        return duration_text(value)
    if kind is Kind.RANGE:
        return f"{bytes_text(value[0])}+{bytes_text(value[1])}"
    if kind is Kind.TEXT:
        return f'"{value}"'
    if kind is Kind.TABLE:
        if isinstance(value, dict):
            return f"table-of({value['table_of']})"
        segments = "; ".join(" ".join(line.split()[2:]) for line in value)
        return f"{{ {segments if len(segments) <= 72 else segments[:71] + '…'} }}"
    return str(value)
