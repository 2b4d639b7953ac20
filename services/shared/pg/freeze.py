"""Keeping every writer out of the source database, and letting them in again.

Order matters:

1. EXCLUSIVE locks on all tables, in one transaction: running writers finish, new ones wait,
   readers go on. Nothing is lost when this takes too long: the locks are let go.
2. `ALTER DATABASE ... SET default_transaction_read_only = on`: sessions that begin from now on
   cannot write, nor call nextval, which no table lock prevents.
3. Sessions that began before are ended, so that a writer that waits for our locks fails
   instead of committing later.

Locks are tried for less than the writers' `deadlock_timeout` at a time and taken anew, so that
where a writer holds one table and waits for another, we give way and PostgreSQL ends nobody.
Our own `deadlock_timeout` is shorter: PostgreSQL then finds within an attempt that we wait for
an autovacuum, and cancels it. A role that may not set it tries for longer now and then.

`thaw` undoes step 2 from any connection; the locks go with the session that holds them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, PgmigError, TableId
from services.shared.pg.connection import connect, translate, translated

LOCK_ATTEMPT_S = 0.8
"""Below deadlock_timeout's default of 1 s."""

LONG_ATTEMPT_S = 1.5
"""Beyond it: for a role that cannot shorten it, every third time."""

PAUSE_S = 0.05
"""Between two attempts: writers that waited for us get their turn."""

_LOCK_FAILURES = (psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected)
_SETTING = "default_transaction_read_only"

# Whatever may write: clients, apply workers of subscriptions, workers of extensions.
_OTHERS: LiteralString = (
    " FROM pg_catalog.pg_stat_activity WHERE datname = current_database()"
    " AND backend_type NOT IN ('walsender', 'autovacuum worker', 'parallel worker')"
    " AND pid <> pg_catalog.pg_backend_pid() AND application_name NOT LIKE 'pgmig %%'"
)


@dataclass(frozen=True, slots=True)
class Before:
    """The source before the freeze. read_only_default: the database's own setting, "" when it
    had none. at: the source's clock, Unix seconds."""

    read_only_default: str
    at: float


async def writable_connection(uri: str) -> AsyncConnection:
    """A session on the source that may write although the database is frozen."""
    conn = await connect(uri, "source")
    try:
        with translated("opening a session on the source"):
            await conn.execute("SET default_transaction_read_only = off")
            await conn.execute("SET synchronous_commit = local")  # the sentinel must reach disk, no more
    except BaseException:
        await conn.close()
        raise
    return conn


class Freeze:
    """Locks of one session and the setting of one database. Use open, block, close."""

    def __init__(self, locker: AsyncConnection, admin: AsyncConnection, *, detects_early: bool) -> None:
        self._locker = locker
        self._admin = admin
        self._detects_early = detects_early

    @classmethod
    async def open(cls, uri: str) -> Freeze:
        """Two sessions; nothing is blocked yet."""
        locker = await writable_connection(uri)
        try:
            detects_early = await _shorten_deadlock_timeout(locker)
            return cls(locker, await writable_connection(uri), detects_early=detects_early)
        except BaseException:
            await locker.close()
            raise

    @property
    def session(self) -> AsyncConnection:
        """A session that may read and write while the source is frozen."""
        return self._admin

    async def close(self) -> None:
        """Give the locks back, if any are held."""
        await self._locker.close()
        await self._admin.close()

    async def lock(self, tables: Sequence[TableId], deadline: float) -> float:
        """Hold all tables against writers; returns since when they may be kept waiting.

        Both times are time.monotonic(). Raises TIMEOUT.
        """
        blockers, attempts = "", 0
        while (left := deadline - time.monotonic()) > 0:
            attempts += 1
            longest = LOCK_ATTEMPT_S if self._detects_early or attempts % 3 else LONG_ATTEMPT_S
            began = time.monotonic()
            attempt = asyncio.create_task(self._try_lock(tables, min(left, longest)), name="lock")
            try:
                await asyncio.wait({attempt}, timeout=LOCK_ATTEMPT_S / 2)
                if not attempt.done():
                    blockers = await self._blockers() or blockers
                if await attempt:
                    return began
            finally:
                attempt.cancel()
                await asyncio.wait({attempt})
            await asyncio.sleep(PAUSE_S)
        raise PgmigError(
            ErrorKind.TIMEOUT,
            f"tables of the source could not be locked in time{blockers}",
            "end the transactions that hold them, or allow more time, then switch over again",
        )

    async def _try_lock(self, tables: Sequence[TableId], seconds: float) -> bool:
        """Whether all locks are held now; otherwise none is."""
        with translated("locking the source's tables"):
            await self._locker.execute("BEGIN")
            try:
                await self._locker.execute(
                    "SELECT pg_catalog.set_config('statement_timeout', %s, true)",
                    [f"{max(1, int(seconds * 1000))}ms"],
                )
                if tables:
                    listed = sql.SQL(", ").join(
                        sql.SQL("ONLY {}").format(sql.Identifier(t.schema, t.name)) for t in tables
                    )
                    await self._locker.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(listed))
                await self._locker.execute("SET LOCAL statement_timeout = 0")
            except _LOCK_FAILURES:
                await self._locker.execute("ROLLBACK")
                return False
        return True

    async def _blockers(self) -> str:
        """Whom the locking session waits for, for the operator."""
        with translated("looking for blocking sessions"):
            rows = await (
                await self._admin.execute(
                    "SELECT a.pid, a.application_name, a.state,"
                    " coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::int"
                    " FROM unnest(pg_catalog.pg_blocking_pids(%s)) b"
                    " JOIN pg_catalog.pg_stat_activity a ON a.pid = b LIMIT 3",
                    [self._locker.info.backend_pid],
                )
            ).fetchall()
        named = [f"process {pid} ({app or 'unnamed'}, {state}, for {age} s)" for pid, app, state, age in rows]
        return f"; they are held by {', '.join(named)}" if named else ""

    async def holds(self) -> None:
        """Raises when the session that holds the locks is gone."""
        with translated("holding the source's tables"):
            await self._locker.execute("SELECT 1")

    async def forbid_writes(self) -> float:
        """Make new sessions read-only. Returns the source's clock afterwards, Unix seconds."""
        await _alter(self._admin, "on")
        return await _clock(self._admin)

    async def end_writers(self, before: float) -> int:
        """End every other session that began before `before`; returns how many.

        Ours ("pgmig ...") and replication stay. Raises PERMISSION when one may not be ended.
        """
        try:
            with translated("ending sessions on the source"):
                row = await (
                    await self._admin.execute(
                        "SELECT count(pg_catalog.pg_terminate_backend(pid))"
                        + _OTHERS
                        + " AND backend_start <= pg_catalog.to_timestamp(%s)",
                        [before],
                    )
                ).fetchone()
        except PgmigError as exc:
            if exc.kind is not ErrorKind.PERMISSION:
                raise
            raise PgmigError(
                exc.kind, exc.message, "grant pg_signal_backend, and end superusers' sessions yourself"
            ) from exc
        return int(row[0]) if row else 0


