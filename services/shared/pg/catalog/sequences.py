"""Sequence values: read on the source, set on the destination, and verified there.

Logical replication does not send sequence values. pgmig reads them when no session can call nextval any more
(after the freeze), or after the copy if the clone does not replicate changes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import BOOKKEEPING_SCHEMA, ErrorKind, PgmigError, PipelineId, TableId
from services.shared.pg.bookkeeping.schema import KEEPING_BOOKS, book, ensure_bookkeeping
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

_BATCH = 200
"""Sequences read by one statement: each one is a separate relation."""


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """called: last_value has already been returned by nextval."""

    sequence: TableId
    last_value: int
    called: bool


async def read_sequences(
    conn: AsyncConnection, side: str, chosen: Chosen = EVERYTHING
) -> tuple[SequenceValue, ...]:
    """Every migrated sequence, by schema and name. Sequences of identity columns are included, and those
    sequences of extensions that are part of the extension's configuration."""
    names = await list_sequences(conn, side, chosen)
    with translated(f"reading the {side}'s sequences"):
        values: list[SequenceValue] = []
        for start in range(0, len(names), _BATCH):
            values += await _read(conn, names[start : start + _BATCH])
    return tuple(values)


async def list_sequences(conn: AsyncConnection, side: str, chosen: Chosen = EVERYTHING) -> list[TableId]:
    """The names of the migrated sequences, sorted."""
    with translated(f"listing the {side}'s sequences"):
        cursor = await conn.execute(
            load_sql("catalog/sql/sequences.sql"), {"bookkeeping": BOOKKEEPING_SCHEMA}
        )
        listed = [TableId(schema, name) async for schema, name in cursor]
    return [name for name in listed if chosen.fills(name)]


async def _read(conn: AsyncConnection, names: Sequence[TableId]) -> list[SequenceValue]:
    one = sql.SQL("SELECT {}::int, last_value, is_called FROM {}")
    query = sql.SQL(" UNION ALL ").join(
        one.format(sql.Literal(index), sql.Identifier(name.schema, name.name))
        for index, name in enumerate(names)
    )
    rows = await (await conn.execute(query)).fetchall()
    return [SequenceValue(names[index], value, called) for index, value, called in sorted(rows)]


@dataclass(frozen=True, slots=True)
class SequenceSetter:
    """Permission to set the destination's sequences for a pipeline until another coordinator claims them.

    Another coordinator may replace one that stops responding between reading and setting them. Its values
    must not replace those of the other coordinator, which may already be in use. So the claim is checked, and
    locked, by the statement that sets them.
    """

    pipeline: PipelineId
    claim_id: str

    @classmethod
    async def claim(cls, conn: AsyncConnection, pipeline: PipelineId) -> SequenceSetter:
        """Call this before the values are read."""
        claimed = cls(pipeline, secrets.token_hex(8))
        await ensure_bookkeeping(conn)
        upsert = sql.SQL(
            "INSERT INTO {} (pipeline, claim) VALUES (%s, %s)"
            " ON CONFLICT (pipeline) DO UPDATE SET claim = excluded.claim"
        ).format(book("sequences"))
        with translated(KEEPING_BOOKS):
            await conn.execute(upsert, [str(pipeline), claimed.claim_id])
        return claimed

    async def set(self, conn: AsyncConnection, values: Sequence[SequenceValue]) -> None:
        """Set them on the destination and read them back. Raises FENCED, and SCHEMA_DRIFT if a value
        differs."""
        # One statement: a client that stops responding holds the lock no longer than the server needs for it.
        statement = sql.SQL(
            "WITH ours AS (SELECT 1 FROM {} WHERE pipeline = %s AND claim = %s FOR UPDATE),"
            " done AS ("
            "SELECT pg_catalog.setval(pg_catalog.format('%%I.%%I', s, n)::pg_catalog.regclass, v, c)"
            " FROM ours, unnest(%s::text[], %s::text[], %s::bigint[], %s::boolean[]) AS t (s, n, v, c))"
            " SELECT (SELECT count(*) FROM ours), (SELECT count(*) FROM done)"
        ).format(book("sequences"))
        given = [
            str(self.pipeline),
            self.claim_id,
            [v.sequence.schema for v in values],
            [v.sequence.name for v in values],
            [v.last_value for v in values],
            [v.called for v in values],
        ]
        with translated("setting the destination's sequences"):
            row = await (await conn.execute(statement, given)).fetchone()
        if row is None or not row[0]:
            raise PgmigError(
                ErrorKind.FENCED,
                f"another coordinator sets the sequences of migration {self.pipeline.migration}",
                "run one coordinator for each NATS account; the other one continues",
            )
        await verify_sequences(conn, values)


async def verify_sequences(conn: AsyncConnection, values: Sequence[SequenceValue]) -> int:
    """Raises SCHEMA_DRIFT if the destination's sequences do not have `values`. Returns how many have them."""
    found = {value.sequence: value for value in await read_sequences(conn, "destination")}
    wrong = [str(value.sequence) for value in values if found.get(value.sequence) != value]
    if wrong:
        raise PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"sequences of the destination differ from the source: {', '.join(wrong[:5])}",
            "make sure that nothing writes to the destination before the switchover",
        )
    return sum(found.get(value.sequence) == value for value in values)
