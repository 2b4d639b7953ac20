"""A copy that fails: its cause is reported without values, and no row stays on the destination."""

from __future__ import annotations

import asyncio

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.copy.part import PartCopier
from tests.support.copying.databases import count, execute, exported_snapshot, part
from tests.support.copying.parts import PIPELINE, Bed
from tests.support.servers.postgres import PostgresServer


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


async def test_a_refused_row_is_reported_before_the_rest_is_sent(bed: Bed) -> None:
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


async def test_without_bookkeeping_nothing_is_copied(source_db: str, dest_db: str) -> None:
    bed = Bed(source_db, dest_db)
    bed.both("CREATE TABLE t (a int)")
    execute(dest_db, "INSERT INTO t VALUES (5)")
    assert (await bed.failure("t", "a")).kind is ErrorKind.COPY_FAILED
    assert count(dest_db, "t") == 1
