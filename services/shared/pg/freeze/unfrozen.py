"""A switchover that blocks nobody, for an operator who has stopped the application.

Nothing of the source is locked, set or closed, and no session is ended. So only what the WAL and the catalogs
show is proven: before the first sentinel no transaction that has written is still open or prepared, and
between the two sentinels nothing was committed in a replicated table. `services.shared.pg.freeze.source`
proves more: nobody can write at all.
"""

from __future__ import annotations

import asyncio
import time

from psycopg import AsyncConnection

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.freeze.sessions import own_session
from services.shared.pg.freeze.source import Freeze, ListTables
from services.shared.pg.freeze.thaw import Before, clock
from services.shared.pg.session.connection import translated

LOOK_S = 0.1
NAMED_AT_MOST = 3


class Unfrozen(Freeze):
    """One session on the source, with the interface of a freeze. Call open, lock, ..., close."""

    blocks = False

    def __init__(self, admin: AsyncConnection, before: Before) -> None:
        super().__init__(admin, admin, admin, before, "")

    @classmethod
    async def open(cls, uri: str, slot: str = "", side: str = "source") -> Unfrozen:
        """`before` names no database: a thaw finds nothing to restore."""
        admin = await writable_connection(uri, side=side)
        try:
            before = Before("", await clock(admin, side), sessions=(await own_session(admin),), side=side)
        except BaseException:
            await admin.close()
            raise
        return cls(admin, before)

    async def close(self) -> None:
        await self._admin.close()

    async def stop_subscriptions(self) -> None:
        """They continue. What they write after the sentinel rolls the switchover back."""

    async def lock(self, tables: ListTables, deadline: float) -> float:
        """Wait until no transaction that has written is open. Returns 0.0, because no writer waits. Raises
        SWITCHOVER_FAILED."""
        while open_ones := await self._writers():
            if time.monotonic() >= deadline:
                raise _still_written(open_ones)
            await asyncio.sleep(LOOK_S)
        return 0.0

    async def holds(self) -> None:
        """Raise an error if the session has ended."""
        with translated("checking the source"):
            await self._admin.execute("SELECT 1")

    async def forbid_writes(self) -> float:
        return await clock(self._admin)

    async def end_writers(self, before: float) -> int:
        return 0

    async def opened(self) -> bool:
        return False

    async def shut(self, deadline: float) -> int:
        """Raises SWITCHOVER_FAILED if a transaction that has written is open."""
        if open_ones := await self._writers():
            raise _still_written(open_ones)
        return 0

    async def check_prepared(self) -> None:
        """`lock` and `shut` have looked for prepared transactions."""

    async def _writers(self) -> str:
        """Other transactions that have an id of their own, and so have written or may have. Their locks on
        that id are visible to every role."""
        with translated("looking for transactions that write"):
            rows = await (
                await self._admin.execute(
                    "SELECT a.pid, coalesce(a.application_name, '') FROM pg_catalog.pg_locks l"
                    " JOIN pg_catalog.pg_stat_activity a USING (pid)"
                    " WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted"
                    " AND a.datname = current_database() AND l.pid <> pg_backend_pid()"
                    " ORDER BY a.pid"
                )
            ).fetchall()
        named = [f"process {pid} ({application or 'unnamed'})" for pid, application in rows[:NAMED_AT_MOST]]
        prepared = await self._prepared()
        return ", ".join([*named, *filter(None, [prepared])])


def _still_written(by: str) -> PgmigError:
    return PgmigError(
        ErrorKind.SWITCHOVER_FAILED,
        f"transactions that write to the source are open: {by}",
        "stop the application and end its transactions, then switch over again; or let pgmig block writes "
        "(`--freeze database`)",
    )
