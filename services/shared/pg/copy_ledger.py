"""The ledger of the copy on the destination: how each table is copied, and which parts are here.

A table's plan has an epoch, a token of its own. A part enters itself in the transaction that copied
it, and only while the plan that it belongs to is in force: it holds the plan's row as it
does so. Whoever makes a new plan holds that row too, and in the same transaction empties the table
and forgets its parts. So parts of two snapshots, or of two ways to cut a table, never count
together, and a copier that was cut off from everybody cannot commit rows that nobody waits for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import AsyncConnection, sql

from services.shared.model import CopiedPart, CopyPart, CopyPlan, ErrorKind, Lsn, PgmigError, Split, TableId
from services.shared.pg.bookkeeping import KEEPING_BOOKS, book, books_exist
from services.shared.pg.connection import translated

_PLANS = "SELECT schema_name, table_name, epoch, snapshot, split, filenode FROM {} WHERE migration_id = %s"
_PARTS = "SELECT part_id, snapshot_lsn::text, rows, bytes, epoch FROM {} WHERE migration_id = %s"
_EPOCH = "SELECT epoch FROM {} WHERE migration_id = %s AND schema_name = %s AND table_name = %s"


@dataclass(frozen=True, slots=True)
class CopyLedger:
    """parts: by part id. Only those count whose epoch is that of their table's plan."""

    plans: Mapping[TableId, CopyPlan] = field(default_factory=dict)
    parts: Mapping[str, CopiedPart] = field(default_factory=dict)


async def read_ledger(conn: AsyncConnection, migration_id: str) -> CopyLedger:
    """All of it; empty also while there is no bookkeeping."""
    with translated(KEEPING_BOOKS):
        if not await books_exist(conn):
            return CopyLedger()
        return await _read(conn, migration_id, "")


async def read_ledger_alone(conn: AsyncConnection, migration_id: str) -> CopyLedger:
    """Like `read_ledger`, first thing in the caller's transaction: until that ends, no other part is
    entered, and what had been entered by then is read."""
    with translated(KEEPING_BOOKS):
        await conn.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return await _read(conn, migration_id, " ORDER BY schema_name, table_name FOR UPDATE")


async def _read(conn: AsyncConnection, migration_id: str, lock: str) -> CopyLedger:
    plans = sql.SQL(_PLANS).format(book("copy_table")) + sql.SQL(lock)
    cursor = await conn.execute(plans, [migration_id])
    found = [_plan(row) for row in await cursor.fetchall()]
    cursor = await conn.execute(sql.SQL(_PARTS).format(book("copy_part")), [migration_id])
    parts = {
        part: CopiedPart(Lsn.parse(lsn), rows, size, epoch)
        for part, lsn, rows, size, epoch in await cursor.fetchall()
    }
    return CopyLedger({plan.table: plan for plan in found}, parts)


def _plan(row: tuple[Any, ...]) -> CopyPlan:
    schema, name, epoch, snapshot, split, filenode = row
    return CopyPlan(TableId(schema, name), epoch, snapshot, Split(**json.loads(split)), filenode)


async def replace_plans(
    conn: AsyncConnection, migration_id: str, plans: Sequence[CopyPlan], forget: Iterable[str]
) -> None:
    """Put `plans` in force, and forget the parts `forget`, within the caller's transaction, which also
    empties the tables that the new plans split."""
    upsert = sql.SQL(
        "INSERT INTO {} AS t (migration_id, schema_name, table_name, epoch, snapshot, split, filenode)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (migration_id, schema_name, table_name) DO UPDATE SET epoch = excluded.epoch,"
        " snapshot = excluded.snapshot, split = excluded.split, filenode = excluded.filenode"
    ).format(book("copy_table"))
    remove = sql.SQL("DELETE FROM {} WHERE migration_id = %s AND part_id = ANY(%s)").format(book("copy_part"))
    with translated(KEEPING_BOOKS):
        await conn.execute(remove, [migration_id, list(forget)])
        async with conn.cursor() as cursor:
            await cursor.executemany(upsert, [_row(migration_id, plan) for plan in plans])


def _row(migration_id: str, plan: CopyPlan) -> tuple[object, ...]:
    split = json.dumps(asdict(plan.split))
    table = plan.table
    return (migration_id, table.schema, table.name, plan.epoch, plan.snapshot, split, plan.filenode)


async def copied_part(conn: AsyncConnection, migration_id: str, part_id: str) -> CopiedPart | None:
    """One part's entry; None while it is not complete."""
    query = sql.SQL(_PARTS + " AND part_id = %s").format(book("copy_part"))
    row = await (await conn.execute(query, [migration_id, part_id])).fetchone()
    return CopiedPart(Lsn.parse(row[1]), row[2], row[3], row[4]) if row else None


async def check_epoch(
    conn: AsyncConnection, migration_id: str, part: CopyPart, *, hold: bool = False
) -> None:
    """Raise FENCED when the part's plan is not in force (any more). hold: it stays in force until the
    caller's transaction ends."""
    query = sql.SQL(_EPOCH + (" FOR SHARE" if hold else "")).format(book("copy_table"))
    row = await (await conn.execute(query, [migration_id, part.table.schema, part.table.name])).fetchone()
    if (row[0] if row else "") != part.epoch:
        raise PgmigError(
            ErrorKind.FENCED, f"part {part.part_id} belongs to a copy of {part.table} that was given up"
        )


async def mark_part(conn: AsyncConnection, migration_id: str, part: CopyPart, rows: int, size: int) -> None:
    """Enter a part in the ledger, within the transaction that copied it."""
    await conn.execute(
        sql.SQL(
            "INSERT INTO {} (migration_id, part_id, snapshot_lsn, rows, bytes, epoch)"
            " VALUES (%s, %s, %s::pg_catalog.pg_lsn, %s, %s, %s)"
        ).format(book("copy_part")),
        [migration_id, part.part_id, str(part.snapshot_lsn), rows, size, part.epoch],
    )
