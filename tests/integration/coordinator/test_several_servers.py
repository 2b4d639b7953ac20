"""Connection strings that name a primary and its standby: the migration continues after a promotion."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.coordinator.phases.schema import STANDBYS
from services.shared.model import ErrorKind, Lsn, MigrationId, MigrationOptions, Phase
from tests.support.servers.installs import newest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.standby import StandbyServer, count, servers_uri
from tests.support.services.services import Services, until, until_phase

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, StandbyServer]]:
    with PostgresServer(newest(), fsync=False) as primary:
        primary.create_database("shop")
        with StandbyServer(primary) as standby:
            yield primary, standby


async def test_the_migration_continues_at_the_destination_that_was_promoted(
    source_db: str, pair: tuple[PostgresServer, StandbyServer], nats_server: NatsServer, tmp_path: Path
) -> None:
    primary, standby = pair
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
        conn.execute("INSERT INTO item SELECT generate_series(1, 100)")
    uri = servers_uri("shop", primary, standby)
    told = tmp_path / "told"
    hook = shlex.join(
        ["sh", "-c", 'echo "$PGMIG_DEST_HOST $PGMIG_DEST_PORT" > "$1"; cat >> "$1"', "sh", str(told)]
    )
    with Services(nats_server, tmp_path, PGMIG_HOOK_AFTER_DECISION=hook) as services:
        async with services.session() as session:
            await session.start("m", source_db, uri, MigrationOptions(follow=True))
            view = await until_phase(session, "m", Phase.STREAMING)
            assert any(event.text == STANDBYS for event in view.events)
            assert view.destination.servers == (("127.0.0.1", primary.port), ("127.0.0.1", standby.port))
            standby.caught_up()
            primary.kill9()
            with psycopg.connect(source_db) as conn:
                conn.execute("INSERT INTO item SELECT generate_series(101, 200)")
            standby.promote()
            named = f"the destination's primary is 127.0.0.1:{standby.port}/shop from now on"
            await until(session, "m", lambda view: any(named in event.text for event in view.events))
            await until_phase(session, "m", Phase.STREAMING)
            assert [step async for step in session.switchover("m", 60.0)]
            assert count(standby.uri("shop"), "item") == 200
            certificate = json.loads((await session.certificate("m")).document)
    host, facts = told.read_text().splitlines()
    assert host == f"127.0.0.1 {standby.port}"
    assert json.loads(facts)["destination"]["port"] == certificate["destination"]["port"] == standby.port


def lsn(uri: str, query: str) -> Lsn:
    with psycopg.connect(uri) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


async def test_a_destination_that_was_promoted_without_confirmed_changes_is_a_gap(
    source_db: str, pair: tuple[PostgresServer, StandbyServer], nats_server: NatsServer, tmp_path: Path
) -> None:
    """The source does not send again what was confirmed to it."""
    primary, standby = pair
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    slot = MigrationId("m").forward.slot
    query = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            uri = servers_uri("shop", standby, primary)
            await session.start("m", source_db, uri, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            standby.caught_up()
            standby.stop_receiving()
            before = lsn(source_db, "SELECT pg_current_wal_insert_lsn()::text")
            with psycopg.connect(source_db) as conn:
                conn.execute("INSERT INTO item SELECT generate_series(1, 100)")
            await until(session, "m", lambda _view: lsn(source_db, query) > before)
            primary.kill9()
            standby.promote()
            view = await until_phase(session, "m", Phase.FAILED)
            assert view.failure is not None
            assert view.failure.kind is ErrorKind.GAP
            assert f"does not send changes before {lsn(source_db, query)} any more" in view.failure.message
            assert "the destination has only the changes before" in view.failure.message
            assert count(standby.uri("shop"), "item") == 0
