"""The confirmed position of the slot: never beyond what the destination has flushed, and moved while idle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services.shared.model import (
    ApplierProgress,
    Lsn,
)
from tests.support.pipeline.in_process import DDL, PIPELINE, TIMEOUT_S, pipeline, rows, run
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(240)


async def confirmed(uri: str) -> Lsn:
    found = rows(
        uri,
        f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{PIPELINE.slot}'",
    )
    return Lsn.parse(str(found[0][0]))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """For what no event tells: the source's own view of its slot."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_the_slot_is_confirmed_only_up_to_what_the_destination_has_flushed(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL)")
        committed = Lsn.parse(str(rows(source_db, "SELECT pg_current_wal_lsn()::text")[0][0]))
        progress = len(p.reports)
        await p.until(lambda: len(p.reports) >= progress + 3)  # stored, several status updates later
        assert await confirmed(source_db) < committed

        async def told() -> bool:
            return await confirmed(source_db) >= committed

        p.start_applier()
        await eventually(told)


async def test_the_slot_advances_while_the_source_is_idle(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "CREATE TABLE other (id int)", "INSERT INTO other SELECT generate_series(1, 10000)")
        written = Lsn.parse(str(rows(source_db, "SELECT pg_current_wal_lsn()::text")[0][0]))

        async def advanced() -> bool:
            return await confirmed(source_db) >= written

        await eventually(advanced)
        progress = [r for r in p.reports if isinstance(r, ApplierProgress)][-1]
        assert progress.flushed_lsn >= written, "the slot never runs ahead of the destination's progress"
