"""Snapshot and slot are one: what is committed after the slot began is not in the snapshot."""

from __future__ import annotations

import psycopg
import pytest

from services.decoder.slot import Snapshots, prepare
from services.shared.model import DecoderWork, Lsn, MigrationId, TableId
from services.shared.pg.replication.connection import SnapshotKeeper

PIPELINE = MigrationId("slot").forward


def visible(uri: str, snapshot: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        return conn.execute("SELECT v FROM t ORDER BY v").fetchall()


def commit(uri: str, value: str) -> Lsn:
    """Insert a row; the LSN just before its transaction."""
    with psycopg.connect(uri, autocommit=True) as conn:
        row = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        conn.execute("INSERT INTO t VALUES (%s)", [value])
    assert row is not None
    return Lsn.parse(row[0])


async def prepared(uri: str) -> Snapshots:
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (v text PRIMARY KEY)")
        conn.execute("INSERT INTO t VALUES ('before')")
    work = DecoderWork(uri, follow=True, may_create=True, tables=(TableId("public", "t"),))
    snapshots = Snapshots(work, PIPELINE, "d")
    ready = await prepare(work, PIPELINE, snapshots)
    assert ready.consistent_lsn == snapshots.lsn
    return snapshots


async def test_the_first_snapshot_is_the_slots_own(source_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adopt = SnapshotKeeper.adopt

    async def late(uri: str, exported: str | None) -> SnapshotKeeper:
        commit(uri, "after the slot began")
        return await adopt(uri, exported)

    monkeypatch.setattr(SnapshotKeeper, "adopt", late)
    snapshots = await prepared(source_db)
    try:
        ready = await snapshots.ready()
        assert visible(source_db, ready.snapshot_name) == [("before",)]
    finally:
        await snapshots.close()


async def test_a_later_snapshot_has_an_lsn_that_parts_the_commits(source_db: str) -> None:
    snapshots = await prepared(source_db)
    first = await snapshots.ready()
    await snapshots.close()
    earlier = commit(source_db, "between")
    try:
        second = await snapshots.ready()
        later = commit(source_db, "later")
        assert visible(source_db, second.snapshot_name) == [("before",), ("between",)]
        assert earlier < second.lsn <= later
        assert (first.identity, first.lsn) != (second.identity, second.lsn)
        with psycopg.connect(source_db) as conn:
            slots = conn.execute("SELECT slot_name FROM pg_replication_slots WHERE temporary").fetchall()
        assert slots == [], "the temporary slot is gone, the snapshot is not"
    finally:
        await snapshots.close()
