"""Both sides use their sequences at once and never hand out the same value."""

from __future__ import annotations

import asyncio
import itertools
import threading

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.model import ErrorKind, MigrationId, PgmigError, TableId
from services.shared.pg.bidirectional.sequences import (
    Definition,
    State,
    join_sequences,
    next_value,
    next_values,
    restore_stride,
    set_stride,
)
from services.shared.pg.bookkeeping.schema import drop_bookkeeping
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import rows, run

FORWARD = MigrationId("both").forward
NAMES = ("t_id_seq", "i_id_seq", "down", "tens", "odd % \"one'", "cached")
SEQUENCES = tuple(TableId("public", name) for name in NAMES)
DDL = (
    "CREATE TABLE t (id serial PRIMARY KEY)",
    "CREATE TABLE i (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    "CREATE SEQUENCE down INCREMENT -3 MINVALUE -100000",
    "CREATE SEQUENCE tens START 5 INCREMENT 10",
    'CREATE SEQUENCE "odd % ""one\'" START 7',
    "CREATE SEQUENCE cached CACHE 20",
)


def drawn(conn: psycopg.Connection, name: str, count: int) -> list[int]:
    quoted = '"' + name.replace('"', '""') + '"'
    query = "SELECT nextval(%s) FROM generate_series(1, %s)"
    return [row[0] for row in conn.execute(query, [quoted, count]).fetchall()]


async def both(source: str, destination: str) -> None:
    async with connection(source, "source") as here, connection(destination, "destination") as there:
        await set_stride(here, there, FORWARD, SEQUENCES)


async def test_both_sides_hand_out_different_values_and_all_of_them(source_db: str, dest_db: str) -> None:
    for uri in (source_db, dest_db):
        run(uri, *DDL)
    with (
        psycopg.connect(source_db, autocommit=True) as here,
        psycopg.connect(dest_db, autocommit=True) as there,
    ):
        before = {name: drawn(here, name, n) for n, name in enumerate(NAMES)}
        before = {name: values + drawn(there, name, 2) for name, values in before.items()}
        await both(source_db, dest_db)
        for name in NAMES:
            first, second = drawn(here, name, 30), drawn(there, name, 40)
            assert not set(first) & set(second)
            assert not set(before[name]) & {*first, *second}
            steps = sorted({*first, *second[:30]})
            assert len({b - a for a, b in itertools.pairwise(steps)}) == 1
        await both(source_db, dest_db)  # again: the recorded increments are those of before
        for name in NAMES:
            assert not set(drawn(here, name, 30)) & set(drawn(there, name, 30))


@pytest.mark.parametrize("strided", [True, False])
async def test_each_side_goes_on_alone_after_what_either_has_handed_out(
    source_db: str, dest_db: str, strided: bool
) -> None:
    """The rows of one side are on the other one, too, where their values must not be handed out again."""
    for uri in (source_db, dest_db):
        run(uri, *DDL)
    increments = "SELECT seqincrement FROM pg_sequence WHERE seqrelid = %s::regclass"
    with (
        psycopg.connect(source_db, autocommit=True) as here,
        psycopg.connect(dest_db, autocommit=True) as there,
    ):
        quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
        before = [here.execute(increments, [name]).fetchone() for name in quoted]
        if strided:
            await both(source_db, dest_db)
        used = {
            name: {*drawn(here, name, 7 + n), *drawn(there, name, 12 - n)} for n, name in enumerate(NAMES)
        }
        for _ in range(2):  # it can be repeated
            async with connection(source_db, "source") as one, connection(dest_db, "destination") as other:
                await join_sequences(one, other, FORWARD, [*SEQUENCES, TableId("public", "gone")])
            for side in (here, there):
                assert [side.execute(increments, [name]).fetchone() for name in quoted] == before
        for name in NAMES if strided else set(NAMES) - {"cached"}:  # the sessions keep what they have cached
            assert not used[name] & {*drawn(here, name, 30), *drawn(there, name, 30)}


@pytest.mark.parametrize("strided", [True, False])
async def test_values_are_handed_out_once_while_the_sides_part(
    source_db: str, dest_db: str, strided: bool
) -> None:
    for uri in (source_db, dest_db):
        run(uri, "CREATE SEQUENCE busy")
    if strided:
        async with connection(source_db, "source") as one, connection(dest_db, "destination") as other:
            await set_stride(one, other, FORWARD, [TableId("public", "busy")])
    stop = threading.Event()

    def take(uri: str) -> list[int]:
        values: list[int] = []
        with psycopg.connect(uri, autocommit=True) as conn:
            while not stop.is_set() or len(values) < 100:
                values += drawn(conn, "busy", 1)
        return values

    taking = asyncio.gather(*(asyncio.to_thread(take, uri) for uri in (source_db, dest_db)))
    async with connection(source_db, "source") as one, connection(dest_db, "destination") as other:
        for _ in range(20):
            await join_sequences(one, other, FORWARD, [TableId("public", "busy")])
    stop.set()
    for values in await taking:
        assert len(set(values)) == len(values)


