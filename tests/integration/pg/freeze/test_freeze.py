"""Writers are kept out of a frozen source, and let in again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.freeze.source import Freeze, before_freeze, emit_sentinel
from services.shared.pg.freeze.thaw import thaw
from tests.support.servers.postgres import PostgresServer
from tests.support.switchover.freezing import frozen, tables


@pytest.fixture
async def freeze(source: str) -> AsyncIterator[Freeze]:
    freeze = await Freeze.open(source)
    yield freeze
    await freeze.close()


def may_write(uri: str) -> bool:
    with psycopg.connect(uri, options="-c lock_timeout=100ms") as conn:
        try:
            conn.execute("INSERT INTO a VALUES (1)")
        except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.LockNotAvailable):
            conn.rollback()
            return False
    return True


async def test_frozen_source_takes_no_row_and_no_sequence_value(source: str, freeze: Freeze) -> None:
    await frozen(freeze)
    assert not may_write(source)
    with psycopg.connect(source) as conn:
        assert conn.execute("SELECT count(*) FROM a").fetchone() == (0,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("SELECT nextval('s')")
    await freeze.close()
    assert not may_write(source)  # also without the locks


async def test_waiting_writer_fails_instead_of_committing_later(source: str, freeze: Freeze) -> None:
    await freeze.lock(tables, time.monotonic() + 30)
    waiting = asyncio.create_task(asyncio.to_thread(may_write_patiently, source))
    async with asyncio.timeout(30):
        while not await _someone_waits(freeze):
            await asyncio.sleep(0.02)  # the server tells nobody who waits for a lock
    await freeze.end_writers(await freeze.forbid_writes())
    with pytest.raises(psycopg.errors.AdminShutdown):
        await waiting
    await freeze.close()
    with psycopg.connect(source) as conn:
        assert conn.execute("SELECT count(*) FROM a").fetchone() == (0,)


def may_write_patiently(uri: str) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute("INSERT INTO a VALUES (1)")


async def _someone_waits(freeze: Freeze) -> bool:
    cursor = await freeze.session.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
    row = await cursor.fetchone()
    return row is not None and row[0] > 0


async def test_thaw_restores_the_setting_and_ends_sessions_that_began_frozen(
    source: str, freeze: Freeze
) -> None:
    before = freeze.before
    await frozen(freeze)
    await freeze.close()
    with psycopg.connect(source) as pooled:
        pooled.execute("SELECT 1")
        assert await thaw(source, before)
        assert not await thaw(source, before)
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("SELECT 1")
    assert may_write(source)


async def test_thaw_keeps_a_setting_that_was_there_before(source: str) -> None:
    with psycopg.connect(source, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
    freeze = await Freeze.open(source)
    assert freeze.before.read_only_default == "off"
    await frozen(freeze)
    await freeze.close()
    await thaw(source, freeze.before)
    again = await writable_connection(source)
    assert (await before_freeze(again, source)).read_only_default == "off"
    await again.close()


async def test_held_lock_times_out_with_its_holder_and_leaves_nothing_locked(
    source: str, freeze: Freeze
) -> None:
    with psycopg.connect(source, application_name="slow report") as holder:
        holder.execute("INSERT INTO b VALUES (1)")
        with pytest.raises(PgmigError) as caught:
            await freeze.lock(tables, time.monotonic() + 1.2)
        assert caught.value.kind is ErrorKind.TIMEOUT
        assert "slow report" in caught.value.message
        assert may_write(source)
    assert may_write(source)


async def test_lock_waits_for_a_writer_that_ends_in_time(source: str, freeze: Freeze) -> None:
    with psycopg.connect(source) as holder:
        holder.execute("INSERT INTO b VALUES (1)")
        locking = asyncio.create_task(freeze.lock(tables, time.monotonic() + 30))
        await asyncio.wait({locking}, timeout=0.3)
        assert not locking.done()
        holder.commit()
    await locking
    assert not may_write(source)


async def test_writer_that_would_deadlock_with_the_freeze_is_not_ended(source: str, freeze: Freeze) -> None:
    """It holds b and then wants a, while we hold a and want b: we give way."""
    with psycopg.connect(source) as writer:
        writer.execute("INSERT INTO b VALUES (1)")
        locking = asyncio.create_task(freeze.lock(tables, time.monotonic() + 30))
        await asyncio.wait({locking}, timeout=0.2)
        await asyncio.to_thread(writer.execute, "INSERT INTO a VALUES (1)")
        writer.commit()
    await locking


async def test_sentinel_can_be_written_into_a_frozen_source(source: str, freeze: Freeze) -> None:
    await frozen(freeze)
    assert await emit_sentinel(freeze.session, "pgmig", "m:token")


async def test_autovacuum_does_not_keep_the_freeze_out() -> None:
    slow = {
        "autovacuum_naptime": "1s",
        "autovacuum_vacuum_cost_delay": "100ms",
        "autovacuum_vacuum_cost_limit": "1",
    }
    with PostgresServer(settings=slow, fsync=False) as server:
        uri = server.create_database("db")
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("CREATE TABLE a (id int, filler text); CREATE TABLE b (id int)")
            conn.execute("INSERT INTO a SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
            conn.execute("DELETE FROM a WHERE id % 2 = 0")
            working = (
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity s USING (pid)"
                " WHERE s.backend_type = 'autovacuum worker' AND l.relation = 'a'::regclass"
            )
            async with asyncio.timeout(60):
                while conn.execute(working).fetchone() == (0,):
                    await asyncio.sleep(0.1)  # the launcher tells nobody when it begins
            freeze = await Freeze.open(uri)
            try:
                await freeze.lock(tables, time.monotonic() + 30)
                assert not may_write(uri)
            finally:
                await freeze.close()
