"""A run as a person reads it: one column for each process, device and disk, as `git log --graph` draws branches.

    step   time  app
                 │ dmeventd
                 │ │ vol
                 │ │ │
      4          ● │ │  app: write vol
      5     5ms  ┊ │ ●  vol: event 1

`●` says whose line it is, `│` that a lane is there, `┊` that it waits. A terminal that has no room for the
columns gets `lane │ text`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dmspec.runtime.units import duration_text

if TYPE_CHECKING:
    from rich.console import Console

    from dmspec.runtime.plan import Plan
    from dmspec.runtime.runner import CheckOutcome, Result
    from dmspec.runtime.trace import Event

LEAST_TEXT_COLUMNS: Final = 32
_COLORS: Final = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
_ENDS: Final = ("ended", "removed")


@dataclass(frozen=True)
class Marks:
    """The characters that lanes are drawn with."""

    event: str
    there: str
    waits: str


UNICODE: Final = Marks("●", "│", "┊")
ASCII: Final = Marks("*", "|", ":")


@dataclass
class Lanes:
    """The lanes of some events, in the order of their columns, and how each stands."""

    names: list[str]
    marks: Marks
    states: dict[str, str] = field(default_factory=dict)

    def column_of(self, lane: str) -> int:
        """The column of a lane; a branch of a process is in the process's column."""
        while lane not in self.names and "." in lane:
            lane = lane.rpartition(".")[0]
        return self.names.index(lane)

    def color_of(self, lane: str) -> str:
        """The colour of a lane."""
        return _COLORS[self.column_of(lane) % len(_COLORS)]

    def line(self, event: "Event") -> list[str]:
        """The marks of every column at an event."""
        name = self.names[self.column_of(event.lane)]
        row = [self.states.get(lane, " ") for lane in self.names]
        row[self.names.index(name)] = self.marks.event
        if event.lane == name and (event.text in _ENDS or event.text.startswith("ended with")):
            self.states[name] = " "
        else:
            self.states[name] = self.marks.waits if event.text.startswith(("waits", "await")) else self.marks.there
        return row


def lanes_of(plan: "Plan", scenario_run: Sequence[str], events: Iterable["Event"], marks: Marks) -> Lanes:
    """Processes first, then faults, filesystems, devices, disks and the kernel."""
    filesystems = [one.name for one in plan.filesystems]
    disks = [one.name for one in plan.disks]
    happened: list[str] = []
    for event in events:
        root = event.lane.split(".")[0]
        lane = root if root in scenario_run else event.lane
        if lane not in happened:
            happened.append(lane)
    declared = [*scenario_run, "fault", *filesystems, *(one.name for one in plan.devices)]
    rest = [*disks, "kernel"]
    made = [name for name in happened if name not in declared and name not in rest]
    names = [name for name in [*declared, *made, *rest] if name in happened or name in scenario_run]
    return Lanes(names, marks, dict.fromkeys([*declared, *rest], marks.there))


def print_events(console: "Console", plan: "Plan", run: Sequence[str], events: Sequence["Event"],
                 first_step: int) -> None:
    """Print what happened; steps are counted from the scenario's beginning."""
    marks = _marks_for(console)
    lanes = lanes_of(plan, run, events, marks)
    margin = 5 + 1 + 8 + 2
    if console.width - margin - 2 * len(lanes.names) - 1 < LEAST_TEXT_COLUMNS:
        _print_narrow(console, lanes, events, first_step)
        return
    from rich.text import Text

    for number, name in enumerate(lanes.names):
        line = Text(" step     time  " if number == 0 else " " * margin)
        for before in lanes.names[:number]:
            line.append(f"{marks.there} ", lanes.color_of(before))
        line.append(name, lanes.color_of(name))
        console.print(line)
    for event, step, time in _numbered(events, first_step):
        line = Text(f"{step:>5} {time:>8}  ")
        for name, mark in zip(lanes.names, lanes.line(event), strict=True):
            line.append(f"{mark} ", lanes.color_of(name))
        line.append(" ")
        line.append(f"{event.lane}: ", lanes.color_of(event.lane))
        line.append(event.text, _style(event))
        console.print(line)


def _print_narrow(console: "Console", lanes: Lanes, events: Sequence["Event"], first_step: int) -> None:
    from rich.text import Text

    width = max((len(event.lane) for event in events), default=0)
    for event, step, time in _numbered(events, first_step):
        line = Text(f"{step:>5} ")
        if time:
            line.append(f"{time} ")
        line.append(f"{event.lane:{width}} {lanes.marks.there} ", lanes.color_of(event.lane))
        line.append(event.text, _style(event))
        console.print(line)


def _numbered(events: Sequence["Event"], first_step: int) -> Iterator[tuple["Event", str, str]]:
    """Each event with its step and its time, where these differ from those above it."""
    last_step, last_time_ns = -1, 0
    for event in events:
        step = event.step - first_step
        yield (event, str(step) if step != last_step else "",
               duration_text(event.time_ns) if event.time_ns != last_time_ns else "")
        last_step, last_time_ns = step, event.time_ns


def _style(event: "Event") -> str:
    if event.text.startswith("VIOLATION") or "FAILED" in event.text:
        return "bold red"
    return "red" if event.lane == "fault" else ""


def _marks_for(console: "Console") -> Marks:
    try:
        (UNICODE.event + UNICODE.there + UNICODE.waits).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def print_checks(console: "Console", result: "Result", *, failed_only: bool) -> None:
    """Print what each check came to, what no check asked about, and the verdict."""
    from rich.text import Text

    for check in result.checks:
        if failed_only and check.ok:
            continue
        word, style = _word(check)
        line = Text.assemble("  ", (f"{word:12}", style), check.words)
        if check.line:
            line.append(f"  (line {check.line})", "dim")
        console.print(line)
        for text in (check.text, check.remark):
            for part in text.split("; ") if text else ():
                console.print(Text(" " * 14 + part))
    for remark in () if failed_only else result.remarks:
        console.print(Text.assemble("  ", (f"{'note':12}", "yellow"), remark))
    console.print(Text.assemble(f"scenario {result.scenario}: ",
                                ("ok", "bold green") if result.ok else ("failed", "bold red"),
                                f", {result.steps} steps"))


def _word(check: "CheckOutcome") -> tuple[str, str]:
    if check.violated:
        return ("as expected", "green") if check.expected else ("FAILED", "bold red")
    return ("ok", "green") if check.ok else ("FAILED", "bold red")
