"""Sequence values: read on the source, set on the destination, read back there.

Logical replication carries no sequence values. They are read when nobody can call nextval any
more (after the freeze), or after the copy for a clone that does not follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import BOOKKEEPING_SCHEMA, ErrorKind, PgmigError, TableId
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

_BATCH = 200
"""Sequences read by one statement: each is a relation of its own."""


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """called: last_value has been handed out already."""

    sequence: TableId
    last_value: int
    called: bool


async def read_sequences(
    conn: AsyncConnection, side: str, chosen: Chosen = EVERYTHING
) -> tuple[SequenceValue, ...]:
    """Every sequence that is taken, by schema and name: identity columns' among them, and those of
    extensions that are part of their configuration."""
    names = await list_sequences(conn, side, chosen)
    with translated(f"reading the {side}'s sequences"):
        values: list[SequenceValue] = []
        for start in range(0, len(names), _BATCH):
            values += await _read(conn, names[start : start + _BATCH])
    return tuple(values)


async def list_sequences(conn: AsyncConnection, side: str, chosen: Chosen = EVERYTHING) -> list[TableId]:
    """Their names, sorted."""
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


async def set_sequences(conn: AsyncConnection, values: Sequence[SequenceValue]) -> None:
    """Set them on the destination and read them back. Raises SCHEMA_DRIFT when one differs."""
    with translated("setting the destination's sequences"):
        await conn.execute(
            "SELECT pg_catalog.setval(pg_catalog.format('%%I.%%I', s, n)::pg_catalog.regclass, v, c)"
            " FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::boolean[]) AS t (s, n, v, c)",
            [
                [v.sequence.schema for v in values],
                [v.sequence.name for v in values],
                [v.last_value for v in values],
                [v.called for v in values],
            ],
        )
    await verify_sequences(conn, values)


async def verify_sequences(conn: AsyncConnection, values: Sequence[SequenceValue]) -> None:
    """Raises SCHEMA_DRIFT when the destination's sequences are not at `values`."""
    found = {value.sequence: value for value in await read_sequences(conn, "destination")}
    wrong = [str(value.sequence) for value in values if found.get(value.sequence) != value]
    if wrong:
        raise PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"sequences of the destination differ from the source: {', '.join(wrong[:5])}",
            "make sure that nothing writes to the destination before the switchover",
        )