async def test_nobody_waits_for_long_while_a_sequence_is_in_use(source_db: str, dest_db: str) -> None:
    """A transaction that has used the sequence is open, and pgmig wants to alter it."""
    for uri in (source_db, dest_db):
        run(uri, "CREATE SEQUENCE used")
    names = [TableId("public", "used")]
    with psycopg.connect(source_db) as user, psycopg.connect(source_db, autocommit=True) as other:
        user.execute("SELECT nextval('used')")
        other.execute("SET lock_timeout = '5s'")
        async with connection(source_db, "source") as here, connection(dest_db, "destination") as there:
            setting = asyncio.create_task(set_stride(here, there, FORWARD, names))
            for _ in range(5):
                await asyncio.wait({setting}, timeout=0.2)
                await asyncio.to_thread(other.execute, "SELECT nextval('used')")
            assert not setting.done()
            user.rollback()
            await setting


def test_a_sequence_without_values_left_is_not_set() -> None:
    assert next_value(Definition(1, 1, 1, 10), State(10, True), State(3, True)) is None
    assert next_value(Definition(1, 1, 1, 10), State(9, True), State(3, True)) == 10


async def test_the_increments_of_before_come_back(source_db: str, dest_db: str) -> None:
    query = "SELECT seqrelid::regclass::text, seqincrement, seqcache FROM pg_sequence ORDER BY 1"
    for uri in (source_db, dest_db):
        run(uri, *DDL)
    before = rows(source_db, query)
    await both(source_db, dest_db)
    run(dest_db, "DROP SEQUENCE down")
    with psycopg.connect(source_db, autocommit=True) as here:
        last = {name: drawn(here, name, 3)[-1] for name in NAMES}
        for uri, pipeline in ((source_db, FORWARD.opposite), (dest_db, FORWARD)):
            async with connection(uri, "test") as conn:
                for _ in range(2):
                    await restore_stride(conn, pipeline)
        increments = {row[0]: row[1] for row in before}
        with psycopg.connect(source_db, autocommit=True) as other:
            (value,) = drawn(other, "tens", 1)
            assert value == last["tens"] + increments["tens"]  # type: ignore[operator]
    both_kinds = [row for row in rows(source_db, query) if not str(row[0]).startswith("pgmig.")]
    assert both_kinds == before
    there = [row for row in rows(dest_db, query) if not str(row[0]).startswith("pgmig.")]
    assert there == [row for row in before if row[0] != "down"]
    async with connection(dest_db, "test") as conn:
        await drop_bookkeeping(conn, FORWARD)
        await restore_stride(conn, FORWARD)


async def test_a_sequence_that_one_side_lacks_changes_nothing(source_db: str, dest_db: str) -> None:
    run(source_db, *DDL)
    run(dest_db, *DDL[:-1])
    with pytest.raises(PgmigError) as caught:
        await both(source_db, dest_db)
    assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
    query = "SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'tens'::regclass"
    assert rows(source_db, query) == rows(dest_db, query) == [(10,)]


async def test_a_sequence_without_values_is_refused(source_db: str, dest_db: str) -> None:
    for uri in (source_db, dest_db):
        run(uri, *DDL, "ALTER SEQUENCE tens MAXVALUE 14")
    with pytest.raises(PgmigError, match="tens"):
        await both(source_db, dest_db)


states = st.builds(State, st.integers(-50, 50), st.booleans())


@given(
    start=st.integers(-50, 50),
    increment=st.integers(-7, 7).filter(bool),
    here=states,
    there=states,
)
def test_next_values_are_beyond_those_of_both_sides(
    start: int, increment: int, here: State, there: State
) -> None:
    definition = Definition(increment, start, -1000, 1000)
    first, second = next_values(definition, here, there)
    assert second - first == increment
    assert (first - start) % (2 * increment) == 0
    sign = 1 if increment > 0 else -1
    for state in (here, there):
        assert sign * (first - state.last) >= (1 if state.called else 0)
    with pytest.raises(OverflowError):
        next_values(Definition(1, 1, 1, 10), State(9, True))
