"""What becomes of the old source after the switchover, and of one that was frozen in vain."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from nats.aio.client import Client

from clients.session import Session
from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import Record, pack, unpack
from services.coordinator.migration.state import Migration
from services.coordinator.operations import teardown
from services.coordinator.operations.after_switchover import unfreeze
from services.coordinator.operations.undo import undo
from services.coordinator.pipeline.credentials import Credentials, of_password_file
from services.coordinator.pipeline.pipeline import Pipeline, Surroundings
from services.coordinator.workers.registry import Workforce
from services.shared.bus.connection import connect_bus
from services.shared.bus.store import StateStore
from services.shared.model import (
    Endpoint,
    ErrorKind,
    EventLevel,
    Lsn,
    MigrationOptions,
    MigrationPhase,
    PgmigError,
    Phase,
    StepName,
    StepState,
)
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.replication.late_writes import late_writes
from services.shared.pg.session.connection import connection
from services.shared.pg.session.uri import endpoint
from tests.support.records import changed, make_record
from tests.support.servers.door import reopen
from tests.support.servers.nats import NatsServer
from tests.support.servers.proxy import proxied
from tests.support.services import Services, until, until_phase

FOLLOW = MigrationOptions(follow=True)
CLOSED = "not currently accepting connections"


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    return source_db


@pytest.fixture
def services(nats_server: NatsServer, tmp_path: Path) -> Iterator[Services]:
    with Services(nats_server, tmp_path) as running:
        yield running


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await connect_bus(nats_server.url, "test")
    yield client
    await client.close()


def closed(uri: str) -> bool:
    try:
        psycopg.connect(uri).close()
    except psycopg.OperationalError as exc:
        return CLOSED in str(exc)
    return False


def insert(uri: str, number: int, options: str = "") -> None:
    with psycopg.connect(uri, options=options) as conn:
        conn.execute("INSERT INTO item VALUES (%s)", [number])


async def switched_over(session: Session, source: str, dest: str) -> None:
    await session.start("m", source, dest, FOLLOW)
    await until_phase(session, "m", Phase.STREAMING)
    async for _ in session.switchover("m", 20.0):
        pass
    await until_phase(session, "m", Phase.SWITCHED_OVER)


async def test_old_source_is_closed_until_it_is_unfrozen_and_late_writes_are_an_alarm(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await switched_over(session, source, dest_db)
        assert closed(source)
        await session.unfreeze("m", read_only=True)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            insert(source, 1)
        insert(source, 1, "-c default_transaction_read_only=off")  # which the default does not prevent
        view = await until(session, "m", lambda v: any("1 in public.item" in e.text for e in v.events))
        assert [e.level for e in view.events if "1 in public.item" in e.text] == ["error"]
        await session.unfreeze("m")
        insert(source, 2)
        await until(session, "m", lambda v: any("2 in public.item" in e.text for e in v.events))
        with pytest.raises(PgmigError) as caught:
            await session.unfreeze("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        with psycopg.connect(dest_db) as conn:
            assert conn.execute("SELECT count(*) FROM item").fetchone() == (0,)
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m")
        assert caught.value.kind is ErrorKind.LATE_WRITES
        assert "2 in public.item" in caught.value.message
        removed = await session.cleanup("m", force=True)
        assert any("replication slot" in line for line in removed.removed)


async def test_a_slot_that_is_in_use_does_not_count_as_one_without_late_writes(source: str) -> None:
    """Two looks at once, say the coordinator's and cleanup's: one of them has to look again."""
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("CREATE PUBLICATION p FOR TABLE item")
        conn.execute("SELECT pg_create_logical_replication_slot('in_use', 'pgoutput')")
    insert(source, 1)
    async with connection(source, "source") as conn:
        replication = await ReplicationConnection.open(source)
        try:
            await replication.start("in_use", Lsn(0), "p")
            assert await late_writes(conn, "in_use", ["p"], Lsn(0)) is None
        finally:
            await replication.close()
        while (found := await late_writes(conn, "in_use", ["p"], Lsn(0))) is None:
            await asyncio.sleep(0.02)  # the server tells nobody when a slot is released
        assert found == (("public.item", 1),)
        assert await late_writes(conn, "gone", ["p"], Lsn(0)) == ()


@pytest.mark.parametrize("since", [110000, 990000])
@pytest.mark.parametrize("amid", ["before the decision", "after it"])
async def test_late_writes_are_found_behind_more_changes_than_one_look_decodes(
    source: str, amid: str, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the decision: a large transaction that the slot has not been told of, though it is applied.
    After it: transactions that change nothing. since: the version from which slots can be advanced."""
    monkeypatch.setattr("services.shared.pg.replication.late_writes.LOOKED_AT_MOST", 1000)
    monkeypatch.setattr("services.shared.pg.replication.late_writes._ADVANCE_SINCE", since)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("CREATE PUBLICATION p FOR TABLE item")
        conn.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        messages = "SELECT pg_logical_emit_message(%s, 'noise', n::text) FROM generate_series(1, 5000) n"
        if amid == "before the decision":
            conn.execute("INSERT INTO item SELECT generate_series(1, 5000)")
        decided = conn.execute("SELECT pg_logical_emit_message(true, 'pgmig', 'm')::text").fetchone()
        assert decided is not None
        if amid == "after it":
            conn.execute(messages, [True])
            conn.execute(messages, [False])
        async with connection(source, "source") as looking:
            after = Lsn.parse(decided[0])
            assert await late_writes(looking, "s", ["p"], after) == ()
            conn.execute("DELETE FROM item; INSERT INTO item VALUES (6000)")
            conn.execute("INSERT INTO item VALUES (6001)")
            gone = 5001 if amid == "before the decision" else 2
            for _ in range(2):
                assert await late_writes(looking, "s", ["p"], after) == (("public.item", gone),)
        conn.execute("SELECT pg_drop_replication_slot('s')")


