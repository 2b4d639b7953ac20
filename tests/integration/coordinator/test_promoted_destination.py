"""A failover of the side that is written to: what the promoted standby lacks is noticed or waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from services.shared.model import (
    ErrorKind,
    Failure,
    Lsn,
    MigrationId,
    MigrationOptions,
    PgmigError,
    Phase,
    ReasonCode,
    StepName,
    TableState,
)
from tests.support.pipeline.in_process import rows
from tests.support.servers.installs import newest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.releases import server_of
from tests.support.servers.standby import SLOT, StandbyServer, count, servers_uri
from tests.support.services.services import COORDINATOR, Services, until, until_phase
from tests.support.switchover.both_sides import WITH_REVERSE

pytestmark = pytest.mark.timeout(300)
FOLLOW = MigrationOptions(follow=True)
AFTER_STANDBY = replace(FOLLOW, confirm_after_standby=True)
CONFIRMED = (
    "SELECT confirmed_flush_lsn::text FROM pg_replication_slots "
    f"WHERE slot_name = '{MigrationId('m').forward.slot}'"
)
TABLES = (
    "CREATE TABLE item (id int PRIMARY KEY)",
    "INSERT INTO item SELECT generate_series(1, 100)",
    "CREATE TABLE late (id int PRIMARY KEY)",
    "INSERT INTO late SELECT generate_series(1, 100)",
)


@contextmanager
def pair(major: int = 0) -> Iterator[tuple[PostgresServer, StandbyServer]]:
    """A primary with an empty database `shop`, and its standby."""
    with PostgresServer(server_of(major) if major else newest(), fsync=False) as primary:
        primary.create_database("shop")
        with StandbyServer(primary) as standby:
            yield primary, standby


def execute(uri: str, *statements: str) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def lsn(uri: str, query: str) -> Lsn:
    with psycopg.connect(uri) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


def failover(primary: PostgresServer, standby: StandbyServer) -> None:
    primary.kill9()
    standby.promote()


def gap(failure: Failure | None) -> str:
    assert failure is not None
    assert failure.kind is ErrorKind.GAP, failure
    return failure.message


async def test_copied_rows_that_the_promoted_standby_lacks_are_a_gap(
    source_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Nothing was applied or confirmed yet, so slot and progress show no difference."""
    execute(source_db, *TABLES)
    with (
        pair() as (primary, standby),
        Services(nats_server, tmp_path, workers=("decoder",)) as services,
    ):
        async with services.session() as session:
            await session.start("m", source_db, servers_uri("shop", primary, standby), FOLLOW)
            await until_phase(session, "m", Phase.COPY)
            standby.caught_up()
            standby.stop_receiving()
            services.start("copier")
            await until_phase(session, "m", Phase.CATCHUP)
            assert count(primary.uri("shop"), "item") == 100
            failover(primary, standby)
            services.start("applier")
            message = gap((await until_phase(session, "m", Phase.FAILED)).failure)
            assert "the destination lacks what was written there before" in message
            assert "on timeline 2 at" in message


@pytest.mark.parametrize("former_runs", [False, True])
async def test_parts_that_the_promoted_standby_lacks_are_copied_again(
    source_db: str, nats_server: NatsServer, tmp_path: Path, *, former_runs: bool
) -> None:
    """Indexes of complete tables are built again, too."""
    execute(source_db, *TABLES)
    with (
        pair() as (primary, standby),
        Services(nats_server, tmp_path, workers=("decoder", "applier")) as services,
    ):
        async with services.session() as session:
            await session.start("m", source_db, servers_uri("shop", primary, standby), FOLLOW)
            await until_phase(session, "m", Phase.COPY)
            standby.caught_up()
            standby.stop_receiving()
            with psycopg.connect(source_db) as conn:
                conn.execute("LOCK TABLE late")  # so that its copy waits
                services.start("copier")
                await until(
                    session,
                    "m",
                    lambda view: (
                        any(one.state is TableState.COPIED for one in view.tables) and view.indexes.done > 0
                    ),
                )
                if not former_runs:
                    primary.kill9()
                standby.promote()
                named = f"the destination's primary is 127.0.0.1:{standby.port}/shop from now on"
                await until(session, "m", lambda view: any(named in event.text for event in view.events))
            await until_phase(session, "m", Phase.STREAMING)
            for table in ("item", "late"):
                assert count(standby.uri("shop"), table) == 100
            indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"
            assert rows(standby.uri("shop"), indexes) == [(2,)]


