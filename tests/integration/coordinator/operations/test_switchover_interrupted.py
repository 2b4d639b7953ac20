"""A switchover whose coordinator is killed, or whose sessions are ended or stopped, loses no commit.

A session that asks to write, whatever the database's default says, writes throughout. It counts a commit only
when the server has acknowledged it. The hook is what a client sees: the stream of steps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import conninfo, sql

from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, Phase, StepName
from tests.support.servers.door import close, reopen
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.interrupted import (
    HELD_UP_S,
    Locker,
    Writer,
    check,
    held_up,
    outcome,
    settings,
    told,
)

FOLLOW = MigrationOptions(follow=True)
STEPS = [step for step in StepName if step is not StepName.ROLLBACK]


@pytest.fixture
def source(source_db: str) -> str:
    """With a large object, so that the step that compares these takes place."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE SEQUENCE s")
        conn.execute("SELECT lo_from_bytea(700001, 'x')")
    return source_db


@pytest.fixture
async def session(services: Services, source: str, dest_db: str) -> AsyncIterator[Session]:
    """With migration m, which streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        yield session


async def test_coordinator_killed_during_a_rollback_opens_the_source_again(
    services: Services, session: Session, source: str, dest_db: str
) -> None:
    before = settings(source)
    with Writer(source) as writer:
        with psycopg.connect(dest_db) as conn:
            conn.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")  # the step drain does not end
            await outcome(session, lambda _: services.kill9("coordinator"), StepName.ROLLBACK, HELD_UP_S)
        services.start("coordinator")
        async with services.session() as again:
            await again.resume("m", source, dest_db)
            view = await until(again, "m", lambda view: view.phase is not Phase.SWITCHOVER)
            assert settings(source) == before
            await check(again, view, source, dest_db, writer)


@pytest.mark.parametrize("step", STEPS[1:])
async def test_ended_locking_session_loses_nothing(
    session: Session, source: str, dest_db: str, step: StepName
) -> None:
    before, locker = settings(source), Locker(source)
    with Writer(source) as writer:
        error = await outcome(session, locker.terminate, step)
        view = await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
        assert (error is None) == (view.phase is Phase.SWITCHED_OVER)
        if error is not None:
            assert settings(source) == before
        await check(session, view, source, dest_db, writer)


async def test_stopped_locking_session_rolls_back(session: Session, source: str, dest_db: str) -> None:
    """Its locks keep everybody from writing until it goes on. Then the source is open as before."""
    before, locker = settings(source), Locker(source)
    with Writer(source) as writer:
        with held_up(StepName.DRAIN, source, dest_db):
            switching = asyncio.create_task(outcome(session, locker.stop, StepName.DRAIN, HELD_UP_S))
            try:
                view = await until(session, "m", lambda view: told(view, "not open to writers yet"))
                assert told(view, f"process {locker.pid}")
            finally:
                locker.go_on()
            assert await switching is not None
        view = await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
        assert settings(source) == before
        await check(session, view, source, dest_db, writer)


async def test_session_that_does_not_end_rolls_back_in_time(
    session: Session, source: str, dest_db: str
) -> None:
    """pg_terminate_backend has returned true; the process is stopped and cannot act on it."""
    before = settings(source)
    with Writer(source) as writer, psycopg.connect(source, autocommit=True) as lingering:
        lingering.execute("SET default_transaction_read_only = off")
        pid = lingering.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            error = await outcome(session, lambda _: None, StepName.FREEZE, HELD_UP_S)
            assert error is not None
            assert error.kind is ErrorKind.TIMEOUT
            assert f"process {pid}" in error.message
            assert time.monotonic() - began < 20
            assert settings(source) == before
            writer.wait_for_more()
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(psycopg.OperationalError):
            lingering.execute("INSERT INTO item VALUES (-1)")
        view = await until_phase(session, "m", Phase.STREAMING)
        await check(session, view, source, dest_db, writer)


async def test_limits_and_settings_of_the_source_are_restored(
    session: Session, source: str, dest_db: str
) -> None:
    """Also what an operator has changed during the freeze, which is reported."""
    name = conninfo.conninfo_to_dict(source)["dbname"]
    side = conninfo.make_conninfo(source, dbname="postgres")
    database = sql.Identifier(str(name))

    def alter(*actions: str) -> None:
        with psycopg.connect(side, autocommit=True) as conn:
            for action in actions:
                conn.execute(sql.SQL("ALTER DATABASE {} " + action).format(database))

    alter("CONNECTION LIMIT 17", "SET default_transaction_read_only = 'false'", "SET work_mem = '5MB'")
    before = settings(source)

    def by_hand(_: StepName) -> None:
        assert settings(source) != before  # frozen
        alter("CONNECTION LIMIT 0", "SET default_transaction_read_only = 'off'", "SET work_mem = '6MB'")

    with Writer(source) as writer:
        for hook in (lambda _: None, by_hand):
            await until_phase(session, "m", Phase.STREAMING)
            with held_up(StepName.DRAIN, source, dest_db):
                assert await outcome(session, hook, StepName.DRAIN, HELD_UP_S) is not None
            if hook is not by_hand:
                assert settings(source) == before
                writer.wait_for_more()
        view = await session.get("m")  # the switchover has been undone
        assert told(view, "pgmig does not reset it")
        assert told(view, "default_transaction_read_only of database")
        assert settings(source) != before
        alter("CONNECTION LIMIT 17", "SET default_transaction_read_only = 'false'", "SET work_mem = '5MB'")
        assert settings(source) == before
        await check(session, view, source, dest_db, writer)


@pytest.mark.parametrize("closed_again", [False, True])
async def test_source_that_accepts_connections_again_rolls_the_switchover_back(
    session: Session, source: str, dest_db: str, closed_again: bool
) -> None:
    """A session that came in may have written what nothing replicates: large objects, sequences, tables."""
    with psycopg.connect(dest_db) as conn:
        conn.execute("LOCK TABLE pgmig.sequences IN ACCESS EXCLUSIVE MODE")

        def by_hand(_: StepName) -> None:
            reopen(source)
            if closed_again:
                close(source)
            conn.rollback()

        error = await outcome(session, by_hand, StepName.SEQUENCES)
    assert error is not None
    assert error.kind is ErrorKind.SWITCHOVER_FAILED
    assert "accept connections during the switchover" in error.message
    await until_phase(session, "m", Phase.STREAMING)
    with psycopg.connect(source) as conn:
        assert conn.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


async def test_first_large_object_created_during_the_freeze_arrives(
    session: Session, source: str, dest_db: str
) -> None:
    """Nobody had one when the switchover began; its creator held a table until the freeze could begin."""
    for uri in (source, dest_db):
        with psycopg.connect(uri, options="-c default_transaction_read_only=off") as conn:
            conn.execute("SELECT lo_unlink(700001)")
    creator = psycopg.connect(source)
    creator.execute("LOCK TABLE item IN ROW EXCLUSIVE MODE")

    def create(_: StepName) -> None:
        creator.execute("SELECT lo_from_bytea(4711, 'late')")
        creator.commit()

    assert await outcome(session, create, StepName.FREEZE) is None
    creator.close()
    await until_phase(session, "m", Phase.SWITCHED_OVER)
    with psycopg.connect(dest_db) as conn:
        assert conn.execute("SELECT lo_get(4711)").fetchone() == (b"late",)
