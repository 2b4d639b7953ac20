"""Lists of names as PostgreSQL stores them in a setting."""

from __future__ import annotations

import pytest

from services.shared.pg.schema.database_settings import list_items


@pytest.mark.parametrize(
    ("stored", "items"),
    [
        ("", []),
        ('""', []),
        ("one", ["one"]),
        ("one, two", ["one", "two"]),
        ('"$user", public', ["$user", "public"]),
        ('"odd, name","a ""b"" c"', ["odd, name", 'a "b" c']),
    ],
)
def test_stored_lists_are_parsed(stored: str, items: list[str]) -> None:
    assert list_items(stored) == items
