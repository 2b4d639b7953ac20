"""Sequences that both sides use at once: each side hands out every other value.

The increment is doubled on both sides, and the next values are set so that one side has the values at even
distances from a common reference, and the other side those at odd ones. All of them are beyond what either
side has handed out. The reference is the source's start value, so together the two sides hand out what one
sequence would.

ALTER SEQUENCE gives the sequence a new file, which makes other sessions forget values that they have cached.
Sequence by sequence, both sides are altered in transactions that are open at the same time. The increments of
before are recorded in `pgmig.stride` by the same transactions, and never overwritten, so this can be repeated
after a crash.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, PipelineId, TableId
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import silence

_DOING = "setting the increments of sequences"
_ATTEMPT_MS = 200
_PAUSE_S = 0.3
_LOCKED_WITHIN_S = 30.0
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
_ALL_KEPT = "SELECT schema_name, sequence_name FROM pgmig.stride WHERE pipeline = %s ORDER BY 1, 2"
_OURS = (
    "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c"
    " WHERE c.oid = pg_catalog.to_regclass(%s)"
)

_Sides = tuple[tuple[AsyncConnection, PipelineId], tuple[AsyncConnection, PipelineId]]
"""Each side, and the pipeline that it receives from."""
Confirm = Callable[[], Awaitable[object]]


async def _confirmed() -> None:
    return


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
    confirm: Confirm = _confirmed,
) -> None:
    """Let the two sides hand out different values of these sequences. Others may use them meanwhile; they
    wait, for a moment. forward: the pipeline from the source to the destination. confirm: awaited while a
    sequence is locked on both sides, before it is changed. Raises FENCED if another coordinator has taken
    over.

    Raises SOURCE_NOT_READY or DESTINATION_NOT_READY for a sequence that does not exist or has no values left,
    TRANSIENT if one is locked for too long. Sequences before that one have their stride then: repeat it.
    """
    sides = _sides(source, destination, forward)
    await _prepare(sides)
    for name in sorted(sequences):
        for conn, pipeline in sides:
            if await _definition(conn, name) is None:
                raise _missing(pipeline, name)
        await _locked([conn for conn, _ in sides], name, partial(_stride, sides, name, confirm))


async def _stride(sides: _Sides, name: TableId, confirm: Confirm) -> None:
    await confirm()
    before = [await _keep(conn, pipeline, name) for conn, pipeline in sides]
    try:
        values = next_values(before[0], *[await _state(conn, name) for conn, _ in sides])
    except OverflowError as exc:
        raise PgmigError(
            ErrorKind.SOURCE_NOT_READY,
            f"sequence {name} of the source has no values left for two sides",
            "raise its MAXVALUE, or give it a larger type, on both sides",
        ) from exc
    for (conn, _), value in zip(sides, values, strict=True):
        await _alter(conn, name, 2 * before[0].increment)
        await _set(conn, name, value)


async def join_sequences(
    source: AsyncConnection,
    destination: AsyncConnection,
    forward: PipelineId,
    sequences: Collection[TableId],
) -> tuple[TableId, ...]:
    """End what `set_stride` began, if it did: the increments are those of before, and the next value of each
    side is beyond what either side has handed out, so that each may go on alone. Call it when neither side
    receives rows of the other one any more. A sequence that one side has not, or that has no values left,
    keeps its state.

    Returns sequences that our role may not alter, on either side; they keep their state, too. Raises
    TRANSIENT if one is locked for too long. Can be repeated.
    """
    sides = _sides(source, destination, forward)
    await _prepare(sides)
    refused: list[TableId] = []
    for name in sorted(sequences):
        found = [await _definition(conn, name) for conn, _ in sides]
        if None in found:
            continue
        if not all([await _ours(conn, name) for conn, _ in sides]):
            refused.append(name)
            continue
        await _locked([conn for conn, _ in sides], name, partial(_join, sides, name))
    return tuple(refused)


async def _join(sides: _Sides, name: TableId) -> None:
    definitions = [await _alone(conn, pipeline, name) for conn, pipeline in sides]
    value = next_value(definitions[0], *[await _state(conn, name) for conn, _ in sides])
    if value is not None:
        for conn, _ in sides:
            await _set(conn, name, value)


async def restore_stride(conn: AsyncConnection, pipeline: PipelineId) -> None:
    """Give the sequences of the subscriber of `pipeline` their increments of before. Their next values are
    beyond their own last ones; those of the other side are not known here. A sequence that was dropped is
    left out. Does nothing if no stride was set. Raises TRANSIENT if a sequence is locked for too long."""
    await silence(conn)
    with translated(_DOING):
        row = await (
            await conn.execute("SELECT pg_catalog.to_regclass('pgmig.stride') IS NOT NULL")
        ).fetchone()
        if row is None or not row[0]:
            return
        for schema, name in await (await conn.execute(_ALL_KEPT, [str(pipeline)])).fetchall():
            sequence = TableId(schema, name)
            if await _definition(conn, sequence) is None:
                await conn.execute(_FORGET, [str(pipeline), schema, name])
            else:
                await _locked([conn], sequence, partial(_restore, conn, pipeline, sequence))


async def _restore(conn: AsyncConnection, pipeline: PipelineId, name: TableId) -> None:
    await _alone(conn, pipeline, name)


def _sides(source: AsyncConnection, destination: AsyncConnection, forward: PipelineId) -> _Sides:
    return (source, forward.opposite), (destination, forward)


async def _prepare(sides: _Sides) -> None:
    for conn, _ in sides:
        await ensure_bookkeeping(conn)
        await silence(conn)


async def _locked(
    conns: Sequence[AsyncConnection], name: TableId, work: Callable[[], Awaitable[None]]
) -> None:
    """Do the work in transactions in which nobody else can use the sequence on these servers.

    A session that has used the sequence keeps a lock until its transaction ends, and everybody who wants the
    next value waits behind whoever waits for that. So an attempt is short, and others have time in between.
    """
    deadline = time.monotonic() + _LOCKED_WITHIN_S
    while True:
        try:
            with translated(_DOING):
                async with AsyncExitStack() as transactions:
                    for conn in conns:
                        await transactions.enter_async_context(conn.transaction())
                        await _lock(conn, name)
                    await work()
                return
        except PgmigError as exc:
            locked = isinstance(exc.__cause__, psycopg.errors.LockNotAvailable)
            if not locked or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)  # a lock that is released is not reported


async def _lock(conn: AsyncConnection, name: TableId) -> None:
    await conn.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [f"{_ATTEMPT_MS}ms"])
    await _alter(conn, name, (await _known(conn, name)).increment)


async def _keep(conn: AsyncConnection, pipeline: PipelineId, name: TableId) -> Definition:
    """Record the sequence's increment, unless it is recorded. Returns the definition of before."""
    found = await _known(conn, name)
    await conn.execute(_KEEP, [str(pipeline), name.schema, name.name, found.increment])
    row = await (await conn.execute(_KEPT, [str(pipeline), name.schema, name.name])).fetchone()
    assert row is not None
    return found._replace(increment=int(row[0]))


