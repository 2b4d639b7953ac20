"""Commands to a coordinator that another one has replaced are refused before anything is changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from nats.aio.client import Client

from clients.session import Session
from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import Record, pack
from services.coordinator.migration.state import Migration
from services.coordinator.operations import teardown
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.pipeline import Pipeline, SharedResources
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import bus
from services.shared.bus.store import StateStore
from services.shared.model import (
    Endpoint,
    ErrorKind,
    MigrationId,
    MigrationOptions,
    PgmigError,
    Phase,
    PipelineState,
    TableId,
)
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping, mark_step, steps_done
from services.shared.pg.session.connection import connection
from tests.support.records import make_record
from tests.support.servers.nats import NatsServer
from tests.support.services.services import COORDINATOR, Services, until_phase

FOLLOW = MigrationOptions(follow=True)
PIPELINE = MigrationId("m").forward


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
        conn.execute("INSERT INTO item SELECT generate_series(1, 100)")
    return source_db


@pytest.fixture
def broker() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    async with bus(nats_server.url, "test") as client:
        yield client
        await StateStore(client).delete("m")


def on_source(uri: str) -> list[tuple[object, ...]]:
    """Slots, publications, what they contain, and when they were last altered."""
    with psycopg.connect(uri) as conn:
        slots = conn.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")
        found = slots.fetchall()
        for table in ("pg_publication", "pg_publication_rel"):
            found += conn.execute(f"SELECT '{table}', xmin::text FROM {table}".encode()).fetchall()
    return found


async def _switched(session: Session) -> None:
    async for _ in session.switchover("m", 20.0):
        pass


COMMANDS: dict[str, Callable[[Session], Awaitable[object]]] = {
    "pause": lambda session: session.pause("m"),
    "resync-table": lambda session: session.resync_tables("m", (TableId("public", "item"),)),
    "switchover": _switched,
    "abort": lambda session: session.abort("m"),
    "cleanup --force": lambda session: session.cleanup("m", force=True),
}


async def test_commands_to_a_coordinator_that_was_replaced_are_refused(
    source: str, dest_db: str, broker: NatsServer, tmp_path: Path
) -> None:
    uris = {"PGMIG_SOURCE_URI": source, "PGMIG_DEST_URI": dest_db}
    with Services(broker, tmp_path / "first") as first:
        async with first.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            with Services(broker, tmp_path / "second", workers=(), **uris) as second:
                async with second.session() as other:
                    before = on_source(source)
                    for name, command in COMMANDS.items():
                        with pytest.raises(PgmigError) as caught:
                            await command(session)
                        assert caught.value.kind is ErrorKind.FENCED, name
                        assert on_source(source) == before, name
                    assert (await other.get("m")).phase.running
                second.restart(COORDINATOR)
                async with second.session() as other:
                    assert (await other.get("m")).phase.running
                    await other.cleanup("m", force=True)


def record() -> Record:
    return make_record(
        migration_id="m",
        revision=5,
        phase=Phase.PAUSED,
        resume_state=PipelineState.CATCHUP,
        options=FOLLOW,
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
    )


@dataclass(frozen=True, slots=True)
class Stand:
    """A coordinator with a paused migration, and the store as another coordinator has loaded it."""

    pipeline: Pipeline
    other: StateStore
    source: str
    dest: str

    async def take_over(self) -> None:
        await self.other.load()
        await self.other.save("m", pack(replace(record(), term=1)))


@pytest.fixture
async def stand(source: str, dest_db: str, client: Client, tmp_path: Path) -> AsyncIterator[Stand]:
    store, other = StateStore(client), StateStore(client)
    await store.save("m", pack(record()))
    async with connection(dest_db, "destination") as there:
        await ensure_bookkeeping(there)
        await mark_step(there, PIPELINE, "pre-data")
    migration = Migration(record(), lambda _: ())
    shared = SharedResources(client, WorkerRegistry(), tmp_path)
    pipeline = Pipeline(migration, Journal(store, tmp_path, migration), shared)
    pipeline.context.credentials.of_migration.accept(Credentials(source, dest_db), proven=True)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [PIPELINE.slot])
        yield Stand(pipeline, other, source, dest_db)
        conn.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = current_database()"
        )


async def _remove_all(pipeline: Pipeline, *, force: bool) -> object:
    return await teardown.remove_all([pipeline.context], pipeline.schema.files, pipeline.bus, {}, force=force)


REMOVALS: dict[str, Callable[[Pipeline], Awaitable[object]]] = {
    "abort": lambda pipeline: teardown.remove_replication([pipeline.context], pipeline.bus),
    "cleanup": lambda pipeline: _remove_all(pipeline, force=False),
    "cleanup --force": lambda pipeline: _remove_all(pipeline, force=True),
}


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("taken_over", ["before", "amid it"])
async def test_a_migration_that_is_taken_over_is_not_removed(
    stand: Stand, client: Client, monkeypatch: pytest.MonkeyPatch, removal: str, taken_over: str
) -> None:
    """amid it: when the slot has been dropped. What comes after it stays."""
    if taken_over == "before":
        await stand.take_over()
    else:
        journal = stand.pipeline.context.journal
        monkeypatch.setattr(journal, "confirm", _then(journal.confirm, 2, stand.take_over))
    with pytest.raises(PgmigError) as caught:
        await REMOVALS[removal](stand.pipeline)
    assert caught.value.kind is ErrorKind.FENCED
    assert (len(on_source(stand.source)) == 1) == (taken_over == "before")
    async with connection(stand.dest, "destination") as conn:
        assert await steps_done(conn, PIPELINE) == {"pre-data"}
    assert await StateStore(client).load() == {"m": pack(replace(record(), term=1))}


def _then(
    confirm: Callable[[], Awaitable[None]], number: int, action: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    """`confirm`, and `action` after its call of that number."""
    calls = 0

    async def confirmed() -> None:
        nonlocal calls
        await confirm()
        calls += 1
        if calls == number:
            await action()

    return confirmed


async def test_cleanup_by_force_without_a_broker_says_what_it_could_not_prove(
    source: str, dest_db: str, broker: NatsServer, tmp_path: Path
) -> None:
    with Services(broker, tmp_path, PGMIG_SOURCE_URI=source, PGMIG_DEST_URI=dest_db) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            await session.pause("m")
            broker.kill9()
            with pytest.raises(PgmigError) as caught:
                await session.cleanup("m")
            assert caught.value.kind is ErrorKind.BROKER
            assert len(on_source(source)) > 1
            done = await session.cleanup("m", force=True)
            assert on_source(source) == []
            assert any("replication slot" in line for line in done.removed)
            assert any("no other coordinator runs this migration" in line for line in done.left)
            assert any("continues the migration" in line for line in done.left)
        broker.restart()
        services.restart(COORDINATOR)
        async with services.session() as session:
            assert not (await session.cleanup("m", force=True)).left
            assert await session.list_all() == ()
