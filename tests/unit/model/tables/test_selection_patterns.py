"""Patterns mean what they mean to psql and pg_dump."""

from __future__ import annotations

import re

import pytest

from services.shared.model import ErrorKind, PgmigError, Selection
from services.shared.model.tables.selection import EXCLUDE_SCHEMA, INCLUDE_TABLE, parse_pattern


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("orders", "", "^(orders)$"),
        ("Orders", "", "^(orders)$"),
        ('"Orders"', "", "^(Orders)$"),
        ("shop.*", "^(shop)$", "^(.*)$"),
        ("ord?rs", "", "^(ord.rs)$"),
        ("t[0-9]+", "", "^(t[0-9]+)$"),
        ("(a|b).c", "^((a|b))$", "^(c)$"),
        ('"a.b".c', "^(a\\.b)$", "^(c)$"),
        ('FOO"FOO"BAR', "", "^(fooFOObar)$"),
        ('"a""b"', "", '^(a"b)$'),
        ('"*?"', "", "^(\\*\\?)$"),
        ("$a", "", "^(\\$a)$"),
        ("a[]", "", "^(a\\[\\])$"),
        ("ÉA", "", "^(Éa)$"),
        ("", "", "^()$"),
    ],
)
def test_a_pattern_is_translated_as_psql_does(text: str, schema: str, name: str) -> None:
    pattern = parse_pattern(INCLUDE_TABLE, text)
    assert (pattern.schema, pattern.name) == (schema, name)


def test_quotes_make_every_character_plain() -> None:
    text = "a|*+?()[]{}.^$\\Z"
    assert re.fullmatch(parse_pattern(INCLUDE_TABLE, f'"{text}"').name, text)


def test_a_schemas_pattern_has_no_name() -> None:
    pattern = parse_pattern(EXCLUDE_SCHEMA, "Audit_*")
    assert (pattern.schema, pattern.name) == ("^(audit_.*)$", "")
    assert pattern.of_schemas


@pytest.mark.parametrize(("option", "text"), [(INCLUDE_TABLE, "a.b.c"), (EXCLUDE_SCHEMA, "a.b")])
def test_too_many_parts_are_refused(option: str, text: str) -> None:
    with pytest.raises(PgmigError) as caught:
        parse_pattern(option, text)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert text in caught.value.message
    assert option in caught.value.message


def test_an_open_quote_is_refused() -> None:
    with pytest.raises(PgmigError, match="not closed"):
        parse_pattern(INCLUDE_TABLE, 'shop."orders')


def test_a_search_path_alone_selects_nothing() -> None:
    assert Selection(search_path=("public",)).everything
    assert not Selection(exclude_table_data=("a",)).everything
