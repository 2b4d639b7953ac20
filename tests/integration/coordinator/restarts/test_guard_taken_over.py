"""Two coordinators of one migration, and the guard of its destination."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from nats.aio.client import Client

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import Record, pack, unpack
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.guarding import guard, lift
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipeline, SharedResources
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.store import StateStore
from services.shared.model import Endpoint, ErrorKind, MigrationId, MigrationOptions, PgmigError, Phase
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.freeze.thaw import clock
from services.shared.pg.guard import read_only
from services.shared.pg.guard.read_only import before_guard, lift_guard, set_guard
from services.shared.pg.session.connection import Connection, connection
from tests.support.records import make_record
from tests.support.switchover.guarded import ASKS_TO_WRITE, default, write

BOOKS_LOCK = 0x70676D6967
TIMEOUT_S = 30.0


@pytest.fixture
def record() -> Record:
    return make_record(
        migration_id="m",
        revision=5,
        phase=Phase.SCHEMA,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
        instance="first",
    )


class Held(Journal):
    """Once it is stored who sets or lifts the guard, somebody keeps the coordinator from doing it."""

    def __init__(self, store: StateStore, folder: Path, migration: Migration, by: psycopg.Connection) -> None:
        super().__init__(store, folder, migration)
        self.by, self.claimed = by, asyncio.Event()

    async def claim(self) -> None:
        await super().claim()
        self._hold()

    async def check_ours(self) -> PgmigError | None:
        unproven = await super().check_ours()
        self._hold()
        return unproven

    def _hold(self) -> None:
        self.by.execute("SELECT pg_advisory_xact_lock(%s)", [BOOKS_LOCK])
        self.claimed.set()


def context(
    migration: Migration, journal: Journal, client: Client, folder: Path, uris: tuple[str, str]
) -> Context:
    pipeline = Pipeline(migration, journal, SharedResources(client, WorkerRegistry(), folder))
    pipeline.context.credentials.of_migration.accept(Credentials(*uris), proven=True)
    return pipeline.context


async def test_replaced_coordinator_does_not_guard(
    record: Record, source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    store, other = StateStore(client), StateStore(client)
    await store.save("m", pack(record))
    await other.load()
    migration = Migration(record, lambda _: ())
    replaced = context(migration, Journal(store, tmp_path, migration), client, tmp_path, (source, dest_db))
    await other.save("m", pack(replace(record, term=1)))
    with pytest.raises(PgmigError) as caught:
        await guard(replaced)
    assert caught.value.kind is ErrorKind.FENCED
    assert default(dest_db) == "off"


async def test_coordinator_that_hangs_does_not_guard_after_another_has_lifted(
    record: Record, source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    store, uris = StateStore(client), (source, dest_db)
    await store.save("m", pack(record))
    with psycopg.connect(dest_db, options=ASKS_TO_WRITE) as lock:
        hanging = Migration(record, lambda _: ())
        journal = Held(store, tmp_path, hanging, lock)
        late = asyncio.create_task(guard(context(hanging, journal, client, tmp_path, uris)))
        await asyncio.wait_for(journal.claimed.wait(), TIMEOUT_S)
        other = StateStore(client)
        successor = Migration(unpack((await other.load())["m"]), lambda _: ())
        assert successor.active.record.guard is not None
        lifting = asyncio.create_task(
            lift(context(successor, Journal(other, tmp_path, successor), client, tmp_path, uris))
        )
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(PgmigError):  # its session has been ended
                await late
        lock.rollback()
    async with asyncio.timeout(TIMEOUT_S):
        assert await lifting
    assert successor.active.record.guard is None
    write(dest_db, "CREATE TABLE t ()")


async def test_guard_that_was_stored_and_not_set_is_set_and_lifted_by_the_next_coordinator(
    record: Record, source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    store, uris = StateStore(client), (source, dest_db)

    class Dies(Journal):
        async def claim(self) -> None:
            await super().claim()
            raise PgmigError(ErrorKind.BROKER, "killed")

    first = Migration(record, lambda _: ())
    with pytest.raises(PgmigError, match="killed"):
        await guard(context(first, Dies(store, tmp_path, first), client, tmp_path, uris))
    assert default(dest_db) == "off"
    next_one = Migration(unpack((await store.load())["m"]), lambda _: ())
    then = context(next_one, Journal(store, tmp_path, next_one), client, tmp_path, uris)
    await guard(then)
    assert default(dest_db) == "on"
    await guard(then)  # phase schema is entered again
    assert await lift(then)
    assert default(dest_db) == "off"
    assert not await lift(then)


async def test_replaced_coordinator_does_not_lift(
    record: Record, source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    """Another one runs the migration, and needs its guard."""
    store, other = StateStore(client), StateStore(client)
    await store.save("m", pack(record))
    migration = Migration(record, lambda _: ())
    replaced = context(migration, Journal(store, tmp_path, migration), client, tmp_path, (source, dest_db))
    await guard(replaced)
    stored = unpack((await other.load())["m"])
    await other.save("m", pack(replace(stored, term=1)))
    with pytest.raises(PgmigError) as caught:
        await lift(replaced)
    assert caught.value.kind is ErrorKind.FENCED
    assert default(dest_db) == "on"


async def test_coordinator_that_hangs_while_it_lifts_is_ended_by_the_next_one(
    record: Record, source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    store, uris = StateStore(client), (source, dest_db)
    await store.save("m", pack(record))
    hanging = Migration(record, lambda _: ())
    await guard(context(hanging, Journal(store, tmp_path, hanging), client, tmp_path, uris))
    with psycopg.connect(dest_db, options=ASKS_TO_WRITE) as lock:
        journal = Held(store, tmp_path, hanging, lock)
        late = asyncio.create_task(lift(context(hanging, journal, client, tmp_path, uris)))
        await asyncio.wait_for(journal.claimed.wait(), TIMEOUT_S)
        other = StateStore(client)
        successor = Migration(unpack((await other.load())["m"]), lambda _: ())
        lifting = asyncio.create_task(
            lift(context(successor, Journal(other, tmp_path, successor), client, tmp_path, uris))
        )
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(PgmigError, match="terminating connection"):
                await late
        lock.rollback()
    async with asyncio.timeout(TIMEOUT_S):
        assert await lifting
    assert default(dest_db) == "off"


async def test_sessions_that_began_after_the_lift_of_another_are_not_ended(
    dest_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one hangs between the two transactions of its lift."""
    m = MigrationId("m").forward
    went_on, hangs, calls = asyncio.Event(), asyncio.Event(), 0

    async def late_clock(conn: Connection, side: str) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            hangs.set()
            await went_on.wait()
        return await clock(conn, side)

    async with connection(dest_db, "destination") as one, connection(dest_db, "destination") as two:
        await ensure_bookkeeping(one)
        known = replace(await before_guard(one), sessions=())
        await set_guard(one, m, "i", known)
        monkeypatch.setattr(read_only, "clock", late_clock)
        late = asyncio.create_task(lift_guard(one, m, "i", known))
        await asyncio.wait_for(hangs.wait(), TIMEOUT_S)
        await lift_guard(two, m, "i", known)
        with psycopg.connect(dest_db, autocommit=True) as application:
            went_on.set()
            async with asyncio.timeout(TIMEOUT_S):
                await late
            application.execute("CREATE TABLE t ()")
