"""The grammar itself, and that no text makes anything but diagnostics of it."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark
from lark import Lark

from dmspec import grammar
from dmspec.compiler import compile_text
from dmspec.compiler.render import render, to_json
from dmspec.compiler.scan import DECLARATIONS
from dmspec.compiler.scope import KEYWORDS
from dmspec.runtime.plan import from_bytes, to_bytes
from dmspec.runtime.registry import CHECKS, CONDITIONS, OPERATIONS, TARGETS

GOOD = sorted((Path(__file__).parent / "cases" / "good").glob("*.dms"))
TEXTS = [file.read_text(encoding="utf-8") for file in GOOD]
PIECES = sorted({piece for text in TEXTS for piece in re.findall(r"[\w.-]+|[^\w\s]|\n", text)})
SLOW = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def compiles_or_says_why(text: str) -> None:
    """The one property of all fuzzing: a plan or an error, and never both or neither."""
    compiled = compile_text(text)
    assert (compiled.plan is None) == any(one.is_error for one in compiled.diagnostics)
    assert render(compiled.diagnostics, color=True) or not compiled.diagnostics
    assert len(to_json(compiled.diagnostics)) == len(compiled.diagnostics)
    for one in compiled.diagnostics:
        assert 0 <= one.span.start <= one.span.end <= len(one.span.source.text) + 1
    if compiled.plan is not None:
        assert from_bytes(to_bytes(compiled.plan)) == compiled.plan


def test_the_grammar_has_no_conflict_and_no_colliding_tokens() -> None:
    Lark(grammar.text(), parser="lalr", start=list(grammar.START), strict=True)


def test_the_grammar_knows_no_registered_name() -> None:
    words = set(re.findall(r'"([a-z-]+)"', grammar.text()))
    known = {*OPERATIONS, *TARGETS, *CHECKS, *CONDITIONS}
    assert words & known == {"error"}  # `expect error`, which has nothing to do with the target


def test_the_words_that_begin_things_are_those_of_the_grammar() -> None:
    words = set(re.findall(r'"([a-z-]+)"', grammar.text()))
    assert set(DECLARATIONS) <= words
    assert set(KEYWORDS) <= words


def test_no_bare_word_is_an_operation_since_that_begins_a_statement() -> None:
    signatures = [one.signature for one in OPERATIONS.values()]
    signatures += [one.signature for one in CONDITIONS.values()] + [one.signature for one in CHECKS.values()]
    words = {word for signature in signatures for param in signature
             for word in (*param.choices, *([param.name] if param.kind.name == "FLAG" else []))}
    assert not words & {*OPERATIONS, *KEYWORDS}


@SLOW
@given(from_lark(Lark(grammar.text(), parser="lalr", start="file"), start="file",
                 alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"])))
def test_what_the_grammar_generates(text: str) -> None:
    compiles_or_says_why(text)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join))
def test_words_of_the_language_in_any_order(text: str) -> None:
    compiles_or_says_why(text)


@settings(max_examples=300)
@given(st.sampled_from(DECLARATIONS), st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join))
def test_words_of_the_language_in_a_block(word: str, text: str) -> None:
    compiles_or_says_why(f"disk pv1 8MiB\n{word} x {{ {text} }}")


@settings(max_examples=200)
@given(st.text())
def test_any_text(text: str) -> None:
    compiles_or_says_why(text)


TABLE_WORDS = [
    "0", "1", "8", "1024", "131072", "*", "-1", "x", "pv1", "pv2", "vol", "d", "254:0", "core", "disk", "nosync",
    "sync", "handle_errors", "P", "N", "PO", "é", "18446744073709551615", "99999999999999999999",
]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(TABLE_WORDS), st.sampled_from(TABLE_WORDS), st.sampled_from([*TARGETS, "x"]),
                          st.lists(st.sampled_from(TABLE_WORDS), max_size=10)), min_size=1, max_size=3))
def test_any_table_of_the_kernels_own_lines(lines: list[tuple[str, str, str, list[str]]]) -> None:
    table = "\\n".join(" ".join([start, length, target, *params]) for start, length, target, params in lines)
    compiles_or_says_why("disk pv1 64MiB\ndisk pv2 64MiB\ndevice vol { mirror pv1 pv2 }\n"
                         f'device d {{ "{table}" }}\nprocess p {{ load vol "{table}" }}')


@pytest.mark.parametrize("seed", range(len(TEXTS) * 12))
def test_good_specs_with_something_changed(seed: int) -> None:
    chooser = random.Random(seed)
    text = TEXTS[seed % len(TEXTS)]
    for _ in range(chooser.randint(1, 4)):
        start = chooser.randrange(len(text))
        end = min(len(text), start + chooser.choice([0, 1, 1, 2, 5, 30, 200]))
        put = chooser.choice(["", "", " ", "{", "}", "\n", '"', "(", ")", "=", "@", *chooser.choices(PIECES, k=4)])
        text = text[:start] + put + text[end:]
    compiles_or_says_why(text)
