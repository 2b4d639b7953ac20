"""Random writers on both sides at once, on few keys: with last-update-wins both sides end with the same rows.

    PGMIG_CONFLICT_HISTORIES=200         how many histories for each pair of versions; 3 by default
    PGMIG_CONFLICT_SEED=17               the first one's seed; the others follow. 1 by default

The same seed draws the same statements, but when they meet is up to the machine. A history with an even seed
stops and starts decoders and appliers meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from random import Random

import pytest

from services.shared.bus.connection import bus
from services.shared.model.conflicts.policy import Decision, OnConflict
from tests.support.pipeline.back import server_of_major
from tests.support.pipeline.both_ways import MIGRATION, SETTINGS, BothWays, both_ways
from tests.support.pipeline.conflicting_load import DDL, TABLES, write
from tests.support.pipeline.in_process import rows
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("conflicting_load")]

COUNT = int(os.environ.get("PGMIG_CONFLICT_HISTORIES", "3"))
SEED = int(os.environ.get("PGMIG_CONFLICT_SEED") or 1)
WRITERS = 2


@pytest.fixture(scope="module", params=[(14, 18), (17, 18)], ids=lambda pair: f"{pair[0]}-{pair[1]}")
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with (
        server_of_major(request.param[0], SETTINGS) as first,
        server_of_major(request.param[1], SETTINGS) as second,
    ):
        yield first, second


async def play(both: BothWays, seed: int) -> None:
    writers = [
        asyncio.create_task(asyncio.to_thread(write, uri, f"{seed} {side} {number}"))
        for side, uri in (("here", both.here), ("there", both.there))
        for number in range(WRITERS)
    ]
    working = asyncio.gather(*writers)
    random = Random(seed)
    while seed % 2 == 0 and not working.done():
        pipeline = random.choice((both.forward, both.reverse))
        if random.random() < 0.5:
            await pipeline.stop("applier")
            await asyncio.wait({working}, timeout=random.random() / 4)
            pipeline.start_applier()
        else:
            await pipeline.stop("decoder")
            await pipeline.start_decoder()
        await asyncio.wait({working}, timeout=random.random() / 4)
    await working
    await both.settle()


@pytest.mark.parametrize("seed", range(SEED, SEED + COUNT))
async def test_both_sides_end_with_the_same_rows(
    servers: tuple[PostgresServer, PostgresServer], nats_server: NatsServer, seed: int
) -> None:
    with servers[0].fresh_database("here") as here, servers[1].fresh_database("there") as there:
        async with (
            bus(nats_server.url, "test") as client,
            both_ways(here, there, client, DDL, OnConflict.LAST_UPDATE_WINS, *TABLES) as both,
        ):
            await play(both, seed)
            conflicts = await both.conflicts(MIGRATION.forward) + await both.conflicts(MIGRATION.reverse)
            for table in TABLES:
                query = f'SELECT x::text FROM "{table}" x ORDER BY 1'
                assert rows(here, query) == rows(there, query), f"{table}, seed {seed}: {conflicts}"
            assert conflicts
            assert all(one.decision is not Decision.STOPPED for one in conflicts)
