"""TRUNCATE on a source that does not replicate it (PostgreSQL 10).

After such a TRUNCATE, the destination still has rows that the source no longer has. TRUNCATE gives its table
a new file, which otherwise only commands that rewrite a table do. So tables that were rewritten since before
the slot was created, or since the snapshot that they were added under, are counted on both sides when no
session can write any more. Every other change is replicated. So the destination has more rows exactly if a
TRUNCATE removed some on the source.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, MigrationId, PgmigError, Route, TableFile, TableId
from services.shared.pg.catalog.server import listing
from services.shared.pg.session.connection import translated

TRUNCATE_SINCE = 110000
"""server_version_num from which TRUNCATE is replicated."""


async def table_files(conn: AsyncConnection, tables: Sequence[TableId]) -> tuple[TableFile, ...]:
    """The files of those of the tables that exist."""
    with translated("checking the source's table files"):
        cursor = await conn.execute(
            "SELECT n.nspname, c.relname, pg_catalog.pg_relation_filenode(c.oid)::bigint"
            " FROM unnest(%s::text[], %s::text[]) t (s, r)"
            " JOIN pg_catalog.pg_namespace n ON n.nspname = t.s"
            " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.r",
            [[t.schema for t in tables], [t.name for t in tables]],
        )
        return tuple([TableFile(TableId(schema, name), node or 0) async for schema, name, node in cursor])


async def check_truncated(
    source: AsyncConnection,
    destination: AsyncConnection,
    before: Sequence[TableFile],
    routes: Sequence[Route],
    migration: MigrationId,
) -> None:
    """Raise SWITCHOVER_FAILED if a rewritten table has a different number of rows on the destination.

    before: the files before the slot was created, or under the snapshot of their copy. routes: partitions
    that are counted with their root. The source must be frozen, and the destination must have applied all
    changes.
    """
    now = {one.table: one.filenode for one in await table_files(source, [one.table for one in before])}
    rewritten = [one.table for one in before if now.get(one.table, one.filenode) != one.filenode]
    roots = {route.leaf: route.root for route in routes}
    counted = dict.fromkeys(roots.get(table, table) for table in rewritten)
    differing = [t for t in counted if await _count(source, t) != await _count(destination, t)]
    if differing:
        names = " ".join(shlex.quote(table.argument) for table in differing)
        raise PgmigError(
            ErrorKind.SWITCHOVER_FAILED,
            "tables were truncated on the source, which this version of PostgreSQL does not replicate: "
            f"{listing(differing)}",
            f"copy their rows again with: pgmig-cli resync-table --id {migration} {names}; "
            "then switch over again",
        )


async def _count(conn: AsyncConnection, table: TableId) -> int:
    """Rows of the table itself or, if it is partitioned, of all its partitions: the destination may partition
    it."""
    with translated(f"counting the rows of {table}"):
        name = sql.Identifier(table.schema, table.name)
        kind = await (
            await conn.execute(
                "SELECT c.relkind = 'p' FROM pg_catalog.pg_class c"
                " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s AND c.relname = %s",
                [table.schema, table.name],
            )
        ).fetchone()
        only = sql.SQL("") if kind and kind[0] else sql.SQL("ONLY ")
        row = await (await conn.execute(sql.SQL("SELECT count(*) FROM {}{}").format(only, name))).fetchone()
    return int(row[0]) if row else 0
