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
at the same time may insert one each: a unique key would let them wait for each other. Serializable
transactions insert a row each, and `read_foreign_writes` deletes those that say the same. Of one table about
`KEPT` rows are kept: more would not tell more about it.

Not found are sessions of others that set the role `replica` themselves or disable triggers. Subscriptions are
found while their workers run, because their changes fire no trigger for statements.

The records of a table are deleted when its rows are about to be copied again. At the end of the migration the
function is first replaced by one that does nothing, which needs no lock on a table. Then the triggers are
dropped, a few tables at a time. Their locks are never waited for: whatever queues behind a reader blocks
all who come later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import PipelineId, TableId, back_off_s
from services.shared.model.readiness_facts import ForeignWriter
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import silence
from services.shared.pg.session.sql_files import load_sql

CREATED_AT_ONCE, DROPPED_AT_ONCE = 200, 50
"""Triggers created or dropped in one transaction, each with a lock on its table. When they are dropped,
applications may be waiting for these tables."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""Between two attempts to lock tables that others use."""
KEPT = 100
"""Rows of `pgmig.foreign_write` for one table and pipeline."""
_LEFT_ALONE = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidSchemaName,
)
_DOING = "looking for writes of others to the destination"

# Somebody may have renamed a trigger.
_WITH: LiteralString = """
    SELECT n.nspname, c.relname, t.tgname
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE t.tgfoid = pg_catalog.to_regproc(%s)
     ORDER BY 1, 2, 3"""
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


@dataclass(frozen=True, slots=True)
class Left:
    """Tables that keep a trigger, which does nothing any more. locked: others use them. refused: our role may
    not change them."""

    locked: tuple[TableId, ...] = ()
    refused: tuple[TableId, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.locked or self.refused)


@dataclass(frozen=True, slots=True)
class _Trigger:
    table: TableId
    name: str


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
        if not without and not await _function_exists(conn, pipeline):
            return ()
        async with conn.transaction():  # also for triggers that exist: `ignore_writes` may have been called
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
            await conn.execute(load_sql("guard/prune_writes.sql"), {"pipeline": str(pipeline), "kept": KEPT})
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


async def unwatch_writes(conn: AsyncConnection, pipeline: PipelineId, deadline: float) -> Left:
    """Drop the triggers and their function until `deadline` (time.monotonic()). No lock of a table is waited
    for. Triggers of tables that are locked, or that belong to roles beyond ours, are left."""
    await ignore_writes(conn, pipeline)
    attempts = 0
    with translated("dropping pgmig's triggers on the destination"):
        while triggers := await _watched(conn, pipeline):
            locked, refused = await _drop_all(conn, triggers, deadline)
            now = time.monotonic()
            if (locked or refused) and (now > deadline or not locked):
                return Left(tuple(locked), tuple(refused))
            if locked:  # a lock that is released is not reported
                pause = back_off_s(FIRST_PAUSE_S, LONGEST_PAUSE_S, attempts)
                await asyncio.sleep(min(pause, max(0.0, deadline - now)))
            attempts += 1
        await conn.execute(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_function(pipeline)))
    return Left()


async def _watched(conn: AsyncConnection, pipeline: PipelineId) -> list[_Trigger]:
    name = _function(pipeline).as_string(conn)
    rows = await (await conn.execute(_WITH, [name])).fetchall()
    return [_Trigger(TableId(schema, table), trigger) for schema, table, trigger in rows]


async def _drop_all(
    conn: AsyncConnection, triggers: Sequence[_Trigger], deadline: float
) -> tuple[list[TableId], list[TableId]]:
    """Returns tables that are locked, and tables that our role may not change. After the deadline the rest is
    not tried."""
    locked: list[TableId] = []
    refused: list[TableId] = []
    for first in range(0, len(triggers), DROPPED_AT_ONCE):
        await _drop(conn, triggers[first : first + DROPPED_AT_ONCE], locked, refused)
        if time.monotonic() > deadline:
            locked += [one.table for one in triggers[first + DROPPED_AT_ONCE :]]
            break
    return locked, refused


async def _drop(
    conn: AsyncConnection, triggers: Sequence[_Trigger], locked: list[TableId], refused: list[TableId]
) -> None:
    """In one transaction. If that fails, one by one. Adds tables to `locked` (or gone) and `refused`."""
    try:
        async with conn.transaction():
            await _lock(conn, triggers)
            await conn.execute(
                sql.SQL("; ").join(
                    sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
                        sql.Identifier(one.name), sql.Identifier(one.table.schema, one.table.name)
                    )
                    for one in triggers
                )
            )
    except (*_LEFT_ALONE, psycopg.errors.InsufficientPrivilege) as exc:
        if len(triggers) == 1:
            denied = isinstance(exc, psycopg.errors.InsufficientPrivilege)
            (refused if denied else locked).append(triggers[0].table)
            return
        for one in triggers:
            await _drop(conn, [one], locked, refused)


async def _lock(conn: AsyncConnection, triggers: Sequence[_Trigger]) -> None:
    """Without waiting. An owner that has revoked its own privileges may drop a trigger, but may not use LOCK
    TABLE: then the statement that drops it waits for 1 ms at most."""
    await conn.execute("SET LOCAL lock_timeout = '1ms'")
    tables = sql.SQL(", ").join(
        sql.SQL("ONLY {}").format(sql.Identifier(one.table.schema, one.table.name)) for one in triggers
    )
    try:
        async with conn.transaction():
            await conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(tables))
    except psycopg.errors.InsufficientPrivilege:
        if len(triggers) > 1:
            raise


def _named(tables: Collection[TableId]) -> dict[str, list[str]]:
    ordered = sorted(tables)
    return {"schemas": [one.schema for one in ordered], "names": [one.name for one in ordered]}
