"""Block every writer of the source database, and release them again.

The order matters:

1. Subscriptions are disabled, because their workers write too.
2. EXCLUSIVE locks are acquired on all tables, in one transaction: running writers finish, new ones wait, and
   readers continue. If this takes too long, the locks are released and nothing is lost. The locks block every
   writer, also superusers, and are kept until the switchover is decided. By then there must be no prepared
   transactions, because only their owner or a superuser can end them.
3. `ALTER DATABASE ... SET default_transaction_read_only = on` is only a request. New sessions do not write
   unless they override it, and most do not call nextval, which no table lock prevents.
4. Sessions that began before step 3 are terminated, so that a writer that waits for our locks fails instead
   of committing later.
5. The database is closed: it accepts no connections any more (see the module closed_database), and all other
   sessions are terminated until none is left. From here on no session can write anything, including
   objects that no lock covers: large objects, sequences, new tables. The database stays closed when the locks
   are released.

Each attempt to lock is shorter than the writers' `deadlock_timeout`, and then the locks are requested again.
So if a writer holds one table and waits for another, pgmig gives way, and PostgreSQL cancels no writer. Our
own `deadlock_timeout` is shorter. So within an attempt PostgreSQL finds out that we wait for an autovacuum,
and cancels it. A role that may not set it makes a longer attempt from time to time.

`services.shared.pg.freeze.thaw` reverts all of it. The locks end with the session that holds them.
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
from services.shared.pg.freeze.closed_database import (
    beside,
    close_database,
    is_open,
    row_version,
    set_open,
    way_in,
    writable_connection,
)
from services.shared.pg.freeze.sessions import (
    check_endable,
    end_all,
    end_begun_before,
    own_session,
    prepared_transactions,
    streaming_from,
)
from services.shared.pg.freeze.subscriptions import disable, enabled_subscriptions
from services.shared.pg.freeze.thaw import FROZEN, Before, clock, database_default, set_database_default
from services.shared.pg.session.connection import connection, translate, translated

LOCK_ATTEMPT_S = 0.8
"""Below deadlock_timeout's default of 1 s."""

LONG_ATTEMPT_S = 1.5
"""Above that default. Every third attempt, for a role that may not shorten deadlock_timeout."""

PAUSE_S = 0.05
"""Between two attempts, so that writers that waited for us can run."""

_LOCK_FAILURES = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,  # dropped since it was listed
    psycopg.errors.InvalidSchemaName,
)

ListTables = Callable[[], Awaitable[Sequence[TableId]]]


