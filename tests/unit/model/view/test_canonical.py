"""Canonical JSON: one form for one document, and nothing that two readers understand differently."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.model.view.canonical import LARGEST, canonical, encodable, read_strictly
from services.shared.model.view.certificate import instant

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(max_codepoint=127))
SCALARS = st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | TEXT
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


@given(DOCUMENTS)
def test_canonical_text_is_read_as_the_same_document(document: object) -> None:
    text = canonical(document)
    assert read_strictly(text) == document
    assert canonical(read_strictly(text)) == text


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1, 4]))
def test_form_of_the_file_does_not_matter(document: object, escaped: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=escaped, indent=indent)
    assert canonical(read_strictly(text)) == canonical(document)


def test_canonical_form_is_that_of_rfc_8785() -> None:
    document = {"b": ['é"\\/\b\f\n\r\t\x0f\x7f\u2028😀', -1, True, None], "a": {}, "A": [], "": 2**53 - 1}
    assert canonical(document) == (
        '{"":9007199254740991,"A":[],"a":{},"b":["é\\"\\\\/\\b\\f\\n\\r\\t\\u000f\x7f\u2028😀",-1,true,null]}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{} {}",
        "{}x",
        '{"a": 1, "a": 1}',
        '[{"a": {"b": 1, "b": 2}}]',
        "1.0",
        "1e3",
        "NaN",
        "-Infinity",
        "9007199254740992",
        '"\\ud800"',
        '{"é": 1}',
        "\ufeff{}",
        "[" * 100_000,
        "1" * 10_000,
    ],
)
def test_what_readers_may_understand_differently_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_strictly(text)


def test_text_that_utf_8_does_not_have_is_replaced() -> None:
    assert encodable({"a": ["x\udce9y", 1, None]}) == {"a": ["x\ufffd\ufffd\ufffdy", 1, None]}
    canonical(encodable(["\ud83d"]))


def test_times_are_rfc_3339_with_milliseconds() -> None:
    assert instant(0.0) == ""
    assert instant(1_772_360_430.4569) == "2026-03-01T10:20:30.456Z"
    assert instant(1_772_360_430.0) == "2026-03-01T10:20:30.000Z"
