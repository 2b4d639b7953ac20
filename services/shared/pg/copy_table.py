"""The table that a copy fills, on the destination: its kind, and how it is emptied."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import AsyncConnection, sql

from services.shared.model import TableId

_PARTITIONED = """
    SELECT c.relkind = 'p'
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s"""
_REFERENCED = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                   JOIN pg_catalog.pg_class AS c ON c.oid = k.confrelid
                   JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                   WHERE k.contype = 'f' AND k.conrelid <> k.confrelid
                     AND n.nspname = %s AND c.relname = %s)"""
_END_SESSIONS = """
    SELECT pg_catalog.pg_terminate_backend(a.pid)
    FROM pg_catalog.pg_locks AS l
    JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
    JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE l.locktype = 'relation' AND a.datname = pg_catalog.current_database()
      AND n.nspname = %s AND c.relname = %s
      AND a.usename = CURRENT_USER AND a.application_name = 'pgmig destination'
      AND a.pid <> pg_catalog.pg_backend_pid()"""


def table_name(table: TableId) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


async def is_partitioned(conn: AsyncConnection, table: TableId) -> bool:
    row = await (await conn.execute(_PARTITIONED, [table.schema, table.name])).fetchone()
    return row is not None and bool(row[0])


async def empty(conn: AsyncConnection, table: TableId, *, partitioned: bool) -> bool:
    """Remove the table's rows within the caller's transaction; whether by TRUNCATE, which is denied
    to a table that a foreign key refers to. Ours have none yet; those of a destination that
    brought its own schema may. An inheritance parent loses its own rows alone; one that is
    partitioned here, and an ordinary table on the source, all that it holds."""
    row = await (await conn.execute(_REFERENCED, [table.schema, table.name])).fetchone()
    referenced = row is not None and bool(row[0])
    form = "DELETE FROM {}{}" if referenced else "TRUNCATE {}{}"
    only = sql.SQL("" if partitioned else "ONLY ")
    await conn.execute(sql.SQL(form).format(only, table_name(table)))
    return not referenced


async def empty_for_parts(conn: AsyncConnection, tables: Iterable[TableId]) -> None:
    """Empty tables that will be copied in several parts, within the caller's transaction, which
    gives them new plans. A copier that still copies by an old one, cut off from us, would hold
    us up: its session is ended."""
    for table in tables:
        await conn.execute(_END_SESSIONS, [table.schema, table.name])
        await empty(conn, table, partitioned=await is_partitioned(conn, table))
