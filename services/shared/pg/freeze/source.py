"""Keeping every writer out of the source database, and letting them in again.

Order matters:

1. Subscriptions are disabled: their workers write like anybody else.
2. EXCLUSIVE locks on all tables, in one transaction: running writers finish, new ones wait, readers go
   on. Nothing is lost when this takes too long: the locks are let go. They hold whoever writes, a
   superuser too, and are kept until the switchover is decided. Prepared transactions must be gone by
   then: nobody can end one but its owner.
3. `ALTER DATABASE ... SET default_transaction_read_only = on`: a wish. Sessions that begin from now on
   do not write unless they ask for it, and most do not call nextval, which no table lock prevents.
4. Sessions that began before are ended, so that a writer that waits for our locks fails
   instead of committing later.
5. The database is closed: it accepts no connections any more (see the module closed_database), and all
   other sessions are ended until none is left. From here on nobody can write, not even what no lock
   covers: large objects, sequences, new tables. It stays closed when the locks are let go.

Locks are tried for less than the writers' `deadlock_timeout` at a time and taken anew, so that
where a writer holds one table and waits for another, we give way and PostgreSQL ends nobody.
Our own `deadlock_timeout` is shorter: PostgreSQL then finds within an attempt that we wait for
an autovacuum, and cancels it. A role that may not set it tries for longer now and then.

`services.shared.pg.freeze.thaw` undoes all of it; the locks go with the session that holds them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, PgmigError, TableId
from services.shared.pg.freeze.closed_database import beside, set_open, way_in, writable_connection
from services.shared.pg.freeze.sessions import (
    check_endable,
    end_all,
    end_begun_before,
    own_session,
    prepared_transactions,
)
from services.shared.pg.freeze.subscriptions import disable, enabled_subscriptions
from services.shared.pg.freeze.thaw import Before, clock, database_default, set_database_default
from services.shared.pg.session.connection import connection, translate, translated

LOCK_ATTEMPT_S = 0.8
"""Below deadlock_timeout's default of 1 s."""

LONG_ATTEMPT_S = 1.5
"""Beyond it: for a role that cannot shorten it, every third time."""

PAUSE_S = 0.05
"""Between two attempts: writers that waited for us get their turn."""

_LOCK_FAILURES = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,  # dropped since it was listed
    psycopg.errors.InvalidSchemaName,
)

ListTables = Callable[[], Awaitable[Sequence[TableId]]]


