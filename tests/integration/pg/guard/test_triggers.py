"""The triggers that record writes of others to a destination: how they are dropped, and what they need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, MigrationId, PgmigError, TableId
from services.shared.pg.bookkeeping.schema import drop_bookkeeping, ensure_bookkeeping
from services.shared.pg.guard.foreign_writes import (
    KEPT,
    ignore_writes,
    read_foreign_writes,
    unwatch_writes,
    watch_writes,
)
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import rows, run

M = MigrationId("m").forward
A, B = TableId("public", "a"), TableId("public", "b")
TRIGGERS = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
WAITING = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'a'::regclass"


@pytest.fixture
async def conn(dest_db: str) -> AsyncIterator[AsyncConnection]:
    """A database with two tables whose writes are watched."""
    run(dest_db, "CREATE TABLE a (id int)", "CREATE TABLE b (id int)")
    async with connection(dest_db, "destination") as opened:
        assert await watch_writes(opened, M, [A, B]) == ()
        yield opened


async def test_a_trigger_that_was_renamed_is_dropped(conn: AsyncConnection, dest_db: str) -> None:
    run(dest_db, f"ALTER TRIGGER {M.origin} ON a RENAME TO theirs")
    assert not await unwatch_writes(conn, M, time.monotonic() + 30)
    assert rows(dest_db, TRIGGERS) == []


async def test_nobody_queues_behind_the_lock_for_a_trigger(conn: AsyncConnection, dest_db: str) -> None:
    with psycopg.connect(dest_db) as reader, psycopg.connect(dest_db, autocommit=True) as other:
        reader.execute("SELECT FROM a")
        dropping = asyncio.create_task(unwatch_writes(conn, M, time.monotonic() + 2))
        seen = []
        while not dropping.done():
            seen += other.execute(WAITING).fetchall()
            await asyncio.sleep(0)
        assert seen == []
        left = await dropping
        assert (left.locked, left.refused) == ((A,), ())
    assert rows(dest_db, TRIGGERS) == [("a",)]
    assert not await unwatch_writes(conn, M, time.monotonic() + 30)


async def test_a_table_that_our_role_may_not_change_is_left(conn: AsyncConnection, dest_db: str) -> None:
    """The other triggers are dropped."""
    run(
        dest_db,
        "CREATE ROLE plain LOGIN",
        "GRANT ALL ON SCHEMA pgmig TO plain",
        "ALTER TABLE b OWNER TO plain",
    )
    try:
        run(dest_db, f"ALTER FUNCTION pgmig.{M.origin}() OWNER TO plain")
        await conn.execute("SET ROLE plain")
        left = await unwatch_writes(conn, M, time.monotonic() + 30)
        assert (left.locked, left.refused) == ((), (A,))
        assert rows(dest_db, TRIGGERS) == [("a",)]
    finally:
        await conn.execute("RESET ROLE")
        run(dest_db, "REASSIGN OWNED BY plain TO CURRENT_USER", "DROP OWNED BY plain", "DROP ROLE plain")


async def test_an_owner_without_privileges_of_its_own_drops_them(conn: AsyncConnection, dest_db: str) -> None:
    run(dest_db, "CREATE ROLE plain LOGIN", "GRANT ALL ON SCHEMA pgmig TO plain")
    try:
        run(
            dest_db,
            "ALTER TABLE a OWNER TO plain",
            "ALTER TABLE b OWNER TO plain",
            "REVOKE ALL ON a FROM plain",
        )
        run(dest_db, f"ALTER FUNCTION pgmig.{M.origin}() OWNER TO plain")
        await conn.execute("SET ROLE plain")
        assert not await unwatch_writes(conn, M, time.monotonic() + 30)
    finally:
        await conn.execute("RESET ROLE")
        run(dest_db, "REASSIGN OWNED BY plain TO CURRENT_USER", "DROP OWNED BY plain", "DROP ROLE plain")


async def test_what_triggers_call_is_not_dropped(conn: AsyncConnection, dest_db: str) -> None:
    with pytest.raises(PgmigError, match=r"public\.a, public\.b") as caught:
        await drop_bookkeeping(conn, M)
    assert caught.value.kind is ErrorKind.TRANSIENT
    run(dest_db, "INSERT INTO a VALUES (1)")
    assert rows(dest_db, "SELECT relation::regclass::text FROM pgmig.foreign_write") == [("a",)]
    await ignore_writes(conn, M)
    await drop_bookkeeping(conn, MigrationId("other").forward)
    assert rows(dest_db, "SELECT to_regclass('pgmig.foreign_write') IS NOT NULL") == [(True,)]


async def test_triggers_that_did_nothing_record_again(conn: AsyncConnection, dest_db: str) -> None:
    await ignore_writes(conn, M)
    run(dest_db, "INSERT INTO a VALUES (1)")
    assert await watch_writes(conn, M, [A, B]) == ()
    run(dest_db, "INSERT INTO b VALUES (1)")
    assert rows(dest_db, "SELECT relation::regclass::text FROM pgmig.foreign_write") == [("b",)]


async def test_bookkeeping_is_kept_while_the_pipeline_guards_the_database(dest_db: str) -> None:
    async with connection(dest_db, "destination") as conn:
        await ensure_bookkeeping(conn)
        run(dest_db, f"INSERT INTO pgmig.guard VALUES ('{M}', 'i', '', NULL)")
        with pytest.raises(PgmigError, match="still read-only by default"):
            await drop_bookkeeping(conn, M)
        assert rows(dest_db, "SELECT pipeline FROM pgmig.guard") == [(str(M),)]
        run(dest_db, "UPDATE pgmig.guard SET lifted = 1")
        await drop_bookkeeping(conn, M)
        assert rows(dest_db, "SELECT FROM pg_namespace WHERE nspname = 'pgmig'") == []


async def test_statements_succeed_although_somebody_has_dropped_the_table(
    conn: AsyncConnection, dest_db: str
) -> None:
    run(dest_db, "DROP TABLE pgmig.foreign_write", "INSERT INTO a VALUES (1)")
    assert rows(dest_db, "SELECT id FROM a") == [(1,)]


@pytest.mark.parametrize("level", ["read committed", "serializable"])
async def test_the_number_of_records_is_limited(conn: AsyncConnection, dest_db: str, level: str) -> None:
    with psycopg.connect(dest_db, autocommit=True) as other:
        other.execute("SELECT set_config('default_transaction_isolation', %s, false)", [level])
        for number in range(KEPT + 20):
            other.execute("SELECT set_config('application_name', %s, false)", [f"app {number}"])
            other.execute("INSERT INTO a VALUES (1)")
            other.execute("INSERT INTO a VALUES (1)")
        other.execute("INSERT INTO b VALUES (1)")
    found = await read_foreign_writes(conn, M, [A, B], 0.0)
    assert [one.table for one in found].count(A) in {KEPT, KEPT + 1}
    assert [one.table for one in found].count(B) == 1
    assert "app 0 " in found[0].session
    assert rows(dest_db, "SELECT count(*) FROM pgmig.foreign_write") == [(len(found),)]
