"""Conflicts on the side where they were resolved, and what the other side has seen of this one.

A conflict is recorded in the transaction that resolves it, so it is there exactly once. One at which the
applier has stopped is recorded alone, and not again when it stops there a second time. Values of keys are
recorded, and no values of other columns.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from psycopg import AsyncConnection

from services.shared.model import Lsn, PipelineId, TableId
from services.shared.model.conflicts.policy import Conflict, ConflictKind, Decision
from services.shared.pg.session.connection import translated

_DOING = "reading the conflicts of the migration"

RECORD = (
    "INSERT INTO pgmig.conflict (pipeline, lsn, schema_name, table_name, kind, decision, key_columns,"
    " key_values, remote_at, local_at, resolved_at) VALUES ($1, $2::pg_catalog.pg_lsn, $3, $4, $5, $6,"
    " $7::pg_catalog.text[], $8::pg_catalog.text[], pg_catalog.to_timestamp($9::pg_catalog.float8),"
    " pg_catalog.to_timestamp(nullif($10::pg_catalog.float8, 0)), pg_catalog.clock_timestamp())"
)
"""The statement that records a conflict. Its parameters are the first columns, in this order; times are
seconds since the Unix epoch."""
KEEP_SEEN = (
    "INSERT INTO pgmig.seen AS s (pipeline, seen_us) VALUES ($1, $2::pg_catalog.int8)"
    " ON CONFLICT (pipeline) DO UPDATE SET seen_us = excluded.seen_us"
)
"""The statement that records what the other side has seen, with the transaction that says so."""

_STOPPED = (
    "INSERT INTO pgmig.conflict (pipeline, lsn, schema_name, table_name, kind, decision, key_columns,"
    " key_values, remote_at, local_at, resolved_at)"
    " SELECT %(pipeline)s, %(lsn)s::pg_catalog.pg_lsn, %(schema)s, %(table)s, %(kind)s, %(decision)s,"
    " %(columns)s::pg_catalog.text[], %(values)s::pg_catalog.text[],"
    " pg_catalog.to_timestamp(%(remote_at)s::pg_catalog.float8),"
    " pg_catalog.to_timestamp(nullif(%(local_at)s::pg_catalog.float8, 0)), pg_catalog.clock_timestamp()"
    " WHERE NOT EXISTS (SELECT FROM pgmig.conflict WHERE pipeline = %(pipeline)s"
    " AND lsn = %(lsn)s::pg_catalog.pg_lsn AND schema_name = %(schema)s AND table_name = %(table)s"
    " AND kind = %(kind)s AND decision = %(decision)s AND key_values = %(values)s::pg_catalog.text[])"
)
_READ = (
    "SELECT lsn::text, schema_name, table_name, kind, decision, key_columns, key_values, remote_at, local_at,"
    " resolved_at FROM pgmig.conflict WHERE pipeline = %s ORDER BY id DESC LIMIT %s"
)
_COUNT = "SELECT kind, decision, count(*) FROM pgmig.conflict WHERE pipeline = %s GROUP BY 1, 2"
_FORGET = (
    "DELETE FROM pgmig.deleted_row WHERE pipeline = %s AND coalesce((extract(epoch FROM"
    " pg_catalog.pg_xact_commit_timestamp(xmin)) * 1000000)::pg_catalog.int8 <= %s, true)"
)


async def read_conflicts(conn: AsyncConnection, pipeline: PipelineId, limit: int) -> tuple[Conflict, ...]:
    """The newest conflicts of the pipeline, the newest first."""
    with translated(_DOING):
        if not await _recorded(conn):
            return ()
        cursor = await conn.execute(_READ, [str(pipeline), limit])
        return tuple(
            Conflict(
                TableId(schema, table),
                ConflictKind(kind),
                Decision(decision),
                tuple(zip(columns, values, strict=True)),
                Lsn.parse(lsn),
                _seconds(remote_at),
                _seconds(local_at),
                _seconds(resolved_at),
            )
            for (
                lsn,
                schema,
                table,
                kind,
                decision,
                columns,
                values,
                remote_at,
                local_at,
                resolved_at,
            ) in await cursor.fetchall()
        )


async def count_conflicts(
    conn: AsyncConnection, pipeline: PipelineId
) -> Counter[tuple[ConflictKind, Decision]]:
    """How many conflicts of each kind there were, by their decision."""
    with translated(_DOING):
        if not await _recorded(conn):
            return Counter()
        cursor = await conn.execute(_COUNT, [str(pipeline)])
        return Counter(
            {(ConflictKind(kind), Decision(how)): count for kind, how, count in await cursor.fetchall()}
        )


async def record_stopped(conn: AsyncConnection, pipeline: PipelineId, conflict: Conflict) -> None:
    """Record a conflict at which the applier stops."""
    given = {
        "pipeline": str(pipeline),
        "lsn": str(conflict.lsn),
        "schema": conflict.table.schema,
        "table": conflict.table.name,
        "kind": conflict.kind.value,
        "decision": conflict.decision.value,
        "columns": [name for name, _ in conflict.key],
        "values": [value for _, value in conflict.key],
        "remote_at": conflict.remote_at,
        "local_at": conflict.local_at,
    }
    with translated("recording a conflict"):
        await conn.execute(_STOPPED, given)


async def read_seen(conn: AsyncConnection, pipeline: PipelineId) -> int:
    """What the publisher has seen of this side (microseconds since the Unix epoch); 0 if nothing is
    recorded."""
    with translated("reading what the other side has seen"):
        cursor = await conn.execute("SELECT seen_us FROM pgmig.seen WHERE pipeline = %s", [str(pipeline)])
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def forget_deletions(conn: AsyncConnection, pipeline: PipelineId) -> None:
    """Delete the records of deletions that the other side has seen. Nothing needs their times any more."""
    with translated("removing records of deleted rows"):
        await conn.execute(_FORGET, [str(pipeline), await read_seen(conn, pipeline)])


async def _recorded(conn: AsyncConnection) -> bool:
    cursor = await conn.execute("SELECT pg_catalog.to_regclass('pgmig.conflict') IS NOT NULL")
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at is not None else 0.0
