"""The DDL that makes a partition of the source on the destination, with the parents that it lacks there."""

from __future__ import annotations

from itertools import pairwise

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.connection import translated
from services.shared.pg.partitions import existing_tables

# The table and what it is a partition of, the root last.
_CHAIN = """
WITH RECURSIVE up AS (
    SELECT c.oid, 0 AS height FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s
     UNION ALL
    SELECT i.inhparent, up.height + 1
      FROM up
      JOIN pg_catalog.pg_class c ON c.oid = up.oid AND c.relispartition
      JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
SELECT n.nspname, c.relname, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
       CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END
  FROM up
  JOIN pg_catalog.pg_class c ON c.oid = up.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY up.height DESC
"""


async def creation(source: AsyncConnection, destination: AsyncConnection, table: TableId) -> tuple[str, ...]:
    """Statements for the destination, parents first; none for a table that is not a partition."""
    with translated(f"reading how {table} is a partition on the source"):
        rows = await (await source.execute(_CHAIN, [table.schema, table.name])).fetchall()
    chain = [(TableId(schema, name), bound, key) for schema, name, bound, key in rows]
    there = await existing_tables(destination, [name for name, _, _ in chain])
    statements = []
    for (parent, _, _), (name, bound, key) in pairwise(chain):
        if name in there or not bound:
            continue
        statement = sql.SQL("CREATE TABLE {} PARTITION OF {} {}").format(
            sql.Identifier(name.schema, name.name),
            sql.Identifier(parent.schema, parent.name),
            sql.SQL(bound),
        )
        if key:
            statement += sql.SQL(" PARTITION BY {}").format(sql.SQL(key))
        statements.append(statement.as_string(destination))
    return tuple(statements)
