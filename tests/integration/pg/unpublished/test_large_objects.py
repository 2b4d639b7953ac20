"""Large objects: whatever both sides hold, afterwards the destination has the source's."""

from __future__ import annotations

import asyncio
from typing import LiteralString

import psycopg
import pytest

from services.shared.pg.session.connection import connection
from services.shared.pg.unpublished import large_objects
from services.shared.pg.unpublished.large_objects import Outcome, synchronise
from tests.support.pipeline.in_process import rows, run

ALL: LiteralString = """
    SELECT m.oid::int8, encode(sha256(lo_get(m.oid)), 'hex'), length(lo_get(m.oid)),
           (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(m.lomacl) a),
           obj_description(m.oid, 'pg_largeobject')
    FROM pg_largeobject_metadata m ORDER BY m.oid"""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that windows, statements and objects all consist of several."""
    monkeypatch.setattr(large_objects, "CHUNK", 1000)
    monkeypatch.setattr(large_objects, "PER_STATEMENT", 3)
    monkeypatch.setattr(large_objects, "WINDOW", 7)


async def brought(source: str, dest: str) -> Outcome:
    async with connection(source, "source") as here, connection(dest, "destination") as there:
        return await synchronise(here, there, owners=True, privileges=True)


def fill(uri: str) -> None:
    run(
        uri,
        "SELECT lo_from_bytea(20000 + i, decode(repeat(lpad(to_hex(i), 2, '0'), i * 100), 'hex'))"
        " FROM generate_series(0, 40) i",
        "SELECT lo_from_bytea(4294967295, 'the last there can be')",
        "GRANT SELECT ON LARGE OBJECT 20003 TO PUBLIC",
        "REVOKE ALL ON LARGE OBJECT 20004 FROM CURRENT_USER",
        "COMMENT ON LARGE OBJECT 20005 IS 'five'",
    )


async def test_all_are_copied_and_then_only_what_differs(source_db: str, dest_db: str) -> None:
    fill(source_db)
    outcome = await brought(source_db, dest_db)
    assert outcome == Outcome(seen=42, written=42, bytes=82021)
    assert rows(dest_db, ALL) == rows(source_db, ALL)
    assert await brought(source_db, dest_db) == Outcome(seen=42)
    run(
        source_db,
        "SELECT lo_put(20039, 3899, 'x')",  # one byte, in the last piece
        "SELECT lo_unlink(20010), lo_unlink(20000), lo_create(30000)",
        "COMMENT ON LARGE OBJECT 20005 IS NULL",
        "REVOKE ALL ON LARGE OBJECT 20003 FROM PUBLIC",
    )
    run(dest_db, "SELECT lo_create(10), lo_create(4294967000), lo_unlink(20011)")
    assert await brought(source_db, dest_db) == Outcome(seen=41, written=3, bytes=3900 + 1100, removed=4)
    assert rows(dest_db, ALL)[0][0] == rows(source_db, ALL)[0][0] == 20001
    assert [row[:3] for row in rows(dest_db, ALL)] == [row[:3] for row in rows(source_db, ALL)]
    assert rows(dest_db, "SELECT obj_description(20005, 'pg_largeobject')") == [(None,)]
    granted = "SELECT a.grantee FROM pg_largeobject_metadata, aclexplode(lomacl) a WHERE oid = 20003"
    assert ("0",) not in [(str(row[0]),) for row in rows(dest_db, granted)]


async def test_interrupted_it_leaves_whole_objects_and_is_repeated(source_db: str, dest_db: str) -> None:
    fill(source_db)
    with psycopg.connect(dest_db) as blocker:
        blocker.execute("SELECT lo_create(20020)")  # whoever creates it too waits for our end
        copying = asyncio.create_task(brought(source_db, dest_db))
        while not rows(dest_db, "SELECT FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.02)  # another session's waiting has no event
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        blocker.rollback()
    begun = {row[0]: row for row in rows(source_db, ALL)}
    kept = rows(dest_db, ALL)
    assert 0 < len(kept) < len(begun)
    assert all(begun[row[0]][:3] == row[:3] for row in kept)
    await brought(source_db, dest_db)
    assert rows(dest_db, ALL) == rows(source_db, ALL)
