"""Recording when this side deletes rows, because a deleted row leaves no time.

Theory of operation. With `last-update-wins`, a change of the other side may arrive at a row that was deleted
here. Which of the two is later must then be known. Each table has a row trigger that records the keys of
deleted rows, and of rows whose key was changed, in `pgmig.deleted_row`. The transaction of the record is that
of the deletion, and so `track_commit_timestamp` tells its time exactly. The applier has the role `replica`,
in which the trigger does not fire.

Rows of a partition are recorded for the partition and for the tables above it: changes may be published by
any of them.

The function of the trigger belongs to our role and has its rights, a fixed search path, and the settings with
which the applier reads values. Applications need no rights for it. TRUNCATE is not recorded: an update that
meets a truncated table cannot be decided.

A record is removed when the other side has seen the deletion (services.shared.pg.bookkeeping.conflicts).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, PipelineId, TableId
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import silence

_DOING = "recording when rows are deleted"
_FUNCTION = "note_deleted_"
_ATTEMPT_MS = 200
_LOCKED_WITHIN_S = 30.0
_BETWEEN_S = 0.3
_PAUSE_S = 0.05
_SINCE = 140000
"""Versions before do not tell the origin of a row's last change, so nothing is recorded there."""

_KEYS: LiteralString = """
    SELECT n.nspname, c.relname, c.oid::pg_catalog.int8, c.relkind = 'p',
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) ORDER BY 1)
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_index i
        ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
     WHERE c.oid = (SELECT coalesce(pg_catalog.pg_partition_root(given.oid), given.oid)
                      FROM (SELECT pg_catalog.to_regclass(%s)) AS given (oid))"""
_RECORDED: LiteralString = """
    SELECT t.tgargs
      FROM pg_catalog.pg_trigger t
     WHERE t.tgrelid = pg_catalog.to_regclass(%s) AND t.tgname = %s AND t.tgenabled IN ('O', 'A')"""
_TRIGGERS: LiteralString = """
    SELECT n.nspname, c.relname, f.proname
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
      JOIN pg_catalog.pg_namespace s ON s.oid = f.pronamespace
     WHERE s.nspname = 'pgmig' AND t.tgname = %s AND t.tgparentid = 0
     ORDER BY 1, 2"""
_FUNCTIONS: LiteralString = """
    SELECT f.proname
      FROM pg_catalog.pg_proc f
      JOIN pg_catalog.pg_namespace s ON s.oid = f.pronamespace
     WHERE s.nspname = 'pgmig' AND pg_catalog.starts_with(f.proname, %s)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgfoid = f.oid)"""
_BODY: LiteralString = """
DECLARE
  deleted pg_catalog.text[] := ARRAY[{old}]::pg_catalog.text[];
BEGIN
  IF TG_OP = 'UPDATE' AND deleted = ARRAY[{new}]::pg_catalog.text[] THEN
    RETURN NULL;
  END IF; INSERT INTO pgmig.deleted_row AS d (pipeline, relation, key) SELECT TG_ARGV[0], of.oid, deleted FROM
  {tables} ON CONFLICT (relation, key, pipeline) DO UPDATE SET relation = excluded.relation; RETURN NULL;
END
"""


def _trigger(pipeline: PipelineId) -> str:
    return f"{pipeline.origin}_deleted"


async def record_deletions(conn: AsyncConnection, pipeline: PipelineId, tables: Collection[TableId]) -> None:
    """Give each table the trigger, unless it has it. Call it before others may write to this side. Writers of
    a table wait for a moment, again and again if it is in use: an attempt to lock it is short.

    conn: to the subscriber of the pipeline. tables: those that are published, with their keys on both sides
    equal; of a partition, the topmost table gets the trigger. Raises NO_REPLICA_IDENTITY for a table without
    a key, SOURCE_NOT_READY or DESTINATION_NOT_READY for one that does not exist, PERMISSION, or TRANSIENT if
    a table is locked for too long.
    """
    await ensure_bookkeeping(conn)
    await silence(conn)
    with translated(_DOING):
        for table in sorted(tables):
            root = await _keyed(conn, pipeline, table)
            await _create_function(conn, root)  # an earlier attempt may have made it do nothing
            if await _recorded(conn, pipeline, root.table) != root.columns:
                await _create_trigger(conn, pipeline, root)


