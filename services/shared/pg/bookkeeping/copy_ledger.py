"""The ledger of the copy on the destination: the copy plan of each table, and the parts that are copied.

A table's plan has an epoch, which is a unique token. A part is recorded in the transaction that copied it,
and only while its plan is in force: the transaction locks the plan's row. The transaction that makes a new
plan locks that row too. It also empties the table and deletes the records of its parts. So parts of two
snapshots, or of two ways to split a table, are never counted together. A copier that has lost its connection
to the coordinator cannot commit rows that are no longer wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import AsyncConnection, sql

from services.shared.model import (
    CopiedPart,
    CopyPart,
    CopyPlan,
    ErrorKind,
    Lsn,
    PgmigError,
    PipelineId,
    Split,
    TableId,
)
from services.shared.pg.bookkeeping.schema import KEEPING_BOOKS, book, books_exist
from services.shared.pg.session.connection import translated

_PLANS = "SELECT schema_name, table_name, epoch, snapshot, split FROM {} WHERE pipeline = %s"
_PARTS = "SELECT part_id, snapshot_lsn::text, rows, bytes, epoch FROM {} WHERE pipeline = %s"
_PLAN = """
    SELECT epoch FROM {plans}
    WHERE pipeline = {pipeline} AND schema_name = {schema} AND table_name = {name}"""
_LOOK = """
    SELECT ({plan}), p.rows, p.bytes
    FROM (SELECT) AS one
    LEFT JOIN {parts} AS p ON p.pipeline = {pipeline} AND p.part_id = {part} AND p.epoch = {epoch}"""
_ENTER = """
    INSERT INTO {parts} (pipeline, part_id, snapshot_lsn, rows, bytes, epoch)
    SELECT {pipeline}, {part}, {lsn}::pg_catalog.pg_lsn, {rows}, {bytes}, {epoch}
    WHERE coalesce(({plan} FOR SHARE), '') = {epoch}"""


@dataclass(frozen=True, slots=True)
class CopyLedger:
    """parts: by part id. A part counts only if its epoch is that of its table's plan."""

    plans: Mapping[TableId, CopyPlan] = field(default_factory=dict)
    parts: Mapping[str, CopiedPart] = field(default_factory=dict)


async def read_ledger(conn: AsyncConnection, pipeline: PipelineId) -> CopyLedger:
    """The whole ledger. Empty if there is no bookkeeping."""
    with translated(KEEPING_BOOKS):
        if not await books_exist(conn):
            return CopyLedger()
        return await _read(conn, pipeline, "")


async def read_ledger_alone(conn: AsyncConnection, pipeline: PipelineId) -> CopyLedger:
    """Same as `read_ledger`, at the start of the caller's transaction. Until that transaction ends, no other
    part can be recorded. All parts that were recorded before are read."""
    with translated(KEEPING_BOOKS):
        await conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return await _read(conn, pipeline, " ORDER BY schema_name, table_name FOR UPDATE")


async def _read(conn: AsyncConnection, pipeline: PipelineId, lock: str) -> CopyLedger:
    plans = sql.SQL(_PLANS).format(book("copy_table")) + sql.SQL(lock)
    cursor = await conn.execute(plans, [str(pipeline)])
    found = [_plan(row) for row in await cursor.fetchall()]
    cursor = await conn.execute(sql.SQL(_PARTS).format(book("copy_part")), [str(pipeline)])
    parts = {
        part: CopiedPart(Lsn.parse(lsn), rows, size, epoch)
        for part, lsn, rows, size, epoch in await cursor.fetchall()
    }
    return CopyLedger({plan.table: plan for plan in found}, parts)


def _plan(row: tuple[Any, ...]) -> CopyPlan:
    schema, name, epoch, snapshot, split = row
    return CopyPlan(TableId(schema, name), epoch, snapshot, Split(**json.loads(split)))


