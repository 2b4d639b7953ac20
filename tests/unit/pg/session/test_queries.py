"""The text of the queries: they call no casts that users define, and read columns that the server has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import services
from services.shared.pg.session.sql_files import for_version

FILES = sorted(path for path in Path(services.__path__[0]).rglob("*") if path.suffix in {".sql", ".py"})
# They convert each value of a row or array by the cast to json that the owner of its type may have defined.
CONVERTING = re.compile(
    r"\b(to_jsonb|row_to_json|array_to_json|query_to_xml|table_to_xml)\b|pg_catalog\.to_json\b"
)


def test_no_query_converts_rows_to_json() -> None:
    assert not [str(path) for path in FILES if CONVERTING.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("version", [100000, 110000, 120000, 130000, 140000, 180000])
def test_every_marker_is_replaced(version: int) -> None:
    for path in FILES:
        if path.suffix == ".sql":
            query = for_version(path.read_text(encoding="utf-8"), version)
            assert not re.search(r"\{\w+\.", query), path


def test_columns_are_read_where_they_exist() -> None:
    query = "SELECT {a.attgenerated}, {a.attmissingval}, {c.conparentid}, {s.stxexprs}, {b.pubgencols}"
    assert for_version(query, 109999) == "SELECT ''::text, NULL::text, 0::oid, NULL::text, 'n'::text"
    assert for_version(query, 110000).startswith("SELECT ''::text, a.attmissingval::text, c.conparentid,")
    assert for_version(query, 120000).startswith("SELECT a.attgenerated::text,")
    assert for_version(query, 140000).endswith("s.stxexprs::text, 'n'::text")
    assert for_version(query, 180000).endswith("b.pubgencols::text")
