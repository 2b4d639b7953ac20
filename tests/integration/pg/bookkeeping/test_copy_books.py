"""The bookkeeping schema on the destination: made once, shared, and gone with its last row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection

from services.shared.model import CopiedPart, CopyPart, Lsn, MigrationId, TableId
from services.shared.pg.bookkeeping.copy_ledger import CopyLedger, enter_part, read_ledger
from services.shared.pg.bookkeeping.schema import (
    drop_bookkeeping,
    ensure_bookkeeping,
    mark_step,
    steps_done,
)
from services.shared.pg.session.connection import connection
from tests.support.copying.databases import execute, scalar

M1, M2 = MigrationId("m1").forward, MigrationId("m2").forward
PART = CopyPart("p1", TableId("public", "t"), ("a",), "1-1-1", Lsn.parse("1A/FF"), False)
COPIED = CopiedPart(Lsn.parse("1A/FF"), 5, 50)
SCHEMA_EXISTS = "SELECT to_regnamespace('pgmig') IS NOT NULL"


@pytest.fixture
async def conn(dest_db: str) -> AsyncIterator[AsyncConnection]:
    async with connection(dest_db, "destination") as opened:
        yield opened


async def test_without_bookkeeping_nothing_is_removed(conn: AsyncConnection) -> None:
    assert await read_ledger(conn, M1) == CopyLedger()
    assert await steps_done(conn, M1) == set()
    await drop_bookkeeping(conn, M1)


async def test_books_may_be_ensured_by_several_at_once(conn: AsyncConnection, dest_db: str) -> None:
    async with connection(dest_db, "destination") as other:
        await asyncio.gather(ensure_bookkeeping(conn), ensure_bookkeeping(other))
    await ensure_bookkeeping(conn)
    assert scalar(dest_db, SCHEMA_EXISTS)


async def test_parts_and_steps_belong_to_their_pipeline(conn: AsyncConnection) -> None:
    await ensure_bookkeeping(conn)
    await enter_part(conn, M1, PART, 5, 50)
    await mark_step(conn, M1, "pre-data")
    await mark_step(conn, M1, "pre-data")
    assert (await read_ledger(conn, M1)).parts == {"p1": COPIED}
    assert await steps_done(conn, M1) == {"pre-data"}
    for other in (M2, M1.migration.reverse):
        assert (await read_ledger(conn, other)).parts == {}
        assert await steps_done(conn, other) == set()


async def test_a_step_is_recorded_in_the_same_transaction(conn: AsyncConnection) -> None:
    await ensure_bookkeeping(conn)
    await conn.execute("BEGIN")
    await mark_step(conn, M1, "pre-data")
    await conn.execute("ROLLBACK")
    assert await steps_done(conn, M1) == set()


@pytest.mark.parametrize("of_m2", ["part", "step", "progress"])
async def test_the_schema_stays_while_another_migration_needs_it(
    conn: AsyncConnection, dest_db: str, of_m2: str
) -> None:
    await ensure_bookkeeping(conn)
    await enter_part(conn, M1, PART, 5, 50)
    match of_m2:
        case "part":
            await enter_part(conn, M2, PART, 5, 50)
        case "step":
            await mark_step(conn, M2, "pre-data")
        case _:
            execute(dest_db, "INSERT INTO pgmig.progress VALUES ('m2/forward', '0/1')")
    await drop_bookkeeping(conn, M1)
    assert await read_ledger(conn, M1) == CopyLedger()
    assert scalar(dest_db, SCHEMA_EXISTS)
    await drop_bookkeeping(conn, M2)
    assert not scalar(dest_db, SCHEMA_EXISTS)


async def test_what_is_not_ours_in_the_schema_is_left_alone(conn: AsyncConnection, dest_db: str) -> None:
    execute(dest_db, "CREATE SCHEMA pgmig", "CREATE TABLE pgmig.theirs (a int)")
    await ensure_bookkeeping(conn)
    await drop_bookkeeping(conn, M1)
    assert (
        scalar(
            dest_db,
            "SELECT array_agg(relname)::text FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'pgmig'::regnamespace",
        )
        == "{theirs}"
    )
