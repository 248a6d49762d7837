"""Who waits for whom, drawn: nodes in layers from above to below, what closes a cycle along the sides.

The layout is our own and depends on nothing but the edges, so that the same counterexample gives the same drawing.
Edges are numbered; the reasons stand beside the drawing as a list with the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmspec.runtime.explore.explain import Edge

CHARACTER: Final = 7.2  # the width of one, at 12 px in a monospaced font
BOX_HEIGHT: Final = 40
LAYER_HEIGHT: Final = 88
GAP: Final = 22
MARGIN: Final = 10
SIDE: Final = 30  # between a box and what passes it
BADGE: Final = 10


@dataclass
class Box:
    """A node with its place."""

    name: str
    layer: int
    width: float
    x: float = 0.0

    @property
    def y(self) -> float:
        return MARGIN + self.layer * LAYER_HEIGHT

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass
class Drawing:
    """The SVG's parts, and how far they reach."""

    parts: list[str] = field(default_factory=list)
    left: float = 0.0
    right: float = 0.0
    tracks: list[int] = field(default_factory=lambda: [0, 0])  # taken so far: on the left, on the right
    ports: dict[tuple[str, int], int] = field(default_factory=dict)  # taken so far, of a box's side

    def reach(self, x: float) -> None:
        """Make room for something at x."""
        self.left, self.right = min(self.left, x), max(self.right, x)

    def port(self, box: Box, side: int) -> float:
        """Where the next edge meets a box's side: no two at one place."""
        taken = self.ports[box.name, side] = self.ports.get((box.name, side), 0) + 1
        return box.y + BOX_HEIGHT / 2 + (0, 12, -12)[(taken - 1) % 3]


def in_cycle(edge: Edge, cycle: Sequence[str]) -> bool:
    """Whether an edge is one of the cycle's own."""
    return any(edge.waiter == one and edge.holder == cycle[(at + 1) % len(cycle)] for at, one in enumerate(cycle))


def in_reading_order(edges: Sequence[Edge], cycle: Sequence[str]) -> list[Edge]:
    """The cycle's edges first, in the cycle's order; then the others."""
    around = [edge for at, one in enumerate(cycle) for edge in edges
              if edge.waiter == one and edge.holder == cycle[(at + 1) % len(cycle)]]
    return around + [edge for edge in edges if edge not in around]


def layers_of(edges: Sequence[Edge], cycle: Sequence[str]) -> tuple[dict[str, int], set[tuple[str, str]]]:
    """Each node's layer, and the edges that lead back up: a walk from the cycle's first node finds them."""
    after: dict[str, list[str]] = {}
    for edge in edges:
        after.setdefault(edge.waiter, []).append(edge.holder)
        after.setdefault(edge.holder, [])
    back: set[tuple[str, str]] = set()
    done: list[str] = []
    for start in dict.fromkeys([*cycle, *after]):
        _walk(start, after, back, done, [])
    layers = dict.fromkeys(after, 0)
    for name in reversed(done):
        for other in after[name]:
            if (name, other) not in back:
                layers[other] = max(layers[other], layers[name] + 1)
    for name in done[::-1]:  # a node that only waits stands just above what it waits for
        below = [layers[other] for other in after[name] if (name, other) not in back]
        if below and not any(name in others for others in after.values()):
            layers[name] = min(below) - 1
    return layers, back


def _walk(name: str, after: dict[str, list[str]], back: set[tuple[str, str]], done: list[str],
          trail: list[str]) -> None:
    if name in done:
        return
    for other in after[name]:
        if other == name or other in trail:
            back.add((name, other))
        else:
            _walk(other, after, back, done, [*trail, name])
    if name not in done:
        done.append(name)


def draw(edges: Sequence[Edge], cycle: Sequence[str]) -> str:
    """The graph as an SVG element; colours and fonts are the page's."""
    ordered = in_reading_order(edges, cycle)
    layers, back = layers_of(ordered, cycle)
    boxes = _place(layers, ordered, cycle)
    drawing = Drawing()
    numbered = sorted(enumerate(ordered, 1), key=lambda one: in_cycle(one[1], cycle))  # the cycle's above the others
    for number, edge in numbered:
        _draw_edge(drawing, edge, number, boxes, marked=in_cycle(edge, cycle), back=(edge.waiter, edge.holder) in back)
    for box in boxes.values():
        _draw_box(drawing, box, marked=box.name in cycle)
    left, right = drawing.left - MARGIN, drawing.right + MARGIN
    height = 2 * MARGIN + max(layers.values()) * LAYER_HEIGHT + BOX_HEIGHT
    label = "; ".join(f"{edge.waiter} waits for {edge.holder}" for edge in ordered)
    return (f'<svg class="graph" role="img" aria-label="{escape(label)}" width="{right - left:.0f}" '
            f'height="{height:.0f}" viewBox="{left:.0f} 0 {right - left:.0f} {height:.0f}">'
            f"{''.join(drawing.parts)}</svg>")


