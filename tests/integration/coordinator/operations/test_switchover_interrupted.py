"""A switchover whose coordinator is killed, or whose sessions are ended or stopped, loses no commit.

A session that asks to write, whatever the database's default says, writes throughout. It counts a commit only
when the server has acknowledged it. The hook is what a client sees: the stream of steps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest
from psycopg import conninfo, sql

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
    StepName,
    StepState,
)
from tests.support.servers.door import reopen
from tests.support.servers.nats import NatsServer
from tests.support.services import Services, until, until_phase

FOLLOW = MigrationOptions(follow=True)
STEPS = [step for step in StepName if step is not StepName.ROLLBACK]
LIMIT_S = 20.0
HELD_UP_S = 8.0
"""The limit of a switchover that somebody keeps from ending."""
ASKS_TO_WRITE = "-c default_transaction_read_only=off -c lock_timeout=2s"
LOCKER = (
    "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = %s"
    " WHERE l.mode = 'ExclusiveLock' AND l.locktype = 'relation' AND l.relation = %s AND l.granted"
)


class Writer:
    """Use as a context manager. acknowledged: numbers that the source has committed."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer")
        self.acknowledged: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for_more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_more(self, seconds: float = 60.0) -> None:
        """Return when a further commit was acknowledged."""
        before, deadline = len(self.acknowledged), time.monotonic() + seconds
        while len(self.acknowledged) == before:
            assert time.monotonic() < deadline, "nobody can write to the source"
            time.sleep(0.01)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._uri, autocommit=True, options=ASKS_TO_WRITE) as conn:
                    while not self._stop.wait(0.002):
                        number += 1
                        conn.execute("INSERT INTO item VALUES (%s)", [number])
                        self.acknowledged.append(number)
            except psycopg.Error:
                self._stop.wait(0.02)


@pytest.fixture
def source(source_db: str) -> str:
    """With a large object, so that the step that compares these takes place."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE SEQUENCE s")
        conn.execute("SELECT lo_from_bytea(700001, 'x')")
    return source_db


@pytest.fixture
def services(nats_server: NatsServer, tmp_path: Path) -> Iterator[Services]:
    with Services(nats_server, tmp_path) as running:
        yield running


@pytest.fixture
async def session(services: Services, source: str, dest_db: str) -> AsyncIterator[Session]:
    """With migration m, which streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        yield session


def numbers(uri: str) -> set[int]:
    with psycopg.connect(uri) as conn:
        return {row[0] for row in conn.execute("SELECT id FROM item")}


def settings(uri: str) -> list[tuple[object, ...]]:
    """What a freeze may change: the database's own settings and limits, and those of all roles."""
    with psycopg.connect(conninfo.make_conninfo(uri, dbname="postgres")) as conn:
        name = conninfo.conninfo_to_dict(uri)["dbname"]
        return conn.execute(
            "SELECT datallowconn, datconnlimit, datacl::text, (SELECT array_agg((setrole, setconfig)::text"
            " ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid),"
            " (SELECT array_agg((rolname, rolconnlimit, rolcanlogin)::text ORDER BY rolname) FROM pg_roles)"
            " FROM pg_database d WHERE datname = %s",
            [name],
        ).fetchall()


async def outcome(
    session: Session, at: Callable[[StepName], None], step: StepName, limit_s: float = LIMIT_S
) -> PgmigError | None:
    """Of a switchover during which `at` is called as soon as `step` begins."""
    try:
        async for told in session.switchover("m", limit_s):
            if (told.name, told.state) == (step, StepState.STARTED):
                await asyncio.to_thread(at, step)
    except PgmigError as exc:
        return exc
    return None


async def check(session: Session, view: MigrationView, source: str, dest: str, writer: Writer) -> None:
    """The live side has every acknowledged commit; where that is the source, everybody can write there, and
    a further switchover succeeds."""
    if view.phase is not Phase.SWITCHED_OVER:
        writer.wait_for_more()
        assert set(writer.acknowledged) <= numbers(source)
        await until_phase(session, "m", Phase.STREAMING)
        async for _ in session.switchover("m", LIMIT_S):
            pass
        await until_phase(session, "m", Phase.SWITCHED_OVER)
    acknowledged = set(writer.acknowledged)
    assert acknowledged <= numbers(dest)
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(source)
    assert acknowledged == set(writer.acknowledged)


