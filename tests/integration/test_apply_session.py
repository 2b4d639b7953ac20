"""The applier's session on a real destination."""

from __future__ import annotations

import asyncio

from services.shared.model import Lsn, MigrationId
from services.shared.pg.apply import ApplySession
from tests.lab.postgres import PostgresServer


async def test_durable_commit_without_rows_is_on_disk_at_once() -> None:
    """A switchover's sentinel changes no row, and writers wait for it."""
    with PostgresServer(settings={"wal_writer_delay": "10s"}) as server:
        session = await ApplySession.open(server.uri(), MigrationId("sentinel"), Lsn(0))
        try:
            await session.execute([], durable=True)
            session.commit(Lsn(100), 0)
            await session.settle()
            async with asyncio.timeout(2.0):
                await session.await_flush()
            assert session.flushed == Lsn(100)
        finally:
            await session.close()