class Freeze:
    """Locks of one session and the settings of one database. Use open, lock, ..., close.

    before: the source as it is now, and so what `thaw` has to put back.
    """

    def __init__(
        self,
        locker: AsyncConnection,
        admin: AsyncConnection,
        side: AsyncConnection,
        before: Before,
        slot: str,
    ) -> None:
        self._locker = locker
        self._admin = admin
        self._side = side
        self._detects_early = False
        self._slot = slot
        self.before = before

    @classmethod
    async def open(cls, uri: str, slot: str = "") -> Freeze:
        """Three sessions, one of them on another database. Nothing is blocked yet, and nobody's session
        ended. slot: whoever streams from it goes on; "": nobody does.

        Raises PERMISSION when our role lacks a right that the freeze needs later.
        """
        opened: list[AsyncConnection] = []
        try:
            admin = await writable_connection(uri)
            opened.append(admin)
            before = await before_freeze(admin, uri)
            side = await beside(uri, before.door)
            opened.append(side)
            await _prove_rights(admin, side, before)
            locker = await writable_connection(uri)
            opened.append(locker)
            sessions = tuple([await own_session(conn) for conn in opened])
            freeze = cls(locker, admin, side, replace(before, sessions=sessions), slot)
            freeze._detects_early = await _shorten_deadlock_timeout(locker)
            await check_endable(side, before.database, await freeze._spared())
        except BaseException:
            for conn in opened:
                await conn.close()
            raise
        return freeze

    @property
    def session(self) -> AsyncConnection:
        """A session that may read and write while the source is frozen. The source can have no
        others from step 5 on."""
        return self._admin

    async def _spared(self) -> list[int]:
        """Process ids of our two sessions and of the walsender that streams from our slot. Nobody else is
        spared: a session keeps a temporary slot that it has made, and may write all the same."""
        with translated("looking for the session that streams from the slot"):
            cursor = await self._side.execute(
                "SELECT active_pid FROM pg_catalog.pg_replication_slots"
                " WHERE slot_name = %s AND NOT temporary AND active_pid IS NOT NULL",
                [self._slot],
            )
            streaming = [int(row[0]) async for row in cursor]
        return [*(conn.info.backend_pid for conn in (self._locker, self._admin)), *streaming]

    async def close(self) -> None:
        """Give the locks back, if any are held."""
        for conn in (self._locker, self._admin, self._side):
            await conn.close()

    async def stop_subscriptions(self) -> None:
        """Before the locks: an apply worker that waits for them would keep us from it."""
        await disable(self._admin, self.before.subscriptions)

    async def lock(self, tables: ListTables, deadline: float) -> float:
        """Hold all tables against writers; returns since when they may be kept waiting.

        tables: lists them, each time anew, since more may be made while we wait. Both times are
        time.monotonic(). Raises TIMEOUT.
        """
        blockers, attempts, listed = "", 0, await tables()
        while (left := deadline - time.monotonic()) > 0:
            attempts += 1
            longest = LOCK_ATTEMPT_S if self._detects_early or attempts % 3 else LONG_ATTEMPT_S
            began = time.monotonic()
            attempt = asyncio.create_task(self._try_lock(listed, min(left, longest)), name="lock")
            try:
                await asyncio.wait({attempt}, timeout=LOCK_ATTEMPT_S / 2)
                if not attempt.done():
                    blockers = await self._blockers() or blockers
                if await attempt:
                    present, prepared = await tables(), await prepared_transactions(self._admin)
                    if not prepared and set(present) <= set(listed):
                        return began
                    await self._let_go()
            finally:
                attempt.cancel()
                await asyncio.wait({attempt})
            await asyncio.sleep(PAUSE_S)
            listed = await tables()
        prepared = await prepared_transactions(self._admin)
        named = ", ".join(filter(None, [blockers, prepared]))
        raise PgmigError(
            ErrorKind.TIMEOUT,
            "tables of the source could not be locked in time" + (named and f"; they are held by {named}"),
            "end the transactions that hold them (COMMIT PREPARED or ROLLBACK PREPARED those that are "
            "prepared), or allow more time, then switch over again",
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

    async def _let_go(self) -> None:
        with translated("releasing the locks on the source's tables"):
            await self._locker.execute("ROLLBACK")

    async def _blockers(self) -> str:
        """Whom the locking session waits for, for the operator. Prepared transactions show as 0."""
        with translated("looking for blocking sessions"):
            rows = await (
                await self._admin.execute(
                    "SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.state, 'state unknown'),"
                    " coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::int"
                    " FROM unnest(pg_catalog.pg_blocking_pids(%s)) b"
                    " JOIN pg_catalog.pg_stat_activity a ON a.pid = b LIMIT 3",
                    [self._locker.info.backend_pid],
                )
            ).fetchall()
        return ", ".join(
            f"process {pid} ({app or 'unnamed'}, {state}, for {age} s)" for pid, app, state, age in rows
        )

    async def holds(self) -> None:
        """Raises when the session that holds the locks is gone, or the other one."""
        with translated("keeping the locks on the source's tables"):
            await self._locker.execute("SELECT 1")

    async def check_prepared(self) -> None:
        """Raises SWITCHOVER_FAILED when a transaction has been prepared since the tables were locked:
        its commit needs nobody's session."""
        if prepared := await prepared_transactions(self._admin):
            raise PgmigError(
                ErrorKind.SWITCHOVER_FAILED,
                f"a transaction was prepared on the source during the freeze: {prepared}",
                "COMMIT PREPARED or ROLLBACK PREPARED it, then switch over again",
            )

    async def forbid_writes(self) -> float:
        """Make new sessions read-only by default. Returns the source's clock afterwards, Unix seconds."""
        await set_database_default(self._admin, self.before.database, "on")
        return await clock(self._admin)

    async def end_writers(self, before: float) -> int:
        """End every other session that began before `before`; returns how many.

        Our two and the one that streams from our slot stay. Raises PERMISSION when one may not be ended.
        """
        spared = await self._spared()
        return await end_begun_before(self._admin, self.before.database, spared, before)

    async def shut(self, deadline: float) -> int:
        """Let nobody in any more, and end all that are in; returns how many were. Nothing but our two
        sessions and the one that streams from our slot is left. deadline: time.monotonic()."""
        await set_open(self._side, self.before.database, accepts=False)
        return await end_all(self._side, self.before.database, await self._spared(), deadline)


@asynccontextmanager
async def source_session(uri: str, freeze: Freeze | None) -> AsyncIterator[AsyncConnection]:
    """The freeze's session on the source, which accepts no others any more; before it, a new one."""
    if freeze is not None:
        yield freeze.session
        return
    async with connection(uri, "source") as conn:
        yield conn


async def _prove_rights(admin: AsyncConnection, side: AsyncConnection, before: Before) -> None:
    """Set what the freeze will change to the value that it has. Raises PERMISSION."""
    try:
        await set_open(side, before.database, accepts=True)
        await set_database_default(admin, before.database, before.read_only_default)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.PERMISSION:
            raise
        hint = f"use the role that owns database {before.database}, a member of it, or a superuser"
        raise PgmigError(exc.kind, exc.message, hint) from exc


async def _shorten_deadlock_timeout(conn: AsyncConnection) -> bool:
    """Whether the role may."""
    try:
        await conn.execute("SET deadlock_timeout = '200ms'")
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as exc:
        raise translate(exc, "opening a session on the source") from exc
    return True


async def before_freeze(conn: AsyncConnection, uri: str) -> Before:
    """What `thaw` has to put back. Raises PERMISSION when there is no way in (see door)."""
    with translated("checking the source"):
        row = await (await conn.execute("SELECT current_database()::text")).fetchone()
    assert row is not None
    database = str(row[0])
    return Before(
        await database_default(conn, database),
        await clock(conn),
        database,
        await way_in(conn, uri),
        await enabled_subscriptions(conn),
    )


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