async def _alone(conn: AsyncConnection, pipeline: PipelineId, name: TableId) -> Definition:
    """Give the sequence its increment of before."""
    found = await _known(conn, name)
    kept = await (await conn.execute(_KEPT, [str(pipeline), name.schema, name.name])).fetchone()
    if kept is None:
        return found
    await _alter(conn, name, int(kept[0]))
    await conn.execute(_FORGET, [str(pipeline), name.schema, name.name])
    return found._replace(increment=int(kept[0]))


async def _ours(conn: AsyncConnection, name: TableId) -> bool:
    """Whether our role may alter the sequence."""
    row = await (await conn.execute(_OURS, [_identifier(name).as_string(conn)])).fetchone()
    return row is not None and bool(row[0])


async def _known(conn: AsyncConnection, name: TableId) -> Definition:
    found = await _definition(conn, name)
    if found is None:
        raise PgmigError(ErrorKind.TRANSIENT, f"sequence {name} was dropped just now")
    return found


def _missing(pipeline: PipelineId, name: TableId) -> PgmigError:
    on_source = pipeline.subscriber == "source"
    return PgmigError(
        ErrorKind.SOURCE_NOT_READY if on_source else ErrorKind.DESTINATION_NOT_READY,
        f"sequence {name} is not on the {pipeline.subscriber}",
        "both sides must have the same sequences to hand out different values",
    )


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


def _identifier(name: TableId) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)
