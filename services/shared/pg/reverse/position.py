"""The position of a publisher at which a pipeline without a copy starts."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import Lsn
from services.shared.pg.session.connection import translated


async def current_position(conn: AsyncConnection) -> Lsn:
    """Every transaction whose commit has been reported by now has its commit record before this position.
    Every transaction that commits later has it at or after it. The position is on the server's disk.

    Call it while nobody but pgmig can write to the database, after everything of the pipeline in the other
    direction is flushed here. conn: in autocommit mode; it may write although the database is read-only by
    default.

    It is the end of a record that this function writes, in a transaction whose commit record comes after it.
    pg_current_wal_insert_lsn() may be after a page header, a position that the flushed WAL of an idle server
    does not reach, so that a decoder would refuse to start there.
    """
    with translated("reading the position at which replication starts"):
        async with conn.transaction():
            await conn.execute("SET LOCAL synchronous_commit = local")  # standbys need not have it
            row = await (
                await conn.execute(
                    "SELECT pg_catalog.pg_logical_emit_message(true, 'pgmig', 'position')::pg_catalog.text"
                )
            ).fetchone()
    assert row is not None
    return Lsn.parse(row[0])
