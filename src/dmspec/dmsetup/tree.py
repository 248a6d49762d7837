"""`ls --tree`: which device uses which, drawn with lines."""

from __future__ import annotations

import fcntl
import locale
import os
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dmspec.dmsetup.task import Session, Task
from dmspec.runtime import ioctl_format as form
from dmspec.runtime.block import DM_MAJOR

# empty, branch, vertical, last, single, first: each two columns wide, the last two three.
_ASCII: Final = ("  ", "|-", "| ", "`-", "---", "-+-")
_UTF: Final = ("  ", "├─", "│ ", "└─", "───", "─┬─")
_BEGIN, _END = "\x1b(0\x0f", "\x1b(B"
_VT100: Final = ("  ", f"{_BEGIN}tq{_END}", f"{_BEGIN}x{_END} ", f"{_BEGIN}mq{_END}", f"{_BEGIN}qqq{_END}",
                 f"{_BEGIN}qwq{_END}")
_WIDTH: Final = 80
_OPTIONS: Final = ("device", "blkdevname", "nodevice", "status", "table", "active", "open", "uuid", "rw", "utf",
                   "vt100", "ascii", "inverted", "compact", "notrunc")


@dataclass
class Node:
    """A device in the tree; ``header`` is there for mapped devices."""

    number: tuple[int, int]
    name: str = ""
    uuid: str = ""
    header: form.Header | None = None
    uses: list[Node] = field(default_factory=list)
    used_by: list[Node] = field(default_factory=list)


class Tree:
    """All devices with their users, in the order in which `ls --tree` draws them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.nodes: dict[tuple[int, int], Node] = {}
        self.order: list[Node] = []

    def add(self, number: tuple[int, int], parent: Node | None) -> None:
        """Add a device with all that it uses."""
        node = self.nodes.get(number)
        is_new = node is None
        uses: list[tuple[int, int]] = []
        if node is None:
            node = self.nodes[number] = Node(number)
            if number[0] == DM_MAJOR:
                answer = self.session.run(Task("deps", major=number[0], minor=number[1]))
                node.name, node.uuid, node.header = answer.name, answer.uuid, answer.header
                size = answer.header.data_size
                if size > form.HEADER_BYTES:
                    uses = [form.decode_dev(dev)
                            for dev in form.read_deps(answer.data[:size], answer.header.data_start)]
        if parent is None:
            if not node.used_by and node not in self.order:
                self.order.append(node)
        elif node not in parent.uses:
            if node in self.order:
                self.order.remove(node)
            parent.uses.append(node)
            node.used_by.append(parent)
        if is_new:
            for used in uses:
                self.add(used, node)

    def top(self) -> list[Node]:
        """Those that nobody uses."""
        return self.order

    def bottom(self) -> list[Node]:
        """Those that use nobody, in the order in which they were found."""
        return [node for node in self.nodes.values() if not node.uses]


def build(session: Session, entries: list[form.NameEntry]) -> Tree:
    """The tree of these devices."""
    tree = Tree(session)
    for entry in entries:
        tree.add(form.decode_dev(entry.dev), None)
    return tree


@dataclass
class Style:
    """What `-o` of a tree says."""

    shown: set[str] = field(default_factory=lambda: {"device"})
    symbols: tuple[str, ...] = _ASCII
    truncate: bool = True
    inverted: bool = False
    width: int = _WIDTH

    @property
    def compact(self) -> bool:
        """Whether several devices share a line."""
        return "compact" in self.shown and not self.shown & {"active", "rw", "open", "uuid", "status", "table"}


def style_of(session: Session, options: str) -> Style | None:
    """Parse the options; a word may be cut short.  Nothing: there is an unknown one, and it has been named."""
    style = Style(symbols=_UTF if _speaks_utf8() else _ASCII)
    words = options.split(",") if options else []
    for index, word in enumerate(words):
        known = next((name for name in _OPTIONS if name.startswith(word)), None)
        if known is None:
            session.error(f"Tree options not recognised: {','.join(words[index:])}.")
            return None
        if known in ("utf", "vt100", "ascii"):
            style.symbols = {"utf": _UTF, "vt100": _VT100, "ascii": _ASCII}[known]
        elif known == "nodevice":
            style.shown.discard("device")
        elif known == "notrunc":
            style.truncate = False
        elif known == "inverted":
            style.inverted = True
        else:
            style.shown.add(known)
    if style.symbols is not _VT100:
        style.width = _terminal_width()
    return style


def _speaks_utf8() -> bool:
    """Whether the user's locale is one of UTF-8; Python makes C.UTF-8 of none (PEP 538), which does not count."""
    said = next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "")
    made_up = said == "C.UTF-8" and not os.environ.get("LC_ALL") and not os.environ.get("LANG")
    return locale.nl_langinfo(locale.CODESET) == "UTF-8" and said not in ("C", "POSIX") and not made_up


