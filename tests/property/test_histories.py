"""Random schemas and random histories, from the source through the suite: every row is the same.

Histories of a group share a pipeline, and threads play several at a time. What differs between
groups is when the applier works: beside them ("live"), only when everything is committed ("late", so
that it finds whole batches of transactions), as late but with one destination transaction for each
("strict"), or on and off, like the decoder ("restarted").

    PGMIG_HISTORIES=5000                 how many histories; 360 by default
    PGMIG_HISTORY_SEED=17                the first one's seed; the others follow. 1 by default.
    PGMIG_HISTORY_MODE=late              the same for every group
    PGMIG_HISTORY_STEPS=5                end every history after so many steps, to find the guilty one

A failure shows what reproduces it: the seed, and all that the history did.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import psycopg
import pytest

from services.shared.bus.connection import bus
from services.shared.model import PgmigError
from services.shared.pg.catalog.partitions import find_routes
from services.shared.pg.session.connection import connection
from tests.property.compare import OPTIONS, differences
from tests.property.play import History, connections
from tests.support.pipeline.in_process import Pipeline
from tests.support.servers.installs import oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("histories")]

GROUP = 36
THREADS = 3
MODES = ("live", "late", "late", "restarted", "strict")
RESTART_EVERY_S = 0.4

COUNT = int(os.environ.get("PGMIG_HISTORIES", "360"))
SEED = int(os.environ.get("PGMIG_HISTORY_SEED") or 1)
STEPS = int(os.environ.get("PGMIG_HISTORY_STEPS", "0"))
GROUPS = range(0, COUNT, GROUP)


@pytest.fixture(scope="module")
def source_server() -> Iterator[PostgresServer]:
    """With prepared transactions."""
    settings = {"max_prepared_transactions": "30", "autovacuum": "off"}
    with PostgresServer(oldest(), settings=settings, fsync=False) as server:
        yield server


@pytest.mark.parametrize("first", GROUPS)
async def test_random_histories_arrive_exactly(
    source_db: str, dest_db: str, nats_server: NatsServer, first: int
) -> None:
    mode = os.environ.get("PGMIG_HISTORY_MODE") or MODES[first // GROUP % len(MODES)]
    seeds = range(SEED + first, SEED + min(first + GROUP, COUNT))
    print(f"histories {seeds.start} to {seeds.stop - 1}, {mode}")
    histories = [History.draw(seed, STEPS) for seed in seeds]
    await asyncio.to_thread(create, source_db, dest_db, histories)
    try:
        async with streaming(source_db, dest_db, nats_server, histories) as pipeline:
            await run(pipeline, histories, mode)
    except PgmigError as exc:
        guilty = [h for h in histories if f"{h.schema.name}." in str(exc)]
        pytest.fail(report(guilty or histories, mode, str(exc)), pytrace=False)
    found = await asyncio.to_thread(compare, source_db, dest_db, histories)
    if found:
        history, text = found[0]
        pytest.fail(f"{len(found)} tables differ\n{report([history], mode, text)}", pytrace=False)


def create(source: str, destination: str, histories: list[History]) -> None:
    texts = (
        [s for h in histories for s in h.schema.source],
        [s for h in histories for s in h.schema.destination],
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(execute, (source, destination), texts))


def execute(uri: str, statements: list[str]) -> None:
    with psycopg.connect(uri, autocommit=True, prepare_threshold=None) as conn:
        for extension in ("hstore", "citext"):
            conn.execute(f"CREATE EXTENSION {extension}")
        for statement in statements:
            conn.execute(statement.encode())


@asynccontextmanager
async def streaming(
    source: str, destination: str, nats: NatsServer, histories: list[History]
) -> AsyncIterator[Pipeline]:
    """A pipeline for the histories' tables; its decoder runs, its applier not yet."""
    tables = tuple(table.id for history in histories for table in history.schema.tables)
    async with bus(nats.url, "test") as client:
        pipeline = Pipeline(source, destination, client, tables)
        async with connection(source, "source") as here, connection(destination, "destination") as there:
            pipeline.routes = await find_routes(here, there)
        try:
            await pipeline.start_decoder()
            yield pipeline
        finally:
            for name in list(pipeline.tasks):
                await pipeline.stop(name)


async def run(pipeline: Pipeline, histories: list[History], mode: str) -> None:
    """Play the histories and let everything arrive."""
    playing = asyncio.create_task(asyncio.to_thread(play, pipeline.source, histories))
    if mode in {"live", "restarted"}:
        pipeline.start_applier()
    while mode == "restarted" and not playing.done():
        await asyncio.wait({playing}, timeout=RESTART_EVERY_S)
        await pipeline.stop("applier")
        pipeline.start_applier()
        await asyncio.wait({playing}, timeout=RESTART_EVERY_S)
        await pipeline.stop("decoder")
        await pipeline.start_decoder()
    await playing
    if mode in {"late", "strict"}:
        pipeline.start_applier(strict=mode == "strict")
    await pipeline.drain("played")


def play(source: str, histories: list[History]) -> None:
    waiting = iter(histories)
    lock = threading.Lock()

    def worker() -> None:
        with connections(source) as conns:
            while True:
                with lock:
                    history = next(waiting, None)
                if history is None:
                    return
                history.play(conns)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(worker) for _ in range(THREADS)]:
            future.result()


def compare(source: str, destination: str, histories: list[History]) -> list[tuple[History, str]]:
    """Differences, each with its history."""
    with (
        psycopg.connect(source, options=OPTIONS) as one,
        psycopg.connect(destination, options=OPTIONS) as two,
    ):
        return [(history, text) for history in histories for text in differences(one, two, history)]


def report(histories: list[History], mode: str, text: str) -> str:
    """What went wrong, how to see it again, and what one of `histories` did if it is the only one."""
    first, count = histories[0].seed, len(histories)
    again = f"PGMIG_HISTORY_SEED={first} PGMIG_HISTORIES={count} PGMIG_HISTORY_MODE={mode}"
    run = f"PGMIG_HISTORY_SEED={SEED} PGMIG_HISTORIES={COUNT}"
    told = histories[0].text() if len(histories) == 1 else "which history is to blame is not known"
    return f"{text}\n\nagain: {again}\nwhole run: {run}\n\n{told}"
