"""What the processes of one Promela model share."""

from __future__ import annotations

from dataclasses import dataclass, field

from dmspec.compiler.backends.promela_tables import Names
from dmspec.runtime.operations.base import EXPECTATION
from dmspec.runtime.plan import Check, Instr


@dataclass
class Model:
    """What the processes of one model share.  ``issues`` collects what it cannot have."""

    names: Names
    files: list[str]
    checks: list[Check]
    running: list[str]
    documents: list[tuple[str, tuple[int, int] | None]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)
    globals: list[str] = field(default_factory=list)
    issues: list[str] = field(default_factory=list)

    def issue(self, instr: Instr, text: str) -> None:
        """Something that the model cannot have, with its place."""
        said = f"{self.files[instr.file]}:{instr.line}: {text}"
        if said not in self.issues:
            self.issues.append(said)

    def asks(self, check: str, process: str) -> bool:
        """Whether a check of the scenario is about this process."""
        return any(one.name == check and one.mode == "always" and (not one.args.get("process")
                                                                  or process in one.args["process"])
                   for one in self.checks) or check == EXPECTATION

    def document(self, target: str, range_: list[int] | None) -> int:
        """The number of what is hashed: a range of a disk or device."""
        key = (target, None if range_ is None else (range_[0], range_[1]))
        if key not in self.documents:
            self.documents.append(key)
        return self.documents.index(key)

    def word(self, name: str) -> int:
        """The number of a name under which a hash is remembered."""
        if name not in self.words:
            self.words.append(name)
        return self.words.index(name)