def _terminal_width() -> int:
    try:
        columns: int = struct.unpack("4H", fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))[1]
    except OSError:
        return _WIDTH
    return columns - 3 if columns > 3 else _WIDTH


class Drawing:
    """Draws a tree.  ``more`` and ``widths`` are about the branch that is being drawn."""

    def __init__(self, session: Session, style: Style) -> None:
        self.session = session
        self.style = style
        self.more: list[bool] = []
        self.widths: list[int] = []
        self.line = ""

    def draw(self, nodes: list[Node], depth: int = 0) -> None:
        """Draw these devices and what is below them."""
        self.more = [*self.more[:depth], False]
        self.widths = [*self.widths[:depth], 0]
        for index, node in enumerate(nodes):
            below = node.used_by if self.style.inverted else node.uses
            self._draw_one(node, depth, is_last=index + 1 == len(nodes), has_children=bool(below))
            if below:
                self.draw(below, depth + 1)
                self.more, self.widths = self.more[:depth + 1], self.widths[:depth + 1]

    def _draw_one(self, node: Node, depth: int, *, is_last: bool, has_children: bool) -> None:
        style = self.style
        if not node.name and not style.shown & {"device", "blkdevname"}:
            return
        self.more[depth], self.widths[depth] = not is_last, 0
        is_first_on_line = not self.line
        if not style.compact or is_first_on_line:
            self._prefix(depth)
        offset = len(self.line)
        if style.compact and not is_first_on_line:
            self.line += style.symbols[5 if self.more[depth] else 4]
        self.line += "".join(self._words(node))
        if style.compact:
            self.widths[depth] = len(self.line) - offset
        if not style.compact or not has_children:
            self._newline()

    def _prefix(self, depth: int) -> None:
        empty, branch, vertical, last = self.style.symbols[:4]
        for level in range(depth):
            self.line += " " * (self.widths[level] + 1)
            if level == depth - 1:
                self.line += branch if self.more[depth] else last
            else:
                self.line += vertical if self.more[level + 1] else empty

    def _words(self, node: Node) -> Iterator[str]:
        shown = self.style.shown
        yield node.name
        if "blkdevname" in shown:
            kernel = self.session.device_name(*node.number, kernel=True)
            if kernel:
                yield f" <{kernel}>"
        if "device" in shown:
            yield f" ({node.number[0]}:{node.number[1]})"
        if node.header is None:
            return
        flags = node.header.flags
        attributes = []
        if "active" in shown:
            attributes.append("SUSPENDED" if flags & form.SUSPEND else "ACTIVE")
        if "rw" in shown:
            attributes.append("RO" if flags & form.READONLY else "RW")
        if "open" in shown:
            attributes.append(str(node.header.open_count))
        if "uuid" in shown:
            attributes.append(node.uuid)
        if attributes:
            yield f" [{', '.join(attributes)}]"

    def _newline(self) -> None:
        text, width = self.line, self.style.width
        if self.style.truncate and len(text) > width:
            text = text[:width - 1] + "..."
        self.session.print(text)
        self.line = ""


def show_tree(session: Session, entries: list[form.NameEntry], style: Style) -> None:
    """`ls --tree`."""
    tree = build(session, entries)
    Drawing(session, style).draw(tree.bottom() if style.inverted else tree.top())
