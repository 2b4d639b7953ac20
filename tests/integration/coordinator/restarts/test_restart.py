"""The coordinator, or what it relies on, goes away in any phase; the migration continues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    MigrationOptions,
    PgmigError,
    Phase,
    StepName,
    StepState,
    TableState,
)
from tests.support.data.compare import compare_databases, compare_rows
from tests.support.data.schema import seed
from tests.support.data.workload import Writer, check_conserved_sum, check_markers
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE

FOLLOW = MigrationOptions(follow=True)


@pytest.fixture
def source(source_db: str) -> str:
    seed(source_db, 5_000)
    return source_db


@pytest.fixture
def writer(source: str) -> Iterator[Writer]:
    with Writer(source, rate=40, reconnect_for=3.0) as writer:
        yield writer


async def finish(session: Session, migration_id: str, source: str, dest: str, writer: Writer) -> None:
    """Catch up, switch over, and compare everything."""
    await until_phase(session, migration_id, Phase.STREAMING)
    writer.wait_for_commits(20)
    async for _ in session.switchover(migration_id, 30.0):
        pass
    report = writer.wait_until_cut_off()
    assert compare_databases(source, dest) == []
    assert check_conserved_sum(dest) == []
    assert check_markers(dest, report) == []


async def test_killed_while_the_schema_is_restored(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            with psycopg.connect(dest_db) as blocker:
                blocker.execute("CREATE SCHEMA shop")  # another creation of it waits for us
                await session.start("m", source, dest_db, FOLLOW)
                await until(session, "m", lambda view: bool(view.tables))
                services.restart("coordinator")
                await until_phase(session, "m", Phase.SCHEMA)
                blocker.rollback()
            await session.resume("m", source, dest_db)
            await finish(session, "m", source, dest_db, writer)


async def test_killed_during_the_copy_it_resumes_the_copy(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path, workers=("decoder", "applier")) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.COPY)
            services.restart("coordinator")
            view = await until_phase(session, "m", Phase.COPY)
            assert not any(table.state is TableState.COPIED for table in view.tables)
            services.start("copier")
            await session.resume("m", source, dest_db)
            await finish(session, "m", source, dest_db, writer)


async def test_killed_while_indexes_are_built(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path, workers=("decoder", "applier")) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.COPY)
            with psycopg.connect(dest_db, options=ASKS_TO_WRITE) as blocker:
                # Another relation of that name waits for us.
                blocker.execute("CREATE TABLE shop.accounts_owner_idx ()")
                services.start("copier")
                await until(session, "m", lambda view: view.indexes.done > 0)
                services.restart("coordinator")
                await session.resume("m", source, dest_db)
                await until_phase(session, "m", Phase.INDEXES)
                blocker.rollback()
            await finish(session, "m", source, dest_db, writer)


async def test_killed_in_streaming_its_workers_continue_and_send_it_no_credentials(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            before = await until_phase(session, "m", Phase.STREAMING)
            services.restart("coordinator")
            after = await until(session, "m", lambda view: view.revision > before.revision)
            assert after.events[: len(before.events) - 1] == before.events[:-1]
            view = await until(session, "m", lambda view: len(view.workers) == 2 and view.needs_credentials)
            applied = view.rates.transactions_applied
            await until(session, "m", lambda view: view.rates.transactions_applied > applied)
            await session.resume("m", source, dest_db)
            await finish(session, "m", source, dest_db, writer)
            assert services.log("decoder").count("decoder for migration m") == 1


async def test_restarted_it_resumes_with_the_credentials_of_its_environment(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    uris = {"PGMIG_SOURCE_URI": source, "PGMIG_DEST_URI": dest_db}
    with Services(nats_server, tmp_path, **uris) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            services.restart("coordinator")
            await finish(session, "m", source, dest_db, writer)
            assert not any("credentials" in event.text for event in (await session.get("m")).events)
            assert services.log("decoder").count("decoder for migration m") == 1


async def test_store_deleted_it_is_rebuilt_from_the_state_file_and_both_servers(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            services.kill9("coordinator")
            nats_server.kill9()
            nats_server.restart(wipe_store=True)
            services.start("coordinator")
            writer.wait_for_commits(20)
            await session.resume("m", source, dest_db)
            await finish(session, "m", source, dest_db, writer)


async def test_store_deleted_while_it_runs_is_made_again(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            nats_server.kill9()
            nats_server.restart(wipe_store=True)
            writer.wait_for_commits(20)
            await finish(session, "m", source, dest_db, writer)


async def test_decoder_killed_during_the_copy_costs_a_new_snapshot(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path, workers=("decoder", "applier")) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            # Told when parts are queued under the first snapshot.
            await until(session, "m", lambda view: any("no copier" in e.text for e in view.events))
            services.restart("decoder")
            writer.wait_for_commits(20)
            services.start("copier")
            view = await until_phase(session, "m", Phase.STREAMING)
            assert any("new snapshot" in event.text for event in view.events)
            await finish(session, "m", source, dest_db, writer)


async def test_killed_during_a_switchover_it_unblocks_writers(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            services.freeze("applier")  # so that the drain waits; a killed one would soon be missed
            with pytest.raises(PgmigError) as caught:
                async for step in session.switchover("m", 60.0):
                    if (step.name, step.state) == (StepName.DRAIN, StepState.STARTED):
                        services.kill9("coordinator")
            assert caught.value.kind is ErrorKind.UNREACHABLE
            services.start("coordinator")
            await session.resume("m", source, dest_db)
            view = await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
            assert view.phase in {Phase.STREAMING, Phase.CATCHUP}
            assert view.switchover is None
        writer.stop()
        with psycopg.connect(source) as conn:
            conn.execute("INSERT INTO shop.markers VALUES ('after-rollback', 'test')")
        services.restart("applier")
        async with services.session() as session:
            await session.resume("m", source, dest_db)
            with Writer(source, rate=40, seed=2) as second:
                await finish(session, "m", source, dest_db, second)
    assert compare_rows(source, dest_db) == []
