"""Only one applier at a time, and no earlier applier while tables are copied again.

A session of the applier holds an advisory lock during its whole life, and starts only if its epoch is in
force. Changes may already have been applied to tables that are to be copied again. So before that copy the
coordinator puts a new epoch in force and terminates the session that holds the lock. Thus an applier that has
lost its connection to the coordinator cannot write to a table that is being copied.
"""

from __future__ import annotations

import asyncio
import hashlib

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, PipelineId
from services.shared.pg.bookkeeping.schema import KEEPING_BOOKS, alone, book, books_exist
from services.shared.pg.session.connection import translated

ENDED_WITHIN_S = 10.0
LOOK_S = 0.05

_HOLDERS = (
    "SELECT l.pid FROM pg_catalog.pg_locks AS l"
    " WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    " AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) = %s"
)


def _key(pipeline: PipelineId) -> int:
    text = f"pgmig applier {pipeline}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), signed=True)


async def take_applier_lock(conn: AsyncConnection, pipeline: PipelineId, epoch: str) -> bool:
    """Whether this session is the applier now. Raises FENCED if another epoch is in force.

    The epoch is read under the lock under which a pipeline's bookkeeping is removed. So an applier is
    admitted before the removal, which then finds and terminates it, or not at all.
    """
    row = await (
        await conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [_key(pipeline)])
    ).fetchone()
    if row is None or not row[0]:
        return False
    async with alone(conn):
        known = ""
        if await books_exist(conn):
            query = sql.SQL("SELECT epoch FROM {} WHERE pipeline = %s").format(book("applier"))
            found = await (await conn.execute(query, [str(pipeline)])).fetchone()
            known = str(found[0]) if found else ""
    if known != epoch:
        raise PgmigError(
            ErrorKind.FENCED,
            f"the work of this applier of pipeline {pipeline} was given up, or tables were copied again, "
            "since it was assigned",
        )
    return True


async def fence_others(conn: AsyncConnection, pipeline: PipelineId, epoch: str) -> None:
    """`fence_applier`, unless `epoch` is in force already: an applier that has it goes on."""
    query = sql.SQL("SELECT epoch FROM {} WHERE pipeline = %s").format(book("applier"))
    with translated(KEEPING_BOOKS):
        found = await (await conn.execute(query, [str(pipeline)])).fetchone()
    if found is None or found[0] != epoch:
        await fence_applier(conn, pipeline, epoch)


async def fence_applier(conn: AsyncConnection, pipeline: PipelineId, epoch: str) -> None:
    """Put `epoch` in force and terminate the session of an earlier applier. Raises TRANSIENT if it does not
    end."""
    upsert = sql.SQL(
        "INSERT INTO {} (pipeline, epoch) VALUES (%s, %s)"
        " ON CONFLICT (pipeline) DO UPDATE SET epoch = excluded.epoch"
    ).format(book("applier"))
    with translated(KEEPING_BOOKS):
        await conn.execute(upsert, [str(pipeline), epoch])
        ends = asyncio.get_running_loop().time() + ENDED_WITHIN_S
        while pids := [row[0] async for row in await conn.execute(_HOLDERS, [_key(pipeline)])]:
            await conn.execute(
                "SELECT pg_catalog.pg_terminate_backend(p) FROM unnest(%s::int[]) AS p", [pids]
            )
            if asyncio.get_running_loop().time() > ends:
                raise PgmigError(
                    ErrorKind.TRANSIENT,
                    f"an applier's session on the destination does not end (process {pids[0]})",
                    "see what it waits for in pg_stat_activity",
                )
            await asyncio.sleep(LOOK_S)
