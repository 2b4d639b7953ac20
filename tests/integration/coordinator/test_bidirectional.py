"""Migrations whose two sides are both written to: how they begin, work and end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from clients.session import Session
from services.shared.model import (
    Direction,
    ErrorKind,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
    PipelineState,
    SwitchoverOptions,
)
from services.shared.model.conflicts.policy import OnConflict
from tests.support.pipeline.back import server_of_major
from tests.support.pipeline.both_ways import SETTINGS
from tests.support.pipeline.conflicting_load import DDL, TABLES, write
from tests.support.pipeline.in_process import rows, run
from tests.support.preflight import traces
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.both_sides import writable

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("bidirectional")]

LATEST = MigrationOptions(follow=True, bidirectional=True, on_conflict=OnConflict.LAST_UPDATE_WINS)
STOP = replace(LATEST, on_conflict=OnConflict.STOP)
APART = "CREATE TABLE counted (id bigserial PRIMARY KEY, side text, n int)"
COUNTED = "SELECT side, n FROM counted ORDER BY 1, 2"
EQUAL_S = 60.0


@pytest.fixture(scope="module", params=[(14, 18), (17, 18)], ids=lambda pair: f"{pair[0]}-{pair[1]}")
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with (
        server_of_major(request.param[0], SETTINGS) as first,
        server_of_major(request.param[1], SETTINGS) as second,
    ):
        yield first, second


@pytest.fixture
def sides(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[tuple[str, str]]:
    """The source has tables with a few rows; the destination is empty."""
    with servers[0].fresh_database("here") as here, servers[1].fresh_database("there") as there:
        run(here, DDL)
        run(here, APART)
        yield here, there


@pytest.fixture
async def session(services: Services) -> AsyncIterator[Session]:
    async with services.session() as session:
        yield session


async def opened(session: Session, sides: tuple[str, str], options: MigrationOptions) -> MigrationView:
    """Return when both sides are open to writers."""
    await session.start("m", *sides, options)
    return await until_open(session)


async def until_open(session: Session) -> MigrationView:
    def is_open(view: MigrationView) -> bool:
        assert view.phase is not Phase.FAILED, view.failure
        told = any(event.text == "both sides are open to writers" for event in view.events)
        return view.phase is Phase.BIDIRECTIONAL and told

    return await until(session, "m", is_open)


def contents(uri: str, table: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as conn:
        query = sql.SQL("SELECT x::text FROM {} x ORDER BY 1").format(sql.Identifier(table))
        return conn.execute(query).fetchall()


def differences(sides: tuple[str, str]) -> list[str]:
    return [name for name in (*TABLES, "counted") if contents(sides[0], name) != contents(sides[1], name)]


async def equal_soon(sides: tuple[str, str]) -> None:
    """Nobody writes any more."""
    deadline = time.monotonic() + EQUAL_S
    while found := await asyncio.to_thread(differences, sides):
        assert time.monotonic() < deadline, f"different for too long: {found}"
        await asyncio.sleep(0.1)


async def arrived(uri: str, table: str, row: str) -> None:
    deadline = time.monotonic() + EQUAL_S
    while (row,) not in await asyncio.to_thread(contents, uri, table):
        assert time.monotonic() < deadline, f"{row} has not arrived"
        await asyncio.sleep(0.1)


def count(uri: str, side: str, numbers: range) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        for number in numbers:
            conn.execute("INSERT INTO counted (side, n) VALUES (%s, %s)", [side, number])
            if number % 3 == 0:
                conn.execute("UPDATE counted SET n = -n WHERE side = %s AND n = %s", [side, number - 1])


def counted_up(first: int, last: int) -> set[int]:
    return {-n if (n + 1) % 3 == 0 and n + 1 < last else n for n in range(first, last)}


def left(uri: str) -> list[tuple[object, ...]]:
    """What pgmig has left."""
    return rows(
        uri,
        "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
        " UNION ALL SELECT pubname::text FROM pg_publication"
        " UNION ALL SELECT roname FROM pg_replication_origin"
        " UNION ALL SELECT nspname::text FROM pg_namespace WHERE nspname = 'pgmig'"
        " UNION ALL SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'pgmig%'",
    )


def increments(uri: str) -> list[tuple[object, ...]]:
    return rows(uri, "SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'counted_id_seq'::regclass")


async def test_disjoint_load_on_both_sides_ends_equal(session: Session, sides: tuple[str, str]) -> None:
    here, there = sides
    before = await asyncio.to_thread(increments, here)
    early = asyncio.create_task(asyncio.to_thread(count, here, "early", range(300)))
    await opened(session, sides, replace(LATEST, sequence_stride=True))
    await early
    await asyncio.gather(
        *(asyncio.to_thread(count, uri, side, range(400)) for uri, side in ((here, "a"), (there, "b")))
    )
    await equal_soon(sides)
    found = rows(there, COUNTED)
    for side, numbers in (("early", 300), ("a", 400), ("b", 400)):
        assert {n for name, n in found if name == side} == counted_up(0, numbers)
    assert len(found) == 1100
    view = await session.get("m")
    assert [one.rates.conflicts for one in view.pipelines] == [0, 0]
    ended = await session.finalize("m")
    assert (ended.phase, ended.left) == (Phase.COMPLETE, ())
    assert increments(here) == increments(there) == before
    count(here, "late", range(3))
    count(there, "late", range(3, 6))
    assert [name for name, _ in rows(there, COUNTED)].count("late") == 3
    await session.cleanup("m")
    for uri in sides:
        assert left(uri) == []


async def test_conflicting_load_ends_with_the_same_rows_on_both_sides(
    session: Session, sides: tuple[str, str]
) -> None:
    here, there = sides
    await opened(session, sides, LATEST)
    writers = [
        asyncio.to_thread(write, uri, f"{side} {number}")
        for side, uri in (("here", here), ("there", there))
        for number in range(2)
    ]
    await asyncio.gather(*writers)
    await equal_soon(sides)
    ended = await session.finalize("m")
    assert ended.phase is Phase.COMPLETE
    assert differences(sides) == []


async def test_two_changes_of_one_row_stop_both_directions_unless_the_operator_chose_otherwise(
    session: Session, sides: tuple[str, str]
) -> None:
    here, there = sides
    await opened(session, sides, STOP)
    run(there, "UPDATE one SET w = 'seen' WHERE id = 1")
    await arrived(here, "one", "(1,0,seen)")
    run(here, "UPDATE one SET w = 'seen here, too' WHERE id = 1")
    await arrived(there, "one", '(1,0,"seen here, too")')
    await session.pause("m")
    view = await session.get("m")
    assert [one.state for one in view.pipelines] == [PipelineState.PAUSED] * 2
    run(here, "UPDATE one SET v = 1 WHERE id = 0")
    run(there, "UPDATE one SET v = 2 WHERE id = 0")
    await session.resume("m")
    async with aclosing(session.follow("m")) as views:
        failed = await anext(
            view async for view in views if all(one.state is PipelineState.FAILED for one in view.pipelines)
        )
    assert failed.phase is Phase.FAILED
    for one in failed.pipelines:
        assert one.failure is not None
        assert one.failure.kind is ErrorKind.CONFLICT
    assert [contents(uri, "one")[0] for uri in sides] == [("(0,1,start)",), ("(0,2,start)",)]
    for one in failed.pipelines:
        assert one.failure is not None
        await session.skip_transaction("m", one.failure.lsn, "decided by hand", "dba@ops")
    await until_phase(session, "m", Phase.BIDIRECTIONAL)
    for number, (side, other) in enumerate((sides, sides[::-1])):
        run(side, f"INSERT INTO one VALUES ({90 + number})")
        await arrived(other, "one", f"({90 + number},,)")
    run(there, "UPDATE one SET v = 3 WHERE id = 0")
    await equal_soon(sides)


async def test_one_direction_goes_on_while_the_other_has_stopped(
    session: Session, sides: tuple[str, str]
) -> None:
    here, there = sides
    await opened(session, sides, STOP)
    with psycopg.connect(there) as conn:
        conn.execute("ALTER TABLE one ADD CHECK (v < 100)")
    run(here, "UPDATE one SET v = 100 WHERE id = 1")
    async with aclosing(session.follow("m")) as views:
        failed = await anext(view async for view in views if view.phase is Phase.FAILED)
    states = {one.direction: one.state for one in failed.pipelines}
    assert states[Direction.FORWARD] is PipelineState.FAILED
    assert states[Direction.REVERSE].running
    with pytest.raises(PgmigError) as caught:
        await session.cleanup("m")
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    run(there, "INSERT INTO one VALUES (50, 5, 'goes on')")
    await arrived(here, "one", '(50,5,"goes on")')
    with psycopg.connect(there) as conn:
        conn.execute("ALTER TABLE one DROP CONSTRAINT one_v_check")
    await session.resume("m")
    await until_phase(session, "m", Phase.BIDIRECTIONAL)
    await equal_soon(sides)


async def test_destination_refuses_writers_until_both_sides_are_open(
    session: Session, services: Services, sides: tuple[str, str]
) -> None:
    services.restart_with("bidirectional.turned=kill")
    await session.start("m", *sides, LATEST)
    services.await_death("coordinator")
    assert not writable(sides[1])
    services.start("coordinator")
    async with services.session() as again:
        await again.resume("m", *sides)
        await until_open(again)
    run(sides[1], "UPDATE one SET v = 2 WHERE id = 0")
    await equal_soon(sides)


@pytest.mark.parametrize("point", ["intended", "prepared", "turned", "opened"])
async def test_coordinator_killed_while_both_sides_are_opened(
    services: Services, sides: tuple[str, str], point: str
) -> None:
    here, there = sides
    before = increments(here)
    services.restart_with(f"bidirectional.{point}=kill")
    options = replace(LATEST, sequence_stride=True)
    async with services.session() as session:
        await session.start("m", *sides, options)
        services.await_death("coordinator")
    count(here, "meanwhile", range(50))
    services.start("coordinator")
    async with services.session() as session:
        await session.resume("m", *sides)
        await until_open(session)
        count(here, "a", range(50))
        count(there, "b", range(50))
        await equal_soon(sides)
        assert len(rows(here, COUNTED)) == 150
        await session.finalize("m")
        assert increments(here) == increments(there) == before


async def test_coordinator_killed_at_the_end_leaves_the_rest_to_cleanup(
    services: Services, sides: tuple[str, str]
) -> None:
    services.restart_with("bidirectional.finalized=kill")
    async with services.session() as session:
        await opened(session, sides, LATEST)
        with pytest.raises(PgmigError):
            await session.finalize("m")
        services.await_death("coordinator")
    services.start("coordinator")
    async with services.session() as session:
        view = await until_phase(session, "m", Phase.COMPLETE)
        assert view.failure is None
        await session.finalize("m", *sides)
        await session.cleanup("m", *sides)
    for uri in sides:
        assert left(uri) == []


async def test_finalize_waits_until_each_side_has_what_the_other_one_had_committed(
    session: Session, services: Services, sides: tuple[str, str]
) -> None:
    """The applier stands still meanwhile."""
    here, there = sides
    await opened(session, sides, LATEST)
    services.freeze("applier")
    count(here, "a", range(500))
    count(there, "b", range(1000, 1500))
    with psycopg.connect(here) as conn:
        conn.execute("SELECT setval('counted_id_seq', 5000)")
    ending = asyncio.create_task(session.finalize("m"))
    await asyncio.wait({ending}, timeout=1)
    assert not ending.done()
    services.thaw("applier")
    assert (await ending).phase is Phase.COMPLETE
    assert differences(sides) == []


async def test_no_row_is_lost_while_the_sides_part(session: Session, sides: tuple[str, str]) -> None:
    """Both sides take values of their sequences all the time."""
    await opened(session, sides, replace(LATEST, sequence_stride=True))
    stop = threading.Event()
    taken: dict[str, list[int]] = {"a": [], "b": []}

    def insert(uri: str, side: str) -> None:
        with psycopg.connect(uri, autocommit=True) as conn:
            while not stop.is_set():
                query = "INSERT INTO counted (side) VALUES (%s) RETURNING id"
                row = conn.execute(query, [side]).fetchone()
                assert row is not None
                taken[side].append(row[0])

    writers = asyncio.gather(
        *(asyncio.to_thread(insert, uri, side) for uri, side in zip(sides, taken, strict=True))
    )
    ended = await session.finalize("m")
    stop.set()
    await writers
    assert ended.phase is Phase.COMPLETE
    for uri, side in zip(sides, taken, strict=True):
        kept = {row[0] for row in rows(uri, f"SELECT id FROM counted WHERE side = '{side}'")}
        assert set(taken[side]) == kept
        assert len(taken[side]) > 50


async def test_without_connection_strings_nothing_waits_for_a_finalize(
    services: Services, sides: tuple[str, str]
) -> None:
    async with services.session() as session:
        await opened(session, sides, LATEST)
    services.kill9("coordinator")
    services.start("coordinator")
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.finalize("m")
        assert caught.value.kind is ErrorKind.CREDENTIALS_NEEDED
        assert (await session.finalize("m", *sides)).phase is Phase.COMPLETE


async def test_there_is_nothing_to_switch_over_and_an_abort_leaves_both_sides_open(
    session: Session, sides: tuple[str, str]
) -> None:
    here, there = sides
    await opened(session, sides, LATEST)
    with pytest.raises(PgmigError) as caught:
        await session.begin_switchover("m", SwitchoverOptions(1000))
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert "finalize" in caught.value.hint
    await session.abort("m")
    for uri in (here, there):
        run(uri, "INSERT INTO one VALUES (70, 7, 'alone')")
    await session.cleanup("m")
    for uri in sides:
        assert left(uri) == []


async def test_everything_in_the_way_is_said_at_the_start(
    session: Session, source_db: str, dest_db: str
) -> None:
    """The servers of all tests do not record when transactions are committed."""
    run(source_db, "CREATE TABLE keyless (n int); ALTER TABLE keyless REPLICA IDENTITY FULL")
    before = [traces(uri) for uri in (source_db, dest_db)]
    with pytest.raises(PgmigError) as caught:
        await session.start("m", source_db, dest_db, LATEST)
    assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
    assert "public.keyless" in caught.value.message
    assert caught.value.message.count("does not record when transactions are committed") == 2
    assert "track_commit_timestamp = on" in caught.value.hint
    assert [traces(uri) for uri in (source_db, dest_db)] == before
