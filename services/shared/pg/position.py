"""Where the source's WAL ends."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import Lsn, PgmigError
from services.shared.pg.connection import connect, translated


async def wal_position(conn: AsyncConnection) -> Lsn:
    """The end of the source's WAL on disk."""
    with translated("reading the source's WAL position"):
        row = await (await conn.execute("SELECT pg_catalog.pg_current_wal_flush_lsn()::text")).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


class SourceWatch:
    """Asks the source again and again, over a connection of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._conn: AsyncConnection | None = None

    async def position(self) -> Lsn:
        """0/0 while the source cannot be reached."""
        try:
            if self._conn is None:
                self._conn = await connect(self._uri, "source")
            return await wal_position(self._conn)
        except PgmigError:
            await self.close()
            return Lsn(0)

    async def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