async def replace_plans(
    conn: AsyncConnection, pipeline: PipelineId, plans: Sequence[CopyPlan], forget: Iterable[str]
) -> None:
    """Put `plans` in force and delete the records of the parts `forget`, within the caller's transaction,
    which also empties the tables that the new plans split."""
    upsert = sql.SQL(
        "INSERT INTO {} AS t (pipeline, schema_name, table_name, epoch, snapshot, split)"
        " VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (pipeline, schema_name, table_name) DO UPDATE SET epoch = excluded.epoch,"
        " snapshot = excluded.snapshot, split = excluded.split"
    ).format(book("copy_table"))
    remove = sql.SQL("DELETE FROM {} WHERE pipeline = %s AND part_id = ANY(%s)").format(book("copy_part"))
    with translated(KEEPING_BOOKS):
        await conn.execute(remove, [str(pipeline), list(forget)])
        async with conn.cursor() as cursor:
            await cursor.executemany(upsert, [_row(pipeline, plan) for plan in plans])


async def forget_plans(
    conn: AsyncConnection, pipeline: PipelineId, tables: Sequence[TableId], parts: Iterable[str]
) -> None:
    """Delete the plans of tables and the records of their parts `parts`, within the caller's transaction.
    Afterwards no running copy of these tables can be recorded."""
    plans = sql.SQL(
        "DELETE FROM {} WHERE pipeline = %s AND (schema_name, table_name) IN"
        " (SELECT s, t FROM unnest(%s::text[], %s::text[]) AS gone (s, t))"
    ).format(book("copy_table"))
    with translated(KEEPING_BOOKS):
        await conn.execute(plans, [str(pipeline), [t.schema for t in tables], [t.name for t in tables]])
    await replace_plans(conn, pipeline, (), parts)


def _row(pipeline: PipelineId, plan: CopyPlan) -> tuple[object, ...]:
    split = json.dumps(asdict(plan.split))
    table = plan.table
    return (str(pipeline), table.schema, table.name, plan.epoch, plan.snapshot, split)


def look(pipeline: PipelineId, part: CopyPart) -> sql.Composed:
    """The query for `already`."""
    return sql.SQL(_LOOK).format(**_names(pipeline, part))


def already(found: Sequence[tuple[Any, ...]], part: CopyPart) -> tuple[int, int] | None:
    """Rows and bytes of a part that is in the ledger. None if it is not. Raises FENCED if its plan is not in
    force, or no longer."""
    ((epoch, rows, size),) = found
    if rows is not None:
        return rows, size
    if (epoch or "") != part.epoch:
        raise _given_up(part)
    return None


async def enter_part(
    conn: AsyncConnection, pipeline: PipelineId, part: CopyPart, rows: int, size: int
) -> None:
    """Record a part in the ledger, within the transaction that copied it. Its plan must be in force, and
    remains so until that transaction ends. Otherwise raises FENCED."""
    values = {
        "lsn": sql.Literal(str(part.snapshot_lsn)),
        "rows": sql.Literal(rows),
        "bytes": sql.Literal(size),
    }
    cursor = await conn.execute(sql.SQL(_ENTER).format(**_names(pipeline, part), **values))
    if cursor.rowcount != 1:
        raise _given_up(part)


def _names(pipeline: PipelineId, part: CopyPart) -> dict[str, sql.Composable]:
    table = {
        "plans": book("copy_table"),
        "pipeline": sql.Literal(str(pipeline)),
        "schema": sql.Literal(part.table.schema),
        "name": sql.Literal(part.table.name),
    }
    return {
        "plan": sql.SQL(_PLAN).format(**table),
        "pipeline": sql.Literal(str(pipeline)),
        "parts": book("copy_part"),
        "part": sql.Literal(part.part_id),
        "epoch": sql.Literal(part.epoch),
    }


def _given_up(part: CopyPart) -> PgmigError:
    return PgmigError(
        ErrorKind.FENCED, f"part {part.part_id} belongs to a copy of {part.table} that was abandoned"
    )
