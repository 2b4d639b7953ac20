"""Sequences that both sides use at once: each side hands out every other value.

The increment is doubled on both sides, and the next values are set so that one side has the values at even
distances from a common reference, and the other side those at odd ones. All of them are beyond what either
side has handed out. The reference is the source's start value, so together the two sides hand out what one
sequence would.

ALTER SEQUENCE gives the sequence a new file, which makes other sessions forget values that they have cached.
Both sides are altered in transactions that are open at the same time. The increments of before are recorded
in `pgmig.stride` by the same transactions, and never overwritten, so this can be repeated after a crash.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, PipelineId, TableId
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import silence

_DOING = "setting the increments of sequences"
_LOCK_TIMEOUT_MS = 10_000
_DEFINITION = (
    "SELECT s.seqincrement, s.seqstart, s.seqmin, s.seqmax FROM pg_catalog.pg_sequence s"
    " WHERE s.seqrelid = pg_catalog.to_regclass(%s)"
)
_KEEP = (
    "INSERT INTO pgmig.stride (pipeline, schema_name, sequence_name, increment) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT DO NOTHING"
)
_KEPT = "SELECT increment FROM pgmig.stride WHERE pipeline = %s AND schema_name = %s AND sequence_name = %s"
_FORGET = "DELETE FROM pgmig.stride WHERE pipeline = %s AND schema_name = %s AND sequence_name = %s"
_ALL_KEPT = "SELECT schema_name, sequence_name, increment FROM pgmig.stride WHERE pipeline = %s ORDER BY 1, 2"


class Definition(NamedTuple):
    """increment: without a stride. low, high: the values that are allowed."""

    increment: int
    start: int
    low: int
    high: int


class State(NamedTuple):
    """last: the last value that was handed out, or, if none was (`called`), the next one."""

    last: int
    called: bool


def next_values(definition: Definition, *states: State) -> tuple[int, int]:
    """The next value on the source and on the destination. definition: of the source. states: of both sides.
    Raises OverflowError if the sequence has not so many values left."""
    step = _next_step(definition, states)
    step += step % 2
    first, second = (definition.start + n * definition.increment for n in (step, step + 1))
    if not (definition.low <= first <= definition.high and definition.low <= second <= definition.high):
        raise OverflowError
    return first, second


def next_value(definition: Definition, *states: State) -> int | None:
    """The next value if only one side goes on. None if the sequence has no more. As for `next_values`."""
    value = definition.start + _next_step(definition, states) * definition.increment
    return value if definition.low <= value <= definition.high else None


def _next_step(definition: Definition, states: Collection[State]) -> int:
    """In increments from the start value, the first value that neither side has handed out."""
    increment, reference = definition.increment, definition.start
    step = 0
    for state in states:
        if state.called:
            step = max(step, (state.last - reference) // increment + 1)
        else:
            step = max(step, -((reference - state.last) // increment))
    return step


async def set_stride(
    source: AsyncConnection,
    destination: AsyncConnection,
    forward: PipelineId,
    sequences: Collection[TableId],
) -> None:
    """Let the two sides hand out different values of these sequences. Others may use them meanwhile; they
    wait. forward: the pipeline from the source to the destination.

    Raises SOURCE_NOT_READY or DESTINATION_NOT_READY for a sequence that does not exist or has no values left,
    TRANSIENT if one is locked for too long. Nothing has changed then, unless a connection broke at the very
    end: then repeat it.
    """
    sides = ((source, forward.opposite), (destination, forward))
    for conn, _ in sides:
        await ensure_bookkeeping(conn)
        await silence(conn)
    with translated(_DOING):
        async with source.transaction(), destination.transaction():
            for conn, _ in sides:
                await _limit_waiting(conn)
            for name in sorted(sequences):
                definitions = [await _stride(conn, pipeline, name) for conn, pipeline in sides]
                states = [await _state(conn, name) for conn, _ in sides]
                try:
                    values = next_values(definitions[0], *states)
                except OverflowError as exc:
                    raise PgmigError(
                        ErrorKind.SOURCE_NOT_READY,
                        f"sequence {name} of the source has no values left for two sides",
                        "raise its MAXVALUE, or give it a larger type, on both sides",
                    ) from exc
                for (conn, _), value in zip(sides, values, strict=True):
                    await _alter(conn, name, 2 * definitions[0].increment)
                    await _set(conn, name, value)


async def join_sequences(
    source: AsyncConnection,
    destination: AsyncConnection,
    forward: PipelineId,
    sequences: Collection[TableId],
) -> None:
    """End what `set_stride` began, if it did: the increments are those of before, and the next value of each
    side is beyond what either side has handed out, so that each may go on alone. A sequence that one side has
    not, or that has no values left, keeps its state.

    Raises TRANSIENT if a sequence is locked for too long. Can be repeated.
    """
    sides = ((source, forward.opposite), (destination, forward))
    for conn, _ in sides:
        await ensure_bookkeeping(conn)
        await silence(conn)
    with translated(_DOING):
        async with source.transaction(), destination.transaction():
            for conn, _ in sides:
                await _limit_waiting(conn)
            for name in sorted(sequences):
                if None in [await _definition(conn, name) for conn, _ in sides]:
                    continue
                definitions = [await _alone(conn, pipeline, name) for conn, pipeline in sides]
                states = [await _state(conn, name) for conn, _ in sides]
                value = next_value(definitions[0], *states)
                if value is not None:
                    for conn, _ in sides:
                        await _set(conn, name, value)


async def _alone(conn: AsyncConnection, pipeline: PipelineId, name: TableId) -> Definition:
    """Give the sequence its increment of before."""
    found = await _definition(conn, name)
    assert found is not None
    kept = await (await conn.execute(_KEPT, [str(pipeline), name.schema, name.name])).fetchone()
    if kept is None:
        return found
    await _alter(conn, name, int(kept[0]))
    await conn.execute(_FORGET, [str(pipeline), name.schema, name.name])
    return found._replace(increment=int(kept[0]))


async def restore_stride(conn: AsyncConnection, pipeline: PipelineId) -> None:
    """Give the sequences of the subscriber of `pipeline` their increments of before. Their next values are
    beyond their own last ones; those of the other side are not known here. A sequence that was dropped is
    left out. Does nothing if no stride was set."""
    await silence(conn)
    with translated(_DOING):
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass('pgmig.stride') IS NOT NULL")
        ).fetchone()
        if row is None or not row[0]:
            return
        async with conn.transaction():
            await _limit_waiting(conn)
            cursor = await conn.execute(_ALL_KEPT, [str(pipeline)])
            for schema, name, increment in await cursor.fetchall():
                sequence = TableId(schema, name)
                if await _definition(conn, sequence) is not None:
                    await _alter(conn, sequence, increment)
            await conn.execute("DELETE FROM pgmig.stride WHERE pipeline = %s", [str(pipeline)])


async def _stride(conn: AsyncConnection, pipeline: PipelineId, name: TableId) -> Definition:
    """Lock the sequence and record its increment, unless it is recorded. The definition is that of before."""
    found = await _definition(conn, name)
    if found is None:
        on_source = pipeline.subscriber == "source"
        raise PgmigError(
            ErrorKind.SOURCE_NOT_READY if on_source else ErrorKind.DESTINATION_NOT_READY,
            f"sequence {name} is not on the {pipeline.subscriber}",
            "both sides must have the same sequences to hand out different values",
        )
    await conn.execute(_KEEP, [str(pipeline), name.schema, name.name, found.increment])
    row = await (await conn.execute(_KEPT, [str(pipeline), name.schema, name.name])).fetchone()
    assert row is not None
    await _alter(conn, name, found.increment)  # takes the lock that nextval waits for
    return found._replace(increment=int(row[0]))


async def _definition(conn: AsyncConnection, name: TableId) -> Definition | None:
    text = _identifier(name).as_string(conn)
    row = await (await conn.execute(_DEFINITION, [text])).fetchone()
    return Definition(*row) if row is not None else None


async def _state(conn: AsyncConnection, name: TableId) -> State:
    query = sql.SQL("SELECT last_value, is_called FROM {}").format(_identifier(name))
    row = await (await conn.execute(query)).fetchone()
    assert row is not None
    return State(*row)


async def _alter(conn: AsyncConnection, name: TableId, increment: int) -> None:
    statement = sql.SQL("ALTER SEQUENCE {} INCREMENT BY {}")
    await conn.execute(statement.format(_identifier(name), sql.Literal(increment)))


async def _set(conn: AsyncConnection, name: TableId, value: int) -> None:
    text = _identifier(name).as_string(conn)
    await conn.execute("SELECT pg_catalog.setval(%s::pg_catalog.regclass, %s, false)", [text, value])


async def _limit_waiting(conn: AsyncConnection) -> None:
    limit = f"{_LOCK_TIMEOUT_MS}ms"
    await conn.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [limit])


def _identifier(name: TableId) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)
