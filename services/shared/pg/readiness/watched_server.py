"""A session of one server for the questions that decide whether a switchover can begin.

The questions are asked every few seconds while the migration runs, so none of them may wait for a lock or
take long.
"""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.pg.session.connection import connect, translated

STATEMENT_S = 5
LOCK_MS = 200


class WatchedServer:
    """side: source or destination. The session is opened when it is first needed, and kept."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._uri = ""
        self._conn: AsyncConnection | None = None

    @property
    def opened(self) -> bool:
        return self._conn is not None

    async def session(self, uri: str) -> AsyncConnection:
        """Another `uri` than before opens another session."""
        if self._conn is not None and (self._conn.closed or uri != self._uri):
            await self.close()
        if self._conn is None:
            conn, self._uri = await connect(uri, self._side), uri
            self._conn = conn
            with translated(f"checking the {self._side}"):
                await conn.execute(f"SET statement_timeout = '{STATEMENT_S}s'; SET lock_timeout = {LOCK_MS}")
        return self._conn

    async def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
