"""Restarts, a lost or restored JetStream store and session time-outs neither lose nor repeat a change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from psycopg import AsyncConnection

from services.shared.model import ApplierProgress, DecoderProgress
from services.shared.wire.changes import ChangeBatch, decode_batch
from tests.support.pipeline.in_process import DDL, PIPELINE, Pipeline, equal, pipeline, run
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(240)


async def test_restarts_of_both_sides_neither_lose_nor_repeat(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        await p.start_decoder()
        p.start_applier()
        for turn in range(4):
            run(source_db, *(f"INSERT INTO t VALUES ('{turn}-{n}')" for n in range(50)))
            await p.drain(f"turn {turn}")
            run(source_db, *(f"INSERT INTO t VALUES ('{turn}+{n}')" for n in range(50)))
            if turn % 2:
                await p.stop("applier")
                run(source_db, f"INSERT INTO t VALUES ('{turn} while the applier is away')")
                p.start_applier()
            else:
                await p.stop("decoder")
                run(source_db, f"INSERT INTO t VALUES ('{turn} while the decoder is away')")
                await p.start_decoder()
        await p.drain("end")
        equal(p)


async def test_applier_restarts_in_a_stream_that_begins_inside_a_row(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    """The stream keeps the batch in which the last flushed transaction ends, which may begin inside a row."""
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES (1, 'long', repeat('x', 3000000))")
        first = await _first_batch_after_trim(p)
        assert first.continued_bytes > 0
        await p.stop("applier")
        run(source_db, "INSERT INTO t VALUES (2, 'while the applier is away', '')")
        p.start_applier()
        await p.drain("end")
        equal(p)


async def _first_batch_after_trim(p: Pipeline) -> ChangeBatch:
    await p.until(lambda: any(isinstance(r, ApplierProgress) and r.rows_applied for r in p.reports))
    stream, js = PIPELINE.change_stream, p.client.jetstream()
    async with asyncio.timeout(60):
        while (state := (await js.stream_info(stream)).state).first_seq <= 1 or not state.messages:
            await asyncio.sleep(0.05)
    stored = await js.get_msg(stream, state.first_seq)
    assert stored.data is not None
    return decode_batch(stored.data)


async def test_a_lost_broker_store_loses_nothing(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t SELECT 'first ' || i FROM generate_series(1, 1000) i")
        await p.drain("before")
        await p.stop("applier")
        run(source_db, *(f"INSERT INTO t VALUES ('unapplied {n}')" for n in range(20)))
        await asyncio.to_thread(nats_server.kill9)
        run(source_db, "INSERT INTO t VALUES ('while the broker is away')")
        await asyncio.to_thread(nats_server.restart, wipe_store=True)
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES ('after')")
        await p.drain("after")
        equal(p)


async def test_time_outs_of_role_and_database_end_no_session(
    source_db: str, dest_db: str, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions are idle, and a transaction is open, for four times as long as each allows."""
    for uri in (source_db, dest_db):
        for setting in ("idle_session_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"):
            run(
                uri,
                f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {setting} = 500', current_database());"
                f" EXECUTE format('ALTER ROLE %I IN DATABASE %I SET {setting} = 500', current_user,"
                " current_database()); END $$",
            )
    without = "-c idle_session_timeout=0 -c transaction_timeout=0 -c idle_in_transaction_session_timeout=0"
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES (1)")
        await p.drain("first")
        async with await AsyncConnection.connect(dest_db, options=without) as conn:
            await conn.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            run(source_db, "INSERT INTO t VALUES (2)")
            await conn.execute("SELECT pg_sleep(2)")
            await conn.rollback()
        await p.drain("second")
        equal(p)
    assert "applying migration pipe failed" not in caplog.text
    assert f"streaming from slot {PIPELINE.slot} failed" not in caplog.text


async def test_a_broker_store_restored_to_an_earlier_state_loses_nothing(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is within a transaction that the destination has applied long ago."""
    monkeypatch.setattr("services.shared.bus.stream_info.ANSWER_TIMEOUT_S", 2.0)  # a request may get lost
    ddl = "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        p.max_stream_bytes = 1 << 20
        await p.start_decoder()
        run(source_db, "INSERT INTO t VALUES ('first')")
        run(source_db, "INSERT INTO t SELECT repeat('large', 100) || i FROM generate_series(1, 5000) i")
        await p.until(lambda: any(isinstance(r, DecoderProgress) and r.waiting_for_space for r in p.reports))
        await asyncio.to_thread(nats_server.stop)
        copytree(nats_server.store_dir, tmp_path / "store")
        await asyncio.to_thread(nats_server.start)
        await p.stop("decoder")
        p.max_stream_bytes = 1 << 30
        await p.start_decoder()
        p.start_applier()
        await p.drain("before")
        await asyncio.to_thread(nats_server.stop)
        rmtree(nats_server.store_dir)
        copytree(tmp_path / "store", nats_server.store_dir)
        await asyncio.to_thread(nats_server.start)
        run(source_db, "INSERT INTO t SELECT 'behind ' || i FROM generate_series(1, 100) i")
        await p.drain("behind")
        equal(p)
