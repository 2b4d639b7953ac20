"""A coordinator takes over the switchover of another one that still runs: the source does not stay frozen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import ErrorKind, MigrationId, MigrationOptions, PgmigError, Phase, TableId
from services.shared.pg.bookkeeping.schema import drop_bookkeeping
from services.shared.pg.catalog.sequences import SequenceSetter, read_sequences
from services.shared.pg.freeze.sessions import OwnSession
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.freeze.thaw import thaw
from services.shared.pg.session.connection import connection
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase

PIPELINE = MigrationId("m").forward

FOLLOW = MigrationOptions(follow=True)
LOCKING = (
    "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ExclusiveLock'"
    " AND relation = 'item'::regclass"
)


@pytest.fixture
async def freeze(source: str) -> AsyncIterator[Freeze]:
    freeze = await Freeze.open(source)
    yield freeze
    await freeze.close()


async def tables() -> list[TableId]:
    return [TableId("public", "item")]


def insert(uri: str, number: int) -> None:
    with psycopg.connect(uri, options="-c lock_timeout=10s") as conn:
        conn.execute("INSERT INTO item VALUES (%s)", [number])


async def until_locking(conn: psycopg.Connection) -> None:
    async with asyncio.timeout(30):
        while conn.execute(LOCKING).fetchone() == (0,):
            await asyncio.sleep(0.02)  # the server tells nobody who waits for a lock


async def outcome(session: Session) -> PgmigError | None:
    try:
        async for _ in session.switchover("m", 60.0):
            pass
    except PgmigError as exc:
        return exc
    return None


async def test_coordinator_that_was_replaced_cannot_close_the_source(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The first one waits for a lock. The second one undoes its switchover, and then the lock is free."""
    uris = {"PGMIG_SOURCE_URI": source, "PGMIG_DEST_URI": dest_db}
    with (
        psycopg.connect(source) as holder,
        psycopg.connect(source, autocommit=True) as onlooker,
        Services(nats_server, tmp_path / "first") as first,
    ):
        async with first.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            holder.execute("INSERT INTO item VALUES (1)")
            switching = asyncio.create_task(outcome(session))
            await until_locking(onlooker)
            with Services(nats_server, tmp_path / "second", workers=(), **uris) as second:
                async with second.session() as other:
                    await until(other, "m", lambda view: view.phase is not Phase.SWITCHOVER)
                holder.commit()
                error = await switching
                assert error is not None
            insert(source, 2)


async def test_sessions_of_an_undone_freeze_are_ended_before_settings_are_restored(
    source: str, freeze: Freeze
) -> None:
    """Also those that would have gone on: the lock that they wait for is free the moment after."""
    with psycopg.connect(source) as holder, psycopg.connect(source, autocommit=True) as onlooker:
        holder.execute("INSERT INTO item VALUES (1)")
        locking = asyncio.create_task(freeze.lock(tables, time.monotonic() + 60))
        await until_locking(onlooker)
        await thaw(source, freeze.before)
        holder.commit()
        with pytest.raises(PgmigError):
            await locking
    with pytest.raises(PgmigError):
        await freeze.forbid_writes()
    with pytest.raises(PgmigError):
        await freeze.shut(time.monotonic() + 10)
    insert(source, 2)


async def test_thaw_that_was_overtaken_does_not_open_a_source_that_is_frozen_again(
    source: str, freeze: Freeze
) -> None:
    """A coordinator stops responding after it has stored that it thaws. Another one thaws and freezes."""
    await freeze.forbid_writes()
    await freeze.shut(time.monotonic() + 10)
    stored, may_go_on = asyncio.Event(), asyncio.Event()
    sessions: list[OwnSession] = []

    async def slow(own: tuple[OwnSession, ...]) -> None:
        sessions.extend(own)
        stored.set()
        await may_go_on.wait()

    overtaken = asyncio.create_task(thaw(source, freeze.before, slow))
    await stored.wait()
    assert await thaw(source, replace(freeze.before, sessions=tuple(sessions)))
    second = await Freeze.open(source)
    await second.forbid_writes()
    await second.shut(time.monotonic() + 10)
    await second.close()
    may_go_on.set()
    with pytest.raises(PgmigError):
        await overtaken
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        insert(source, 1)
    assert await thaw(source, second.before)


async def test_thaw_that_was_overtaken_enables_no_subscription(source: str, freeze: Freeze) -> None:
    """A coordinator stops responding after it has opened the source, and before it enables subscriptions."""
    await freeze.forbid_writes()
    await freeze.shut(time.monotonic() + 10)
    may_go_on, announced = asyncio.Event(), asyncio.Queue[tuple[OwnSession, ...]]()

    async def slow(own: tuple[OwnSession, ...]) -> None:
        await announced.put(own)
        if announced.qsize() > 1:
            await may_go_on.wait()

    before = replace(freeze.before, subscriptions=("sub",))
    overtaken = asyncio.create_task(thaw(source, before, slow))
    async with asyncio.timeout(30):
        while announced.qsize() < 2:
            await asyncio.sleep(0.02)
    await announced.get()
    assert not await thaw(source, replace(freeze.before, sessions=await announced.get()))
    may_go_on.set()
    with pytest.raises(PgmigError):
        await overtaken


async def test_sequences_that_were_read_before_another_coordinators_are_not_set_after_them(
    source: str, dest_db: str
) -> None:
    """A coordinator stops responding in between. Another one switches over, and the application goes on."""
    for uri in (source, dest_db):
        with psycopg.connect(uri) as conn:
            conn.execute("CREATE SEQUENCE s")
    async with connection(source, "source") as there, connection(dest_db, "destination") as here:
        overtaken = await SequenceSetter.claim(here, PIPELINE)
        early = await read_sequences(there, "source")
        other = await SequenceSetter.claim(here, PIPELINE)
        await there.execute("SELECT pg_catalog.nextval('public.s') FROM generate_series(1, 7)")
        await other.set(here, await read_sequences(there, "source"))
        await here.execute("SELECT pg_catalog.nextval('public.s')")
        with pytest.raises(PgmigError) as caught:
            await overtaken.set(here, early)
        assert caught.value.kind is ErrorKind.FENCED
        assert [(one.last_value, one.called) for one in await read_sequences(here, "destination")] == [
            (8, True)
        ]
        await drop_bookkeeping(here, PIPELINE)
