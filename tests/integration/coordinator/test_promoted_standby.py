"""A failover of the source: the migration continues if the promoted standby has the slot and all changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import ErrorKind, Failure, MigrationId, MigrationOptions, Phase
from tests.support.servers.installs import newest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.releases import server_of
from tests.support.servers.standby import SLOT, StandbyServer, count, servers_uri
from tests.support.services.services import Services, until, until_phase

pytestmark = pytest.mark.timeout(400)
FOLLOW = MigrationOptions(follow=True)
OUR_SLOT = MigrationId("m").forward.slot


@contextmanager
def servers(major: int, **settings: str) -> Iterator[tuple[PostgresServer, StandbyServer, str]]:
    """A primary with a table, its standby, and a connection string of both. settings: of the primary."""
    install = server_of(major)
    with PostgresServer(install, fsync=False, settings=settings) as primary:
        with psycopg.connect(primary.create_database("shop")) as conn:
            conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
            conn.execute("INSERT INTO item SELECT generate_series(1, 100)")
        with StandbyServer(primary) as standby:
            yield primary, standby, servers_uri("shop", standby, primary)


def insert(server: PostgresServer, first: int, last: int) -> None:
    with psycopg.connect(server.uri("shop")) as conn:
        conn.execute("INSERT INTO item SELECT generate_series(%s::int, %s::int)", [first, last])


async def arrived(session: Session, dest: str, rows: int) -> None:
    await until(session, "m", lambda _view: count(dest, "item") == rows)


async def failure_of_migration(session: Session) -> Failure:
    view = await until_phase(session, "m", Phase.FAILED)
    assert view.failure is not None
    assert view.failure.kind is ErrorKind.GAP
    return view.failure


@pytest.mark.parametrize("major", [17, 18])
async def test_the_migration_continues_at_the_source_that_was_promoted(
    major: int, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """synchronized_standby_slots: the decoder reads nothing that the standby has not received."""
    with (
        servers(major, synchronized_standby_slots=SLOT) as (primary, standby, uri),
        Services(nats_server, tmp_path) as services,
    ):
        async with services.session() as session:
            await session.start("m", uri, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            standby.has_slot(OUR_SLOT)
            insert(primary, 101, 200)
            await arrived(session, dest_db, 200)
            primary.kill9()
            standby.promote()
            insert(standby, 201, 300)
            named = "the source was promoted: replication continues on timeline 2"
            await until(session, "m", lambda view: any(named in event.text for event in view.events))
            await arrived(session, dest_db, 300)
            await until_phase(session, "m", Phase.STREAMING)
            assert [step async for step in session.switchover("m", 60.0)]
            assert count(dest_db, "item") == 300


@pytest.mark.parametrize("major", [15, 16])
async def test_a_promoted_source_without_the_slot_is_a_gap(
    major: int, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Before 17 slots are not synchronized."""
    with (
        servers(major) as (primary, standby, uri),
        Services(nats_server, tmp_path) as services,
    ):
        async with services.session() as session:
            await session.start("m", uri, dest_db, FOLLOW)
            view = await until_phase(session, "m", Phase.STREAMING)
            standby.caught_up()
            primary.kill9()
            standby.promote()
            failure = await failure_of_migration(session)
            assert "the source was promoted: its timeline 2 leaves timeline 1 at " in failure.message
            assert f"replication slot {OUR_SLOT} is missing there; the destination has" in failure.message
            assert "clone again" in failure.hint
            assert view.failure is None


async def test_a_source_that_was_promoted_before_it_had_all_changes_is_a_gap(
    dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The standby has the slot, but lacks changes that the destination has."""
    with (
        servers(newest().major) as (primary, standby, uri),
        Services(nats_server, tmp_path) as services,
    ):
        async with services.session() as session:
            await session.start("m", uri, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            standby.has_slot(OUR_SLOT)
            standby.stop_receiving()
            insert(primary, 101, 200)
            await arrived(session, dest_db, 200)
            primary.kill9()
            standby.promote()
            insert(standby, 201, 300)
            failure = await failure_of_migration(session)
            assert "its timeline 2 leaves timeline 1 at " in failure.message
            assert ", but the destination has what was read up to " in failure.message
            assert "synchronized_standby_slots" in failure.hint
            assert count(dest_db, "item") == 200