async def test_cleanup_reaches_into_a_closed_source_and_leaves_it_closed(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await switched_over(session, source, dest_db)
        removed = await session.cleanup("m")
        assert any("publication" in line for line in removed.removed)
        assert closed(source)
    with psycopg.connect(reopen(source)) as conn:
        assert conn.execute("SELECT FROM pg_replication_slots").fetchall() == []
        assert conn.execute("SELECT FROM pg_publication").fetchall() == []


async def test_unfreeze_is_for_a_source_that_is_frozen(services: Services, source: str, dest_db: str) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with pytest.raises(PgmigError) as caught:
            await session.unfreeze("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE


async def frozen_in_vain(source: str) -> Record:
    """The record of a switchover whose coordinator died before it decided."""
    freeze = await Freeze.open(source)
    await freeze.forbid_writes()
    await freeze.shut(asyncio.get_running_loop().time() + 10)
    await freeze.close()
    return make_record(
        migration_id="m",
        revision=5,
        phase=Phase.SWITCHOVER,
        options=FOLLOW,
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
        freeze=freeze.before,
    )


async def test_cleanup_of_a_switchover_that_could_not_be_undone_thaws_the_source(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    record = await frozen_in_vain(source)
    migration = Migration(record, lambda: ())
    journal = Journal(StateStore(client), tmp_path, migration)
    pipeline = Pipeline(migration, journal, Surroundings(client, Workforce(), tmp_path))
    pipeline.context.credentials.accept(Credentials(source, dest_db), proven=True)
    assert "the freeze of the source" in await teardown.remove_replication(pipeline.context, pipeline.bus)
    insert(source, 1)


def password_file(path: Path, *uris: str) -> str:
    """libpq's, for the databases of `uris`."""
    parts = [urllib.parse.urlsplit(uri) for uri in uris]
    path.write_text("".join(f"{p.hostname}:{p.port}:*:{p.username}:{p.password}\n" for p in parts))
    path.chmod(0o600)
    return str(path)


async def test_password_file_finds_the_way_into_a_closed_source(
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
    migration = Migration(record, lambda: ())
    pipeline = Pipeline(
        migration, Journal(store, tmp_path, migration), Surroundings(client, Workforce(), tmp_path)
    )
    pipeline.context.credentials.accept(Credentials(source, dest_db), proven=True)
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
    migration = Migration(record, lambda: ())
    pipeline = Pipeline(
        migration, Journal(store, tmp_path, migration), Surroundings(client, Workforce(), tmp_path)
    )
    pipeline.context.credentials.accept(Credentials(source, dest_db), proven=True)
    await other.save("m", pack(replace(record, term=1)))
    with pytest.raises(PgmigError) as caught:
        if command == "cleanup":
            await teardown.remove_replication(pipeline.context, pipeline.bus)
        else:
            await unfreeze(pipeline.context, read_only=command.endswith("only"))
    assert caught.value.kind is ErrorKind.FENCED
    assert closed(source)
    await store.delete("m")
    reopen(source)


def place(uri: str) -> str:
    """HOST:PORT."""
    return uri.rpartition("@")[2].partition("/")[0]


async def test_unfreeze_takes_the_connection_string_that_a_restarted_coordinator_lacks(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await switched_over(session, source, dest_db)
        services.restart("coordinator")
        with pytest.raises(PgmigError) as caught:
            await session.unfreeze("m")
        assert caught.value.kind is ErrorKind.CREDENTIALS_NEEDED
        assert "--source-uri" in caught.value.hint
        assert closed(source)
        await session.unfreeze("m", source)
        insert(source, 1)


async def test_closed_source_at_another_address_is_found_through_another_database(
    services: Services, source: str, dest_db: str
) -> None:
    async with proxied(place(source)) as proxy, services.session() as session:
        await switched_over(session, source.replace(place(source), proxy.address), dest_db)
        await proxy.close()
        other = source.rpartition("/")[0] + "/postgres"
        for wrong, named in ((other, "postgres"), (f"{other}_gone", "postgres_gone")):
            with pytest.raises(PgmigError) as caught:
                await session.unfreeze("m", wrong)
            assert f"{place(source)}/{named}" in caught.value.message
            assert proxy.address in caught.value.message
        assert closed(source)
        view = await session.unfreeze("m", source, read_only=True)
        assert f"{view.source.host}:{view.source.port}" == place(source)
        await session.unfreeze("m")
        insert(source, 1)


async def killed_in_the_freeze(services: Services, session: Session) -> None:
    """A lock that a transaction of the test holds keeps the switchover from being quicker."""
    with pytest.raises(PgmigError):
        async for told in session.switchover("m", 30.0):
            if (told.name, told.state) == (StepName.FREEZE, StepState.STARTED):
                services.kill9("coordinator")


async def test_switchover_is_undone_at_the_address_that_the_source_has_moved_to(
    services: Services, source: str, dest_db: str
) -> None:
    async with proxied(place(source)) as proxy, services.session() as session:
        moved = source.replace(place(source), proxy.address)
        await session.start("m", moved, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source) as held:
            held.execute("INSERT INTO item VALUES (1)")
            await killed_in_the_freeze(services, session)
            await proxy.close()
        services.start("coordinator")
    async with services.session() as session:
        assert (await session.get("m")).phase is Phase.SWITCHOVER
        await session.resume("m", moved, dest_db)  # known, but it leads nowhere any more
        await session.resume("m", source, dest_db)
        await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
        insert(source, 2)
        await until_phase(session, "m", Phase.STREAMING)


async def test_switchover_that_cannot_be_undone_is_cleaned_up_by_force(
    services: Services, source: str, dest_db: str
) -> None:
    async with proxied(place(source)) as proxy, services.session() as session:
        moved = source.replace(place(source), proxy.address)
        await session.start("m", moved, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source) as held:
            held.execute("INSERT INTO item VALUES (1)")
            await killed_in_the_freeze(services, session)
            await proxy.close()
        services.start("coordinator")
    async with services.session() as session:
        # Cleanup can stop only workers that have come back to the restarted coordinator.
        await until(session, "m", lambda view: {"decoder", "applier"} <= {one.role for one in view.workers})
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m", moved, dest_db)
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        done = await session.cleanup("m", moved, dest_db, force=True)
        assert any("source" in line for line in done.left)
        assert any("bookkeeping" in line for line in done.removed), done


async def test_source_is_opened_again_while_the_destination_is_down(
    nats_server: NatsServer, source: str, dest_db: str, tmp_path: Path
) -> None:
    """The password file opens the source: whether it opens the destination does not matter for that."""
    async with proxied(place(dest_db)) as proxy:
        moved = dest_db.replace(place(dest_db), proxy.address)
        passwords = password_file(tmp_path / "passwords", source, moved)
        with Services(nats_server, tmp_path, PGPASSFILE=passwords) as services:
            async with services.session() as session:
                await session.start("m", source, moved, FOLLOW)
                await until_phase(session, "m", Phase.STREAMING)
                with psycopg.connect(source) as held:
                    held.execute("INSERT INTO item VALUES (1)")
                    await killed_in_the_freeze(services, session)
                await proxy.close()
                services.start("coordinator")
            async with services.session() as session:
                view = await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
                insert(source, 2)
                view = await until(session, "m", lambda view: view.needs_credentials)
                told = [
                    e.text for e in view.events if e.level == EventLevel.WARNING and "credentials" in e.text
                ]
                assert "cannot connect to destination" in told[-1]
                assert "source" not in told[-1]


async def test_credentials_for_a_frozen_source_are_asked_for_with_the_reason_to_hurry(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source) as held:
            held.execute("INSERT INTO item VALUES (1)")
            await killed_in_the_freeze(services, session)
        services.start("coordinator")
    async with services.session() as session:
        view = await until(session, "m", lambda view: view.needs_credentials)
        told = [e.text for e in view.events if "credentials" in e.text]
        assert "`pgmig-cli resume --id m --source-uri ... --dest-uri ...`" in told[-1]
        assert "source is closed to writers until then" in told[-1]
        await session.resume("m", source)
        await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
        insert(source, 2)


async def test_undo_opens_the_source_although_the_state_file_cannot_be_written(
    source: str, dest_db: str, client: Client, tmp_path: Path
) -> None:
    """As on a full disk: the store has the record, which is what counts between coordinators."""
    record = await frozen_in_vain(source)
    (tmp_path / "file").touch()
    migration = Migration(record, lambda: ())
    journal = Journal(StateStore(client), tmp_path / "file", migration)
    pipeline = Pipeline(migration, journal, Surroundings(client, Workforce(), tmp_path))
    pipeline.context.credentials.accept(Credentials(source, dest_db), proven=True)
    with pytest.raises(PgmigError, match="cannot be written"):
        await undo(pipeline.context)
    insert(source, 1)
    stored = unpack((await StateStore(client).load())["m"])
    assert stored.phase is MigrationPhase.SWITCHOVER  # until the disk has room
