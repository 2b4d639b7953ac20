"""A switchover whose coordinator died before the decision: who may undo it, and what an undo needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from nats.aio.client import Client

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import pack, unpack
from services.coordinator.migration.state import Migration
from services.coordinator.operations import teardown
from services.coordinator.operations.after_switchover import unfreeze
from services.coordinator.operations.undo import undo
from services.coordinator.pipeline.credentials import Credentials, of_password_file
from services.coordinator.pipeline.pipeline import Pipeline, SharedResources
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.store import StateStore
from services.shared.model import ErrorKind, MigrationPhase, PgmigError, Phase
from services.shared.pg.session.uri import endpoint
from tests.support.records import changed
from tests.support.servers.door import reopen
from tests.support.servers.process import free_port
from tests.support.switchover.old_source import closed, frozen_in_vain, insert, password_file


async def test_cleanup_of_a_switchover_that_could_not_be_undone_thaws_the_source(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    record = await frozen_in_vain(source)
    migration = Migration(record, lambda _: ())
    journal = Journal(StateStore(client), tmp_path, migration)
    pipeline = Pipeline(migration, journal, SharedResources(client, WorkerRegistry(), tmp_path))
    pipeline.context.credentials.of_migration.accept(Credentials(source, dest_db), proven=True)
    result = await teardown.remove_replication([pipeline.context], pipeline.bus)
    assert "the freeze of the source" in result.removed
    insert(source, 1)


async def test_abort_does_not_leave_a_source_frozen_that_cannot_be_reached(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    record = await frozen_in_vain(source)
    migration = Migration(record, lambda _: ())
    journal = Journal(StateStore(client), tmp_path, migration)
    pipeline = Pipeline(migration, journal, SharedResources(client, WorkerRegistry(), tmp_path))
    away = f"postgresql://postgres@127.0.0.1:{free_port()}/{record.source.dbname}"
    pipeline.context.credentials.of_migration.accept(Credentials(away, dest_db), proven=True)
    with pytest.raises(PgmigError) as caught:
        await teardown.thaw_first([pipeline.context], pipeline.bus)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert migration.record.freeze is not None


async def test_password_file_gives_access_to_a_closed_source(
    source: str, dest_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await frozen_in_vain(source)
    found = await of_password_file(endpoint(source), endpoint(dest_db))
    assert found.credentials == Credentials()
    assert {side: exc.kind for side, exc in found.refused.items()} == {
        "source": ErrorKind.AUTHENTICATION,
        "destination": ErrorKind.AUTHENTICATION,
    }
    monkeypatch.setenv("PGPASSFILE", password_file(tmp_path / "passwords", source, dest_db))
    found = await of_password_file(endpoint(source), endpoint(dest_db))
    assert found.credentials.complete


async def test_undo_wins_its_compare_and_set_before_it_thaws(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    """Another coordinator has decided meanwhile: the source stays as that one left it."""
    record = await frozen_in_vain(source)
    store, other = StateStore(client), StateStore(client)
    await store.save("m", pack(record))
    await other.load()
    migration = Migration(record, lambda _: ())
    pipeline = Pipeline(
        migration, Journal(store, tmp_path, migration), SharedResources(client, WorkerRegistry(), tmp_path)
    )
    pipeline.context.credentials.of_migration.accept(Credentials(source, dest_db), proven=True)
    await other.save("m", pack(record)[:-1] + b"decided")
    with pytest.raises(PgmigError) as caught:
        await undo(pipeline.context)
    assert caught.value.kind is ErrorKind.FENCED
    assert closed(source)
    await store.delete("m")
    await undo(pipeline.context)
    assert not closed(source)
    insert(source, 1)


@pytest.mark.parametrize("command", ["unfreeze", "unfreeze --read-only", "cleanup"])
async def test_replaced_coordinator_opens_no_source(
    source: str, dest_db: str, client: Client, tmp_path: Path, command: str
) -> None:
    """Another one has taken the migration over: only that one may open the source."""
    record = await frozen_in_vain(source)
    if command != "cleanup":
        record = changed(record, phase=Phase.SWITCHED_OVER)
    store, other = StateStore(client), StateStore(client)
    await store.save("m", pack(record))
    await other.load()
    migration = Migration(record, lambda _: ())
    pipeline = Pipeline(
        migration, Journal(store, tmp_path, migration), SharedResources(client, WorkerRegistry(), tmp_path)
    )
    pipeline.context.credentials.of_migration.accept(Credentials(source, dest_db), proven=True)
    await other.save("m", pack(replace(record, term=1)))
    with pytest.raises(PgmigError) as caught:
        if command == "cleanup":
            await teardown.remove_replication([pipeline.context], pipeline.bus)
        else:
            await unfreeze(pipeline.context, read_only=command.endswith("only"))
    assert caught.value.kind is ErrorKind.FENCED
    assert closed(source)
    await store.delete("m")
    reopen(source)


async def test_undo_opens_the_source_although_the_state_file_cannot_be_written(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    """As on a full disk: the store has the record, which is what counts between coordinators."""
    record = await frozen_in_vain(source)
    (tmp_path / "file").touch()
    migration = Migration(record, lambda _: ())
    journal = Journal(StateStore(client), tmp_path / "file", migration)
    pipeline = Pipeline(migration, journal, SharedResources(client, WorkerRegistry(), tmp_path))
    pipeline.context.credentials.of_migration.accept(Credentials(source, dest_db), proven=True)
    with pytest.raises(PgmigError, match="cannot be written"):
        await undo(pipeline.context)
    insert(source, 1)
    stored = unpack((await StateStore(client).load())["m"])
    assert stored.phase is MigrationPhase.SWITCHOVER  # until the disk has room
