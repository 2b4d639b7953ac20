"""Sessions on real servers that begin and end as they should."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.session.connection import connect

GONE_WITHIN_S = 30.0


@pytest.fixture
def no_collector() -> Iterator[None]:
    """An idle process collects no garbage either."""
    gc.disable()
    yield
    gc.enable()


def sessions(uri: str) -> int:
    with psycopg.connect(uri, autocommit=True) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'pgmig %' AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", ["plain", "replication"])
async def test_cancelled_while_it_connects_it_leaves_no_session(
    kind: str, source_db: str, no_collector: None
) -> None:
    held: list[BaseException] = []  # as a retry's state or a task group holds what ended an attempt

    async def attempt() -> None:
        opening = connect(source_db, "source") if kind == "plain" else ReplicationConnection.open(source_db)
        try:
            opened = await opening
        except asyncio.CancelledError as exc:
            held.append(exc)
            raise
        await opened.close()

    for milliseconds in range(0, 30, 3):  # as many moments of it
        connecting = asyncio.create_task(attempt())
        await asyncio.sleep(milliseconds / 1000)
        connecting.cancel()
        await asyncio.wait({connecting})
    assert held
    # These go on and end what they have opened. A session that is not logged in yet is not listed.
    if going_on := {task for task in asyncio.all_tasks() if task.get_name() == "connect"}:
        await asyncio.wait(going_on)
    deadline = time.monotonic() + GONE_WITHIN_S
    while sessions(source_db) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert sessions(source_db) == 0


async def test_time_outs_of_the_database_do_not_end_our_sessions(dest_db: str) -> None:
    name = urlsplit(dest_db).path.lstrip("/")
    with psycopg.connect(dest_db, autocommit=True) as conn:
        for setting in ("idle_session_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"):
            statement = sql.SQL("ALTER DATABASE {} SET {} = '1h'")
            conn.execute(statement.format(sql.Identifier(name), sql.Identifier(setting)))
    plain, replication = await connect(dest_db, "destination"), await ReplicationConnection.open(dest_db)
    try:
        for shown in (b"SHOW idle_session_timeout", b"SHOW transaction_timeout"):
            for pgconn in (plain.pgconn, replication._pgconn):
                assert pgconn.exec_(shown).get_value(0, 0) == b"0"
    finally:
        await plain.close()
        await replication.close()
