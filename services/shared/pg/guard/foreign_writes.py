"""Finding writes of others to the destination's tables, which the read-only default does not prevent.

Theory of operation. Each table that the migration fills has a trigger that fires once for each statement that
inserts, updates, deletes or truncates. Its function records the table, the role and the application in
`pgmig.foreign_write`, within the transaction that writes. It is the only mechanism that works with every
`wal_level` and without the right to decode WAL. A trigger fires for the table that a statement names, so
ancestors and descendants of a table, by partitioning or inheritance, have it too.

pgmig's own sessions are not recorded. Applier and copier have the role `replica`, in which the trigger does
not fire, so it costs them nothing. The coordinator's sessions have the setting `pgmig.own`.

The function never makes a statement of an application fail or wait. It has the rights of its owner and a
fixed search path. It inserts one row for each table, role and application, except that transactions that run
at the same time may insert one each: a unique key would let them wait for each other.

Not found are sessions of others that set the role `replica` themselves or disable triggers. Subscriptions are
found while their workers run, because their changes fire no trigger for statements.

The records of a table are deleted when its rows are about to be copied again. At the end of the migration the
function is first replaced by one that does nothing, which needs no lock on a table. Then the triggers are
dropped, a few at a time, with a short lock_timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import PipelineId, TableId
from services.shared.model.readiness_facts import ForeignWriter
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import silence
from services.shared.pg.session.sql_files import load_sql

CREATED_AT_ONCE, DROPPED_AT_ONCE = 200, 50
"""Triggers created or dropped in one transaction, each with a lock on its table. When they are dropped,
applications may be waiting for these tables."""
LOCK_MS = 100
_PAUSE_S = 0.05
_LEFT_ALONE = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
)
_DOING = "looking for writes of others to the destination"

_WITH: LiteralString = """
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
      JOIN pg_catalog.pg_namespace s ON s.oid = f.pronamespace
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE s.nspname = %(bookkeeping)s AND f.proname = %(function)s AND t.tgname = %(function)s
     ORDER BY 1, 2"""
_RECORDED: LiteralString = """
    SELECT n.nspname, c.relname, w.role_name, w.application,
           extract(epoch FROM min(w.at))::float8
      FROM pgmig.foreign_write w
      JOIN pg_catalog.pg_class c ON c.oid = w.relation
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE w.pipeline = %s
     GROUP BY 1, 2, 3, 4
     ORDER BY 5, 1, 2, 3, 4"""
_SUBSCRIPTIONS: LiteralString = """
    SELECT DISTINCT s.subname::text, n.nspname, c.relname
      FROM pg_catalog.pg_stat_subscription s
      JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.subid
      JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE s.pid IS NOT NULL
     ORDER BY 1, 2, 3"""


def _function(pipeline: PipelineId) -> sql.Identifier:
    return sql.Identifier("pgmig", pipeline.origin)


async def _define(conn: AsyncConnection, pipeline: PipelineId, body: LiteralString) -> None:
    await conn.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS pg_catalog.trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp AS {}"
        ).format(_function(pipeline), sql.Literal(body))
    )


async def _function_exists(conn: AsyncConnection, pipeline: PipelineId) -> bool:
    name = _function(pipeline).as_string(conn)
    row = await (await conn.execute("SELECT pg_catalog.to_regproc(%s) IS NOT NULL", [name])).fetchone()
    return row is not None and bool(row[0])


async def watch_writes(
    conn: AsyncConnection, pipeline: PipelineId, tables: Sequence[TableId]
) -> tuple[TableId, ...]:
    """Give each of these tables, and those related to it, the trigger, unless it has it. Returns tables for
    which our role may not. Call this before rows are removed from the tables and copied. Raises TRANSIENT if
    a table is locked for too long."""
    await ensure_bookkeeping(conn)
    await silence(conn)
    refused: list[TableId] = []
    with translated(_DOING):
        cursor = await conn.execute(
            load_sql("guard/without_trigger.sql"), {**_named(tables), "trigger": pipeline.origin}
        )
        without = [TableId(*row) for row in await cursor.fetchall()]
        if not without:
            return ()
        async with conn.transaction():
            await _define(conn, pipeline, load_sql("guard/note_write.sql"))
            await conn.execute(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(_function(pipeline)))
        for first in range(0, len(without), CREATED_AT_ONCE):
            refused += await _create(conn, pipeline, without[first : first + CREATED_AT_ONCE])
    return tuple(refused)


async def _create(conn: AsyncConnection, pipeline: PipelineId, tables: Sequence[TableId]) -> list[TableId]:
    """In one transaction. If that fails, table by table."""
    statements = sql.SQL("; ").join(
        sql.SQL(
            "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
            " FOR EACH STATEMENT EXECUTE FUNCTION {}({})"
        ).format(
            sql.Identifier(pipeline.origin),
            sql.Identifier(table.schema, table.name),
            _function(pipeline),
            sql.Literal(str(pipeline)),
        )
        for table in tables
    )
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '60s'")
            await conn.execute(statements)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        if len(tables) == 1:
            return list(tables)
        return [one for table in tables for one in await _create(conn, pipeline, [table])]
    return []


async def read_foreign_writes(
    conn: AsyncConnection, pipeline: PipelineId, tables: Collection[TableId], at: float
) -> tuple[ForeignWriter, ...]:
    """Who else has written to the destination's tables that still exist, the oldest first. tables: of the
    migration, for subscriptions. at: now, Unix seconds."""
    with translated(_DOING):
        found: list[ForeignWriter] = []
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass('pgmig.foreign_write') IS NOT NULL")
        ).fetchone()
        if row is not None and row[0]:
            cursor = await conn.execute(_RECORDED, [str(pipeline)])
            found += [
                ForeignWriter(f"{application or 'unnamed'} (role {role})", TableId(schema, name), first)
                for schema, name, role, application, first in await cursor.fetchall()
            ]
        cursor = await conn.execute(_SUBSCRIPTIONS)
        found += [
            ForeignWriter(f"subscription {subscription}", TableId(schema, name), at)
            for subscription, schema, name in await cursor.fetchall()
            if TableId(schema, name) in tables
        ]
    return tuple(found)


async def forget_foreign_writes(
    conn: AsyncConnection, pipeline: PipelineId, tables: Collection[TableId]
) -> None:
    """Delete the records of tables whose rows are all about to be copied again. tables: those that are
    copied. Within the caller's transaction."""
    with translated(_DOING):
        await conn.execute(load_sql("guard/forget_writes.sql"), {**_named(tables), "pipeline": str(pipeline)})


