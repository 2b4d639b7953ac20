"""A change stream at its cap: the decoder waits, nothing is dropped, and the source stays connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection

import services.applier.assignment
from services.shared.model import (
    DecoderProgress,
    ErrorKind,
    EventLevel,
    Lsn,
    MigrationOptions,
    Phase,
    StepState,
)
from tests.support.pipeline.in_process import PIPELINE, Pipeline, pipeline, rows, run
from tests.support.servers.installs import oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("heavy")]

CAP = 1 << 20
DDL = "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL"
SENDER_TIMEOUT_S = 4
CONFIRMED = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"


def small(first: int, count: int = 100) -> list[str]:
    """Transactions of 40 kB."""
    return [f"INSERT INTO t VALUES ({i}, repeat('x', 40000))" for i in range(first, first + count)]


LARGE = "INSERT INTO t SELECT i, repeat('y', 40000) FROM generate_series(1001, 1100) i"


def equal(source: str, destination: str) -> None:
    query = "SELECT id, md5(v) FROM t ORDER BY id"
    assert rows(destination, query) == rows(source, query)


@asynccontextmanager
async def locked(uri: str) -> AsyncIterator[None]:
    """The destination's table, so that the applier stalls."""
    async with await AsyncConnection.connect(uri) as conn:
        await conn.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        yield
        await conn.rollback()


async def until_full(p: Pipeline) -> None:
    p.reports.clear()
    await p.until(lambda: any(isinstance(r, DecoderProgress) and r.waiting_for_space for r in p.reports))


async def stored_bytes(p: Pipeline) -> int:
    return (await p.client.jetstream().stream_info(PIPELINE.change_stream)).state.bytes


async def test_a_destination_stalled_beyond_the_sender_timeout_loses_nothing(
    dest_db: str, nats_server: NatsServer
) -> None:
    """Nor does the source send what nobody can hold: its slot keeps it until the destination has it."""
    settings = {"wal_sender_timeout": f"{SENDER_TIMEOUT_S}s"}
    with PostgresServer(oldest(), settings=settings, fsync=False) as server:
        source = server.create_database("stalled")
        async with pipeline(source, dest_db, nats_server, DDL, "t") as p:
            p.max_stream_bytes = 8 * CAP
            await p.start_decoder()
            p.start_applier()
            run(source, "INSERT INTO t VALUES (0, 'before')")
            await p.drain("before")
            async with locked(dest_db):
                began = lsn(source, "SELECT pg_current_wal_lsn()::text")
                await asyncio.to_thread(run, source, *small(1, 1000))
                await until_full(p)
                before = sender(source)
                while (now := sender(source))[1] - before[1] < 3 * SENDER_TIMEOUT_S:
                    await p.until_reported()
                    assert now[0] == before[0], "the walsender's session was dropped"
                assert await stored_bytes(p) <= 8 * CAP
                assert unsent_bytes(source) > 8 * CAP
                assert lsn(source, CONFIRMED) <= began
            await p.drain("after")
            equal(source, dest_db)
            assert sender(source)[0] == before[0]
            await p.until(lambda: unsent_bytes(source) == 0 and lsn(source, CONFIRMED) > began)


def sender(source: str) -> tuple[int, float]:
    """The walsender's process and when it last heard from the decoder (seconds)."""
    found = rows(source, "SELECT pid, extract(epoch FROM reply_time)::float8 FROM pg_stat_replication")
    assert len(found) == 1
    return found[0]  # type: ignore[return-value]


def unsent_bytes(source: str) -> int:
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), sent_lsn)::bigint FROM pg_stat_replication"
    ((size,),) = rows(source, query)
    assert isinstance(size, int)
    return size


def lsn(uri: str, query: str) -> Lsn:
    ((found,),) = rows(uri, query)
    return Lsn.parse(str(found))


async def test_a_transaction_larger_than_the_stream_fails_until_the_cap_is_raised(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        p.max_stream_bytes = CAP
        await p.start_decoder()
        p.start_applier()
        run(source_db, *small(1), LARGE, "INSERT INTO t VALUES (0, 'behind')")
        error = await p.failure("decoder")
        assert error.kind is ErrorKind.STREAM_FULL
        assert not error.policy.retry
        assert "PGMIG_MAX_STREAM_BYTES" in error.hint
        assert rows(dest_db, "SELECT count(*) FROM t") == [(100,)], "everything before it is there, it is not"
        p.max_stream_bytes = 16 * CAP
        await p.start_decoder()
        await p.drain("raised")
        equal(source_db, dest_db)


async def test_a_smaller_cap_leaves_an_existing_stream_as_it_is(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        for cap, found in ((4 * CAP, 4 * CAP), (CAP, 4 * CAP), (8 * CAP, 8 * CAP)):
            p.max_stream_bytes = cap
            await p.start_decoder()
            run(source_db, f"INSERT INTO t VALUES ({cap})")
            p.reports.clear()
            await p.until(lambda: any(isinstance(r, DecoderProgress) for r in p.reports))
            info = await p.client.jetstream().stream_info(PIPELINE.change_stream)
            assert info.config.max_bytes == found
            assert info.config.discard == "new"
            await p.stop("decoder")


async def test_a_stream_full_of_what_an_earlier_applier_applied_gets_space(
    source_db: str, dest_db: str, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        p.max_stream_bytes = CAP
        await p.start_decoder()
        with monkeypatch.context() as patch:
            patch.setattr(services.applier.assignment, "TRIM_S", 3600.0)
            p.start_applier()
            run(source_db, *small(1))
            await until_full(p)
            count = 0
            while count != (count := len(rows(dest_db, "SELECT FROM t"))) or count == 0:
                await until_full(p)
            await p.stop("applier")
        p.start_applier()
        await p.drain("all")
        equal(source_db, dest_db)


async def test_a_full_stream_is_one_event_of_the_timeline(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute(DDL)
    with Services(nats_server, tmp_path, PGMIG_MAX_STREAM_BYTES=str(CAP)) as stack:
        async with stack.session() as session:
            await session.start("m", source_db, dest_db, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            async with locked(dest_db):
                await asyncio.to_thread(run, source_db, *small(1))
                await until(session, "m", lambda v: any("stream is full" in e.text for e in v.events))
            steps = [step async for step in session.switchover("m", 60.0)]
            assert steps[-1].state == StepState.DONE
            equal(source_db, dest_db)
            view = await until_phase(session, "m", Phase.SWITCHED_OVER)
    told = [event for event in view.events if "stream is full" in event.text]
    assert len(told) == 1
    assert told[0].level == EventLevel.WARNING
    assert "PGMIG_MAX_STREAM_BYTES" in told[0].text
