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

import psycopg
import pytest

from services.shared.bus.connection import bus
from services.shared.model.conflicts.policy import Decision, OnConflict
from tests.support.pipeline.back import server_of_major
from tests.support.pipeline.both_ways import MIGRATION, SETTINGS, BothWays, both_ways
from tests.support.pipeline.in_process import rows
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("conflicting_load")]

COUNT = int(os.environ.get("PGMIG_CONFLICT_HISTORIES", "3"))
SEED = int(os.environ.get("PGMIG_CONFLICT_SEED") or 1)
WRITERS = 2
TRANSACTIONS = 60
KEYS = 8
# The last one: another transaction has moved the row to another partition.
_REFUSED = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
TABLES = ("one", "two", "full", "part")
DDL = """
CREATE TABLE one (id int PRIMARY KEY, v int, w text);
CREATE TABLE two (a int, b text, v int, n numeric, PRIMARY KEY (b, a));
CREATE TABLE "full" (id int PRIMARY KEY, v int, big text);
ALTER TABLE "full" ALTER big SET STORAGE EXTERNAL;
ALTER TABLE "full" REPLICA IDENTITY FULL;
CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (4);
CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (4) TO (1000);
INSERT INTO one SELECT i, 0, 'start' FROM generate_series(0, 3) i;
INSERT INTO two SELECT i, 'b', 0, 1.50 FROM generate_series(0, 3) i;
INSERT INTO "full" SELECT i, 0, repeat('s', 3000) FROM generate_series(0, 3) i;
INSERT INTO part SELECT i, 0 FROM generate_series(2, 5) i;
"""


@pytest.fixture(scope="module", params=[(14, 18), (17, 18)], ids=lambda pair: f"{pair[0]}-{pair[1]}")
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with (
        server_of_major(request.param[0], SETTINGS) as first,
        server_of_major(request.param[1], SETTINGS) as second,
    ):
        yield first, second


def statement(random: Random) -> str:
    """One that a constraint never refuses, except for changes of keys."""
    key, other, v = random.randrange(KEYS), random.randrange(KEYS), random.randrange(10**6)
    table = random.choice(TABLES)
    if table == "two":
        return random.choice(
            (
                f"INSERT INTO two VALUES ({key}, 'b', {v}, {v}.50) ON CONFLICT DO NOTHING",
                f"INSERT INTO two VALUES ({key}, 'b', {v}, 1) ON CONFLICT (b, a) DO UPDATE SET v = {v}",
                f"UPDATE two SET v = {v} WHERE a = {key}",
                f"UPDATE two SET n = n + 1 WHERE a >= {key}",
                f"DELETE FROM two WHERE a = {key}",
                f"UPDATE two SET a = {other} WHERE a = {key}"
                f" AND NOT EXISTS (SELECT FROM two WHERE a = {other})",
            )
        )
    name = f'"{table}"'
    columns, values = {
        "one": ("id, v, w", f"{key}, {v}, 'w{v}'"),
        "full": ("id, v, big", f"{key}, {v}, repeat('{v % 10}', 3000)"),
        "part": ("id, v", f"{key}, {v}"),
    }[table]
    return random.choice(
        (
            f"INSERT INTO {name} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING",
            f"INSERT INTO {name} ({columns}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET v = {v}",
            f"UPDATE {name} SET v = {v} WHERE id = {key}",
            f"UPDATE {name} SET v = v + 1 WHERE id >= {key}",
            f"DELETE FROM {name} WHERE id = {key}",
            f"DELETE FROM {name} WHERE id = {key}; INSERT INTO {name} ({columns}) VALUES ({values})"
            " ON CONFLICT DO NOTHING",
            f"UPDATE {name} SET id = {other} WHERE id = {key}"
            f" AND NOT EXISTS (SELECT FROM {name} WHERE id = {other})",
        )
    )


def write(uri: str, seed: str) -> None:
    """Some transactions, one after the other."""
    random = Random(seed)
    with psycopg.connect(uri, autocommit=True) as conn:
        for _ in range(TRANSACTIONS):
            statements = [statement(random) for _ in range(random.choice((1, 1, 2, 5)))]
            try:
                with conn.transaction():
                    for one in statements:
                        conn.execute(one.encode())
            except _REFUSED:
                continue


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