def _place(layers: dict[str, int], edges: Sequence[Edge], cycle: Sequence[str]) -> dict[str, Box]:
    """Boxes layer by layer, each layer centred; the cycle's on the left, where it is closed.

    The others are ordered by where those above are that wait for them.
    """
    boxes = {name: Box(name, layer, max(64.0, len(_lines(name)[1]) * CHARACTER + 24))
             for name, layer in layers.items()}
    rows = [[box for box in boxes.values() if box.layer == layer] for layer in range(max(layers.values()) + 1)]
    widest = max(_width(row) for row in rows)
    for row in rows:
        above = {box.name: [boxes[edge.waiter].middle for edge in edges
                            if edge.holder == box.name and boxes[edge.waiter].layer < box.layer] for box in row}
        row.sort(key=lambda box: (box.name not in cycle,
                                  sum(above[box.name]) / len(above[box.name]) if above[box.name] else 0.0))
        x = (widest - _width(row)) / 2
        for box in row:
            box.x = x
            x += box.width + GAP
    return boxes


def _width(row: list[Box]) -> float:
    return sum(box.width for box in row) + GAP * (len(row) - 1)


def _lines(name: str) -> tuple[str, str]:
    """`bios of vol` is drawn as a small `bios of` above a `vol`."""
    kind, _, rest = name.rpartition(" ")
    return kind, rest


def _draw_box(drawing: Drawing, box: Box, *, marked: bool) -> None:
    kind, name = _lines(box.name)
    drawing.reach(box.x)
    drawing.reach(box.x + box.width)
    style = "node " + (kind.partition(" ")[0] or "other") + (" marked" if marked else "")
    drawing.parts.append(
        f'<g class="{escape(style)}"><rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{BOX_HEIGHT}" rx="5"/>'
        f'<text class="kind" x="{box.middle:.1f}" y="{box.y + 15:.1f}">{escape(kind)}</text>'
        f'<text x="{box.middle:.1f}" y="{box.y + 31:.1f}">{escape(name)}</text></g>')


def _draw_edge(drawing: Drawing, edge: Edge, number: int, boxes: dict[str, Box], *, marked: bool, back: bool) -> None:
    waiter, holder = boxes[edge.waiter], boxes[edge.holder]
    passed = any(waiter.layer < box.layer < holder.layer for box in boxes.values())
    if back or passed:
        path, tip, x, y = _aside(drawing, waiter, holder, boxes, side=0 if back else 1)
    else:
        path, tip, x, y = _down(waiter, holder)
    style = "edge marked" if marked else "edge"
    drawing.parts.append(
        f'<path class="{style}" d="{path}"/><path class="{style} tip" d="{tip}"/>'
        f'<circle class="{style} badge" cx="{x:.1f}" cy="{y:.1f}" r="{BADGE}"/>'
        f'<text class="{style} number" x="{x:.1f}" y="{y + 4:.1f}">{number}</text>')


def _down(waiter: Box, holder: Box) -> tuple[str, str, float, float]:
    """From a box to one in the layer below: the path, its tip, and the place of its number."""
    aside = max(14.0 - holder.width / 2, min(holder.width / 2 - 14.0, (waiter.middle - holder.middle) / 3))
    x0, y0, x1, y1 = waiter.middle, waiter.y + BOX_HEIGHT, holder.middle + aside, holder.y - 8
    bend = (y1 - y0) * 0.45
    path = f"M{x0:.1f} {y0:.1f}C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}"
    return path, f"M{x1 - 5:.1f} {y1 - 1:.1f}h10l-5 9z", (x0 + x1) / 2, (y0 + y1) / 2


def _aside(drawing: Drawing, waiter: Box, holder: Box, boxes: dict[str, Box], *,
           side: int) -> tuple[str, str, float, float]:
    """A way around the boxes: out at a side (0 is the left one), along it, and in again; each on its own track."""
    away = -1 if side == 0 else 1
    drawing.tracks[side] += 1
    y0, y1 = drawing.port(waiter, side), drawing.port(holder, side)
    first, last = sorted((waiter.layer, holder.layer))
    edges = [box.x + (box.width if side else 0) for box in boxes.values() if first <= box.layer <= last]
    x = (max(edges) if side else min(edges)) + away * SIDE * drawing.tracks[side]
    x0, x1 = (box.x + (box.width if side else 0) for box in (waiter, holder))
    drawing.reach(x + away * BADGE)
    turn, down, end = x - 8.0 * away, 8.0 if y1 > y0 else -8.0, x1 + 8 * away
    path = (f"M{x0:.1f} {y0:.1f}H{turn:.1f}Q{x:.1f} {y0:.1f} {x:.1f} {y0 + down:.1f}V{y1 - down:.1f}"
            f"Q{x:.1f} {y1:.1f} {turn:.1f} {y1:.1f}H{end:.1f}")
    return path, f"M{end + away:.1f} {y1 - 5:.1f}v10l{-9 * away} -5z", x, (y0 + y1) / 2