@pytest.mark.parametrize("synchronous", ["", SLOT])
@pytest.mark.parametrize("major", [15, 18])
async def test_with_confirm_after_standby_nothing_is_lost_when_the_standby_is_promoted(
    major: int, synchronous: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with (
        PostgresServer(server_of(major), fsync=False) as origin,
        pair(major) as (primary, standby),
        Services(nats_server, tmp_path) as services,
    ):
        source = origin.create_database("shop")
        execute(source, *TABLES)
        if synchronous:
            execute(
                primary.uri(),
                f"ALTER SYSTEM SET synchronous_standby_names = '{synchronous}'",
                "SELECT pg_reload_conf()",
            )
        async with services.session() as session:
            await session.start("m", source, servers_uri("shop", primary, standby), AFTER_STANDBY)
            view = await until_phase(session, "m", Phase.STREAMING)
            assert any(f"when its standbys have it: {SLOT}" in event.text for event in view.events)
            before = lsn(source, "SELECT pg_current_wal_insert_lsn()::text")
            execute(source, "INSERT INTO item VALUES (101)")
            await until(session, "m", lambda _view: lsn(source, CONFIRMED) > before)
            standby.stop_receiving()
            before = lsn(source, "SELECT pg_current_wal_insert_lsn()::text")
            execute(source, "INSERT INTO item SELECT generate_series(102, 200)")
            await until(session, "m", lambda _view: count(primary.uri("shop"), "item") == 200)
            await until(
                session,
                "m",
                lambda view: (
                    view.readiness is not None
                    and any(one.code is ReasonCode.STANDBY_MISSING for one in view.readiness.blocking)
                ),
            )
            assert lsn(source, CONFIRMED) <= before
            failover(primary, standby)
            await until(session, "m", lambda view: view.phase is Phase.STREAMING and arrived(standby, 200))
            execute(source, "INSERT INTO item VALUES (201)")
            view = await until(session, "m", lambda _view: arrived(standby, 201))
            assert any("has no standby any more that counts" in event.text for event in view.events)


def arrived(server: PostgresServer, number: int) -> bool:
    return count(server.uri("shop"), "item") == number


async def test_the_copy_ends_when_the_standby_has_it(
    source_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    execute(source_db, *TABLES)
    with (
        pair() as (primary, standby),
        Services(nats_server, tmp_path, workers=("decoder", "applier")) as services,
    ):
        async with services.session() as session:
            await session.start("m", source_db, servers_uri("shop", primary, standby), AFTER_STANDBY)
            await until_phase(session, "m", Phase.COPY)
            standby.stop_receiving()
            services.start("copier")
            waiting = "waiting until a standby of the destination has received everything before"
            view = await until(session, "m", lambda view: any(waiting in event.text for event in view.events))
            assert view.phase is Phase.COPY
            standby.receive_again()
            await until_phase(session, "m", Phase.STREAMING)
            failover(primary, standby)
            await until(session, "m", lambda view: view.phase is Phase.STREAMING and arrived(standby, 100))


async def test_without_a_standby_confirm_after_standby_is_refused(
    services: Services, source_db: str, dest_db: str
) -> None:
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source_db, dest_db, AFTER_STANDBY)
        assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
        assert "the destination has no standby that streams from it" in caught.value.message
        assert "leave out --confirm-after-standby" in caught.value.hint


async def test_commits_that_the_promoted_standby_of_the_old_source_lacks_prevent_a_rollback(
    dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """It has what was prepared for the way back, and lacks the last commits before writes were blocked."""
    with pair() as (primary, standby), Services(nats_server, tmp_path) as services:
        execute(primary.uri("shop"), *TABLES)
        source = servers_uri("shop", primary, standby)
        services.change(PGMIG_SOURCE_URI=source, PGMIG_DEST_URI=dest_db)
        services.restart_with("switchover.turned=kill")
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            with psycopg.connect(primary.uri("shop")) as conn:
                conn.execute("INSERT INTO item VALUES (101)")  # the lock on the table waits for it
                operation = await session.begin_switchover("m", WITH_REVERSE)
                async for seen in session.watch_operation(operation.operation_id):
                    if any(step.name is StepName.FREEZE for step in seen.steps):
                        break
                standby.caught_up()
                standby.stop_receiving()
            services.await_death(COORDINATOR)
            assert count(dest_db, "item") == 101
            failover(primary, standby)
            services.start(COORDINATOR)
        async with services.session() as session:
            view = await until_phase(session, "m", Phase.FAILED)
            assert "the source lacks what was written there before" in gap(view.failure)
            assert view.failure is not None
            assert "pgmig-cli finalize" in view.failure.hint
            assert count(standby.uri("shop"), "item") == 100
            assert view.readiness is not None
            assert not view.readiness.can_switch
            with pytest.raises(PgmigError):
                await session.begin_rollback("m", WITH_REVERSE)
            view = await session.finalize("m")
            assert view.phase is Phase.SWITCHED_OVER
