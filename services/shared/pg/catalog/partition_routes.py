"""Places of tables in partition trees, and the DDL that creates the same partitions on the destination."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.catalog.partitions import existing_tables
from services.shared.pg.catalog.stored_text import decoded, encoding_to_read, statement_text
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated

# The table and its ancestors in the partition tree, the root last.
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
SELECT n.nspname, c.relname,
       pg_catalog.convert_to(pg_catalog.pg_get_expr(c.relpartbound, c.oid), given.encoding),
       pg_catalog.convert_to(CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END,
                             given.encoding)
  FROM (SELECT %s::name AS encoding) given
 CROSS JOIN up
  JOIN pg_catalog.pg_class c ON c.oid = up.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY up.height DESC
"""


async def creation(source: AsyncConnection, destination: AsyncConnection, table: TableId) -> tuple[str, ...]:
    """Statements for the destination, parents first. Empty for a table that is not a partition."""
    with translated(f"reading how {table} is a partition on the source"):
        encoding = encoding_to_read(source)
        rows = await (await source.execute(_CHAIN, [table.schema, table.name, encoding])).fetchall()
    chain = [
        (TableId(schema, name), decoded(bound or b"", encoding), decoded(key or b"", encoding))
        for schema, name, bound, key in rows
    ]
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
        statements.append(statement_text(statement, destination))
    return tuple(statements)


_PLACES = """
SELECT n.nspname, c.relname, pn.nspname, p.relname,
       pg_catalog.convert_to(pg_catalog.pg_get_expr(c.relpartbound, c.oid), %s)
  FROM unnest(%s::text[], %s::text[]) AS wanted (s, r)
  JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.s
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.r AND c.relispartition
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
  JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
  JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
"""

Places = Mapping[TableId, tuple[TableId, str]]
"""Parent and bound of each table that is a partition. Other tables have no entry."""


async def places(conn: AsyncConnection, tables: Collection[TableId], chosen: Chosen = EVERYTHING) -> Places:
    """The places of those of `tables` that are partitions on this server. chosen: the objects that are
    migrated. A partition whose root is not migrated is an ordinary table."""
    with translated("reading which tables are partitions"):
        encoding = encoding_to_read(conn)
        names = [t.schema for t in tables], [t.name for t in tables]
        cursor = await conn.execute(_PLACES, [encoding, *names])
        rows = await cursor.fetchall()
    found = {TableId(s, t): (TableId(ps, p), decoded(bound or b"", encoding)) for s, t, ps, p, bound in rows}
    return {table: place for table, place in found.items() if chosen.makes(place[0])}


_TOPMOST = """
WITH RECURSIVE up AS (
    SELECT n.nspname AS s, c.relname AS r, c.oid
      FROM unnest(%s::text[], %s::text[]) AS wanted (s, r)
      JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.s
      JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.r
     UNION ALL
    SELECT up.s, up.r, i.inhparent
      FROM up
      JOIN pg_catalog.pg_class c ON c.oid = up.oid AND c.relispartition
      JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
SELECT up.s, up.r, n.nspname, c.relname
  FROM up
  JOIN pg_catalog.pg_class c ON c.oid = up.oid AND NOT c.relispartition
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""


async def topmost(conn: AsyncConnection, tables: Collection[TableId]) -> Mapping[TableId, TableId]:
    """The root that each table belongs to on this server. A table that is not a partition is its own root."""
    with translated("reading which tables are partitions"):
        cursor = await conn.execute(_TOPMOST, [[t.schema for t in tables], [t.name for t in tables]])
        return {TableId(s, t): TableId(rs, r) async for s, t, rs, r in cursor}


async def inheriting(conn: AsyncConnection, tables: Collection[TableId]) -> set[TableId]:
    """Those of `tables` that are partitions or inherit from another table: their column order may differ."""
    query = (
        "SELECT DISTINCT n.nspname, c.relname FROM unnest(%s::text[], %s::text[]) AS wanted (s, r)"
        " JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.s"
        " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.r"
        " JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid"
    )
    with translated("reading which tables inherit"):
        cursor = await conn.execute(query, [[t.schema for t in tables], [t.name for t in tables]])
        return {TableId(schema, name) async for schema, name in cursor}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where tables are among partitions, on the source (here) and on the destination (there).

    roots_here, roots_there: of each table. inheriting: tables of the destination that inherit.
    """

    here: Places
    there: Places
    roots_here: Mapping[TableId, TableId]
    roots_there: Mapping[TableId, TableId]
    inheriting: Collection[TableId]

    def differ(self) -> bool:
        """Whether a table has another place on the destination."""
        return self.here != self.there

    def leaves(self, table: TableId) -> bool:
        """Whether the destination's table is a partition of a root that the source's does not belong to."""
        root = self.roots_there.get(table, table)
        return root != table and self.roots_here.get(table) != root

    def root(self, table: TableId) -> TableId:
        """The table whose columns are altered for this one: itself when it is detached first, since
        a statement for the root would change the columns of all its partitions."""
        return table if self.leaves(table) else self.roots_there.get(table, table)

    def has_order(self, table: TableId) -> bool:
        """Whether the order of the columns is the table's own."""
        return table not in self.inheriting or self.leaves(table)

    def detaching(self, conn: AsyncConnection, table: TableId) -> tuple[str, ...]:
        """Statements that come before all others."""
        return self._placing(conn, table)[:1] if self.leaves(table) else ()

    def placing(self, conn: AsyncConnection, table: TableId) -> tuple[str, ...]:
        """Statements that, after the columns were altered, give the destination's table its place."""
        return self._placing(conn, table)[1 if self.leaves(table) else 0 :]

    def _placing(self, conn: AsyncConnection, table: TableId) -> tuple[str, ...]:
        if self.here.get(table) == self.there.get(table):
            return ()
        name = sql.Identifier(table.schema, table.name)
        statements = []
        if table in self.there:
            parent, _ = self.there[table]
            detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {}")
            statements.append(detach.format(sql.Identifier(parent.schema, parent.name), name))
        if table in self.here:
            parent, bound = self.here[table]
            attach = sql.SQL("ALTER TABLE {} ATTACH PARTITION {} {}")
            statements.append(attach.format(sql.Identifier(parent.schema, parent.name), name, sql.SQL(bound)))
        return tuple(statement_text(statement, conn) for statement in statements)


async def lineage(
    source: AsyncConnection,
    destination: AsyncConnection,
    tables: Collection[TableId],
    chosen: Chosen = EVERYTHING,
) -> Lineage:
    """The places of `tables` on both sides. chosen: the objects that are migrated."""
    return Lineage(
        await places(source, tables, chosen),
        await places(destination, tables),
        await topmost(source, tables),
        await topmost(destination, tables),
        await inheriting(destination, tables),
    )
