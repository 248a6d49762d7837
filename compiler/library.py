"""`use NAME`: where libraries are, and the procedures that are in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from dmspec.compiler import ast
from dmspec.compiler.diagnostics import did_you_mean
from dmspec.compiler.parser import Parsed, parse
from dmspec.compiler.scope import Context, Library
from dmspec.compiler.source import Source, SourceError, Span, of_text, read


def shipped() -> list[str]:
    """Names of the libraries that come with dmspec."""
    folder = files("dmspec.library")
    return sorted(item.name.removesuffix(".dms") for item in folder.iterdir() if item.name.endswith(".dms"))


@dataclass
class Loader:
    """Reads libraries, each once.  ``folder`` is the spec's own, which is looked in first, if it has one."""

    context: Context
    folder: Path | None
    loaded: dict[str, Library] = field(default_factory=dict)
    files: list[Library] = field(default_factory=list)
    parsed: list[tuple[Library, Parsed]] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def spec(self, source: Source, parsed: Parsed) -> Library:
        """The spec itself, as the first file, with the libraries that it uses."""
        library = Library("", source, len(self.files))
        self.files.append(library)
        self.parsed.append((library, parsed))
        self._fill(library, parsed)
        return library

    def use(self, name: ast.Word) -> Library | None:
        """A library by name; what is wrong with it is reported at ``name``."""
        if name.text in self._open:
            circle = " -> ".join([*self._open[self._open.index(name.text):], name.text])
            self.context.say("DM107", f"`{name.text}` uses itself: {circle}", name.span)
            return None
        if name.text in self.loaded:
            return self.loaded[name.text]
        source = self._source(name)
        if source is None:
            return None
        parsed = parse(source, self.context.syntax)
        library = Library(name.text, source, len(self.files))
        self.files.append(library)
        self.parsed.append((library, parsed))
        self._open.append(name.text)
        self._fill(library, parsed)
        self._open.pop()
        self.loaded[name.text] = library
        return library

    def is_there(self, name: str) -> bool:
        """Whether there is a library of this name."""
        return name in shipped() or (self.folder is not None and (self.folder / f"{name}.dms").exists())

    def _source(self, name: ast.Word) -> Source | None:
        try:
            if self.folder is not None:
                beside = self.folder / f"{name.text}.dms"
                if beside.exists():
                    return read(beside, plan_name=beside.name)
            if name.text in shipped():
                text = files("dmspec.library").joinpath(f"{name.text}.dms").read_text(encoding="utf-8")
                return of_text(text, f"<dmspec>/{name.text}.dms")
        except SourceError as error:
            self.context.say(error.code, error.message, name.span, help_=error.help)
            return None
        except OSError as error:
            self.context.say("DM001", f"cannot read {name.text}.dms: {error.strerror}", name.span)
            return None
        self.context.say("DM106", f"there is no library `{name.text}`", name.span,
                         expected=f"{name.text}.dms beside the spec, or a library of dmspec",
                         help_=did_you_mean(name.text, shipped()))
        return None

    def _fill(self, library: Library, parsed: Parsed) -> None:
        for one in parsed.declarations:
            if isinstance(one, ast.Use):
                self._use(library, one)
            elif isinstance(one, ast.Procedure):
                self._procedure(library, one)
            elif library.name:
                word = one.span.text.split(maxsplit=1)[0]
                start = one.span.start
                self.context.say("DM108", f"a `{word}` in a library",
                                 Span(one.span.source, start, start + len(word)),
                                 expected="`use` and `procedure`")

    def _use(self, library: Library, one: ast.Use) -> None:
        if one.name.text in library.uses:
            self.context.say("DM102", f"`{one.name.text}` is used already", one.name.span)
            return
        used = self.use(one.name)
        if used is not None:
            library.uses[one.name.text] = used

    def _procedure(self, library: Library, one: ast.Procedure) -> None:
        from dmspec.compiler.diagnostics import Related

        first = library.procedures.get(one.name.text)
        if first is not None:
            self.context.say("DM102", f"procedure `{one.name.text}` is declared twice", one.name.span,
                             related=(Related("first declared here", first.name.span),))
            return
        library.procedures[one.name.text] = one
