"""Copying a part between two real servers: exact, whole or not at all, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from services.shared.model import CopyPart, ErrorKind, MigrationId, PgmigError
from services.shared.pg.bookkeeping.copy_ledger import read_ledger
from services.shared.pg.copy.part import Copied, PartCopier
from services.shared.pg.session.connection import connection
from tests.support.copying import (
    SNAPSHOT_LSN,
    copy_schema,
    count,
    execute,
    exported_snapshot,
    keep_books,
    part,
    parts_of,
    scalar,
)
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.servers.postgres import PostgresServer

PIPELINE = MigrationId("m1").forward


@dataclass(frozen=True, slots=True)
class Bed:
    source: str
    dest: str

    def both(self, *statements: str) -> None:
        execute(self.source, *statements)
        execute(self.dest, *statements)

    async def copy(self, given: CopyPart) -> Copied | None:
        copier = PartCopier(self.source, self.dest, PIPELINE)
        try:
            return await copier.copy(given, lambda _rows, _size: None)
        finally:
            await copier.close()

    async def copy_table(self, table: str, *columns: str, binary: bool = False) -> Copied | None:
        with exported_snapshot(self.source) as snapshot:
            return await self.copy(part(table, *columns, snapshot=snapshot, binary=binary))

    async def failure(self, table: str, *columns: str) -> PgmigError:
        with pytest.raises(PgmigError) as caught:
            await self.copy_table(table, *columns)
        return caught.value

    async def ledger(self) -> dict[str, tuple[int, int]]:
        async with connection(self.dest, "destination") as conn:
            entries = (await read_ledger(conn, PIPELINE)).parts
        assert {entry.snapshot_lsn for entry in entries.values()} <= {SNAPSHOT_LSN}
        return {key: (entry.rows, entry.bytes) for key, entry in entries.items()}


@pytest.fixture
async def bed(source_db: str, dest_db: str) -> AsyncIterator[Bed]:
    await keep_books(dest_db)
    yield Bed(source_db, dest_db)


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


async def test_a_snapshot_whose_keeper_has_ended_is_lost(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.dest, "INSERT INTO t VALUES (5)")
    with exported_snapshot(bed.source) as snapshot:
        gone = snapshot
    with pytest.raises(PgmigError) as caught:
        await bed.copy(part("t", "a", snapshot=gone))
    assert caught.value.kind is ErrorKind.SNAPSHOT_LOST
    assert "public.t" in caught.value.message
    assert count(bed.dest, "t") == 1


async def test_another_snapshot_of_the_same_name_is_refused(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    with exported_snapshot(bed.source) as (name, xids):
        execute(bed.source, "INSERT INTO t VALUES (1)")
        with pytest.raises(PgmigError) as caught:
            await bed.copy(part("t", "a", snapshot=(name, "7" + xids)))
    assert caught.value.kind is ErrorKind.SNAPSHOT_LOST
    assert await bed.ledger() == {}


async def test_a_table_missing_on_the_destination_fails(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (a int)")
    error = await bed.failure("t", "a")
    assert error.kind is ErrorKind.COPY_FAILED
    assert "copying public.t" in error.message
    assert "does not exist" in error.message
    assert error.hint


async def test_a_column_missing_on_the_destination_fails(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (a int, b int)")
    execute(bed.dest, "CREATE TABLE t (a int)")
    error = await bed.failure("t", "a", "b")
    assert error.kind is ErrorKind.COPY_FAILED
    assert 'column "b"' in error.message


async def test_a_value_that_the_destination_refuses_is_not_quoted(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('my \"secret\" word')")
    execute(bed.dest, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (5)")
    error = await bed.failure("t", "a")
    assert error.kind is ErrorKind.COPY_FAILED
    assert "invalid input syntax for type integer" in error.message
    assert "secret" not in f"{error!r} {error.message} {error.hint} {error.__cause__!r}"
    assert count(bed.dest, "t") == 1
    assert await bed.ledger() == {}


async def test_a_key_that_a_unique_constraint_refuses_is_named(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (id int, note text)", "INSERT INTO t VALUES (5, 'one'), (5, 'other')")
    execute(bed.dest, "CREATE TABLE t (id int PRIMARY KEY, note text)")
    error = await bed.failure("t", "id", "note")
    assert error.kind is ErrorKind.COPY_FAILED
    assert "Key (id)=(5) already exists" in error.message
    assert "other" not in error.message


async def test_a_refused_row_is_told_before_the_rest_is_sent(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE t (a text)")
    execute(bed.source, "INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 200)")
    execute(bed.dest, "CREATE TABLE t (a int)")
    seen = 0

    def on_progress(_rows: int, size: int) -> None:
        nonlocal seen
        seen = size

    copier = PartCopier(bed.source, bed.dest, PIPELINE)
    with exported_snapshot(bed.source) as snapshot, pytest.raises(PgmigError) as caught:
        await copier.copy(part("t", "a", snapshot=snapshot), on_progress)
    assert caught.value.kind is ErrorKind.COPY_FAILED
    assert "invalid input syntax" in caught.value.message
    assert seen < 100_000_000


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


async def test_rows_that_the_destination_drops_fail_the_part(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t VALUES (1), (2)")
    execute(
        bed.dest,
        """CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$""",
        "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION public.drop_row()",
        "ALTER TABLE t ENABLE ALWAYS TRIGGER x",
    )
    error = await bed.failure("t", "a")
    assert error.kind is ErrorKind.COPY_FAILED
    assert "2 rows" in error.message


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


async def test_a_terminated_destination_session_is_transient_and_leaves_nothing(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a text)")
    execute(bed.source, "INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 50)")

    def terminate(_rows: int, _size: int) -> None:
        execute(
            bed.dest,
            """SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
               WHERE application_name = 'pgmig destination' AND datname = current_database()""",
        )

    copier = PartCopier(bed.source, bed.dest, PIPELINE)
    with exported_snapshot(bed.source) as snapshot:
        given = part("t", "a", snapshot=snapshot)
        with pytest.raises(PgmigError) as caught:
            await copier.copy(given, terminate)
        assert caught.value.policy.retry
        copied = await copier.copy(given, lambda _rows, _size: None)
    await copier.close()
    assert copied is not None
    assert copied.rows == count(bed.dest, "t") == 50


async def test_a_cancelled_copy_leaves_nothing_and_can_be_repeated(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a text)")
    execute(bed.source, "INSERT INTO t SELECT repeat('x', 1000000) FROM generate_series(1, 50)")
    begun = asyncio.Event()
    copier = PartCopier(bed.source, bed.dest, PIPELINE)
    with exported_snapshot(bed.source) as snapshot:
        given = part("t", "a", snapshot=snapshot)
        task = asyncio.create_task(copier.copy(given, lambda _rows, _size: begun.set()))
        await begun.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert await bed.ledger() == {}
        async with asyncio.timeout(30):
            # None while the cancelled session's backend still holds the part.
            while (copied := await copier.copy(given, lambda _rows, _size: None)) is None:
                await asyncio.sleep(0.1)
    await copier.close()
    assert copied.rows == count(bed.dest, "t") == 50


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


async def test_row_security_is_an_error_and_not_fewer_rows(bed: Bed, source_server: PostgresServer) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(
        bed.source,
        "INSERT INTO t VALUES (1), (2)",
        "DROP ROLE IF EXISTS copy_reader",
        "CREATE ROLE copy_reader LOGIN PASSWORD 'reader'",
        "GRANT SELECT ON t TO copy_reader",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON t USING (a = 1)",
    )
    uri = source_server.uri(bed.source.rsplit("/", 1)[1], "copy_reader", "reader")
    reader = Bed(uri, bed.dest)
    with exported_snapshot(bed.source) as snapshot, pytest.raises(PgmigError) as caught:
        await reader.copy(part("t", "a", snapshot=snapshot))
    assert caught.value.kind is ErrorKind.PERMISSION
    assert "row-level security" in caught.value.message
    execute(bed.source, "DROP OWNED BY copy_reader", "DROP ROLE copy_reader")


async def test_copied_rows_are_frozen(bed: Bed) -> None:
    bed.both("CREATE TABLE t (a int)")
    execute(bed.source, "INSERT INTO t SELECT generate_series(1, 1000)")
    await bed.copy_table("t", "a", binary=True)
    with psycopg.connect(bed.dest, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION pg_visibility")
        row = conn.execute("SELECT bool_and(all_frozen) FROM pg_visibility_map('t')").fetchone()
    assert row == (True,)


async def test_without_bookkeeping_nothing_is_copied(source_db: str, dest_db: str) -> None:
    bed = Bed(source_db, dest_db)
    bed.both("CREATE TABLE t (a int)")
    execute(dest_db, "INSERT INTO t VALUES (5)")
    assert (await bed.failure("t", "a")).kind is ErrorKind.COPY_FAILED
    assert count(dest_db, "t") == 1