async def check_recorded(
    conn: AsyncConnection, pipeline: PipelineId, table: TableId, key: Collection[str]
) -> None:
    """Raise DESTINATION_NOT_READY, or SOURCE_NOT_READY, unless deletions of rows of the table are recorded by
    these columns."""
    with translated(_DOING):
        found = await _recorded(conn, pipeline, table)
    if found != tuple(sorted(key)):
        raise PgmigError(
            _not_ready(pipeline),
            f"deletions of rows of table {table} of the {pipeline.subscriber} are not recorded by its key "
            f"({', '.join(sorted(key))}), and without their times the last change cannot be known",
            "do not remove or disable pgmig's triggers while both sides are written to; give both sides the "
            "same primary key",
        )


async def ignore_deletions(conn: AsyncConnection, pipeline: PipelineId, deadline: float) -> None:
    """Remove what `record_deletions` has created, until `deadline` (time.monotonic()). From the beginning the
    functions do nothing, so that no statement of an application fails when the bookkeeping is dropped.
    Raises TRANSIENT if others have locked a table all the time."""
    if conn.info.server_version < _SINCE:
        return
    await idle_deletions(conn, pipeline)
    with translated("dropping pgmig's triggers"):
        while left := await _triggers(conn, pipeline):
            for schema, name, _ in left:
                await _drop(conn, pipeline, TableId(schema, name))
            if time.monotonic() > deadline:
                raise PgmigError(
                    ErrorKind.TRANSIENT,
                    f"pgmig's trigger on table {left[0][0]}.{left[0][1]} of the {pipeline.subscriber} cannot "
                    "be dropped, because others have locked the table; it does nothing any more",
                    "end the transactions that lock it, then clean up again",
                )
            await asyncio.sleep(_PAUSE_S)  # a lock that is released is not reported
        cursor = await conn.execute(_FUNCTIONS, [_FUNCTION])
        for (function,) in await cursor.fetchall():
            await conn.execute(
                sql.SQL("DROP FUNCTION IF EXISTS {}()").format(sql.Identifier("pgmig", function))
            )


async def idle_deletions(conn: AsyncConnection, pipeline: PipelineId) -> None:
    """Let the triggers do nothing. That waits for no lock of a table."""
    if conn.info.server_version < _SINCE:
        return
    await silence(conn)
    with translated("changing the functions of pgmig's triggers"):
        for _, _, function in await _triggers(conn, pipeline):
            await conn.execute(
                sql.SQL(
                    "CREATE OR REPLACE FUNCTION {}() RETURNS pg_catalog.trigger LANGUAGE plpgsql"
                    " AS 'BEGIN RETURN NULL; END'"
                ).format(sql.Identifier("pgmig", function))
            )


async def _triggers(conn: AsyncConnection, pipeline: PipelineId) -> list[tuple[str, str, str]]:
    """Schema and name of each table with a trigger, and the trigger's function."""
    return await (await conn.execute(_TRIGGERS, [_trigger(pipeline)])).fetchall()


async def _drop(conn: AsyncConnection, pipeline: PipelineId, table: TableId) -> None:
    """Does nothing if others have locked the table."""
    statement = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
        sql.Identifier(_trigger(pipeline)), sql.Identifier(table.schema, table.name)
    )
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '100ms'")
            await conn.execute(statement)
    except (
        psycopg.errors.LockNotAvailable,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.UndefinedTable,
    ):
        return


class _Keyed(NamedTuple):
    """columns: those that identify a row, by name."""

    table: TableId
    oid: int
    partitioned: bool
    columns: tuple[str, ...]


