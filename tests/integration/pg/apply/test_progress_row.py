"""A destination role that may not use replication origins: progress is a row, and as exact."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import (
    ErrorKind,
    Lsn,
    MigrationOptions,
    PgmigError,
    Phase,
    StepState,
)
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.bookkeeping.progress import ORIGIN_FUNCTIONS
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import PIPELINE, pipeline, rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until_phase

DDL = "CREATE TABLE t (v text)"
TURNS = 6


@pytest.fixture
def weak_db(dest_server: PostgresServer, dest_db: str) -> Iterator[str]:
    """The destination as a role that may do what is needed, but use replication origins."""
    name, role = urlsplit(dest_db).path.lstrip("/"), f"weak_{secrets.token_hex(4)}"
    named = {"db": sql.Identifier(name), "role": sql.Identifier(role)}
    execute(
        dest_db,
        sql.SQL("CREATE ROLE {role} LOGIN PASSWORD 'weak'").format(**named),
        sql.SQL("GRANT CREATE ON DATABASE {db} TO {role}").format(**named),
        sql.SQL("GRANT ALL ON SCHEMA public TO {role}").format(**named),
        sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {role}").format(**named),
    )
    yield dest_server.uri(name, role, "weak")
    execute(
        dest_db,
        sql.SQL("REVOKE SET ON PARAMETER session_replication_role FROM {role}").format(**named),
        sql.SQL("DROP OWNED BY {role}").format(**named),
        sql.SQL("DROP ROLE {role}").format(**named),
    )


def execute(uri: str, *statements: sql.Composed) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


async def keep_books(uri: str) -> None:
    async with connection(uri, "destination") as conn:
        await ensure_bookkeeping(conn)


def kill_applier(superuser: str) -> int:
    """End the sessions that hold the migration's progress; how many."""
    return len(
        rows(
            superuser,
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks"
            " WHERE locktype = 'advisory' AND granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())",
        )
    )


async def test_killed_sessions_neither_lose_nor_repeat(
    source_db: str, dest_db: str, weak_db: str, nats_server: NatsServer
) -> None:
    """Rows without a key: one that is applied twice is there twice."""
    await keep_books(weak_db)
    async with pipeline(source_db, weak_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        for turn in range(TURNS):
            run(source_db, *(f"INSERT INTO t VALUES ('{turn} {n}')" for n in range(40)))
            await p.until(partial(is_there, dest_db, f"{turn} 39"))
            run(source_db, f"INSERT INTO t SELECT '{turn} large ' || i FROM generate_series(1, 20000) i")
            assert await asyncio.to_thread(kill_applier, dest_db) == 1
        await p.drain("end")
        query = "SELECT v, count(*) FROM t GROUP BY v ORDER BY v"
        assert rows(weak_db, query) == rows(source_db, query)
        assert rows(dest_db, "SELECT count(*) FROM pgmig.progress") == [(1,)]
        assert rows(dest_db, "SELECT count(*) FROM pg_replication_origin") == [(0,)]


def is_there(uri: str, value: str) -> bool:
    return rows(uri, f"SELECT count(*) FROM t WHERE v = '{value}'") != [(0,)]


async def test_two_sessions_never_share_the_progress(weak_db: str) -> None:
    await keep_books(weak_db)
    first = await ApplySession.open(weak_db, PIPELINE, Lsn(5))
    with pytest.raises(PgmigError) as caught:
        await ApplySession.open(weak_db, PIPELINE, Lsn(5))
    assert caught.value.kind is ErrorKind.TRANSIENT
    await first.execute([])
    first.commit(Lsn(7), 0)
    await first.send_commit()
    await first.close()
    second = await ApplySession.open(weak_db, PIPELINE, Lsn(5))
    assert second.progress == second.flushed == Lsn(7)
    await second.close()


async def test_progress_stays_in_the_row_or_origin_where_it_began(dest_db: str, weak_db: str) -> None:
    """The role is granted the origin functions meanwhile; an origin would begin at the start again."""
    await keep_books(weak_db)
    await (await ApplySession.open(weak_db, PIPELINE, Lsn(5))).close()
    run(weak_db, "UPDATE pgmig.progress SET lsn = '0/9'")
    role = sql.Identifier(urlsplit(weak_db).username or "")
    grants = [sql.SQL(f"GRANT EXECUTE ON FUNCTION {function} TO ") + role for function in ORIGIN_FUNCTIONS]
    execute(dest_db, *grants)
    session = await ApplySession.open(weak_db, PIPELINE, Lsn(5))
    assert session.progress == Lsn(9)
    await session.close()


async def test_a_whole_migration_without_origins(
    source_db: str, dest_db: str, weak_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    run(source_db, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'copied')")
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source_db, weak_db, MigrationOptions(follow=True, no_owner=True))
            view = await until_phase(session, "m", Phase.STREAMING)
            assert any("pgmig.progress" in event.text for event in view.events)
            run(source_db, "INSERT INTO t VALUES (2, 'followed')")
            await session.pause("m")
            run(source_db, "INSERT INTO t VALUES (3, 'while paused')")
            await session.resume("m")
            await until_phase(session, "m", Phase.STREAMING)
            services.restart("coordinator")
            await session.resume("m", source_db, weak_db)
            await until_phase(session, "m", Phase.STREAMING)
            assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE
            assert rows(weak_db, "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]
            await session.cleanup("m")
    assert rows(dest_db, "SELECT to_regnamespace('pgmig')") == [(None,)]
