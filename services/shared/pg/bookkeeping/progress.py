"""The applied position of a destination: its replication origin, or a row if the role may not use origins."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import Lsn, PipelineId
from services.shared.pg.session.connection import translated

ORIGIN_FUNCTIONS = (
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_oid(text)",
    "pg_replication_origin_session_setup(text)",
    "pg_replication_origin_session_progress(boolean)",
    "pg_replication_origin_xact_setup(pg_lsn,timestamp with time zone)",
    "pg_replication_origin_progress(text,boolean)",
)


async def applied_progress(conn: AsyncConnection, pipeline: PipelineId) -> Lsn | None:
    """The destination's progress, from the row or the origin. None if neither exists yet."""
    found = await row_progress(conn, pipeline)
    return found if found is not None else await origin_progress(conn, pipeline)


async def row_progress(conn: AsyncConnection, pipeline: PipelineId) -> Lsn | None:
    """The pipeline's row in `pgmig.progress`. None if there is no row."""
    with translated("checking the progress of the migration"):
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass('pgmig.progress') IS NOT NULL")
        ).fetchone()
        if row is None or not row[0]:
            return None
        row = await (
            await conn.execute("SELECT lsn::text FROM pgmig.progress WHERE pipeline = %s", [str(pipeline)])
        ).fetchone()
    return Lsn.parse(row[0]) if row else None


async def origin_progress(conn: AsyncConnection, pipeline: PipelineId) -> Lsn | None:
    """The origin's progress on disk. 0/0 before the first transaction, None if there is no origin."""
    with translated(f"checking replication origin {pipeline.origin}"):
        cursor = await conn.execute(
            "SELECT FROM pg_catalog.pg_replication_origin WHERE roname = %s", [pipeline.origin]
        )
        if await cursor.fetchone() is None:  # the role may have no permission to call the function
            return None
        row = await (
            await conn.execute(
                "SELECT coalesce(pg_catalog.pg_replication_origin_progress(roname, true), '0/0')::text"
                " FROM pg_catalog.pg_replication_origin WHERE roname = %s",
                [pipeline.origin],
            )
        ).fetchone()
    return Lsn.parse(row[0]) if row else None