async def ignore_writes(conn: AsyncConnection, pipeline: PipelineId) -> None:
    """Record nothing more, whatever triggers there are. Needs no lock on a table."""
    await silence(conn)
    with translated(_DOING):
        if await _function_exists(conn, pipeline):
            await _define(conn, pipeline, "BEGIN RETURN NULL; END")


async def unwatch_writes(conn: AsyncConnection, pipeline: PipelineId, deadline: float) -> tuple[TableId, ...]:
    """Drop the triggers and their function until `deadline` (time.monotonic()). Returns tables that keep
    their trigger, which does nothing any more, most likely because others have locked them."""
    await ignore_writes(conn, pipeline)
    with translated("dropping pgmig's triggers on the destination"):
        while left := await _watched(conn, pipeline):
            locked: list[TableId] = []
            for first in range(0, len(left), DROPPED_AT_ONCE):
                locked += await _drop(conn, pipeline, left[first : first + DROPPED_AT_ONCE])
                if time.monotonic() > deadline:
                    locked += left[first + DROPPED_AT_ONCE :]
                    break
            if locked and time.monotonic() > deadline:
                return tuple(locked)
            if locked:
                await asyncio.sleep(_PAUSE_S)  # a lock that is released is not reported
        await conn.execute(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_function(pipeline)))
    return ()


async def _watched(conn: AsyncConnection, pipeline: PipelineId) -> list[TableId]:
    given = {"bookkeeping": "pgmig", "function": pipeline.origin}
    return [TableId(*row) for row in await (await conn.execute(_WITH, given)).fetchall()]


async def _drop(conn: AsyncConnection, pipeline: PipelineId, tables: Sequence[TableId]) -> list[TableId]:
    """In one transaction. If that fails, table by table. Returns those that were locked or are gone."""
    statements = sql.SQL("; ").join(
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
            sql.Identifier(pipeline.origin), sql.Identifier(table.schema, table.name)
        )
        for table in tables
    )
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [f"{LOCK_MS}ms"])
            await conn.execute(statements)
    except _LEFT_ALONE:
        if len(tables) == 1:
            return list(tables)
        return [one for table in tables for one in await _drop(conn, pipeline, [table])]
    return []


def _named(tables: Collection[TableId]) -> dict[str, list[str]]:
    ordered = sorted(tables)
    return {"schemas": [one.schema for one in ordered], "names": [one.name for one in ordered]}
