"""The applier's session on a real destination."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from services.shared.model import Lsn, MigrationId
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.session.connection import connection
from tests.support.servers.postgres import PostgresServer


async def test_durable_commit_without_rows_is_on_disk_at_once() -> None:
    """A switchover's sentinel changes no row, and writers wait for it. The process that writes WAL from
    time to time is stopped, so that nobody but the commit does."""
    with PostgresServer() as server, wal_writer_stopped(server):
        session = await ApplySession.open(server.uri(), MigrationId("sentinel").forward, Lsn(0))
        try:
            await session.execute([], durable=True)
            session.commit(Lsn(100), 0)
            await session.send_commit()
            async with asyncio.timeout(30):
                await session.await_flush()
            assert session.flushed == Lsn(100)
            async with connection(server.uri(), "destination") as conn:
                assert await applied_progress(conn, MigrationId("sentinel").forward) == Lsn(100)
        finally:
            await session.close()


async def test_what_an_earlier_session_has_applied_counts_when_the_standbys_have_it(dest_db: str) -> None:
    """The earlier session may have ended before it asked them."""
    pipeline = MigrationId("standbys").forward
    earlier = await ApplySession.open(dest_db, pipeline, Lsn(10))
    await earlier.execute([], durable=True)
    earlier.commit(Lsn(100), 0)
    await earlier.send_commit()
    await earlier.close()
    session = await ApplySession.open(dest_db, pipeline, Lsn(10))
    try:
        await session.await_standbys(Lsn(10))
        assert (session.progress, await session.poll_flush()) == (Lsn(100), Lsn(10))
        session.standbys_have(Lsn(1 << 60))
        async with asyncio.timeout(30):
            await session.await_flush()
        assert session.flushed == Lsn(100)
    finally:
        await session.close()


@contextmanager
def wal_writer_stopped(server: PostgresServer) -> Iterator[None]:
    with server.connect() as conn:
        row = conn.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").fetchone()
    assert row is not None
    os.kill(row[0], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(row[0], signal.SIGCONT)
