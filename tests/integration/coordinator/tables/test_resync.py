"""Tables that are copied again, or added, while changes are replicated."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import ErrorKind, Lsn, MigrationOptions, MigrationView, PgmigError, Phase, TableId
from services.shared.pg.apply.fence import fence_applier
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import connection
from tests.support.data.compare import compare_databases
from tests.support.pipeline.in_process import PIPELINE, rows, run
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE

FOLLOW = MigrationOptions(follow=True)
SCHEMA = """
    CREATE TABLE customer (id int PRIMARY KEY, name text);
    CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE, note text);
"""
CUSTOMER, ORDERS, ADDED = (TableId("public", name) for name in ("customer", "orders", "added"))


def copied_since(view: MigrationView, events: int) -> bool:
    """Whether phase copy was left after the first `events` events."""
    return any(event.text.startswith("copied ") for event in view.events[events:])


async def resync(session: Session, *tables: TableId) -> None:
    events = len((await session.get("m")).events)
    await session.resync_tables("m", tables)
    await until(session, "m", lambda view: copied_since(view, events) and view.phase is Phase.STREAMING)


async def switch_over(session: Session) -> None:
    assert [step.name async for step in session.switchover("m", 60.0)][-1] == "commit"


def same(source: str, dest: str, *tables: str) -> None:
    for table in tables:
        query = f"SELECT t::text FROM {table} AS t ORDER BY 1"
        assert rows(dest, query) == rows(source, query), table


async def test_a_table_is_copied_again_and_nothing_else_is_touched(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    run(source_db, SCHEMA)
    run(source_db, "INSERT INTO customer SELECT n, 'c' || n FROM generate_series(1, 500) AS n")
    run(source_db, "INSERT INTO orders SELECT n, n, 'o' || n FROM generate_series(1, 500) AS n")
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source_db, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            with psycopg.connect(dest_db, autocommit=True, options=ASKS_TO_WRITE) as conn:
                conn.execute("SET session_replication_role = replica")
                conn.execute("DELETE FROM customer WHERE id % 3 = 0")
                conn.execute("UPDATE customer SET name = 'wrong' WHERE id % 3 = 1")
            run(source_db, "UPDATE orders SET note = 'before' WHERE id <= 10")
            await resync(session, CUSTOMER)
            run(
                source_db,
                "UPDATE customer SET name = 'after' WHERE id <= 30",
                "DELETE FROM customer WHERE id = 7",
            )
            await switch_over(session)
    same(source_db, dest_db, "customer", "orders")


async def test_rows_that_refer_to_a_table_that_is_copied_in_parts_stay(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    run(source_db, SCHEMA)
    run(source_db, "INSERT INTO customer SELECT n, repeat('c', 200) FROM generate_series(1, 2000) AS n")
    run(source_db, "INSERT INTO orders SELECT n, n, 'o' || n FROM generate_series(1, 2000) AS n", "ANALYZE")
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            options = MigrationOptions(follow=True, split_tables_larger_than=64 << 10)
            await session.start("m", source_db, dest_db, options)
            await until_phase(session, "m", Phase.STREAMING)
            await resync(session, CUSTOMER)
            await switch_over(session)
    assert rows(dest_db, "SELECT count(*) FROM orders") == [(2000,)]
    same(source_db, dest_db, "customer", "orders")


async def test_a_table_that_was_created_since_is_added(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    run(source_db, SCHEMA)
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source_db, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            run(
                source_db,
                "CREATE TABLE added (id serial, small smallserial,"
                " name varchar(20) COLLATE \"C\" DEFAULT 'it''s',"
                " twice int GENERATED ALWAYS AS (small * 2) STORED, own int GENERATED ALWAYS AS IDENTITY,"
                " at timestamptz NOT NULL DEFAULT now(), CHECK (small > 0), PRIMARY KEY (id), UNIQUE (name))",
                "CREATE INDEX ON added (lower(name)) WHERE small < 100",
                "CREATE UNIQUE INDEX by_small ON added (at)",
                "ALTER TABLE added REPLICA IDENTITY USING INDEX by_small",
                "INSERT INTO added (name) VALUES ('one')",
            )
            with pytest.raises(PgmigError) as caught:
                await session.resync_tables("m", (ADDED,))
            assert caught.value.kind is ErrorKind.SCHEMA_DRIFT
            assert "public.added" in caught.value.message
            ddl, then = caught.value.hint.removeprefix("run on the destination: ").split("; then ")
            assert then == "copy the rows again with: pgmig-cli resync-table --id m public.added"
            run(dest_db, *ddl.split("; "))
            await resync(session, ADDED)
            run(source_db, "INSERT INTO added (name) VALUES ('two')")
            await switch_over(session)
    same(source_db, dest_db, "added")
    assert compare_databases(source_db, dest_db) == []


async def test_names_that_are_no_tables_change_nothing(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    run(source_db, SCHEMA, "CREATE TABLE keyless (v int)")
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            options = MigrationOptions(follow=True)
            run(source_db, "DROP TABLE keyless")
            await session.start("m", source_db, dest_db, options)
            await until_phase(session, "m", Phase.STREAMING)
            run(source_db, "CREATE TABLE keyless (v int)")
            run(dest_db, "CREATE TABLE keyless (v int)")
            for table, kind in (
                (TableId("public", "ordres"), ErrorKind.INVALID_ARGUMENT),
                (TableId("public", "keyless"), ErrorKind.NO_REPLICA_IDENTITY),
            ):
                with pytest.raises(PgmigError) as caught:
                    await session.resync_tables("m", (ORDERS, table))
                assert caught.value.kind is kind
                assert str(table) in caught.value.message
            run(source_db, "INSERT INTO customer VALUES (1, 'one')")
            await until_phase(session, "m", Phase.STREAMING)
            run(source_db, "DROP TABLE keyless")
            await switch_over(session)
    same(source_db, dest_db, "customer", "orders")


async def test_an_earlier_applier_is_ended_and_cannot_return(dest_db: str) -> None:
    start = Lsn(100)
    async with connection(dest_db, "destination") as conn:
        await ensure_bookkeeping(conn)
        old = await ApplySession.open(dest_db, PIPELINE, start)
        await fence_applier(conn, PIPELINE, "new")
        with pytest.raises(PgmigError) as caught:
            await old.execute([])
            await old.send_commit()
        assert caught.value.policy.retry
        await old.close()
        with pytest.raises(PgmigError) as caught:
            await ApplySession.open(dest_db, PIPELINE, start)
        assert caught.value.kind is ErrorKind.FENCED
        session = await ApplySession.open(dest_db, PIPELINE, start, "new")
        await session.close()
