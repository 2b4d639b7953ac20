"""A switchover that is interrupted while an application writes, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psycopg
import pytest
from psycopg import conninfo

from clients.session import Session
from services.shared.model import MigrationView, PgmigError, Phase, StepName, StepState
from tests.support.services.services import until_phase

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


def numbers(uri: str) -> set[int]:
    with psycopg.connect(uri) as conn:
        return {row[0] for row in conn.execute("SELECT id FROM item")}


def settings(uri: str) -> list[tuple[object, ...]]:
    """Everything that a freeze may change: the database's own settings and limits, and those of all roles."""
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
    """The error of a switchover, None if it succeeds; `at` is called in a thread as soon as `step` begins."""
    try:
        async for told in session.switchover("m", limit_s):
            if (told.name, told.state) == (step, StepState.STARTED):
                await asyncio.to_thread(at, step)
    except PgmigError as exc:
        return exc
    return None


async def check(session: Session, view: MigrationView, source: str, dest: str, writer: Writer) -> None:
    """Check that the live side has every acknowledged commit. If that is the source, everybody can write
    there, and another switchover succeeds."""
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
    """A lock makes the step wait. Other steps take a few milliseconds, so the kill happens in that step or
    soon after it."""
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