async def _keyed(conn: AsyncConnection, pipeline: PipelineId, table: TableId) -> _Keyed:
    """The table, or the topmost table of the partition."""
    name = sql.Identifier(table.schema, table.name).as_string(conn)
    row = await (await conn.execute(_KEYS, [name])).fetchone()
    if row is None:
        raise PgmigError(
            _not_ready(pipeline),
            f"table {table} is not on the {pipeline.subscriber}",
            "both sides must have the same tables to be written to at once",
        )
    schema, root, oid, partitioned, columns = row
    if not columns:
        raise PgmigError(
            ErrorKind.NO_REPLICA_IDENTITY,
            f"table {table} of the {pipeline.subscriber} has no key by which its rows can be told apart",
            "give the table a primary key on both sides",
        )
    return _Keyed(TableId(schema, root), oid, partitioned, tuple(columns))


async def _recorded(conn: AsyncConnection, pipeline: PipelineId, table: TableId) -> tuple[str, ...] | None:
    """The columns by which deletions are recorded; None if they are not."""
    name = sql.Identifier(table.schema, table.name).as_string(conn)
    row = await (await conn.execute(_RECORDED, [name, _trigger(pipeline)])).fetchone()
    if row is None:
        return None
    return tuple(part.decode() for part in bytes(row[0]).split(b"\0")[1:-1])


async def _create_function(conn: AsyncConnection, root: _Keyed) -> None:
    def values(row: LiteralString) -> sql.Composable:
        text = sql.SQL("pg_catalog.format('%s', {}.{})")
        return sql.SQL(", ").join(text.format(sql.SQL(row), sql.Identifier(name)) for name in root.columns)

    if root.partitioned:
        tables: sql.Composable = sql.SQL("pg_catalog.pg_partition_ancestors(TG_RELID) AS of (oid)")
    else:
        tables = sql.SQL("(VALUES ({}::pg_catalog.oid)) AS of (oid)").format(sql.Literal(root.oid))
    function = sql.Identifier("pgmig", f"{_FUNCTION}{root.oid}")
    body = sql.SQL(_BODY).format(old=values("OLD"), new=values("NEW"), tables=tables).as_string(conn)
    async with conn.transaction():
        await conn.execute(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, MDY'"
                " SET intervalstyle = 'postgres' SET extra_float_digits = 3 SET bytea_output = 'hex'"
                " SET timezone = 'UTC' SET lc_monetary = 'C' AS {}"
            ).format(function, sql.Literal(body))
        )
        await conn.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(function))


async def _create_trigger(conn: AsyncConnection, pipeline: PipelineId, root: _Keyed) -> None:
    names = sql.SQL(", ").join(sql.Identifier(name) for name in root.columns)
    arguments = sql.SQL(", ").join(sql.Literal(one) for one in (str(pipeline), *root.columns))
    statement = sql.SQL(
        "CREATE OR REPLACE TRIGGER {} AFTER DELETE OR UPDATE OF {} ON {} FOR EACH ROW EXECUTE FUNCTION {}({})"
    ).format(
        sql.Identifier(_trigger(pipeline)),
        names,
        sql.Identifier(root.table.schema, root.table.name),
        sql.Identifier("pgmig", f"{_FUNCTION}{root.oid}"),
        arguments,
    )
    deadline = time.monotonic() + _LOCKED_WITHIN_S
    while True:
        try:
            async with conn.transaction():
                limit = sql.Literal(f"{_ATTEMPT_MS}ms")
                await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(limit))
                await conn.execute(statement)
                return
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_BETWEEN_S)  # a lock that is released is not reported


def _not_ready(pipeline: PipelineId) -> ErrorKind:
    on_source = pipeline.subscriber == "source"
    return ErrorKind.SOURCE_NOT_READY if on_source else ErrorKind.DESTINATION_NOT_READY
