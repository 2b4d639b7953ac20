"""Steps about tables of the source that are broken off half way, and done again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from services.shared.model import (
    MigrationOptions,
    Phase,
    StepState,
)
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase

FOLLOW = MigrationOptions(follow=True)
SCHEMA = ("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
LOOK_S = 0.05


async def waiting(conn: psycopg.AsyncConnection, statement: str) -> int:
    """The process id of the session that waits for a lock with this statement."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE %s"
    )
    while True:
        row = await (await conn.execute(query, [f"%{statement}%"])).fetchone()
        if row is not None:
            return int(row[0])
        await asyncio.sleep(LOOK_S)  # the server tells nobody


async def test_tables_that_a_first_attempt_added_to_the_publication_are_not_added_twice(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    run(source_db, *SCHEMA)
    with Services(nats_server, tmp_path, workers=("decoder", "applier")) as services:
        async with (
            services.session() as session,
            await psycopg.AsyncConnection.connect(source_db) as holder,
            await psycopg.AsyncConnection.connect(source_db, autocommit=True) as observer,
        ):
            await session.start("m", source_db, dest_db, FOLLOW)
            await until(session, "m", lambda view: any("no copier" in e.text for e in view.events))
            await session.pause("m")
            run(source_db, "DROP TABLE a, b", *SCHEMA, "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
            await holder.execute("LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE")
            await session.resume("m")
            pid = await waiting(observer, "ALTER PUBLICATION")
            await observer.execute("SELECT pg_terminate_backend(%s)", [pid])
            await until(session, "m", lambda view: any("retried" in e.text for e in view.events))
            await holder.rollback()
            services.start("copier")
            await until_phase(session, "m", Phase.STREAMING)
            run(source_db, "INSERT INTO a VALUES (2)", "INSERT INTO b VALUES (2)")
            assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE
    for table in ("a", "b"):
        assert rows(dest_db, f"SELECT id FROM {table} ORDER BY id") == [(1,), (2,)]


def refuse(state: Path) -> None:
    """Have the next writing of the state file fail."""
    while not state.is_dir():
        state.unlink(missing_ok=True)
        with suppress(FileExistsError):  # it was written just now
            state.mkdir()


async def forgotten(conn: psycopg.AsyncConnection, table: str) -> None:
    query = "SELECT FROM pgmig.source_table WHERE table_name = %s"
    while await (await conn.execute(query, [table])).fetchone() is not None:
        await asyncio.sleep(LOOK_S)  # the server tells nobody


@pytest.mark.parametrize("cut", ["before", "behind"])
async def test_a_dropped_table_is_forgotten_again_by_the_next_coordinator(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str, cut: str
) -> None:
    """The coordinator dies before or behind the deletion of what the destination has noted of the table.
    Changes of the table are still in the stream."""
    run(source_db, *SCHEMA)
    with Services(nats_server, tmp_path) as services:
        async with (
            services.session() as session,
            await psycopg.AsyncConnection.connect(dest_db) as holder,
            await psycopg.AsyncConnection.connect(dest_db, autocommit=True) as observer,
        ):
            await session.start("m", source_db, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            await session.pause("m")
            run(source_db, "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)", "DROP TABLE b")
            run(dest_db, "DROP TABLE b")
            state = services.state_dir / "m" / "state.json"
            await holder.execute("LOCK TABLE pgmig.source_table IN SHARE ROW EXCLUSIVE MODE")
            await session.resume("m")
            await waiting(observer, "pgmig")
            if cut == "behind":
                refuse(state)  # nothing is recorded from here on
                await holder.rollback()
                await forgotten(observer, "b")
            services.kill9("coordinator")
            await holder.rollback()
            if state.is_dir():
                state.rmdir()
            services.start("coordinator")
        async with services.session() as session:
            await session.resume("m", source_db, dest_db)
            view = await until_phase(session, "m", Phase.STREAMING)
            assert [str(one.table) for one in view.tables] == ["public.a"]
            assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE
    assert rows(dest_db, "SELECT id FROM a") == [(1,)]
