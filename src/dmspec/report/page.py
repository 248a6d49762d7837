"""The page: what the template shows, put together from explorations and their counterexamples."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from dmspec.report import graph, lanes
from dmspec.report.facts import KINDS, Facts, Key, differences, facts_of, in_order, words_of_difference
from dmspec.report.places import Follower, Place

if TYPE_CHECKING:
    from markupsafe import Markup

    from dmspec.report.sources import Source
    from dmspec.runtime.explore import Exploration
    from dmspec.runtime.explore.explain import Counterexample
    from dmspec.runtime.explore.judge import Verdict
    from dmspec.runtime.plan import Plan, Scenario

# Each verdict with the sign that stands before it, and what it means.
WORDS: Final[dict[str, tuple[str, str]]] = {
    "holds": ("✓", "every state within the bounds was looked at, and none violates it"),
    "as expected": ("✓", "violated, and the spec says that it would be"),
    "reached": ("✓", "some run comes to it"),
    "violated": ("✕", "some run violates it; the steps that lead there are below"),
    "never": ("✕", "every state within the bounds was looked at, and no run comes to it"),
    "unknown": ("?", "the search ended before it had seen every state, and met no violation until then"),
}


@dataclass(frozen=True, slots=True)
class Explored:
    """One scenario's exploration, what came of its checks, and its counterexamples."""

    scenario: Scenario
    exploration: Exploration
    verdicts: list[Verdict]
    examples: list[Counterexample]
    preemptions: int | None = None  # the bound, where there was one


def render(plan: Plan, explored: Sequence[Explored], sources: Sequence[Source] = ()) -> str:
    """Write the whole page."""
    import jinja2
    from markupsafe import Markup

    here = files("dmspec.report")
    script = here.joinpath("page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
                                     undefined=jinja2.StrictUndefined)
    template = environment.from_string(here.joinpath("page.html.j2").read_text(encoding="utf-8"))
    scenarios = [_scenario(plan, one, sources, number) for number, one in enumerate(explored, 1)]
    used = {one.word for each in explored for one in each.verdicts}
    return template.render(
        title=plan.files[0], scenarios=scenarios, sources=[_source(one) for one in sources],
        words=[(WORDS[word][0], word, meaning) for word, (_, meaning) in WORDS.items() if word in used],
        style=Markup(here.joinpath("page.css").read_text(encoding="utf-8")), script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())


def _scenario(plan: Plan, one: Explored, sources: Sequence[Source], number: int) -> dict[str, Any]:
    scenario, progress = one.scenario, one.exploration.progress
    examples = [_example(plan, example, sources, f"s{number}c{at}") for at, example in enumerate(one.examples, 1)]
    ways = {example["check"]: example["id"] for example in examples}
    return {
        "id": f"s{number}", "name": scenario.name, "title": scenario.title,
        "ok": all(verdict.ok for verdict in one.verdicts),
        "run": ", ".join(scenario.run), "faults": [_fault_words(scenario, at) for at in range(len(scenario.faults))],
        "preemptions": one.preemptions, "kernel": scenario.kernel or plan.kernel,
        "complete": one.exploration.complete, "stopped": one.exploration.stopped,
        "figures": [("states", progress.states), ("transitions", progress.transitions), ("depth", progress.depth),
                    ("ends", progress.ends)],
        "verdicts": [{"sign": WORDS[verdict.word][0], "word": verdict.word, "ok": verdict.ok, "words": verdict.words,
                      "text": verdict.text, "steps": verdict.steps, "line": verdict.line,
                      "way": ways.get(verdict.name)} for verdict in one.verdicts],
        "examples": examples,
    }


def _fault_words(scenario: Scenario, at: int) -> str:
    from dmspec.runtime.registry import OPERATIONS

    fault = scenario.faults[at]
    words = OPERATIONS[fault.kind].words(fault.args) if fault.kind in OPERATIONS else fault.kind
    if "any" in fault.at:
        when = "at any point"
    elif "step" in fault.at:
        when = f"at step {fault.at['step']}"
    else:
        when = "at " + " ".join(str(part) for part in fault.at)
    return f"{words} {when}, at most {'once' if fault.most == 1 else f'{fault.most} times'}"


