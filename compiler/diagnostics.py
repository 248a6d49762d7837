"""What is wrong with a spec: the diagnostic, and the table of all its codes.

A code never changes its meaning and is never used again for another one.  ``dmspec check --explain CODE``
prints its explanation.  Everything wrong in a spec is collected and shown at once, in the order of the text.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from dmspec.compiler.source import Span


class Severity(enum.Enum):
    """An error ends in exit status 2; a warning and a note do not."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Related:
    """Another place that belongs to a diagnostic, such as that of a first declaration."""

    message: str
    span: Span


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing to say about a spec.

    ``found`` and ``expected`` are said apart from the message where both are clear; ``kernel`` is what the
    kernel would write to its log (``ti->error``); ``help`` is what to do about it.
    """

    code: str
    message: str
    span: Span
    found: str = ""
    expected: str = ""
    help: str = ""
    kernel: str = ""
    related: tuple[Related, ...] = ()
    severity: Severity = Severity.ERROR

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def is_error(self) -> bool:
        """Whether the spec is wrong, rather than strange."""
        return self.severity is Severity.ERROR


@dataclass
class Sink:
    """Collects diagnostics; the same thing at the same place is said once.

    A procedure that is used twice is checked twice, which is why that can happen.
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    _seen: set[tuple[str, str, int, int]] = field(default_factory=set)

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep a diagnostic, unless its code has been said of its place."""
        span = diagnostic.span
        key = (diagnostic.code, span.source.name, span.start, span.end)
        if key not in self._seen:
            self._seen.add(key)
            self.diagnostics.append(diagnostic)

    @property
    def has_errors(self) -> bool:
        """Whether anything is wrong so far."""
        return any(one.is_error for one in self.diagnostics)

    def in_order(self, first: str) -> list[Diagnostic]:
        """All of them in the order of the text; those of the file ``first`` come first."""
        return sorted(
            self.diagnostics,
            key=lambda one: (one.span.source.name != first, one.span.source.name, one.span.start, one.code),
        )


def near(word: str, names: Iterable[str]) -> str:
    """The one of the names that ``word`` was probably meant to be, or an empty string.

    Letter case, ``-`` and ``_`` count for nothing; otherwise difflib decides.  Sorted first, so that the
    answer does not depend on the order of a set.
    """
    from difflib import get_close_matches

    def plain(text: str) -> str:
        return text.lower().replace("_", "-")

    candidates: dict[str, str] = {}
    for name in sorted(set(names)):
        candidates.setdefault(plain(name), name)
    candidates.pop(plain(word), None) if candidates.get(plain(word)) == word else None
    found = get_close_matches(plain(word)[:200], candidates, n=1, cutoff=0.6)
    return candidates[found[0]] if found else ""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """``did you mean `x`?``, or an empty string."""
    one = near(word, names)
    return f"did you mean `{one}`?" if one else ""


def listed(names: Collection[str], word: str = "and", *, most: int = 12) -> str:
    """Names for a sentence: "`a`, `b` and `c`", cut where there are too many."""
    ordered = [f"`{name}`" for name in names]
    if len(ordered) > most:
        return ", ".join(ordered[:most]) + f" and {len(ordered) - most} more"
    if len(ordered) < 2:
        return "".join(ordered)
    return ", ".join(ordered[:-1]) + f" {word} {ordered[-1]}"


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of diagnostic."""

    code: str
    title: str
    explanation: str


def _table(*codes: Code) -> dict[str, Code]:
    by_code = {one.code: one for one in codes}
    assert len(by_code) == len(codes), "a code is there twice"
    return by_code


