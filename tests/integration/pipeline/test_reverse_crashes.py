"""Workers of the pipeline back are killed at random moments under load, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from services.shared.model import MigrationId, MigrationOptions, Selection
from tests.integration.pipeline.test_crash_loop import observed, prove
from tests.support.data.marked_load import DDL, START, MarkedLoad, large_transaction
from tests.support.pipeline.back import EPOCH, position_of, prepared
from tests.support.pipeline.in_process import run
from tests.support.pipeline.processes import PipelineProcesses
from tests.support.servers.nats import NatsServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("heavy")]

REVERSE = MigrationId("back").reverse
# A trigger that is ENABLE ALWAYS writes `history` on both sides.
OPTIONS = MigrationOptions(selection=Selection(exclude_tables=("public.history",)))
ROUNDS = 6


async def test_killed_workers_lose_and_double_nothing(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The old primary is the source, as everywhere."""
    random = Random(7)
    for uri in (source_db, dest_db):
        run(uri, DDL, START)
    ready = await prepared(dest_db, source_db, REVERSE, options=OPTIONS)
    start = await position_of(dest_db, REVERSE)
    with PipelineProcesses(
        dest_db,
        source_db,
        nats_server.url,
        ready.published,
        tmp_path,
        pipeline=REVERSE,
        slot=(str(start), ready.system_identifier, ready.timeline),
        epoch=EPOCH,
    ) as pipeline:
        pipeline.start("decoder")
        pipeline.start("applier")
        with observed(source_db) as seen, MarkedLoad(dest_db, 7) as load:
            for turn in range(ROUNDS):
                victim = ("applier", "decoder")[turn % 2]
                if turn % 3 == 0:
                    large_transaction(dest_db, turn)
                await asyncio.sleep(random.uniform(0.3, 1.0))  # the moment itself is what is random here
                pipeline.kill(victim)
                pipeline.start(victim)
            pipeline.drain("before the end", 120)
            load.stop()
            pipeline.drain("end", 120)
        assert seen == []
    prove(dest_db, source_db)
