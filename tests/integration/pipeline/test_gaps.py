"""Changes that are missing between slot and destination, or another source, are refused."""

from __future__ import annotations

import pytest

from services.shared.bus.change_writer import ChangeWriter
from services.shared.model import (
    ErrorKind,
    Lsn,
    SlotReady,
)
from services.shared.wire.changes import ChangeBatch, encode_batch
from tests.support.pipeline.in_process import DDL, PIPELINE, pipeline, rows, run
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(240)


async def test_a_slot_moved_beyond_progress_is_a_gap(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL)")
        await p.drain("one")
        await p.stop("decoder")
        run(
            source_db,
            "INSERT INTO t VALUES (2, 'skipped by someone', NULL)",
            f"SELECT pg_replication_slot_advance('{PIPELINE.slot}', pg_current_wal_lsn())",
            "INSERT INTO t VALUES (3, 'c', NULL)",
        )
        await p.start_decoder()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.GAP
        assert error.message.count("/") >= 2, "both LSNs are named"
        assert rows(dest_db, "SELECT id FROM t") == [(1,)]


async def test_another_source_under_the_same_address_is_refused(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        await p.stop("decoder")
        assert p.slot is not None
        p.slot = SlotReady("d", p.slot.consistent_lsn, "1234567890", p.slot.timeline)
        await p.start_decoder()
        error = await p.failure("decoder")
        assert error.kind is ErrorKind.GAP
        assert "1234567890" in error.message


async def test_a_dropped_slot_is_a_gap(source_db: str, dest_db: str, nats_server: NatsServer) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        await p.stop("decoder")
        run(source_db, f"SELECT pg_drop_replication_slot('{PIPELINE.slot}')")
        await p.start_decoder()
        assert (await p.failure("decoder")).kind is ErrorKind.GAP


async def test_a_source_restored_to_an_earlier_state_is_a_gap(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        await p.stop("decoder")
        ahead = ChangeWriter(p.client, PIPELINE, max_bytes=1 << 20)
        await ahead.open(1)
        # What was read from the source before it was put back: far beyond its WAL of now.
        beat = ChangeBatch(Lsn(0), Lsn(1 << 60), heartbeat=True)
        await ahead.publish(encode_batch(beat), {})
        await ahead.check()
        await ahead.close()
        await p.start_decoder()
        error = await p.failure("decoder")
        assert error.kind is ErrorKind.GAP
        assert "earlier state" in error.message + error.hint
