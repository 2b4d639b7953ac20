"""A destination that others cannot write to by default, from the start of a migration until it is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
    ReasonCode,
    SwitchoverOptions,
)
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.roles import plain_role
from tests.support.services.services import COORDINATOR, Services, until, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE, SETTING, alter, default, numbers, told, write

FOLLOWING = MigrationOptions(follow=True)
BOOKS_LOCK = 0x70676D6967
"""services.shared.pg.bookkeeping.schema: excludes changes of a guard."""


@pytest.fixture
async def session(services: Services) -> AsyncIterator[Session]:
    async with services.session() as session:
        yield session


async def streaming(session: Session, source: str, dest: str) -> MigrationView:
    await session.start("m", source, dest, FOLLOWING)
    return await until_phase(session, "m", Phase.STREAMING)


async def switched_over(session: Session) -> MigrationView:
    async for _ in session.switchover("m", 20.0):
        pass
    return await until_phase(session, "m", Phase.SWITCHED_OVER)


async def unguarded(session: Session) -> str:
    """What readiness says about it now."""
    reasons = (await session.readiness("m")).reasons
    return "".join(one.text for one in reasons if one.code is ReasonCode.DESTINATION_UNGUARDED)


async def test_nobody_else_writes_by_default_until_the_switchover(
    session: Session, source: str, dest_db: str
) -> None:
    alter(dest_db, "SET default_transaction_read_only = 'off'")
    with psycopg.connect(dest_db, autocommit=True, application_name="early") as early:
        await streaming(session, source, dest_db)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            write(dest_db)
        assert "early" in await unguarded(session)
        with psycopg.connect(dest_db, autocommit=True) as pooled:
            write(source, "INSERT INTO item VALUES (1), (2)")
            view = await switched_over(session)
            assert told(view, "began before are not read-only: process")
            with pytest.raises(psycopg.OperationalError):  # else a pool would stay read-only
                pooled.execute("SELECT 1")
        assert early.execute("SELECT 1").fetchone() == (1,)
    write(dest_db)
    assert numbers(dest_db) == [1, 2, 1000]
    with psycopg.connect(dest_db) as conn:
        assert conn.execute(
            "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
            " WHERE datname = current_database()"
        ).fetchall() == [([f"{SETTING}=off"],)]


async def test_clone_without_replication_opens_the_destination_at_its_end(
    session: Session, source: str, dest_db: str
) -> None:
    await session.start("m", source, dest_db, MigrationOptions())
    view = await until_phase(session, "m", Phase.COMPLETE)
    assert told(view, "is read-only by default for others")
    write(dest_db)


async def test_destination_is_left_alone_on_request(session: Session, source: str, dest_db: str) -> None:
    await session.start("m", source, dest_db, replace(FOLLOWING, no_guard_destination=True))
    await until_phase(session, "m", Phase.STREAMING)
    assert default(dest_db) == "off"
    assert not await unguarded(session)


@pytest.mark.parametrize("way", ["abort", "cleanup"])
async def test_abort_and_cleanup_open_the_destination(
    session: Session, source: str, dest_db: str, way: str
) -> None:
    await streaming(session, source, dest_db)
    assert default(dest_db) == "on"
    if way == "abort":
        await session.abort("m")
    else:
        await session.cleanup("m", force=True)
    write(dest_db)


async def test_coordinator_killed_after_the_decision_opens_the_destination_when_it_starts_again(
    services: Services, session: Session, source: str, dest_db: str, tmp_path: Path
) -> None:
    await streaming(session, source, dest_db)
    with psycopg.connect(dest_db, options=f"-c {SETTING}=off") as conn:
        conn.execute("SELECT pg_advisory_xact_lock(%s)", [BOOKS_LOCK])  # the guard cannot be lifted
        await session.begin_switchover("m", SwitchoverOptions(20_000))
        await until_phase(session, "m", Phase.SWITCHED_OVER)
        services.kill9(COORDINATOR)
        assert default(dest_db) == "on"
    services.start(COORDINATOR)
    async with services.session() as again:
        await again.resume("m", source, dest_db)
        await until(again, "m", lambda view: told(view, "is not set again"))
    write(dest_db)


async def test_what_somebody_else_has_set_is_kept_and_reported(
    session: Session, source: str, dest_db: str
) -> None:
    await streaming(session, source, dest_db)
    alter(dest_db, "SET default_transaction_read_only = 'off'")
    assert "somebody has changed it" in await unguarded(session)
    assert told(await switched_over(session), "pgmig does not reset it (before: not set)")
    alter(dest_db, "SET work_mem = '5MB'")
    with psycopg.connect(dest_db) as conn:
        found = conn.execute("SELECT setconfig FROM pg_db_role_setting").fetchall()
    assert ([f"{SETTING}=off", "work_mem=5MB"],) in found


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "no-owner"])
async def test_role_that_is_no_superuser(
    services: Services,
    session: Session,
    source: str,
    dest_server: PostgresServer,
    dest_db: str,
    *,
    owner: bool,
) -> None:
    """It works under the guard, also if the role is read-only by default. If it does not own the database,
    there is no guard, which is reported."""
    run = dest_server.execute
    for name in ("a", "b"):
        run(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    try:
        with plain_role(dest_server, dest_db, ("a", "b")) as uri:
            database, role = urlsplit(dest_db).path.lstrip("/"), urlsplit(uri).username or ""
            if not owner:
                run(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(database)))
                run(sql.SQL("GRANT ALL ON DATABASE {} TO {}").format(*map(sql.Identifier, (database, role))))
                write(dest_db, "GRANT CREATE ON SCHEMA public TO PUBLIC")
            await session.start("m", source, uri, replace(FOLLOWING, no_owner=True))
            view = await until_phase(session, "m", Phase.STREAMING)
            assert default(dest_db) == ("on" if owner else "off")
            assert told(view, "others can write to the destination") is not owner
            assert bool(await unguarded(session)) is not owner
            run(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(sql.Identifier(role)))
            services.restart("applier")
            write(source, "INSERT INTO item VALUES (1)")
            await switched_over(session)
            assert numbers(dest_db) == [1]
            write(dest_db)
            await session.cleanup("m", force=True)
    finally:
        for name in ("a", "b"):
            run(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


async def test_another_migration_guards_the_same_database(
    session: Session, source: str, dest_db: str
) -> None:
    """One that would guard it too is refused. One that does not can be switched over when the first has
    ended: the database would stay read-only."""
    await streaming(session, source, dest_db)
    write(source, "CREATE TABLE other (id int PRIMARY KEY)")
    with psycopg.connect(dest_db, options=f"-c {SETTING}=off") as conn:
        conn.execute("CREATE TABLE other (id int PRIMARY KEY)")
    selection = replace(FOLLOWING.selection, include_tables=("public.other",))
    options = MigrationOptions(follow=True, data_only=True, selection=selection)
    with pytest.raises(PgmigError, match="m/forward") as caught:
        await session.start("n", source, dest_db, options)
    assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
    assert "--no-guard-destination" in (caught.value.hint or "")
    await session.start("n", source, dest_db, replace(options, no_guard_destination=True))
    await until_phase(session, "n", Phase.STREAMING)
    [reason] = [
        one for one in (await session.readiness("n")).blocking if one.code is ReasonCode.DESTINATION_GUARDED
    ]
    assert "m/forward" in reason.text
    with pytest.raises(PgmigError, match="m/forward") as caught:
        async for _ in session.switchover("n", 20.0):
            pass
    assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
    await session.abort("m")
    assert default(dest_db) == "off"
    async for _ in session.switchover("n", 20.0):
        pass


async def test_database_stays_read_only_while_another_migration_guards_it(
    session: Session, source: str, dest_db: str
) -> None:
    """Both began at the same time, say."""
    await streaming(session, source, dest_db)
    write(dest_db, "INSERT INTO pgmig.guard VALUES ('n/forward', 'i', '', NULL)", ASKS_TO_WRITE)
    assert told(await session.abort("m"), "n/forward guards it too")
    assert default(dest_db) == "on"
