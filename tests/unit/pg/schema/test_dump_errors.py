"""What an error of pg_dump means, by its text."""

from __future__ import annotations

import pytest

from services.shared.model import ErrorKind
from services.shared.pg.schema.dump import _program_error

LOST = (
    'pg_dump: error: query failed: ERROR:  invalid snapshot identifier: "00000003-0000001B-1"',
    'pg_dump: error: query failed: ERROR:  snapshot "00000003-0000001B-1" does not exist',
)
OTHERS = (
    'pg_dump: error: query failed: ERROR:  relation "app.snapshot" does not exist',
    'pg_dump: error: query failed: ERROR:  relation "app.my snapshot" does not exist',
    "pg_dump: error: query failed: ERROR:  function app.snapshot(text) does not exist",
    'pg_dump: error: query failed: ERROR:  column "snapshot" of relation "a snapshot" does not exist',
)


@pytest.mark.parametrize("text", LOST)
def test_lost_snapshot_is_recognised(text: str) -> None:
    assert _program_error("pg_dump", text, 1).kind is ErrorKind.SNAPSHOT_LOST


@pytest.mark.parametrize("text", OTHERS)
def test_object_whose_name_contains_snapshot_is_no_lost_snapshot(text: str) -> None:
    error = _program_error("pg_dump", text, 1)
    assert error.kind is ErrorKind.SCHEMA_FAILED
    assert "snapshot" in error.message
