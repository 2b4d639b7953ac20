"""What an operator may do without, and what goes with it."""

from __future__ import annotations

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.schema.archive.selection import skipped
from tests.support.schema.archives import archive_entry

ENTRIES = (
    archive_entry(1, "TYPE", "mood", "app"),
    archive_entry(2, "TABLE", "t", "app", needs=(1,)),
    archive_entry(3, "VIEW", "v", "app", needs=(2,)),
    archive_entry(4, "VIEW", "w", "app", needs=(3,)),
    archive_entry(5, "COMMENT", "VIEW w", "app", needs=(4,)),
    archive_entry(6, "CAST", "CAST (app.mood AS integer)", needs=(1,)),
    archive_entry(7, "VIEW", "apart", "app", needs=(2,)),
    archive_entry(8, "FUNCTION", "of(app.apart)", "app", needs=(7,)),
    archive_entry(9, "RULE", "apart _RETURN", "app", needs=(8, 7)),
    archive_entry(10, "RULE", "other _RETURN", "else", needs=()),
)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("view app.w", {4, 5}),
        ("view app.v", {3, 4, 5}),
        ("cast CAST (app.mood AS integer)", {6}),
        ("rule app.apart _RETURN", {7, 8, 9}),  # the view alone would be a placeholder
        ("rule else.other _RETURN", {10}),
    ],
)
def test_what_needs_a_skipped_object_goes_with_it(name: str, gone: set[int]) -> None:
    assert skipped(ENTRIES, (name,)) == gone
    assert skipped(ENTRIES, ()) == set()


@pytest.mark.parametrize(
    ("name", "said"), [("type app.mood", "table app.t"), ("view app.gone", "view app.gone")]
)
def test_tables_and_unknown_names_are_refused(name: str, said: str) -> None:
    with pytest.raises(PgmigError) as caught:
        skipped(ENTRIES, (name,))
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert said in caught.value.message
