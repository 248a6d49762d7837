"""A counterexample as a Mermaid sequence diagram: one lifeline per lane, one line for each thing that happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .explain import Counterexample, Step

KERNEL: Final = "kernel"
_ESCAPES: Final = {"#": "#35;", ";": "#59;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "\n": " "}


def sequence_diagram(example: Counterexample) -> str:
    """The diagram, with who waits for whom at its end."""
    lanes = _lanes(example)
    lines = ["sequenceDiagram", f"    %% {example.scenario}: {example.check} is violated", "    autonumber"]
    lines += [f"    participant {name} as {_text(lane)}" for lane, name in lanes.items()]
    for step in example.steps[1:]:
        lines += [f"    {line}" for line in _step(step, lanes)]
    first, last = next(iter(lanes.values())), list(lanes.values())[-1]
    over = first if first == last else f"{first},{last}"
    lines.append(f"    Note over {over}: {_text(f'{example.check}: {example.text}')}")
    for edge in example.edges:
        in_cycle = edge.waiter in example.cycle and edge.holder in example.cycle
        said = f"{edge.waiter} -> {edge.holder}: {edge.why}" + (" (in the cycle)" if in_cycle else "")
        lines.append(f"    Note over {over}: {_text(said)}")
    return "\n".join(lines) + "\n"


def _lanes(example: Counterexample) -> dict[str, str]:
    """Lanes in which something happens, in the order of the counterexample's, and what each is called."""
    used = {step.mover for step in example.steps[1:] if not step.events}
    used |= {lane for step in example.steps[1:] for lane, _text in step.events}
    used |= {step.mover for step in example.steps[1:] for lane, _text in step.events if lane != step.mover}
    known = [lane for lane in example.lanes if lane in used]
    others = sorted(used.difference(known))
    return {lane: f"l{number}" for number, lane in enumerate([*known, *others] or [KERNEL])}


def _step(step: Step, lanes: dict[str, str]) -> Iterator[str]:
    """What happens in the mover's own lane is a message to itself; in another's, one from the mover."""
    events = [event for event in step.events if event[1]] or [(step.mover, "goes on")]
    for lane, text in events:
        yield f"{lanes[step.mover if step.mover in lanes else lane]}->>{lanes[lane]}: {_text(text)}"


def _text(text: str) -> str:
    return "".join(_ESCAPES.get(char, char) for char in text)
