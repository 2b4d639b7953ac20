"""The source's tables: which ones to copy, which ones to publish, and their sizes.

Ordinary tables and leaf partitions are copied. A partitioned parent is not copied, because its rows are
stored in its leaves. Members of extensions, temporary and foreign tables and pgmig's bookkeeping are not
copied either. From version 13 on a publication contains the partitioned root, and PostgreSQL sends the
leaves' changes under the leaves' names. Before version 13 the publication lists the leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import (
    BOOKKEEPING_SCHEMA,
    Column,
    ErrorKind,
    PgmigError,
    ReplicaIdentity,
    SourceTable,
    TableId,
)
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql, load_sql_for

ROOTS_SINCE = 130000
"""server_version_num from which a publication can contain a partitioned root."""

_NO_SNAPSHOT = (psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue)


async def list_tables(conn: AsyncConnection, chosen: Chosen = EVERYTHING) -> tuple[SourceTable, ...]:
    """Tables to copy, by schema and name, in the connection's current snapshot. Takes no locks, so
    bytes_estimated and pages are 0."""
    with translated("reading the catalog"):
        return tuple(t for t in await _list(conn, sizes=False) if chosen.fills(t.table))


async def _list(conn: AsyncConnection, *, sizes: bool) -> tuple[SourceTable, ...]:
    query = load_sql_for("catalog/sql/tables.sql", conn.info.server_version)
    cursor = await conn.execute(query, {"bookkeeping": BOOKKEEPING_SCHEMA, "sizes": sizes})
    return tuple([_table(row) async for row in cursor])


def _table(row: tuple[Any, ...]) -> SourceTable:
    schema, name, oid, identity, has_key, rows, size, logged, pages, key, columns = row
    return SourceTable(
        table=TableId(schema, name),
        oid=oid,
        columns=tuple(Column(c["name"], c["type"], c["generated"], c["always"]) for c in columns),
        replica_identity=ReplicaIdentity(identity),
        has_replica_key=has_key,
        rows_estimated=rows,
        bytes_estimated=size,
        logged=logged,
        pages=pages,
        integer_key=key,
    )


async def list_tables_under(
    conn: AsyncConnection, snapshot: str, chosen: Chosen = EVERYTHING
) -> tuple[SourceTable, ...]:
    """Tables as of an exported snapshot, with sizes.

    Raises SNAPSHOT_LOST if the snapshot is gone. Raises TRANSIENT if another session holds a lock on a table
    for long, because its size cannot be read then.
    """
    async with under_snapshot(conn, snapshot):
        return tuple(t for t in await _list(conn, sizes=True) if chosen.fills(t.table))


@asynccontextmanager
async def under_snapshot(conn: AsyncConnection, snapshot: str) -> AsyncIterator[None]:
    """A transaction that reads the source as of an exported snapshot. Raises the errors of
    `list_tables_under`."""
    with translated("reading the source's catalog under the snapshot"):
        async with conn.transaction():
            try:
                await _under(conn, snapshot)
                yield
            except psycopg.errors.LockNotAvailable as exc:
                raise PgmigError(
                    ErrorKind.TRANSIENT,
                    "a table of the source is locked by a session that alters, truncates or drops it",
                    "wait until that has ended (pg_locks, pg_stat_activity)",
                ) from exc


async def _under(conn: AsyncConnection, snapshot: str) -> None:
    """Set the snapshot of the transaction that has just begun. Raises SNAPSHOT_LOST."""
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    await conn.execute("SET LOCAL lock_timeout = '10s'")
    try:
        await conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
    except _NO_SNAPSHOT as exc:
        raise PgmigError(ErrorKind.SNAPSHOT_LOST, f"snapshot {snapshot} of the source is gone") from exc


async def key_bounds(
    conn: AsyncConnection, tables: Iterable[SourceTable], snapshot: str
) -> dict[TableId, tuple[int, int]]:
    """The least and the greatest value of the tables' integer keys, under an exported snapshot.

    Tables without rows are left out. So are tables that were dropped or altered since; their copy detects
    that. Raises the errors of `list_tables_under`.
    """
    bounds = {}
    with translated("reading keys of the source's tables"):
        async with conn.transaction():
            await _under(conn, snapshot)
            for table in tables:
                query = sql.SQL("SELECT min({key}), max({key}) FROM ONLY {table}").format(
                    key=sql.Identifier(table.integer_key),
                    table=sql.Identifier(table.table.schema, table.table.name),
                )
                try:
                    async with conn.transaction():
                        row = await (await conn.execute(query)).fetchone()
                except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
                    continue
                if row is not None and row[0] is not None:
                    bounds[table.table] = (int(row[0]), int(row[1]))
    return bounds


async def publication_tables(conn: AsyncConnection, chosen: Chosen = EVERYTHING) -> tuple[TableId, ...]:
    """The tables to publish: permanent tables, and partitioned roots instead of their leaves. If a root or
    one of its leaves is not migrated, its migrated leaves are listed instead."""
    roots = conn.info.server_version >= ROOTS_SINCE
    with translated("reading the source's catalog"):
        if chosen.everything:
            return tuple(await _publication_tables(conn, roots=roots))
        found = {*await _publication_tables(conn, roots=roots), *await _publication_tables(conn, roots=False)}
    return tuple(sorted(table for table in found if chosen.publishes(table)))


async def _publication_tables(conn: AsyncConnection, *, roots: bool) -> list[TableId]:
    query = load_sql("catalog/sql/publication.sql")
    cursor = await conn.execute(query, {"bookkeeping": BOOKKEEPING_SCHEMA, "roots": roots})
    return [TableId(schema, name) async for schema, name in cursor]


def lacking_identity(tables: tuple[SourceTable, ...]) -> tuple[TableId, ...]:
    """Tables whose UPDATE and DELETE the source would refuse once they are published."""
    return tuple(t.table for t in tables if t.logged and not _identified(t))


def _identified(table: SourceTable) -> bool:
    if table.replica_identity is ReplicaIdentity.FULL:
        return True
    return table.replica_identity is not ReplicaIdentity.NOTHING and table.has_replica_key
