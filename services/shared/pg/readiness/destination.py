"""What on the destination would make a switchover fail, or what an operator should know before it."""

from __future__ import annotations

from collections.abc import Collection
from typing import LiteralString

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA, TableId
from services.shared.model.readiness_facts import ForeignWriter
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

_OUR_NAME = "pgmig destination"
"""application_name of pgmig's sessions."""

_INVALID: LiteralString = """
    SELECT n.nspname, x.relname
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace
     WHERE NOT (i.indisvalid AND i.indisready) AND x.relpersistence <> 't'
       AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', %(bookkeeping)s)
     ORDER BY 1, 2"""
_VALID: LiteralString = """
    SELECT n.nspname, x.relname
      FROM unnest(%(schemas)s::text[], %(names)s::text[]) w (schema, name)
      JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
      JOIN pg_catalog.pg_class x ON x.relnamespace = n.oid AND x.relname = w.name
      JOIN pg_catalog.pg_index i ON i.indexrelid = x.oid AND i.indisvalid AND i.indisready
     ORDER BY 1, 2"""


async def invalid_indexes_of(conn: AsyncConnection) -> tuple[TableId, ...]:
    """Names of the destination's invalid indexes, by schema and name."""
    with translated("looking for invalid indexes on the destination"):
        cursor = await conn.execute(_INVALID, {"bookkeeping": BOOKKEEPING_SCHEMA})
        return tuple([TableId(schema, name) async for schema, name in cursor])


async def valid_among(conn: AsyncConnection, indexes: Collection[TableId]) -> tuple[TableId, ...]:
    """Those of these indexes that exist on the source and are valid there. Others are no difference between
    the sides: the source has them like this, or an operator is building one on the destination alone."""
    if not indexes:
        return ()
    names = {"schemas": [one.schema for one in indexes], "names": [one.name for one in indexes]}
    with translated("looking for indexes on the source"):
        cursor = await conn.execute(_VALID, names)
        return tuple([TableId(schema, name) async for schema, name in cursor])


async def read_writers(
    conn: AsyncConnection, tables: Collection[TableId], at: float, *, with_id: bool = False
) -> tuple[ForeignWriter, ...]:
    """Sessions that hold a lock for writing on one of `tables` and are not pgmig's. Sessions with our role
    and our application_name count as pgmig's: that is enough for a warning, and protects nothing. at: now,
    Unix seconds. with_id: only those whose transaction has an id, and so may have written. A statement that a
    read-only default refuses has none."""
    with translated("looking for sessions that write to the destination"):
        cursor = await conn.execute(
            load_sql("readiness/writers.sql"),
            {"ours": _OUR_NAME, "bookkeeping": BOOKKEEPING_SCHEMA, "with_id": with_id},
        )
        rows = await cursor.fetchall()
    return tuple(
        ForeignWriter(f"process {pid} ({application or 'unnamed'}, role {role})", TableId(schema, name), at)
        for pid, application, role, schema, name in rows
        if TableId(schema, name) in tables
    )
