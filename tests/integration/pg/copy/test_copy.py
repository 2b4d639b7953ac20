"""Copying a part between two real servers: exact, under the snapshot, once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from services.shared.pg.copy.part import Copied, PartCopier
from tests.support.copying.databases import (
    copy_schema,
    count,
    execute,
    exported_snapshot,
    keep_books,
    part,
    parts_of,
    scalar,
)
from tests.support.copying.parts import PIPELINE, Bed
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.servers.postgres import PostgresServer


@pytest.mark.parametrize("binary", [True, False], ids=["binary where safe", "all text"])
async def test_every_type_arrives_byte_for_byte(
    source_db: str, dest_db: str, dest_server: PostgresServer, binary: bool
) -> None:
    seed(source_db, 2000)
    copy_schema(dest_server.bin_dir, source_db, dest_db)
    await keep_books(dest_db)
    copier = PartCopier(source_db, dest_db, PIPELINE)
    with exported_snapshot(source_db) as snapshot:
        parts = await parts_of(source_db, snapshot)
        assert {given.binary for given in parts} == {True, False}
        for given in parts:
            copied = await copier.copy(
                replace(given, binary=given.binary and binary), lambda _rows, _size: None
            )
            assert copied is not None
            assert not copied.already
    await copier.close()
    assert compare_databases(source_db, dest_db, sequences=False, definitions=False) == []


async def test_rows_committed_after_the_snapshot_are_not_copied(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t VALUES (1)")
    with exported_snapshot(bed.source) as snapshot:
        execute(bed.source, "INSERT INTO t VALUES (2)")
        assert await bed.copy(part("t", "a", snapshot=snapshot)) == Copied(1, 2)
    assert scalar(bed.dest, "SELECT sum(a) FROM t") == 1
    assert await bed.ledger() == {"t": (1, 2)}


async def test_a_part_in_the_ledger_is_never_touched_again(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t VALUES (1)")
    await bed.copy_table("t", "a")
    execute(bed.dest, "INSERT INTO t VALUES (99)")  # as the applier would
    execute(bed.source, "INSERT INTO t VALUES (2)")
    assert await bed.copy_table("t", "a") == Copied(1, 2, already=True)
    assert scalar(bed.dest, "SELECT array_agg(a ORDER BY a)::text FROM t") == "{1,99}"


async def test_what_an_incomplete_attempt_left_is_truncated(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t VALUES (1)")
    execute(bed.dest, "INSERT INTO t VALUES (1), (7)")
    await bed.copy_table("t", "a")
    assert scalar(bed.dest, "SELECT array_agg(a)::text FROM t") == "{1}"


@pytest.mark.parametrize("binary", [True, False])
async def test_a_table_without_columns_keeps_its_rows(bed: Bed, binary: bool) -> None:
    bed.both("CREATE TABLE t ()", "CREATE TABLE g (a int GENERATED ALWAYS AS (4) STORED)")
    execute(bed.source, "INSERT INTO t DEFAULT VALUES", "INSERT INTO t DEFAULT VALUES")
    execute(bed.source, "INSERT INTO g DEFAULT VALUES")
    for table, rows in (("t", 2), ("g", 1)):
        copied = await bed.copy_table(table, binary=binary)
        assert copied is not None
        assert copied.rows == rows == count(bed.dest, table)


async def test_an_empty_table_is_entered_in_the_ledger(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    assert await bed.copy_table("t", "a") == Copied(0, 0)
    assert await bed.ledger() == {"t": (0, 0)}


async def test_an_inheritance_parent_gives_its_own_rows_alone(bed: Bed) -> None:
    bed.both("CREATE TABLE parent (a int)", "CREATE TABLE child () INHERITS (parent)")
    execute(bed.source, "INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (2)")
    execute(bed.dest, "INSERT INTO child VALUES (3)")
    await bed.copy_table("parent", "a")
    assert scalar(bed.dest, "SELECT array_agg(a)::text FROM ONLY parent") == "{1}"
    assert scalar(bed.dest, "SELECT array_agg(a)::text FROM child") == "{3}"


async def test_names_with_quotes_and_capitals(bed: Bed) -> None:
    bed.both('CREATE TABLE "Wé""ird; --" ("Sel""ect" int)')
    execute(bed.source, 'INSERT INTO "Wé""ird; --" VALUES (1)')
    await bed.copy_table('Wé"ird; --', 'Sel"ect')
    assert count(bed.dest, 'Wé"ird; --') == 1


async def test_other_types_on_the_destination_make_a_binary_part_go_as_text(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (a int8)", "INSERT INTO t VALUES (42)")
    execute(bed.dest, "CREATE TABLE t (a float8)")  # eight bytes as well
    await bed.copy_table("t", "a", binary=True)
    assert scalar(bed.dest, "SELECT a::text FROM t") == "42"


async def test_notices_of_the_destination_do_not_end_the_copy(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (a text)")
    execute(bed.source, "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    execute(
        bed.dest,
        """CREATE FUNCTION talk(a text) RETURNS bool LANGUAGE plpgsql AS
           $$BEGIN RAISE NOTICE 'a row'; RETURN true; END$$""",
        "CREATE TABLE t (a text CHECK (public.talk(a)))",
    )
    copied = await bed.copy_table("t", "a")
    assert copied is not None
    assert copied.rows == 2000


async def test_ordinary_triggers_of_the_destination_do_not_fire(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t VALUES (1)")
    execute(
        bed.dest,
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN RAISE EXCEPTION 'no %', NEW.a; END$$""",
        "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION public.refuse()",
    )
    assert await bed.copy_table("t", "a") == Copied(1, 2)


async def test_two_sessions_never_copy_the_same_part_at_once(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a text)")
    execute(bed.source, "INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 20)")
    begun = asyncio.Event()
    first = PartCopier(bed.source, bed.dest, PIPELINE)
    with exported_snapshot(bed.source) as snapshot:
        given = part("t", "a", snapshot=snapshot)
        task = asyncio.create_task(first.copy(given, lambda _rows, _size: begun.set()))
        await begun.wait()
        assert await bed.copy(given) is None
        copied = await task
    await first.close()
    assert copied is not None
    assert copied.rows == count(bed.dest, "t") == 20


async def test_a_role_without_rights_to_replica_mode_may_copy(bed: Bed, dest_server: PostgresServer) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t VALUES (1)")
    execute(
        bed.dest,
        "DROP ROLE IF EXISTS copy_plain",
        "CREATE ROLE copy_plain LOGIN PASSWORD 'plain'",
        "ALTER TABLE t OWNER TO copy_plain",
        "GRANT USAGE ON SCHEMA pgmig TO copy_plain",
        "GRANT ALL ON ALL TABLES IN SCHEMA pgmig TO copy_plain",
    )
    uri = dest_server.uri(bed.dest.rsplit("/", 1)[1], "copy_plain", "plain")
    assert await Bed(bed.source, uri).copy_table("t", "a") == Copied(1, 2)
    execute(bed.dest, "DROP OWNED BY copy_plain", "DROP ROLE copy_plain")


async def test_copied_rows_are_frozen(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t SELECT generate_series(1, 1000)")
    await bed.copy_table("t", "a", binary=True)
    with psycopg.connect(bed.dest, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pg_visibility")
        row = conn.execute("SELECT bool_and(all_frozen) FROM pg_visibility_map('t')").fetchone()
    assert row == (True,)