CODES: Final = _table(
    # ---- reading and syntax
    Code("DM001", "the file cannot be read",
         "The file is not there, is a directory or a pipe, or its permissions keep it from being read."),
    Code("DM002", "the file is not UTF-8",
         "A spec is UTF-8 text.  The message names the first byte that is none."),
    Code("DM003", "a control character in a spec",
         "A spec is plain text: tabs and line ends are the only control characters.  A NUL byte usually means "
         "that the file is a plan or a disk image."),
    Code("DM004", "the file is too large",
         "A spec has at most 256 KiB.  Contents of disks do not belong into it: `disk d 64MiB file=\"d.img\"`."),
    Code("DM005", "blocks are nested too deeply",
         "At most 64 blocks can be inside each other.  A procedure makes a deep block readable again."),
    Code("DM006", "a syntax error",
         "What stands here cannot follow what stands before it.  The rest of the file is still read: the "
         "statement is left out, and reading goes on behind it."),
    Code("DM007", "not a declaration",
         "At the top of a file stand declarations: use, kernel, disk, device, filesystem, lock, process, "
         "procedure, scenario, property."),
    Code("DM008", "a text without its closing quote",
         "A quoted text ends in the line in which it begins; `\\n` in it is a line end."),
    Code("DM009", "a brace without its partner",
         "Each `{` has its `}`.  Where a declaration begins at the start of a line although a block is still "
         "open, the block is taken to have been forgotten there."),
    Code("DM010", "too many errors",
         "Only the first ones are shown; the later ones often follow from them."),
    Code("DM011", "a block that belongs to nothing",
         "`or { }` follows a `choose { }`, `else { }` follows an `if`, and a block without a word before it "
         "follows a `parallel { }`."),
    # ---- names
    Code("DM101", "no such name",
         "The name is not declared.  A device that is only made while the spec runs counts as declared where "
         "any process creates it, or renames another one to it."),
    Code("DM102", "a name declared twice",
         "Disks, devices, filesystems and locks share one space of names; processes, procedures, scenarios "
         "and properties have one each."),
    Code("DM103", "a name that has another meaning",
         "Names of operations, of procedures and the words that begin a statement cannot name anything else, "
         "because they begin a new statement wherever they stand."),
    Code("DM104", "a name of another kind of thing",
         "The name is declared, but not as what is needed here: for instance a device where only a disk can "
         "fail."),
    Code("DM105", "a device used before its declaration",
         "Devices are made in the order of the file, so a table can only name disks, and devices further up."),
    Code("DM106", "no such library",
         "`use NAME` reads NAME.dms beside the spec, or the library of that name that comes with dmspec."),
    Code("DM107", "libraries that use each other in a circle",
         "A library cannot use itself, not even through others."),
    Code("DM108", "more than procedures in a library",
         "A library holds procedures and the libraries that these use.  Disks, devices and processes belong "
         "into the spec."),
    Code("DM109", "a name that the kernel would refuse",
         "A device's name has at most 127 characters, and is not `.` or `..`."),
    Code("DM110", "a procedure that uses itself",
         "Procedures are put in where they are called, so none can call itself, not even through others.  "
         "`repeat N { }` does something several times."),
    Code("DM111", "a parameter that is no name here",
         "`{lv}-real` puts a name into a name, so the argument for `lv` has to be a plain name."),
    # ---- arguments
    Code("DM201", "no such operation",
         "The word that begins a statement is an operation, a procedure, or a word of the language."),
    Code("DM202", "no such argument",
         "The operation, target, fault, check or procedure has no argument of that name."),
    Code("DM203", "an argument is missing",
         "An argument that has no default has to be given."),
    Code("DM204", "too many arguments",
         "More positional arguments were given than there are.  A statement ends at a newline or a `;`."),
    Code("DM205", "an argument given twice",
         "Each argument is given once, by its place or by its name."),
    Code("DM206", "an argument of the wrong kind",
         "For instance a size where a name is needed."),
    Code("DM207", "not one of the choices",
         "The argument takes one of a few words, which the diagnostic names."),
    Code("DM208", "not a number with a known unit",
         "Sizes: B, KiB, MiB, GiB, TiB, or s for sectors of 512 bytes; without a unit: bytes.  Times: ns, us, "
         "ms, s.  Numbers are whole and decimal."),
    Code("DM209", "not whole sectors",
         "Disks and tables are made of sectors of 512 bytes."),
    Code("DM210", "a number that is too large",
         "A device has less than 2^63 bytes, as in the kernel; other numbers are less than 2^63 as well."),
    Code("DM211", "no such condition",
         "What `if` and `await` ask is a condition, with its arguments behind it or in parentheses."),
    Code("DM212", "no such check",
         "`always`, `sometimes` and `finally` take a check and its arguments."),
    Code("DM213", "not a fault",
         "A scenario's `fault` takes an operation that makes something go wrong."),
    Code("DM214", "no such kernel",
         "`kernel` names one of the eras whose behaviour dmspec knows."),
    Code("DM215", "no such expectation",
         "`expect` takes one of a few words, or `error` and a block."),
    # ---- tables
    Code("DM301", "no such target",
         "A segment begins with the name of a target that dmspec has.  The kernel's own line can be given as "
         "a text, for the same targets."),
    Code("DM302", "a segment without a size",
         "Only where a table has a single segment, and that lies on other devices, can its size be left out: "
         "it is theirs then.  In a table that is loaded the size of the device's present table is what is left."),
    Code("DM303", "a statement in a table",
         "A table holds segments: a size and a target with its arguments, or the kernel's own line as a text."),
    Code("DM304", "a segment outside a table",
         "A size or a text cannot begin a statement of a process."),
    Code("DM305", "the kernel refuses the table",
         "The target's constructor, or the table's check, fails.  The kernel's own words are shown behind "
         "`dm:`."),
    Code("DM307", "the kernel will refuse the table",
         "The table that an operation loads here can never be loaded, so the operation will fail.  Where that is "
         "the point, put it into `expect error EINVAL { ... }`."),
    Code("DM306", "a table without segments",
         "A device has at least one segment, and so has each table that an operation loads."),
    # ---- processes, scenarios, properties
    Code("DM401", "a scenario that runs nothing",
         "`run` names the processes that run together in a scenario."),
    Code("DM402", "a violation of a check that is not made",
         "`expect violation of CHECK` needs the check in the same scenario, after `always`, `sometimes` or "
         "`finally`."),
    Code("DM403", "a lock taken while it is held",
         "The process waits for itself there, for ever."),
    Code("DM404", "a process that is too long",
         "With its procedures put in, a process has at most 10000 steps.  `repeat N { }` costs one step only."),
    Code("DM405", "said twice",
         "A scenario runs a process once, and names each of its kernels once, in one line; a property has one list of "
         "operations, and a file one kernel."),
    Code("DM406", "a range that is none",
         "The least number of operations is not larger than the greatest, and at least 1 operation is drawn."),
    Code("DM407", "a property that draws nothing",
         "`operations 1..40 of { ... }` says what is drawn."),
    Code("DM408", "nothing that can be negated",
         "`await not` is not there: wait for the condition that ends the wait."),
    Code("DM409", "a kernel on which the scenario is not run",
         "`expect violation of CHECK on KERNEL...` names kernels of the scenario's own `kernel` line."),
)
