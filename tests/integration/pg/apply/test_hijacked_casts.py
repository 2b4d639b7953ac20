"""Casts to text that the owner of a type has defined are never called."""

from __future__ import annotations

import psycopg
import pytest

from services.shared.pg.apply import long_values
from services.shared.wire import joining
from tests.support.pipeline.in_process import Pipeline, pipeline, rows, run
from tests.support.servers.nats import NatsServer

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


FROM_TEXT = """
    CREATE SEQUENCE called;
    CREATE FUNCTION hijack(text) RETURNS {0} IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_catalog.nextval('public.called'); RETURN NULL; END $$;
    CREATE CAST (text AS {0}) WITH FUNCTION hijack(text);
"""
READ = {
    "enumeration": ("kind", "kind", "CREATE TYPE kind AS ENUM ({labels})", "label"),
    "composite": ("kind", "kind", "CREATE TYPE kind AS (a int, b text)", "ROW(i, label)::kind"),
    "array": ("kind[]", "kind[]", "CREATE TYPE kind AS ENUM ({labels})", "ARRAY[label, NULL]::kind[]"),
    "domain": (
        "kind",
        "narrow",
        "CREATE TYPE kind AS ENUM ({labels}); CREATE DOMAIN narrow AS kind CHECK (VALUE <> 'NULL' OR true)",
        "label",
    ),
    "domain over a composite": (
        "kind",
        "narrow",
        "CREATE TYPE kind AS (a int, b text); CREATE DOMAIN narrow AS kind CHECK ((VALUE).a > 0)",
        "ROW(i, label)::kind",
    ),
}
LABELS = ["a", "a,b", 'a"b', "a\\b", "NULL", "", "{}", "\t\n", "é☃", "x" * 60]
QUOTED = ", ".join(f"'{label}'" for label in LABELS)


def create(of: str) -> tuple[str, str, str]:
    """DDL; the type that a cast leads to; an expression for the value of row `i`."""
    cast_to, name, ddl, value = READ[of]
    tables = (
        f"CREATE TABLE t (i int PRIMARY KEY, k {name}, v int DEFAULT 0);"
        f" CREATE TABLE by_key (i int, k {name} PRIMARY KEY)"
    )
    picked = value.replace("label", f"(ARRAY[{QUOTED}])[i]")
    return (
        f"{ddl.format(labels=QUOTED)}; {tables}",
        cast_to,
        f"({picked}){'' if '::' in picked else '::kind'}",
    )


async def assert_changes_arrive(p: Pipeline, cast_to: str, *statements: str) -> None:
    """And the cast from text to the type is not called."""
    run(p.destination, FROM_TEXT.format(cast_to))
    await p.start_decoder()
    p.start_applier()
    run(p.source, *statements)
    await p.drain("changes")
    run(p.source, "UPDATE by_key SET i = 50 WHERE i = 2", "DELETE FROM by_key WHERE i = 3")  # one by one
    await p.drain("more changes")
    for table in ("t", "by_key"):
        query = f"SELECT md5(ROW(t.*)::text) FROM {table} t ORDER BY 1"
        found = rows(p.destination, query)
        assert found == rows(p.source, query)
    assert rows(p.destination, CALLED) == [(False,)]


@pytest.mark.parametrize("of", READ)
async def test_rows_that_are_written_together_are_read_by_input_functions(
    source_db: str, dest_db: str, nats_server: NatsServer, of: str
) -> None:
    ddl, cast_to, value = create(of)
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "by_key") as p:
        await assert_changes_arrive(
            p,
            cast_to,
            f"INSERT INTO t SELECT i, {value} FROM generate_series(1, {len(LABELS)}) i",
            f"INSERT INTO by_key SELECT i, {value} FROM generate_series(1, {len(LABELS)}) i",
            "UPDATE t SET v = i, k = (SELECT x.k FROM t x WHERE x.i <> t.i ORDER BY x.i LIMIT 1)",
            "INSERT INTO t (i) VALUES (100), (101)",
            "UPDATE by_key SET i = i + 1",
            "DELETE FROM by_key WHERE i % 3 = 0",
        )


@pytest.mark.parametrize("of", ["array", "composite", "domain over a composite"])
async def test_long_values_are_read_by_input_functions(
    source_db: str, dest_db: str, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr(long_values, "LONG", 70_000)
    monkeypatch.setattr(long_values, "FRAGMENT", 65_537)
    monkeypatch.setattr(joining, "LARGE", 70_000)  # rows of smaller messages have no long values
    ddl, cast_to, _ = create(of)
    text = "repeat('a☃𝄞é\\\"\t', 30000)"
    value = "array_fill('a'::kind, ARRAY[300000])" if of == "array" else f"ROW(1, {text})::kind"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "by_key") as p:
        await assert_changes_arrive(
            p,
            cast_to,
            f"INSERT INTO t VALUES (1, {value}), (2, NULL)",
            f"UPDATE t SET k = {value} WHERE i = 2",
        )
