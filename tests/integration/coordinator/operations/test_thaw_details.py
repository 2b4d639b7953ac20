"""Details of the freeze and the thaw: the other database, defaults that are kept, and subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from nats.aio.client import Client
from psycopg import sql

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import teardown
from services.coordinator.operations.undo import undo_at_last
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.pipeline import Pipeline, SharedResources
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import bus
from services.shared.bus.store import StateStore
from services.shared.model import Endpoint, ErrorKind, MigrationId, MigrationOptions, PgmigError, Phase
from services.shared.pg.freeze import closed_database
from services.shared.pg.freeze.closed_database import way_in
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.freeze.thaw import Before, thaw
from services.shared.pg.session.connection import connection
from tests.support.records import make_record
from tests.support.servers.nats import NatsServer

PIPELINE = MigrationId("m").forward


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    return source_db


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    async with bus(nats_server.url, "test") as client:
        yield client
        await StateStore(client).delete("m")


def insert(uri: str, number: int) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute("INSERT INTO item VALUES (%s)", [number])


@pytest.mark.parametrize("curable", [0, 1])
async def test_way_in_reports_the_reason_that_a_retry_may_remove(
    source: str, monkeypatch: pytest.MonkeyPatch, curable: int
) -> None:
    """curable: which of the other databases has it. The other one refuses the role."""
    tried: list[str] = []

    @asynccontextmanager
    async def refused(_uri: str, _side: str, *, database: str) -> AsyncIterator[None]:
        tried.append(database)
        if len(tried) - 1 == curable:
            raise PgmigError(ErrorKind.TRANSIENT, "too many connections")
        raise PgmigError(ErrorKind.AUTHENTICATION, "no entry in pg_hba.conf")
        yield

    monkeypatch.setattr(closed_database, "connection", refused)
    async with connection(source, "source") as conn:
        with pytest.raises(PgmigError) as caught:
            await way_in(conn, source)
    assert len(tried) > 1
    assert caught.value.kind is ErrorKind.TRANSIENT


async def test_default_that_is_kept_ends_no_session(source: str) -> None:
    """A thaw that is tried again finds the default that somebody set, each time."""
    freeze = await Freeze.open(source)
    await freeze.forbid_writes()
    await freeze.close()
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(source, autocommit=True, options=options) as application:
        statement = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = 'off'")
        application.execute(statement.format(sql.Identifier(application.info.dbname)))
        for _ in range(2):
            kept = await thaw(source, freeze.before)
            assert [line for line in kept if "does not reset it" in line] == list(kept) != []
            assert application.execute("SELECT 1").fetchone() == (1,)


async def frozen(source: str, *subscriptions: str) -> Before:
    """Of a coordinator that died. Subscriptions without a slot can be disabled, but not enabled."""
    with psycopg.connect(source, autocommit=True) as conn:
        for name in subscriptions:
            statement = sql.SQL(
                "CREATE SUBSCRIPTION {} CONNECTION 'dbname=x' PUBLICATION p"
                " WITH (connect = false, slot_name = NONE)"
            )
            conn.execute(statement.format(sql.Identifier(name)))
    freeze = await Freeze.open(source)
    await freeze.forbid_writes()
    await freeze.shut(asyncio.get_running_loop().time() + 10)
    await freeze.close()
    return replace(freeze.before, subscriptions=subscriptions)


async def pipeline_of(before: Before, source: str, dest: str, client: Client, folder: Path) -> Pipeline:
    record = make_record(
        migration_id="m",
        revision=5,
        phase=Phase.SWITCHOVER,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
        freeze=before,
    )
    migration = Migration(record, lambda _: ())
    journal = Journal(StateStore(client), folder, migration)
    pipeline = Pipeline(migration, journal, SharedResources(client, WorkerRegistry(), folder))
    pipeline.context.credentials.of_migration.accept(Credentials(source, dest), proven=True)
    return pipeline


def drop(source: str, name: str) -> None:
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(name)))


async def test_undo_says_what_is_open_and_what_is_left(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    pipeline = await pipeline_of(await frozen(source, "stuck"), source, dest_db, client, tmp_path)
    migration = pipeline.context.migration
    undoing = asyncio.create_task(undo_at_last(pipeline.context))

    def texts() -> list[str]:
        return [event.text for event in migration.record.events]

    async with asyncio.timeout(60):
        while not any("stuck" in text for text in texts()):
            await migration.changed()
    insert(source, 1)
    unfinished = migration.in_switchover and not undoing.done()
    drop(source, "stuck")
    assert unfinished
    assert not any("not open to writers" in text for text in texts())
    assert any("accepts connections again" in text for text in texts())
    assert any("writers can write to the source again, but not all subscriptions" in t for t in texts())
    async with asyncio.timeout(60):
        await undoing
    assert migration.phase in {Phase.STREAMING, Phase.CATCHUP}


async def test_cleanup_by_force_removes_the_rest_if_a_subscription_stays_disabled(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [PIPELINE.slot])
    pipeline = await pipeline_of(await frozen(source, "stuck"), source, dest_db, client, tmp_path)
    done = await teardown.remove_all([pipeline.context], pipeline.schema.files, pipeline.bus, {}, force=True)
    assert any("replication slot" in line for line in done.removed)
    assert ["stuck" in line for line in done.left] == [True]
    insert(source, 1)
    drop(source, "stuck")