async def _shorten_deadlock_timeout(conn: AsyncConnection) -> bool:
    """Whether the role may."""
    try:
        await conn.execute("SET deadlock_timeout = '200ms'")
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as exc:
        raise translate(exc, "opening a session on the source") from exc
    return True


async def before_freeze(conn: AsyncConnection) -> Before:
    """What `thaw` has to put back."""
    return Before(await _read_only_default(conn), await _clock(conn))


async def thaw(conn: AsyncConnection, before: Before) -> bool:
    """Put the database's setting back; whether there was anything to do.

    Sessions that began meanwhile stay read-only until they reconnect, and a connection pool
    would keep them: those of other clients are ended.
    """
    if await _read_only_default(conn) == before.read_only_default:
        return False
    await _alter(conn, before.read_only_default)
    with suppress(PgmigError), translated("ending read-only sessions on the source"):
        await conn.execute(
            "SELECT pg_catalog.pg_terminate_backend(pid)"
            + _OTHERS
            + " AND backend_start >= pg_catalog.to_timestamp(%s)",
            [before.at],
        )
    return True


async def _read_only_default(conn: AsyncConnection) -> str:
    """The database's setting for all roles, as ALTER DATABASE left it."""
    with translated("reading the source database's settings"):
        row = await (
            await conn.execute(
                "SELECT split_part(c, '=', 2) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c"
                " WHERE s.setrole = 0 AND split_part(c, '=', 1) = %s AND s.setdatabase ="
                " (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
                [_SETTING],
            )
        ).fetchone()
    return str(row[0]) if row else ""


async def _alter(conn: AsyncConnection, value: str) -> None:
    """Set the database's default, or reset it for ""."""
    with translated(f"setting the source database's {_SETTING}"):
        row = await (await conn.execute("SELECT current_database()")).fetchone()
        assert row is not None
        name, setting = sql.Identifier(row[0]), sql.Identifier(_SETTING)
        statement = sql.SQL("ALTER DATABASE {} RESET {}").format(name, setting)
        if value:
            statement = sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, setting, sql.Literal(value))
        await conn.execute(statement)


async def _clock(conn: AsyncConnection) -> float:
    with translated("reading the source's clock"):
        row = await (await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
    assert row is not None
    return float(row[0])


async def emit_sentinel(conn: AsyncConnection, prefix: str, content: str) -> Lsn:
    """Write a transactional logical message; returns a position at or before its commit."""
    try:
        row = await (
            await conn.execute(
                "SELECT pg_catalog.pg_logical_emit_message(true, %s, %s::text)::text", [prefix, content]
            )
        ).fetchone()
    except psycopg.Error as exc:
        raise translate(exc, "writing the sentinel into the source's WAL") from exc
    assert row is not None
    return Lsn.parse(row[0])
