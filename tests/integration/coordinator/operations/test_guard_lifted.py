"""A switchover ends when others can write to the destination. An aborted migration never continues."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    MigrationOptions,
    MigrationView,
    OperationState,
    PgmigError,
    Phase,
    SwitchoverOptions,
)
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.roles import plain_role
from tests.support.services.services import COORDINATOR, Services, until, until_phase
from tests.support.switchover.guarded import SETTING, default, told, write

FOLLOWING = MigrationOptions(follow=True)
BOOKS_LOCK = 0x70676D6967
"""services.shared.pg.bookkeeping.schema: excludes changes of a guard."""
STILL = "is still read-only by default"
TRIGGERS = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"


@pytest.fixture
async def session(services: Services) -> AsyncIterator[Session]:
    async with services.session() as session:
        yield session


@contextmanager
def closed(dest: str) -> Iterator[None]:
    """The guard cannot be lifted."""
    with psycopg.connect(dest, options=f"-c {SETTING}=off") as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", [BOOKS_LOCK])
        yield


def state(view: MigrationView) -> OperationState | None:
    return view.operation.state if view.operation is not None else None


def said(view: MigrationView) -> bool:
    """Whether the operation says why it has not ended."""
    return view.operation is not None and any(STILL in step.detail for step in view.operation.steps)


def succeeded(view: MigrationView) -> bool:
    return state(view) is OperationState.SUCCEEDED


async def streaming(session: Session, source: str, dest: str) -> None:
    await session.start("m", source, dest, FOLLOWING)
    await until_phase(session, "m", Phase.STREAMING)


async def waiting(session: Session, dest: str) -> MigrationView:
    """A switchover is decided, and waits for the guard of its destination."""
    await session.begin_switchover("m", SwitchoverOptions(20_000))
    view = await until(session, "m", said)
    assert told(view, STILL)
    assert view.phase is Phase.SWITCHED_OVER
    assert state(view) is OperationState.RUNNING
    assert view.switchover is not None
    database = urlsplit(dest).path.lstrip("/")
    statement = f'ALTER DATABASE "{database}" RESET {SETTING}'
    assert any(STILL in one and statement in one for one in view.switchover.warnings)
    return view


async def test_it_ends_when_others_can_write(session: Session, source: str, dest_db: str) -> None:
    await streaming(session, source, dest_db)
    with closed(dest_db):
        await waiting(session, dest_db)
        assert default(dest_db) == "on"
    view = await until(session, "m", succeeded)
    write(dest_db)
    assert view.switchover is not None
    assert view.switchover.warnings == ()


async def test_the_next_coordinator_opens_the_destination_and_ends_the_operation(
    services: Services, session: Session, source: str, dest_db: str
) -> None:
    """Before it drops triggers: one table is locked."""
    with psycopg.connect(dest_db) as reader:  # it began before the guard, so it is not ended
        await streaming(session, source, dest_db)
        with closed(dest_db):
            await waiting(session, dest_db)
            services.stop(COORDINATOR)
            assert default(dest_db) == "on"
        reader.execute("SELECT FROM item")
        services.start(COORDINATOR)
        async with services.session() as again:
            await again.resume("m", source, dest_db)
            view = await until(again, "m", succeeded)
        assert view.switchover is not None
        assert view.switchover.warnings == ()
        assert rows(dest_db, TRIGGERS) == [("item",)]
        write(dest_db)


async def test_a_migration_whose_destination_cannot_be_opened_is_cleaned_up(
    session: Session, source: str, dest_db: str
) -> None:
    await streaming(session, source, dest_db)
    with closed(dest_db):
        await waiting(session, dest_db)
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m")
        assert caught.value.kind is ErrorKind.TRANSIENT
    await session.cleanup("m")
    write(dest_db)
    assert rows(dest_db, "SELECT FROM pg_namespace WHERE nspname = 'pgmig'") == []


@pytest.mark.parametrize("way", ["abort", "cleanup --force"])
async def test_what_an_abort_cannot_remove_is_left_to_cleanup(
    session: Session, source: str, dest_server: PostgresServer, dest_db: str, way: str
) -> None:
    """Without its slot the migration could not continue."""
    for name in ("a", "b"):
        dest_server.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    database = sql.Identifier(urlsplit(dest_db).path.lstrip("/"))
    try:
        with plain_role(dest_server, dest_db, ("a", "b")) as uri:
            role = sql.Identifier(urlsplit(uri).username or "")
            await session.start("m", source, uri, MigrationOptions(follow=True, no_owner=True))
            await until_phase(session, "m", Phase.STREAMING)
            dest_server.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(database))
            if way == "abort":
                view = await session.abort("m")
                assert view.phase is Phase.ABORTED
                assert any("the read-only default" in one for one in view.left)
            else:
                left = (await session.cleanup("m", force=True)).left
                assert any("bookkeeping" in one for one in left)
            assert default(dest_db) == "on"
            assert rows(source, "SELECT FROM pg_replication_slots") == []
            run(dest_db, "SET default_transaction_read_only = off", "INSERT INTO item VALUES (1)")
            if way == "abort":
                dest_server.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, role))
                assert (await session.cleanup("m")).left == ()
                assert default(dest_db) == "off"
                assert rows(dest_db, "SELECT FROM pg_namespace WHERE nspname = 'pgmig'") == []
            else:
                assert rows(dest_db, "SELECT pipeline FROM pgmig.guard") == [("m/forward",)]
    finally:
        for name in ("a", "b"):
            dest_server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
