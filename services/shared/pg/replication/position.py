"""The end of the source's WAL, and how much WAL a replication slot retains."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import SLOT_GONE, Lsn, PgmigError
from services.shared.pg.session.connection import connect, translated

_WAL_STATUS_SINCE = 130000


async def wal_position(conn: AsyncConnection) -> Lsn:
    """The end of the source's WAL that is flushed to disk."""
    with translated("reading the source's WAL position"):
        row = await (await conn.execute("SELECT pg_catalog.pg_current_wal_flush_lsn()::text")).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


@dataclass(frozen=True, slots=True)
class SourceState:
    """retained: bytes of WAL that the slot keeps from being removed. wal_status: as in pg_replication_slots
    ("" before PostgreSQL 13), or SLOT_GONE if there is no such slot."""

    position: Lsn
    retained: int = 0
    wal_status: str = ""


async def source_state(conn: AsyncConnection, slot: str) -> SourceState:
    """Read the WAL position and the slot in one query."""
    status = "s.wal_status::text" if conn.info.server_version >= _WAL_STATUS_SINCE else "''"
    query = sql.SQL(
        "SELECT pg_catalog.pg_current_wal_flush_lsn()::text, s.slot_name IS NULL, s.restart_lsn::text, {}"
        " FROM (VALUES (%s::text)) wanted (name)"
        " LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = wanted.name"
    ).format(sql.SQL(status))
    with translated("reading the source's WAL position"):
        row = await (await conn.execute(query, [slot])).fetchone()
    assert row is not None
    position, gone, restart, wal_status = row
    end = Lsn.parse(position)
    kept = max(0, end - Lsn.parse(restart)) if restart else 0
    return SourceState(end, kept, SLOT_GONE if gone else wal_status or "")


async def wal_insert_position(conn: AsyncConnection) -> Lsn:
    """The end of the source's WAL, flushed to disk or not: it is after every visible commit."""
    with translated("reading the source's WAL position"):
        row = await (await conn.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text")).fetchone()
    assert row is not None
    return Lsn.parse(row[0])


class SourceWatch:
    """Queries the source's state repeatedly, over its own connection."""

    def __init__(self, uri: str, slot: str) -> None:
        self.uri = uri
        self._slot = slot
        self._conn: AsyncConnection | None = None

    async def look(self) -> SourceState | None:
        """None while the source cannot be reached."""
        try:
            if self._conn is None:
                self._conn = await connect(self.uri, "source")
            return await source_state(self._conn, self._slot)
        except PgmigError:
            await self.close()
            return None

    async def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
