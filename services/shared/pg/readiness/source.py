"""What on the source would make a switchover fail or wait, or what an operator should know before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA, Lsn, MigrationOptions, TableId
from services.shared.model.readiness_facts import OldTransaction, SequenceUse, SourceFacts
from services.shared.pg.catalog.selected import choose
from services.shared.pg.freeze.sessions import not_endable, prepared_transactions, streaming_from
from services.shared.pg.freeze.subscriptions import foreign_subscriptions
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

SEQUENCES_FROM = 0.5
"""Sequences of which a smaller share is used up are not reported."""

_END: LiteralString = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text, current_database()::text"
_HIDDEN: LiteralString = (
    "SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datname = current_database()"
    " AND a.usesysid IS NOT NULL AND a.backend_start IS NULL"
)


@dataclass(frozen=True, slots=True)
class Slow:
    """What is read less often, because it costs more. chosen: the objects that the migration takes."""

    chosen: Chosen = EVERYTHING
    sequences: tuple[SequenceUse, ...] = ()


async def read_slow(conn: AsyncConnection, options: MigrationOptions) -> Slow:
    chosen = await choose(conn, options)
    with translated("reading the source's sequences"):
        cursor = await conn.execute(
            load_sql("readiness/sequences.sql"), {"from": SEQUENCES_FROM, "bookkeeping": BOOKKEEPING_SCHEMA}
        )
        used = [SequenceUse(TableId(schema, name), float(share)) async for schema, name, share in cursor]
    return Slow(chosen, tuple(one for one in used if chosen.fills(one.sequence)))


async def read_source(conn: AsyncConnection, slot: str, slow: Slow) -> tuple[Lsn, SourceFacts]:
    """The end of the WAL, and the facts. slot: the session that streams from it is pgmig's own."""
    with translated("checking the source"):
        row = await (await conn.execute(_END)).fetchone()
        hidden = await (await conn.execute(_HIDDEN)).fetchone()
    assert row is not None
    assert hidden is not None
    spared = [conn.info.backend_pid, *await streaming_from(conn, slot)]
    return Lsn.parse(row[0]), SourceFacts(
        prepared=await prepared_transactions(conn),
        not_endable=await not_endable(conn, str(row[1]), spared),
        subscriptions=", ".join(await foreign_subscriptions(conn)),
        hidden=int(hidden[0]),
        transactions=await _old_transactions(conn, spared, slow.chosen),
        sequences=slow.sequences,
    )


async def _old_transactions(
    conn: AsyncConnection, spared: Sequence[int], chosen: Chosen
) -> tuple[OldTransaction, ...]:
    """The oldest first."""
    with translated("looking for long transactions on the source"):
        cursor = await conn.execute(
            load_sql("readiness/old_transactions.sql"),
            {"spared": list(spared), "bookkeeping": BOOKKEEPING_SCHEMA},
        )
        rows = await cursor.fetchall()
    found: dict[int, OldTransaction] = {}
    locked: dict[int, list[TableId]] = {}
    for pid, application, role, state, seconds, schema, name in rows:
        session = f"process {pid} ({application or 'unnamed'}, role {role}, {state})"
        found.setdefault(pid, OldTransaction(session, seconds))
        if name is not None and chosen.fills(TableId(schema, name)):
            locked.setdefault(pid, []).append(TableId(schema, name))
    return tuple(
        OldTransaction(one.session, one.seconds, tuple(locked.get(pid, ()))) for pid, one in found.items()
    )
