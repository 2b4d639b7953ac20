"""A coordinator that was replaced writes no large objects on the destination any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from nats.aio.client import Client

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import Record, pack, unpack
from services.coordinator.migration.state import Migration
from services.coordinator.operations import teardown
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.pipeline import Pipeline, SharedResources
from services.coordinator.tables.unpublished import any_to_compare, synchronize
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import connect_bus
from services.shared.bus.store import StateStore
from services.shared.model import Endpoint, ErrorKind, MigrationOptions, PgmigError, Phase
from services.shared.pg.unpublished import large_objects
from tests.support.records import make_record
from tests.support.servers.nats import NatsServer

RECORD = make_record(
    migration_id="m",
    revision=5,
    phase=Phase.STREAMING,
    options=MigrationOptions(follow=True, no_owner=True, no_acl=True),
    source=Endpoint("a", 1, "b", "c"),
    destination=Endpoint("d", 2, "e", "f"),
    created_at=1.0,
    phase_since=1.0,
)
OURS = 700001


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await connect_bus(nats_server.url, "test")
    yield client
    await StateStore(client).delete("m")
    await client.close()


def make(uri: str, oid: int) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute("SELECT lo_from_bytea(%s, 'x')", [oid])


def oids(uri: str) -> set[int]:
    with psycopg.connect(uri) as conn:
        return {row[0] for row in conn.execute("SELECT oid::bigint FROM pg_largeobject_metadata")}


class Coordinators:
    """The first one, and another that takes the migration over."""

    def __init__(self, source: str, dest: str, client: Client, folder: Path) -> None:
        self._credentials = Credentials(source, dest)
        self._client = client
        self._folder = folder

    async def first(self) -> Pipeline:
        store = StateStore(self._client)
        await store.save("m", pack(RECORD))
        return self._pipeline(store, RECORD, "first")

    async def other(self) -> Pipeline:
        store = StateStore(self._client)
        record = replace(unpack((await store.load())["m"]), term=1)
        await store.save("m", pack(record))
        return self._pipeline(store, record, "other")

    def _pipeline(self, store: StateStore, record: Record, name: str) -> Pipeline:
        folder = self._folder / name
        migration = Migration(record, lambda _: ())
        shared = SharedResources(self._client, WorkerRegistry(), folder)
        pipeline = Pipeline(migration, Journal(store, folder, migration), shared)
        pipeline.context.credentials.of_migration.accept(self._credentials, proven=True)
        return pipeline


@pytest.fixture
def coordinators(source_db: str, dest_db: str, client: Client, tmp_path: Path) -> Coordinators:
    make(source_db, OURS)
    return Coordinators(source_db, dest_db, client, tmp_path)


class Stopped:
    """The first writer of a window of large objects waits, with what it has read of the source."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.may_go_on = asyncio.Event(), asyncio.Event()
        self._window: Any = large_objects._window
        monkeypatch.setattr(large_objects, "_window", self._wait)

    async def _wait(self, *given: Any) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self.may_go_on.wait()
        await self._window(*given)


@pytest.mark.parametrize("by", ["a switchover", "cleanup"])
async def test_replaced_coordinator_that_was_writing_is_ended(
    coordinators: Coordinators, dest_db: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """It has read which objects there are. Another one takes over, and the application makes one more."""
    first, stopped = await coordinators.first(), Stopped(monkeypatch)
    writing = asyncio.create_task(synchronize(first.context))
    await stopped.reached.wait()
    other = await coordinators.other()
    if by == "cleanup":
        await teardown.remove_replication([other.context], other.bus)
    else:
        assert await any_to_compare(other.context)
        await synchronize(other.context)
    make(dest_db, OURS + 1)
    expected = oids(dest_db)
    stopped.may_go_on.set()
    with pytest.raises(PgmigError):
        await writing
    assert oids(dest_db) == expected


async def test_replaced_coordinator_that_has_not_begun_to_write_is_refused(
    coordinators: Coordinators, dest_db: str
) -> None:
    first = await coordinators.first()
    other = await coordinators.other()
    make(dest_db, OURS + 1)
    with pytest.raises(PgmigError) as caught:
        await synchronize(first.context)
    assert caught.value.kind is ErrorKind.FENCED
    assert oids(dest_db) == {OURS + 1}
    await synchronize(other.context)
    assert oids(dest_db) == {OURS}


async def test_replaced_coordinator_does_not_end_the_session_of_the_other_one(
    coordinators: Coordinators, dest_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await coordinators.first()
    other, stopped = await coordinators.other(), Stopped(monkeypatch)
    writing = asyncio.create_task(synchronize(other.context))
    await stopped.reached.wait()
    with pytest.raises(PgmigError) as caught:
        await synchronize(first.context)
    assert caught.value.kind is ErrorKind.FENCED
    stopped.may_go_on.set()
    await writing
    assert oids(dest_db) == {OURS}