def told(view: MigrationView, text: str) -> bool:
    return any(text in event.text for event in view.events)


@contextmanager
def held_up(step: StepName, source: str, dest: str) -> Iterator[None]:
    """Somebody's lock makes the step wait. Other steps take a few milliseconds: the kill comes in that step,
    or soon after it."""
    if step is StepName.FREEZE:
        with psycopg.connect(source) as conn:
            conn.execute("INSERT INTO item VALUES (-1)")
            yield
    elif step is StepName.DRAIN:
        with psycopg.connect(dest) as conn:
            conn.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
            yield
    elif step is StepName.SEQUENCES:
        with psycopg.connect(dest) as conn:
            conn.execute("LOCK TABLE pgmig.sequences IN ACCESS EXCLUSIVE MODE")
            yield
    else:
        yield


@pytest.mark.parametrize("step", STEPS)
async def test_killed_in_any_step_loses_nothing_and_lets_everybody_in_again(
    services: Services, session: Session, source: str, dest_db: str, step: StepName
) -> None:
    before = settings(source)
    with Writer(source) as writer:
        with held_up(step, source, dest_db):
            error = await outcome(session, lambda _: services.kill9("coordinator"), step)
        assert error is not None
        assert error.kind is ErrorKind.UNREACHABLE
        services.start("coordinator")
        async with services.session() as again:
            await again.resume("m", source, dest_db)
            view = await until(again, "m", lambda view: view.phase is not Phase.SWITCHOVER)
            if view.phase is not Phase.SWITCHED_OVER:
                assert settings(source) == before
            await check(again, view, source, dest_db, writer)
            await again.unfreeze("m")
    assert settings(source) == before


async def test_killed_in_a_roll_back_lets_everybody_in_again(
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


class Locker:
    """The session that holds the freeze's locks."""

    def __init__(self, source: str) -> None:
        with psycopg.connect(source) as conn:
            row = conn.execute("SELECT current_database(), 'item'::regclass::oid::bigint").fetchone()
        assert row is not None
        self._given = list(row)
        self._uri = conninfo.make_conninfo(source, dbname="postgres")
        self.pid = 0

    def terminate(self, _: StepName) -> None:
        with psycopg.connect(self._uri, autocommit=True) as conn:
            for (pid,) in conn.execute(LOCKER, self._given).fetchall():
                self.pid = pid
                conn.execute("SELECT pg_terminate_backend(%s)", [pid])

    def stop(self, _: StepName) -> None:
        with psycopg.connect(self._uri, autocommit=True) as conn:
            for (pid,) in conn.execute(LOCKER, self._given).fetchall():
                self.pid = pid
                os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


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


async def test_limits_and_settings_are_those_of_before(session: Session, source: str, dest_db: str) -> None:
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
        view = await until(session, "m", lambda view: told(view, "pgmig does not reset it"))
        assert told(view, "default_transaction_read_only of database")
        assert settings(source) != before
        alter("CONNECTION LIMIT 17", "SET default_transaction_read_only = 'false'", "SET work_mem = '5MB'")
        assert settings(source) == before
        await check(session, view, source, dest_db, writer)


async def test_source_that_somebody_opened_rolls_the_switchover_back(
    session: Session, source: str, dest_db: str
) -> None:
    """A session that came in may have written what nothing replicates: large objects, sequences, tables."""
    with psycopg.connect(dest_db) as conn:
        conn.execute("LOCK TABLE pgmig.sequences IN ACCESS EXCLUSIVE MODE")

        def by_hand(_: StepName) -> None:
            reopen(source)
            conn.rollback()

        error = await outcome(session, by_hand, StepName.SEQUENCES)
    assert error is not None
    assert error.kind is ErrorKind.SWITCHOVER_FAILED
    assert "accept connections during the switchover" in error.message
    await until_phase(session, "m", Phase.STREAMING)
    with psycopg.connect(source) as conn:
        assert conn.execute("SHOW default_transaction_read_only").fetchone() == ("off",)


async def test_first_large_object_amid_the_freeze_arrives(
    session: Session, source: str, dest_db: str
) -> None:
    """Nobody had one when the switchover began; its creator held a table until the freeze could begin."""
    for uri in (source, dest_db):
        with psycopg.connect(uri) as conn:
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
