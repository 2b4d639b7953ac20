"""Casts to text that the owner of a type has defined are never called."""

from __future__ import annotations

import psycopg
import pytest

from services.shared.model import TableId
from services.shared.pg.copy.untranslatable import find_untranslatable
from tests.lab.nats import NatsServer
from tests.lab.pipeline import pipeline, rows, run

CALLED = "SELECT is_called FROM called"
HIJACK = """
    CREATE SEQUENCE called;
    CREATE FUNCTION cast_{0}({0}) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_catalog.nextval('public.called'); RETURN 'same'; END $$;
    CREATE CAST ({0} AS text) WITH FUNCTION cast_{0}({0});
"""
TYPES = {
    "enumeration": ("CREATE TYPE kind AS ENUM ('one', 'two')", "kind", "one", "two"),
    "composite": ("CREATE TYPE kind AS (a int, b text)", "kind", "(1,)", '(1,"")'),
    "domain": (
        "CREATE TYPE kind AS ENUM ('one', 'two'); CREATE DOMAIN narrow AS kind",
        "narrow",
        "one",
        "two",
    ),
}


@pytest.mark.parametrize("of", TYPES)
async def test_rows_without_a_key_are_found_by_what_the_type_prints(
    source_db: str, dest_db: str, nats_server: NatsServer, of: str
) -> None:
    create, name, first, second = TYPES[of]
    ddl = f"{create}; CREATE TABLE t (k {name}, v int); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        run(dest_db, HIJACK.format("kind"))
        await p.start_decoder()
        p.start_applier()
        with psycopg.connect(source_db, autocommit=True) as conn:
            conn.execute("INSERT INTO t VALUES (%s, 0), (NULL, 0), (%s, 0)", [first, second])
            conn.execute("UPDATE t SET v = 2 WHERE ctid = '(0,3)'")
            conn.execute("UPDATE t SET v = 3 WHERE ctid = '(0,2)'")
            conn.execute("DELETE FROM t WHERE ctid = '(0,1)'")
        await p.drain("changes")
    query = "SELECT ROW(t.*)::text FROM t ORDER BY v"
    assert rows(dest_db, query) == rows(source_db, query)
    assert rows(dest_db, CALLED) == [(False,)]


async def test_the_search_for_text_without_equivalent_calls_no_cast_of_the_row(source_db: str) -> None:
    run(source_db, "CREATE TABLE t (v text)", "INSERT INTO t VALUES ('one')", HIJACK.format("t"))
    assert await find_untranslatable(source_db, [TableId("public", "t")]) == ""
    assert rows(source_db, CALLED) == [(False,)]
