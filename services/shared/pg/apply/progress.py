"""Where an apply session keeps its progress: in a replication origin, or in a row of `pgmig.progress`.

A session that begins reads the progress, and makes sure that no other session advances it.
"""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, Lsn, PgmigError, PipelineId
from services.shared.pg.bookkeeping.progress import ORIGIN_FUNCTIONS, row_progress


async def uses_origin(conn: AsyncConnection, pipeline: PipelineId) -> bool:
    """Where progress is kept. The first choice remains in force, even if the role's privileges have changed
    since."""
    if await row_progress(conn, pipeline) is not None:
        return False
    row = await (
        await conn.execute(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = %s)"
            " OR (SELECT pg_catalog.bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))"
            "       FROM pg_catalog.pg_proc p WHERE p.proname = ANY (%s))",
            [pipeline.origin, [function.partition("(")[0] for function in ORIGIN_FUNCTIONS]],
        )
    ).fetchone()
    return row is not None and bool(row[0])


async def take_row(conn: AsyncConnection, pipeline: PipelineId, start: Lsn) -> Lsn:
    """Progress from the row of `pgmig.progress`, which is created if necessary. The session's advisory lock
    ensures that no other session uses it."""
    # This writes, so that its commit also flushes earlier commits that did not wait for the disk.
    await conn.execute(
        "INSERT INTO pgmig.progress AS p (pipeline, lsn) VALUES (%s, %s::pg_catalog.pg_lsn)"
        " ON CONFLICT (pipeline) DO UPDATE SET lsn = p.lsn",
        [str(pipeline), str(start)],
    )
    return await row_progress(conn, pipeline) or start


async def take_origin(conn: AsyncConnection, pipeline: PipelineId) -> Lsn | None:
    name = pipeline.origin
    await conn.execute(
        "SELECT pg_catalog.pg_replication_origin_create(%s)"
        " WHERE pg_catalog.pg_replication_origin_oid(%s) IS NULL",
        [name, name],
    )
    try:
        await conn.execute("SELECT pg_catalog.pg_replication_origin_session_setup(%s)", [name])
    except psycopg.errors.ObjectInUse as exc:
        raise in_use(f"replication origin {name}") from exc
    row = await (
        await conn.execute("SELECT pg_catalog.pg_replication_origin_session_progress(true)::text")
    ).fetchone()
    return Lsn.parse(row[0]) if row and row[0] else None


def in_use(what: str) -> PgmigError:
    return PgmigError(
        ErrorKind.TRANSIENT,
        f"{what} is in use on the destination",
        "another applier session still holds it; it ends by itself when its connection breaks",
    )
