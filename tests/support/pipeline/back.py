"""A pipeline that starts without a copy: checked, prepared, then from the publisher's present position."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from services.shared.bus.connection import Client
from services.shared.bus.store import delete_stream
from services.shared.model import Lsn, MigrationOptions, PipelineId, SlotReady
from services.shared.model.conflicts.policy import OnConflict
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.reverse.check import check_reverse
from services.shared.pg.reverse.position import current_position
from services.shared.pg.reverse.prepare import ReverseReady, prepare_reverse
from services.shared.pg.reverse.remove import remove_reverse
from tests.support.pipeline.in_process import Pipeline
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.releases import UnobtainableError, server_of

EPOCH = "back"
REQUIRED_VARIABLE = "PGMIG_TEST_SOURCES_REQUIRED"


@contextmanager
def server_of_major(major: int, settings: dict[str, str] | None = None) -> Iterator[PostgresServer]:
    """Skips the test if the version cannot be had here, unless PGMIG_TEST_SOURCES_REQUIRED forbids that."""
    try:
        install = server_of(major)
    except UnobtainableError as exc:
        if os.environ.get(REQUIRED_VARIABLE):
            raise
        pytest.skip(str(exc))
    with PostgresServer(install, settings=settings, fsync=False) as server:
        yield server


async def prepared(
    publisher: str,
    subscriber: str,
    pipeline: PipelineId,
    *,
    options: MigrationOptions | None = None,
    local_only: bool = False,
) -> ReverseReady:
    """Nothing of an earlier pipeline of this direction is left, and nothing is in the way."""
    options = options or MigrationOptions()
    assert (await remove_reverse(publisher, subscriber, pipeline)).left == ()
    check = await check_reverse(publisher, subscriber, pipeline, options=options, local_only=local_only)
    assert check.blocking == ()
    return await prepare_reverse(
        publisher, subscriber, pipeline, check.published, epoch=EPOCH, options=options
    )


async def position_of(publisher: str, pipeline: PipelineId) -> Lsn:
    conn = await writable_connection(publisher, side=pipeline.publisher)
    try:
        return await current_position(conn)
    finally:
        await conn.close()


@asynccontextmanager
async def running(
    publisher: str,
    subscriber: str,
    client: Client,
    pipeline: PipelineId,
    ready: ReverseReady,
    *,
    local_only: bool = False,
    on_conflict: OnConflict | None = None,
    seen_us: int = 0,
) -> AsyncIterator[Pipeline]:
    """Decoder and applier from the publisher's present position on."""
    await delete_stream(client, pipeline.change_stream)
    start = await position_of(publisher, pipeline)
    found = Pipeline(
        publisher,
        subscriber,
        client,
        ready.published,
        slot=SlotReady("d", start, ready.system_identifier, ready.timeline),
        routes=ready.routes,
        id=pipeline,
        local_only=local_only,
        sends_generated=ready.sends_generated,
        epoch=EPOCH,
        on_conflict=on_conflict,
        seen_us=seen_us,
    )
    try:
        await found.start_decoder()
        found.start_applier()
        yield found
    finally:
        for name in list(found.tasks):
            await found.stop(name)