def _example(plan: Plan, example: Counterexample, sources: Sequence[Source], ident: str) -> dict[str, Any]:
    columns = lanes.lanes_of(plan, example)
    follower = Follower(plan)
    places = [follower.places(step.state) for step in example.steps]
    states = [facts_of(step.state, {name: (place.words, _line_words(plan, place))
                                    for name, place in at.items()})
              for step, at in zip(example.steps, places, strict=True)]
    order = in_order({key for state in states for key in state}, [lane.name for lane in columns])
    rows = lanes.rows_of(columns, example.steps)
    changes = [differences(before, after, order) for before, after in zip([{}, *states], states, strict=False)]
    return {
        "id": ident, "check": example.check, "text": example.text, "count": len(example.steps) - 1, "lanes": columns,
        "steps": [{
            "number": step.number, "cells": cells, "events": _events(example, at),
            "changes": [words_of_difference(*change) for change in changed if change[0][2] != "line"] if at else [],
        } for at, (step, cells, changed) in enumerate(zip(example.steps, rows, changes, strict=True))],
        "first": _table(states[0], order), "last": _table(states[-1], order),
        "edges": [{"waiter": edge.waiter, "holder": edge.holder, "why": edge.why,
                   "marked": graph.in_cycle(edge, example.cycle)}
                  for edge in graph.in_reading_order(example.edges, example.cycle)],
        "cycle": example.cycle,
        "graph": _markup(graph.draw(example.edges, example.cycle)) if example.edges else None,
        "data": _data(order, changes, _where(example, places) if sources else []),
    }


def _line_words(plan: Plan, place: Place) -> str:
    """A line of the spec, or of a library that it uses."""
    return f"{place.line} of {plan.files[place.file].rpartition('/')[2]}" if place.file else str(place.line)


def _events(example: Counterexample, number: int) -> list[tuple[str, str, str]]:
    """What a step's row says, line by line: the lane unless it is that of the line above, the text, and its looks."""
    if not number:
        return [("", "The stack is set up, and nothing has moved yet.", "quiet")]
    step = example.steps[number]
    said = [(lane, text) for lane, text in step.events if text]
    lines = [(lane, text, _looks(lane, text)) for lane, text in said] or [(step.mover, "goes on", "quiet")]
    for at in range(len(lines) - 1, 0, -1):
        if lines[at][0] == lines[at - 1][0]:
            lines[at] = ("", lines[at][1], f"more {lines[at][2]}".strip())
    if step is example.steps[-1] and not any(text.startswith("VIOLATION") for _, text in said):
        lines.append(("", f"VIOLATION of {example.check}", "violation"))
    return lines


def _looks(lane: str, text: str) -> str:
    if text.startswith("VIOLATION"):
        return "violation"
    return "fault" if lane == "fault" or "FAILED" in text else "happens"


def _table(facts: Facts, order: list[Key]) -> list[tuple[str, list[tuple[str, list[tuple[str, str]]]]]]:
    """Facts for a printed page: by kind, then by name."""
    kinds: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for key in order:
        if key in facts:
            kind, name, label = key
            kinds.setdefault(kind, {}).setdefault(name, []).append((label, facts[key]))
    return [(KINDS[kind], list(things.items())) for kind, things in kinds.items()]


def _where(example: Counterexample, places: list[dict[str, Place]]) -> list[dict[str, Any]]:
    """For each step the line that it took, and where every process stands after it (with who called it from where)."""
    found = []
    for at, now in enumerate(places):
        mover = example.steps[at].mover
        before = places[at - 1].get(mover) if at else None
        found.append({
            "ran": [before.file, before.line] if before is not None else None,
            "at": [[name, place.file, place.line] for name, place in now.items()],
            "calls": [[name, *caller] for name, place in now.items() for caller in place.callers],
        })
    return found


def _data(order: list[Key], changes: list[list[tuple[Key, str | None, str | None]]],
          where: list[dict[str, Any]]) -> Markup:
    """What the page's script reads: the facts' keys, and for each step those that changed."""
    number = {key: at for at, key in enumerate(order)}
    data = {"kinds": dict(KINDS), "keys": order, "where": where,
            "steps": [[[number[key], after] for key, _, after in changed] for changed in changes]}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return _markup(text)


def _source(source: Source) -> dict[str, Any]:
    return {"name": source.name, "lines": [_split_comment(line) for line in source.lines]}


def _split_comment(line: str) -> tuple[str, str]:
    """A line's code and its comment; a `#` between quotes begins none."""
    match = re.match(r'(?:[^"#]|"[^"]*")*', line)
    code = match[0] if match else line
    return (code, line[len(code):]) if line[len(code):].startswith("#") else (line, "")


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)