class Freeze:
    """Locks of one session and the settings of one database. Call open, lock, ..., close.

    before: the source before the freeze, which `thaw` restores.
    """

    blocks = True
    """Writers cannot write, so what is read of the source is final."""

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
        self._closed_version = ""
        self._slot = slot
        self.before = before

    @classmethod
    async def open(cls, uri: str, slot: str = "", side: str = "source") -> Freeze:
        """Open three sessions, one of them on another database. This changes nothing, blocks no session and
        terminates none.
        slot: the walsender that streams from it is spared; "": none. side: of the migration, for messages.

        Raises PERMISSION if our role lacks a right that the freeze needs later.
        """
        opened: list[AsyncConnection] = []
        try:
            admin = await writable_connection(uri, side=side)
            opened.append(admin)
            before = await before_freeze(admin, uri, side)
            door = await beside(uri, before.door, side)
            opened.append(door)
            await _prove_rights(admin, door, before)
            locker = await writable_connection(uri, side=side)
            opened.append(locker)
            sessions = tuple([await own_session(conn) for conn in opened])
            freeze = cls(locker, admin, door, replace(before, sessions=sessions), slot)
            freeze._detects_early = await _shorten_deadlock_timeout(locker)
            await check_endable(door, before.database, await freeze._spared(), side)
        except BaseException:
            for conn in opened:
                await conn.close()
            raise
        return freeze

    @property
    def session(self) -> AsyncConnection:
        """A session that may read and write while the source is frozen. From step 5 on, no other sessions on
        the source are possible."""
        return self._admin

    @property
    def _where(self) -> str:
        """For messages."""
        return self.before.side

    async def _prepared(self) -> str:
        return await prepared_transactions(self._admin, self._where)

    async def _spared(self) -> list[int]:
        """Process ids of our two sessions and of the walsender that streams from our slot. No other session
        is spared: a session with a temporary slot of its own may also write."""
        streaming = await streaming_from(self._side, self._slot)
        return [*(conn.info.backend_pid for conn in (self._locker, self._admin)), *streaming]

    async def close(self) -> None:
        """Close the sessions, which releases the locks."""
        for conn in (self._locker, self._admin, self._side):
            await conn.close()

    async def stop_subscriptions(self) -> None:
        """Disable the subscriptions. Call this before `lock`: an apply worker that waits for the locks would
        block this change."""
        await disable(self._admin, self.before.subscriptions)

    async def lock(self, tables: ListTables, deadline: float) -> float:
        """Lock all tables against writers. Returns the time since when writers may be waiting.

        tables: lists the tables. It is called for each attempt, because tables may be created during the
        wait. Both times are time.monotonic(). Raises TIMEOUT.
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
                    present, prepared = await tables(), await self._prepared()
                    if not prepared and set(present) <= set(listed):
                        return began
                    await self._let_go()
            finally:
                attempt.cancel()
                await asyncio.wait({attempt})
            await asyncio.sleep(PAUSE_S)
            listed = await tables()
        prepared = await self._prepared()
        named = ", ".join(filter(None, [blockers, prepared]))
        raise PgmigError(
            ErrorKind.TIMEOUT,
            f"tables of the {self._where} could not be locked in time"
            + (named and f"; they are held by {named}"),
            "end the transactions that hold them (COMMIT PREPARED or ROLLBACK PREPARED those that are "
            "prepared), or allow more time, then switch over again",
        )

    async def _try_lock(self, tables: Sequence[TableId], seconds: float) -> bool:
        """Returns True if all locks are held now. Otherwise none is held."""
        with translated(f"locking the {self._where}'s tables"):
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
        with translated(f"releasing the locks on the {self._where}'s tables"):
            await self._locker.execute("ROLLBACK")

    async def _blockers(self) -> str:
        """Sessions that block the lock, for the error message. Prepared transactions appear as 0."""
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
        """Raise an error if the session that holds the locks has ended."""
        with translated(f"keeping the locks on the {self._where}'s tables"):
            await self._locker.execute("SELECT 1")

    async def check_prepared(self) -> None:
        """Raise SWITCHOVER_FAILED if a transaction has been prepared since the tables were locked: it can be
        committed without its session."""
        if prepared := await self._prepared():
            raise PgmigError(
                ErrorKind.SWITCHOVER_FAILED,
                f"a transaction was prepared on the {self._where} during the freeze: {prepared}",
                "COMMIT PREPARED or ROLLBACK PREPARED it, then switch over again",
            )

    async def forbid_writes(self) -> float:
        """Make new sessions read-only by default. Returns the source's clock afterwards, Unix seconds."""
        await set_database_default(self._admin, self.before.database, FROZEN, self._where)
        return await clock(self._admin, self._where)

    async def end_writers(self, before: float) -> int:
        """Terminate every other session that began before `before`. Returns their number.

        Our two sessions and the one that streams from our slot are spared. Raises PERMISSION if one may not
        be terminated.
        """
        spared = await self._spared()
        return await end_begun_before(self._admin, self.before.database, spared, before, self._where)

    async def opened(self) -> bool:
        """Whether somebody has altered the database since the first `shut`. Then it accepts connections, or
        may have accepted some for a while."""
        database = self.before.database
        if await is_open(self._side, database, self._where):
            return True
        return await row_version(self._side, database, self._where) != self._closed_version

    async def shut(self, deadline: float) -> int:
        """Refuse new connections and terminate all other sessions. Returns their number. Only our two
        sessions and the one that streams from our slot are left. A second call only terminates sessions: if
        it closed the database again, `opened` would not notice that somebody had opened it. deadline:
        time.monotonic()."""
        if not self._closed_version:
            self._closed_version = await close_database(self._side, self.before.database, self._where)
        return await end_all(self._side, self.before.database, await self._spared(), deadline, self._where)


@asynccontextmanager
async def source_session(uri: str, freeze: Freeze | None) -> AsyncIterator[AsyncConnection]:
    """The freeze's session on the source, because the source then accepts no others. Without a freeze, a new
    session."""
    if freeze is not None:
        yield freeze.session
        return
    async with connection(uri, "source") as conn:
        yield conn


async def _prove_rights(admin: AsyncConnection, side: AsyncConnection, before: Before) -> None:
    """Set the settings that the freeze will change, and roll that back. Another switchover may have frozen
    the source meanwhile, so nothing may be changed here, not even to a value that was read before. Raises
    PERMISSION."""
    try:
        with translated(f"proving that our role may freeze the {before.side}"):
            async with side.transaction(force_rollback=True):
                await set_open(side, before.database, accepts=True, side=before.side)
            async with admin.transaction(force_rollback=True):
                await set_database_default(admin, before.database, before.read_only_default, before.side)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.PERMISSION:
            raise
        hint = f"use the role that owns database {before.database}, a member of it, or a superuser"
        raise PgmigError(exc.kind, exc.message, hint) from exc


async def _shorten_deadlock_timeout(conn: AsyncConnection) -> bool:
    """Set a short deadlock_timeout. Returns whether the role may."""
    try:
        await conn.execute("SET deadlock_timeout = '200ms'")
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as exc:
        raise translate(exc, "opening a session on the source") from exc
    return True


async def before_freeze(conn: AsyncConnection, uri: str, side: str = "source") -> Before:
    """The state that `thaw` restores. Raises PERMISSION if our role can connect to no other database (see
    `way_in`)."""
    with translated(f"checking the {side}"):
        row = await (await conn.execute("SELECT current_database()::text")).fetchone()
    assert row is not None
    database = str(row[0])
    return Before(
        await database_default(conn, database, side),
        await clock(conn, side),
        database,
        await way_in(conn, uri, side),
        await enabled_subscriptions(conn, side),
        side=side,
    )


async def emit_sentinel(conn: AsyncConnection, prefix: str, content: str) -> Lsn:
    """Write a transactional logical message. Returns a position at or before its commit."""
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
