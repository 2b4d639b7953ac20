"""What operators ask for, and what is refused: pause, resume, abort, cleanup, switchover."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from services.shared.model import ErrorKind, Lsn, MigrationOptions, PgmigError, Phase, StepName, StepState
from tests.support.data.compare import compare_rows
from tests.support.preflight import traces
from tests.support.servers.door import reopen
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

FOLLOW = MigrationOptions(follow=True)


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
        conn.execute("CREATE SEQUENCE counter")
        conn.execute("INSERT INTO item SELECT n, repeat('x', 50) FROM generate_series(1, 1000) n")
    return source_db


def insert(uri: str, first: int) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute(
            "INSERT INTO item SELECT n, 'late' FROM generate_series(%s::int, %s) n", [first, first + 9]
        )


def rows(uri: str) -> int:
    with psycopg.connect(uri) as conn:
        row = conn.execute("SELECT count(*) FROM item").fetchone()
    assert row is not None
    return int(row[0])


async def test_pause_stops_everything_and_resume_loses_nothing(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        paused = await session.pause("m")
        assert (paused.phase, paused.resume_phase) == (Phase.PAUSED, Phase.CATCHUP)
        assert paused.workers == ()
        insert(source, 2001)
        with pytest.raises(PgmigError) as caught:
            async for _ in session.switchover("m", 5.0):
                pass
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        assert rows(dest_db) == 1000
        assert (await session.resume("m")).phase is Phase.CATCHUP
        view = await until(session, "m", lambda v: v.phase is Phase.STREAMING and v.rates.rows_applied >= 10)
        assert view.resume_phase is None
        assert compare_rows(source, dest_db) == []


async def test_abort_leaves_the_data_and_takes_the_replication(
    services: Services, source: str, dest_db: str
) -> None:
    before = traces(source)
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        assert (await session.abort("m")).phase is Phase.ABORTED
        assert traces(source) == before
        assert rows(dest_db) == 1000
        assert ("pgmig_m",) not in traces(dest_db)
        with pytest.raises(PgmigError) as caught:
            await session.resume("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE


async def test_cleanup_is_refused_while_running_and_forgets_everything_by_force(
    services: Services, source: str, dest_db: str
) -> None:
    before = traces(source)
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        watching = asyncio.ensure_future(_exhaust(session.watch("m")))
        removed = (await session.cleanup("m", force=True)).removed
        await watching
        assert {line.split()[0] for line in removed} >= {"replication", "publication", "stream", "file"}
        assert traces(source) == before
        assert "pgmig" not in {row[0] for row in traces(dest_db)}
        assert not (services.state_dir / "m").exists()
        with pytest.raises(PgmigError) as caught:
            await session.get("m")
        assert caught.value.kind is ErrorKind.NOT_FOUND


async def _exhaust(views: object) -> None:
    async for _ in views:  # type: ignore[attr-defined]
        pass


async def test_refused_input_leaves_nothing_behind(services: Services, source: str, dest_db: str) -> None:
    with psycopg.connect(dest_db) as conn:
        conn.execute("CREATE TABLE in_the_way (id int)")
    before = traces(source), traces(dest_db)
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source, dest_db, FOLLOW)
        assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
        assert await session.list_all() == ()
    assert (traces(source), traces(dest_db)) == before
    assert not (services.state_dir / "m").exists()


async def test_switchover_that_waits_for_a_row_lock_is_rolled_back_and_writers_continue(
    services: Services, source: str, dest_db: str
) -> None:
    before = traces(source)
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source, application_name="holder") as holder:
            holder.execute("UPDATE item SET note = 'held' WHERE id = 1")
            with pytest.raises(PgmigError) as caught:
                async for _ in session.switchover("m", 1.5):
                    pass
            assert caught.value.kind is ErrorKind.TIMEOUT
            view = await until_phase(session, "m", Phase.STREAMING)
            assert view.failure is not None
            assert view.failure.kind == "TIMEOUT"
            insert(source, 3001)
            holder.execute("UPDATE item SET note = 'still held' WHERE id = 2")
        left = [row for row in traces(source) if row not in before]
        assert left == [("pgmig_m",), ("pgmig_m",)]  # slot and publication: nothing of the freeze
        async for _ in session.switchover("m", 20.0):
            pass
        assert (await session.get("m")).failure is None
        assert compare_rows(source, dest_db) == []
        reopen(source)
        with psycopg.connect(source) as conn, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("INSERT INTO item VALUES (-1, 'too late')")


async def test_switchover_that_cannot_drain_is_rolled_back(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(dest_db) as blocker:
            blocker.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
            insert(source, 4001)
            with pytest.raises(PgmigError) as caught:
                async for _ in session.switchover("m", 2.0):
                    pass
            assert caught.value.kind is ErrorKind.TIMEOUT
            insert(source, 5001)
        await until_phase(session, "m", Phase.STREAMING)
        async for _ in session.switchover("m", 20.0):
            pass
        assert compare_rows(source, dest_db) == []


async def test_stopping_the_coordinator_rolls_a_switchover_back_first(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(dest_db) as blocker:
            blocker.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
            insert(source, 4001)
            stopped = -1
            with pytest.raises(PgmigError):
                async for step in session.switchover("m", 60.0):
                    if (step.name, step.state) == (StepName.DRAIN, StepState.STARTED):
                        stopped = await asyncio.to_thread(services.stop, "coordinator")
            assert stopped == 0
            insert(source, 5001)
        services.start("coordinator")
        await session.resume("m", source, dest_db)
        await until_phase(session, "m", Phase.STREAMING)


async def test_idle_source_has_no_lag(services: Services, source: str, dest_db: str) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        view = await until(
            session, "m", lambda v: v.positions.confirmed_lsn >= v.positions.source_lsn > Lsn(0)
        )
        assert (view.positions.lag_bytes, view.positions.lag_seconds) == (0, 0.0)


async def test_client_that_leaves_does_not_stop_a_switchover(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        async for _ in session.switchover("m", 20.0):
            break
        await until_phase(session, "m", Phase.SWITCHED_OVER)


async def test_table_made_after_the_start_stops_the_switchover(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source) as conn:
            conn.execute("CREATE TABLE afterthought (id int PRIMARY KEY)")
        with pytest.raises(PgmigError) as caught:
            async for _ in session.switchover("m", 20.0):
                pass
        assert caught.value.kind is ErrorKind.SCHEMA_DRIFT
        assert "public.afterthought" in caught.value.message
        insert(source, 6001)


async def test_credentials_are_asked_for_when_nobody_knows_them(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        await session.pause("m")
        services.restart("coordinator")
        assert (await session.get("m")).phase is Phase.PAUSED
        await session.resume("m")
        await until(session, "m", lambda view: view.needs_credentials)
        view = await session.resume("m", source, dest_db)
        assert not view.needs_credentials
        await until_phase(session, "m", Phase.STREAMING)
    state = (services.state_dir / "m" / "state.json").read_text()
    for uri in (source, dest_db):
        assert uri.partition("@")[0].rpartition(":")[2] not in state


async def test_resync_takes_the_connection_strings_that_a_restarted_coordinator_lacks(
    services: Services, source: str, dest_db: str
) -> None:
    """It used to wait for them while it kept every other command waiting, `resume` too."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        await session.pause("m")
        services.restart("coordinator")
        tables = tuple(one.table for one in (await session.get("m")).tables)
        with pytest.raises(PgmigError) as caught:
            await session.resync_tables("m", tables)
        assert caught.value.kind is ErrorKind.CREDENTIALS_NEEDED
        assert (await session.get("m")).phase is Phase.PAUSED
        await session.resync_tables("m", tables, source, dest_db)
        await until_phase(session, "m", Phase.STREAMING)


async def test_switchover_without_credentials_says_how_to_give_them(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        services.restart("coordinator")
        with pytest.raises(PgmigError) as caught:
            async for _ in session.switchover("m", 2.0):
                pass
        assert caught.value.kind is ErrorKind.CREDENTIALS_NEEDED
        assert "pgmig-cli resume --id m --source-uri" in caught.value.hint


async def test_two_migrations_side_by_side(
    services: Services, source: str, dest_db: str, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    with source_server.fresh_database("second") as source2, dest_server.fresh_database("second") as dest2:
        with psycopg.connect(source2) as conn:
            conn.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
        async with services.session() as session:
            await session.start("one", source, dest_db, FOLLOW)
            await session.start("two", source2, dest2, FOLLOW)
            for name in ("one", "two"):
                await until_phase(session, name, Phase.STREAMING)
            insert(source, 7001)
            insert(source2, 1)
            for name in ("one", "two"):
                async for _ in session.switchover(name, 20.0):
                    pass
            assert [view.migration_id for view in await session.list_all()] == ["one", "two"]
            assert (rows(dest_db), rows(dest2)) == (1010, 10)
            for name in ("one", "two"):
                await session.cleanup(name)
