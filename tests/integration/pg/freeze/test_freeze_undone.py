"""A freeze that is stopped: what is reported, and that the source is as before after the thaw."""

from __future__ import annotations

import os
import signal
import time

import psycopg
import pytest
from psycopg import conninfo, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.freeze.thaw import thaw
from services.shared.pg.session.connection import connection
from tests.support.switchover.freezing import Opened, administrator, frozen, shut, tables


async def test_closed_database_is_named_with_the_remedy(source: str, opened: Opened) -> None:
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()
    with pytest.raises(PgmigError) as caught:
        async with connection(source, "source"):
            pass
    assert caught.value.kind is ErrorKind.DATABASE_CLOSED
    assert "unfreeze" in caught.value.hint
    assert "ALLOW_CONNECTIONS true" in caught.value.hint
    await thaw(source, freeze.before)


async def test_process_that_does_not_end_stops_the_freeze_and_is_named(source: str, opened: Opened) -> None:
    """A server process that the kernel holds up is told to end, and does so when it runs again."""
    with psycopg.connect(source, autocommit=True) as stubborn:
        pid = stubborn.info.backend_pid
        freeze = await opened(source)
        await freeze.lock(tables, time.monotonic() + 30)
        os.kill(pid, signal.SIGSTOP)
        try:
            await freeze.end_writers(await freeze.forbid_writes())
            with pytest.raises(
                PgmigError, match=f"sessions on the source do not end: process {pid} "
            ) as caught:
                await freeze.shut(time.monotonic() + 0.5)
            assert caught.value.kind is ErrorKind.TIMEOUT
            await freeze.close()
            assert await thaw(source, freeze.before)
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(psycopg.OperationalError):
            stubborn.execute("INSERT INTO a VALUES (1)")
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("INSERT INTO a VALUES (2)")
        assert conn.execute("SELECT id FROM a").fetchall() == [(2,)]


@pytest.mark.parametrize("victim", ["locker", "session", "side"])
async def test_loss_of_one_of_the_freezes_own_sessions_stops_it(
    victim: str, source: str, opened: Opened
) -> None:
    """Before the database is closed, the locks alone keep a session out that asks for read-write."""
    freeze = await opened(source)
    await frozen(freeze)
    lost = {"session": freeze.session, "side": freeze._side, "locker": freeze._locker}[victim]
    with administrator(source) as conn:
        conn.execute("SELECT pg_terminate_backend(%s, 10000)", [lost.info.backend_pid])
        if victim == "locker":
            conn.execute("INSERT INTO a VALUES (1)")  # nothing holds it up any more
    with pytest.raises(PgmigError):
        await shut(freeze)
        await freeze.check_prepared()
        await freeze.holds()
    await freeze.close()
    await thaw(source, freeze.before)
    with psycopg.connect(source) as conn:
        conn.execute("INSERT INTO a VALUES (2)")


async def test_connection_limit_of_the_database_is_what_it_was(source: str, opened: Opened) -> None:
    database = sql.Identifier(str(conninfo.conninfo_to_dict(source)["dbname"]))
    shown = "SELECT datconnlimit FROM pg_database WHERE datname = current_database()"
    with administrator(source) as conn:
        conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 7").format(database))
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()
    await thaw(source, freeze.before)
    with psycopg.connect(source) as conn:
        assert conn.execute(shown).fetchone() == (7,)
