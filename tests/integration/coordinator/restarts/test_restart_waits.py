"""What is known to be gone is not waited for, and a switchover waits for what comes back.

Lost workers would keep their work for longer than any test may take.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import ErrorKind, Lsn, MigrationOptions, MigrationView, PgmigError, Phase
from tests.support.data.compare import compare_rows
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE

FOLLOW = MigrationOptions(follow=True)
HOUR = "3600"


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
    return source_db


def insert(uri: str, number: int) -> Lsn:
    """The position behind the commit."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("INSERT INTO item VALUES (%s, 'new')", [number])
        row = conn.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    return Lsn.parse(row[0])


async def arrived(session: Session, position: Lsn) -> MigrationView:
    return await until(session, "m", lambda view: view.positions.flushed_lsn >= position)


async def test_workers_of_an_embedded_stack_that_were_replaced_are_not_waited_for(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with Services(nats_server, tmp_path, PGMIG_EMBEDDED="1", PGMIG_WORKER_GRACE_S=HOUR) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            for number, role in enumerate(("applier", "decoder"), start=1):
                services.restart(role)
                await arrived(session, insert(source, number))
            services.restart("coordinator", "decoder", "applier")
            await session.resume("m", source, dest_db)
            await arrived(session, insert(source, 3))
            services.restart("coordinator")  # whose workers run on
            await session.resume("m", source, dest_db)
            view = await arrived(session, insert(source, 4))
            assert services.log("decoder").count("decoder for migration m") == 3
        assert view.phase.running
        assert compare_rows(source, dest_db) == []


async def test_switchover_waits_for_an_applier_that_reconnects(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            services.kill9("applier")
            insert(source, 1)
            await until_phase(session, "m", Phase.CATCHUP)
            steps: set[str] = set()
            with pytest.raises(PgmigError) as caught:
                async for step in session.switchover("m", 0.5):
                    steps.add(step.name)
            assert steps == {"rollback"}
            assert caught.value.kind is ErrorKind.TIMEOUT
            assert "no applier is at work" in caught.value.message

            switching = asyncio.ensure_future(switched_over(session))
            services.start("applier")
            await switching
        assert compare_rows(source, dest_db) == []


async def switched_over(session: Session) -> None:
    async for _ in session.switchover("m", 60.0):
        pass


async def test_switchover_of_a_paused_migration_says_to_resume_it(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with Services(nats_server, tmp_path, workers=("decoder",)) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await session.pause("m")
            with pytest.raises(PgmigError) as caught:
                await switched_over(session)
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        assert "pgmig-cli resume --id m" in caught.value.hint


async def test_a_burst_of_deadlocks_is_outlived_at_once_and_counted(
    source: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """With waits that double, thirty would take seven minutes."""
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            with psycopg.connect(dest_db, autocommit=True, options=ASKS_TO_WRITE) as conn:
                conn.execute("CREATE SEQUENCE attempts")
                conn.execute(
                    "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                    " IF nextval('public.attempts') <= 30 THEN"
                    " RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected'; END IF;"
                    " RETURN NEW; END $$"
                )
                conn.execute(
                    "CREATE TRIGGER collide BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION collide()"
                )
                conn.execute("ALTER TABLE item ENABLE ALWAYS TRIGGER collide")
            view = await arrived(session, insert(source, 1))
        told = [event.text for event in view.events if "deadlock detected" in event.text]
        assert len(told) == 2
        assert "applier has tried 10 times within" in told[1]
