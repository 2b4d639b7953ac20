"""A decoder that still reads from a former primary does not disturb the migration, which has continued."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.shared.bus.store import delete_stream
from services.shared.model import ErrorKind
from tests.support.pipeline.in_process import PIPELINE, Pipeline, pipeline, rows, run
from tests.support.servers.installs import newest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.standby import StandbyServer

pytestmark = pytest.mark.timeout(180)


async def test_changes_of_a_former_primary_are_not_applied_after_the_promotion(
    dest_db: str, nats_server: NatsServer
) -> None:
    """Its decoder has lost the coordinator, but neither NATS nor that server."""
    with PostgresServer(newest(), fsync=False) as primary:
        source = primary.create_database("shop")
        with StandbyServer(primary) as standby:
            async with pipeline(source, dest_db, nats_server, "CREATE TABLE t (a int PRIMARY KEY)", "t") as p:
                await p.start_decoder()
                p.start_applier()
                run(source, "INSERT INTO t VALUES (1)")
                await p.drain("before")
                await asyncio.to_thread(standby.has_slot, PIPELINE.slot)  # the slot has to advance meanwhile
                await p.stop("applier")
                standby.caught_up()
                standby.promote()
                await delete_stream(p.client, PIPELINE.change_stream)
                assert p.slot is not None
                slot = replace(p.slot, timeline=2)
                promoted = Pipeline(standby.uri("shop"), dest_db, p.client, p.tables, slot=slot)
                try:
                    await promoted.start_decoder()
                    promoted.start_applier()
                    run(standby.uri("shop"), "INSERT INTO t VALUES (3)")
                    await promoted.drain("promoted")
                    run(source, "INSERT INTO t VALUES (2)")
                    error = await p.failure("decoder")
                    assert error.kind is ErrorKind.PROMOTED
                    run(standby.uri("shop"), "INSERT INTO t VALUES (4)")
                    await promoted.drain("later")
                finally:
                    for name in list(promoted.tasks):
                        await promoted.stop(name)
                assert rows(dest_db, "SELECT a FROM t ORDER BY a") == [(1,), (3,), (4,)]
