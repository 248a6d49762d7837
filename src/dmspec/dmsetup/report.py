"""Columns (`-c -o ...`): which rows, in which order, laid out as dmsetup's are."""

from __future__ import annotations

from dataclasses import dataclass

from dmspec.dmsetup.report_fields import (
    DEFAULT,
    FIELDS,
    GROUPS,
    REGIONS,
    SPLITNAME,
    STATISTICS,
    Field,
    Row,
    help_lines,
    selection_help_lines,
    split_lvm_name,
)
from dmspec.dmsetup.select import Selection, SelectionError
from dmspec.dmsetup.task import Answer, CommandFailed, Session


@dataclass(frozen=True)
class _Key:
    column: int
    descending: bool


def _canonical(name: str) -> str:
    return name.replace("_", "").lower()


_BY_NAME = {_canonical(name): one for name, one in FIELDS.items()}
# Rows with one of these are about statistics, of which there are none.
_STATISTICS = {_canonical(name) for name in (*STATISTICS, *REGIONS, "all", "stats_all", "region_all")}
_GROUPS = {_canonical(name): fields for name, fields in GROUPS.items()}


def find_field(name: str) -> Field | None:
    """A column by its name; case and underscores do not matter."""
    return _BY_NAME.get(_canonical(name))


class Report:
    """The table that a command fills.  ``help_only``: the columns were asked for, not their contents."""

    def __init__(self, session: Session, command: str) -> None:
        options = session.options
        self.session = session
        self.rows: list[list[str]] = []
        self.fields: list[Field] = []
        self.hidden = 0
        self.selecting = self.is_empty = False
        is_plain = "noheadings" in options
        self.separator = ":" if is_plain else " "
        self.aligned = not is_plain and "nameprefixes" not in options and "rows" not in options
        self.headings = not is_plain
        if "separator" in options:
            self.separator, self.aligned = options["separator"], False
        wanted = SPLITNAME if command == "splitname" else DEFAULT
        if "options" in options:
            said = options["options"]
            wanted = f"{wanted},{said[1:]}" if said.startswith("+") else said
        self.help_only = any(word in ("help", "?") for word in (*wanted.split(","), *options["sort"].split(",")))
        if "select" in options and options["select"].strip() in ("help", "?"):
            self.help_only = self.selecting = True
        if self.help_only:
            return
        self._choose(wanted)
        if "sort" in options and command in ("status", "table"):
            session.fail("--sort is not yet supported with status and table.")
        self.keys = [self._key(word) for word in options["sort"].split(",") if word]
        self.selection = self._selection(options["select"]) if "select" in options else None
        self.needs = {one.needs for one in self.fields}

    def _unknown(self, name: str, prefix: str = "") -> None:
        self.show_help()
        self.session.fail(f"{prefix}Unrecognised field: {name}")

    def _choose(self, wanted: str) -> None:
        for word in wanted.split(","):
            if not word:
                continue
            one = find_field(word)
            if one is not None:
                self.fields.append(one)
            elif _canonical(word) in _STATISTICS:
                self.is_empty = True
            elif _canonical(word) in _GROUPS:
                self.fields += _GROUPS[_canonical(word)]
            else:
                self._unknown(word)

    def _key(self, word: str) -> _Key:
        descending = word.startswith("-")
        one = find_field(word.lstrip("+-"))
        if one is None:
            self._unknown(word.lstrip("+-"), "dm_report: ")
            raise CommandFailed
        if one not in self.fields:
            self.fields.append(one)
            self.hidden += 1
        return _Key(self.fields.index(one), descending)

    def _selection(self, text: str) -> Selection:
        try:
            return Selection(text, find_field)
        except SelectionError as error:
            lists = {"columns": help_lines(selecting=True), "operators": selection_help_lines()}
            said = [*lists.get(error.lists, ()), *str(error).splitlines()]
            if error.rest is not None:
                said += [f"Selection syntax error at '{error.rest}'.", "Use 'help' for selection to get more help."]
            self.session.fail("\n".join(said))

    def show_help(self) -> None:
        """List the columns, on stderr; for a selection also what it is made of."""
        for line in help_lines(selecting=self.selecting):
            self.session.error(line)
        for line in selection_help_lines() if self.selecting else ():
            self.session.error(line)

    def row_of(self, answer: Answer) -> Row:
        """What a line about a device is made of."""
        prefix = answer.uuid.partition("-")[0] if "-" in answer.uuid else ""
        parts = split_lvm_name(answer.name) if prefix == "LVM" else ("", "", "")
        return Row(self.session, answer, (prefix, *parts), self.session.tree() if "tree" in self.needs else None)

    def selects(self, row: Row) -> bool:
        """Whether `-S` wants it."""
        return self.selection is None or self.selection.matches(row)

    def add(self, row: Row) -> None:
        """A line more, if it is wanted."""
        if not self.is_empty and self.selects(row):
            self.rows.append([one.value(row) for one in self.fields])

    def output(self) -> None:
        """Print it."""
        self._sort()
        shown = self.fields[:len(self.fields) - self.hidden]
        if not self.rows:
            return
        widths = [max(one.width, *(len(row[index]) for row in self.rows)) for index, one in enumerate(shown)]
        if "rows" in self.session.options:
            self._output_rows(shown, widths)
            return
        if self.headings:
            self.session.print(self.separator.join(
                one.heading.ljust(width)[:width] if self.aligned else one.heading
                for one, width in zip(shown, widths, strict=True)))
        for row in self.rows:
            self.session.print(self.separator.join(
                self._cell(one, value, width) for one, value, width in zip(shown, row, widths, strict=False)))

    def _output_rows(self, shown: list[Field], widths: list[int]) -> None:
        for index, one in enumerate(shown):
            head = [one.heading] if self.headings else []
            self.session.print(self.separator.join(
                [*head, *(self._cell(one, row[index], widths[index]) for row in self.rows)]))

    def _cell(self, one: Field, value: str, width: int) -> str:
        if self.aligned:
            return value.rjust(width) if one.numeric else value.ljust(width)
        if "nameprefixes" not in self.session.options:
            return value
        quote = "" if "unquoted" in self.session.options else "'"
        return f"DM_{one.name.upper()}={quote}{value}{quote}"

    def _sort(self) -> None:
        for key in reversed(self.keys):
            one = self.fields[key.column]

            def value(row: list[str], index: int = key.column, is_number: bool = one.numeric) -> tuple[int, str]:
                return (int(row[index]), "") if is_number else (0, row[index])

            self.rows.sort(key=value, reverse=key.descending)
