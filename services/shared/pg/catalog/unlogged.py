"""Unlogged tables, and how many rows they hold."""

from __future__ import annotations

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.session.connection import translated

_UNLOGGED = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND n.nspname !~ '^pg_'
 ORDER BY 1, 2
"""


async def count_unlogged(conn: AsyncConnection, at_most: int | None = None) -> dict[TableId, int]:
    """The number of rows of each unlogged table. The scan of a table ends after `at_most` rows."""
    counted: dict[TableId, int] = {}
    with translated("counting the rows of unlogged tables"):
        cursor = await conn.execute(_UNLOGGED)
        for table in [TableId(*row) for row in await cursor.fetchall()]:
            query = sql.SQL("SELECT count(*) FROM (SELECT FROM ONLY {} LIMIT {}) counted").format(
                sql.Identifier(table.schema, table.name), sql.Literal(at_most)
            )
            row = await (await conn.execute(query)).fetchone()
            counted[table] = int(row[0]) if row else 0
    return counted
