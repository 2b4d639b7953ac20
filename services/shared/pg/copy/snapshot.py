"""The source's transaction for a part: under the snapshot, with the table locked as the snapshot shows it.

A snapshot determines which rows are visible. It does not determine which file, columns or table a name refers
to. TRUNCATE, a rewriting ALTER TABLE, DROP and CREATE, or a rename may commit after the snapshot. Then COPY
would read an empty file, another table, or values from another column, without an error ("Caveats" in the
chapter on concurrency control of PostgreSQL's manual). So the transaction first locks the table, which blocks
such statements until the part is done. Then it compares the catalog as the snapshot shows it (SELECT from
pg_class and pg_attribute) with the catalog as it is now (regclass, pg_relation_filenode, and the attribute
numbers in a query's row description).
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import CopyPart
from services.shared.pg.copy.errors import SNAPSHOT_GONE, snapshot_lost, table_changed
from services.shared.pg.copy.table import Described, describe, described, table_name

_NOW = """
    SELECT pg_catalog.txid_current_snapshot()::pg_catalog.text,
           {table}::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int8,
           coalesce(pg_catalog.pg_relation_filenode({table}::pg_catalog.regclass)::pg_catalog.int8, 0)"""
# Every partition below a root in the snapshot: whether its file is still the same.
_PARTITIONS = """
    WITH RECURSIVE tree AS (
        SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = {root}
        UNION ALL
        SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits AS i ON i.inhparent = tree.inhrelid)
    SELECT bool_and(c.relfilenode = coalesce(pg_catalog.pg_relation_filenode(c.oid), 0))
    FROM tree JOIN pg_catalog.pg_class AS c ON c.oid = tree.inhrelid"""
_GONE_SINCE = {"42P01", "42703", "3F000"}
"""The table, column or schema no longer exists under the name that it has in the snapshot."""


async def begin_under_snapshot(source: AsyncConnection, part: CopyPart) -> Described:
    """Begin the transaction that copies the part. Returns the table as the snapshot shows it, locked.

    Raises SNAPSHOT_LOST if the snapshot no longer exists, and TABLE_CHANGED if the table differs from what
    the snapshot shows.
    """
    try:
        return await _begin(source, part)
    except psycopg.Error as exc:
        if exc.sqlstate in SNAPSHOT_GONE:
            raise snapshot_lost(part.table) from exc
        if exc.sqlstate in _GONE_SINCE:
            raise table_changed(part.table) from exc
        raise


async def _begin(source: AsyncConnection, part: CopyPart) -> Described:
    name = table_name(part.table)
    cursor = await source.execute(
        sql.SQL("; ").join(
            [
                sql.SQL("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
                sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(part.snapshot_name)),
                sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(name),
                sql.SQL(_NOW).format(table=sql.Literal(name.as_string(source))),
                describe(part.table),
                sql.SQL("SELECT {} FROM ONLY {} LIMIT 0").format(
                    sql.SQL(", ").join(map(sql.Identifier, part.columns)), name
                ),
            ]
        )
    )
    ((xids, oid, file),), found, numbers = await _results(cursor)
    # A restarted server uses the same snapshot names again: another snapshot may have this name.
    if part.snapshot_xids and xids != part.snapshot_xids:
        raise snapshot_lost(part.table)
    there = described(found)
    shown = [there.numbers.get(column) for column in part.columns]
    if (there.oid, there.file, shown) != (oid, file, numbers):
        raise table_changed(part.table)
    if there.partitioned:
        await _hold_partitions(source, part, oid)
    return there


async def _results(
    cursor: psycopg.AsyncCursor[tuple[Any, ...]],
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[int]]:
    """Rows of the first two queries, and attribute numbers of the third query's columns."""
    rows: list[list[tuple[Any, ...]]] = []
    while len(rows) < 2:
        if cursor.description is not None:
            rows.append(await cursor.fetchall())
        cursor.nextset()
    result = cursor.pgresult
    assert result is not None
    return rows[0], rows[1], [result.ftablecol(column) for column in range(result.nfields)]


async def _hold_partitions(source: AsyncConnection, part: CopyPart, root: int) -> None:
    """Lock the partitions of a root that is copied as one part, and compare their files too."""
    await source.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table_name(part.table)))
    cursor = await source.execute(sql.SQL(_PARTITIONS).format(root=sql.Literal(root)))
    row = await cursor.fetchone()
    if row is not None and row[0] is False:
        raise table_changed(part.table)
