"""No session writes to a frozen source, whatever its role, its settings and the moment when it begins."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress

import psycopg
import pytest
from psycopg import conninfo, sql

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.freeze.thaw import thaw
from tests.support.servers.door import reopen
from tests.support.servers.postgres import PostgresServer
from tests.support.switchover.freezing import Opened, administrator, frozen, refused, shut, tables


async def test_sessions_of_another_role_are_ended_at_the_freeze(other_role: str, freeze: Freeze) -> None:
    """Of them a role without pg_read_all_stats sees neither kind nor beginning."""
    with psycopg.connect(other_role) as pooled:
        pooled.execute("INSERT INTO a VALUES (1)")
        pooled.commit()
        await frozen(freeze)
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("SELECT 1")


@pytest.mark.parametrize("temporary", [True, False])
async def test_session_with_a_slot_of_its_own_is_ended_too(
    source: str, opened: Opened, temporary: bool
) -> None:
    """A session stays the active one of a temporary slot that it has made."""
    freeze = await opened(source)
    with psycopg.connect(source, autocommit=True) as conn:
        made = "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', %s)"
        conn.execute(made, [f"theirs_{secrets.token_hex(4)}", temporary])
        conn.execute("INSERT INTO a VALUES (1)")
        await frozen(freeze)
        await shut(freeze)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    await freeze.close()
    with administrator(source) as conn:
        conn.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = current_database()"
        )


@pytest.mark.parametrize(
    "asks",
    [
        "BEGIN READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; BEGIN",
        "SET default_transaction_read_only = off; BEGIN",
        "BEGIN",  # the role's own setting
    ],
)
async def test_session_that_begins_during_the_freeze_writes_nothing(
    source: str, other_role: str, freeze: Freeze, asks: str
) -> None:
    await frozen(freeze)
    with psycopg.connect(other_role, autocommit=True, application_name="pgmig source") as late:
        late.execute(asks)
        writing = asyncio.create_task(asyncio.to_thread(late.execute, "INSERT INTO a VALUES (1)"))
        await asyncio.wait({writing}, timeout=0.2)
        assert not writing.done()  # it waits for our locks
        assert await shut(freeze) >= 1
        with pytest.raises(psycopg.OperationalError):
            await writing
    await freeze.close()
    assert refused(other_role)
    with psycopg.connect(reopen(source)) as conn:
        assert conn.execute("SELECT count(*) FROM a").fetchone() == (0,)


async def test_no_session_can_begin_after_the_freeze_not_even_a_superusers(
    source: str, owner: str, other_role: str, opened: Opened
) -> None:
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()  # the locks are gone
    for uri in (source, owner, other_role):
        assert refused(uri)
    for uri in (source, owner):
        assert refused(conninfo.make_conninfo(uri, replication="database"))
    assert await thaw(source, freeze.before)
    with psycopg.connect(other_role) as conn:
        conn.execute("INSERT INTO a VALUES (1)")


async def test_superusers_that_keep_coming_are_all_ended(source: str, opened: Opened) -> None:
    """Sessions are begun all the time, and may be anywhere between login and first statement."""
    freeze = await opened(source)
    stop = asyncio.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with suppress(psycopg.Error), psycopg.connect(source, autocommit=True) as conn:
                conn.execute("SET lock_timeout = '50ms'")
                conn.execute("BEGIN READ WRITE")
                conn.execute("INSERT INTO a VALUES (%s)", [number])
                conn.execute("COMMIT")

    writers = [asyncio.create_task(asyncio.to_thread(write)) for _ in range(4)]
    try:
        await freeze.lock(tables, time.monotonic() + 30)
        await freeze.forbid_writes()
        await shut(freeze)
        row = await (await freeze.session.execute("SELECT count(*) FROM public.a")).fetchone()
        assert row is not None
        await freeze.close()
        await asyncio.sleep(0.5)  # they go on trying, with nothing to wait for
    finally:
        stop.set()
        await asyncio.wait(writers)
    with psycopg.connect(reopen(source)) as conn:
        assert conn.execute("SELECT count(*) FROM a").fetchone() == row


async def test_walsender_that_runs_statements_is_ended(source: str, opened: Opened) -> None:
    """A connection for replication may write as well as any other."""
    freeze = await opened(source)
    await frozen(freeze)
    info = conninfo.make_conninfo(source, replication="database")
    with psycopg.connect(info, autocommit=True) as walsender:
        await shut(freeze)
        with pytest.raises(psycopg.OperationalError):
            walsender.pgconn.exec_(b"SELECT 1")
            walsender.execute("SELECT 1")
    await freeze.close()
    await thaw(source, freeze.before)


async def test_subscription_of_the_source_is_disabled_and_enabled_again(
    source: str, dest_db: str, source_server: PostgresServer, opened: Opened
) -> None:
    name = f"feed_{secrets.token_hex(4)}"
    with psycopg.connect(dest_db, autocommit=True) as upstream:
        upstream.execute("CREATE TABLE a (id int); CREATE PUBLICATION p FOR TABLE a")
        upstream.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    statement = sql.SQL(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION p WITH (create_slot = false, copy_data = false)"
    ).format(sql.Identifier(name), sql.Literal(dest_db))
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(statement)
    try:
        freeze = await opened(source)
        assert freeze.before.subscriptions == (name,)
        await freeze.stop_subscriptions()
        await frozen(freeze)
        await shut(freeze)
        with psycopg.connect(dest_db) as upstream:
            upstream.execute("INSERT INTO a VALUES (1)")
        row = await (await freeze.session.execute("SELECT count(*) FROM public.a")).fetchone()
        assert row == (0,)
        await freeze.close()
        await thaw(source, freeze.before)
        with psycopg.connect(source, autocommit=True) as conn:
            async with asyncio.timeout(30):
                while conn.execute("SELECT count(*) FROM a").fetchone() == (0,):
                    await asyncio.sleep(0.1)  # an apply worker tells nobody when it has applied
    finally:
        with administrator(source) as conn:
            drop = sql.SQL(
                "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} SET (slot_name = NONE);"
                " DROP SUBSCRIPTION {0}"
            ).format(sql.Identifier(name))
            for one in drop.as_string(conn).split(";"):
                conn.execute(one)


async def test_prepared_transaction_holds_the_freeze_up_and_is_named(opened: Opened) -> None:
    with PostgresServer(settings={"max_prepared_transactions": "5"}, fsync=False) as server:
        uri = server.create_database("db")
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
            conn.execute("BEGIN; INSERT INTO a VALUES (1); PREPARE TRANSACTION 'order 17'")
            freeze = await opened(uri)
            try:
                with pytest.raises(PgmigError) as caught:
                    await freeze.lock(tables, time.monotonic() + 1.0)
                assert caught.value.kind is ErrorKind.TIMEOUT
                assert '"order 17"' in caught.value.message
                assert "COMMIT PREPARED" in caught.value.hint
                conn.execute("COMMIT PREPARED 'order 17'")
                # One that holds none of our locks would make a table that nobody has seen.
                conn.execute("BEGIN; CREATE TABLE c (id int); PREPARE TRANSACTION 'new table'")
                with pytest.raises(PgmigError, match="new table"):
                    await freeze.lock(tables, time.monotonic() + 1.0)
                conn.execute("ROLLBACK PREPARED 'new table'")
                await freeze.lock(tables, time.monotonic() + 30)
                conn.execute("BEGIN; CREATE TABLE c (id int); PREPARE TRANSACTION 'late'")
                with pytest.raises(PgmigError, match="late"):
                    await freeze.check_prepared()
            finally:
                await freeze.close()


async def test_table_made_while_the_locks_are_waited_for_is_locked_too(source: str, opened: Opened) -> None:
    freeze = await opened(source)
    known = await tables()

    async def listed() -> list[TableId]:
        found = list(known)
        if len(known) == 2:  # made right after it was listed
            known.append(TableId("public", "late"))
            with psycopg.connect(source) as conn:
                conn.execute("CREATE TABLE late (id int)")
        return found

    try:
        await freeze.lock(listed, time.monotonic() + 30)
        with (
            psycopg.connect(source, options="-c lock_timeout=100ms") as conn,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            conn.execute("INSERT INTO late VALUES (1)")
    finally:
        await freeze.close()
