"""Partitions of the source that are dropped, detached or attached, where the destination has one table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clients.session import Session
from services.shared.model import (
    MigrationOptions,
    MigrationView,
    Phase,
    StepState,
    TableId,
)
from tests.integration.pg.catalog.test_partitions import BY_PLACE, COLUMNS, PLAIN, RANGES
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase

OPTIONS = MigrationOptions(follow=True, data_only=True)
ON_DESTINATION = "run on the destination: BEGIN READ WRITE;"
TABLE, LOW, THERE = (TableId("public", name) for name in ("t", "low", "there"))
ROWS = "INSERT INTO t SELECT i, (ARRAY['here', 'there'])[i % 2 + 1], 'v' || i FROM generate_series(1, 200) i"
SHAPES = {"published by the root": (RANGES, LOW), "published by its own name": (BY_PLACE, THERE)}


@asynccontextmanager
async def streaming(
    nats: NatsServer, folder: Path, source: str, destination: str, *shape: str
) -> AsyncIterator[tuple[Services, Session]]:
    """A migration of the partitioned table into a plain one."""
    run(source, *shape, ROWS)
    run(destination, *PLAIN)
    with Services(nats, folder) as services:
        async with services.session() as session:
            await session.start("m", source, destination, OPTIONS)
            await until_phase(session, "m", Phase.STREAMING)
            yield services, session


async def stopped(session: Session) -> MigrationView:
    async for view in session.follow("m"):
        if view.phase is Phase.FAILED:
            return view
    raise AssertionError("the migration was cleaned up")


async def resync(session: Session, *tables: TableId) -> None:
    events = len((await session.get("m")).events)
    await session.resync_tables("m", tables)
    await until(
        session,
        "m",
        lambda view: (
            any(event.text.startswith("copied ") for event in view.events[events:])
            and view.phase is Phase.STREAMING
        ),
    )


async def switch_over(session: Session) -> None:
    assert [step async for step in session.switchover("m", 60.0)][-1].state == StepState.DONE


def equal(source: str, destination: str, *tables: str) -> None:
    for table in tables:
        query = f"SELECT id, place, v FROM {table} ORDER BY id"
        assert rows(destination, query) == rows(source, query), table


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_dropped_partition_stops_until_its_root_is_copied_again(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str, shape: str
) -> None:
    statements, leaf = SHAPES[shape]
    async with streaming(nats_server, tmp_path, source_db, dest_db, *statements) as (_, session):
        run(source_db, "UPDATE t SET v = 'changed' WHERE id % 10 = 0", f"DROP TABLE {leaf.name}")
        view = await stopped(session)
        assert view.failure is not None
        assert str(leaf) in view.failure.message
        assert view.failure.hint == "copy the rows again with: pgmig-cli resync-table --id m public.t"
        await session.resume("m")
        assert (await stopped(session)).failure is not None, "the rows are still there"
        await resync(session, TABLE)
        run(source_db, "UPDATE t SET v = 'afterwards' WHERE id % 20 = 0")
        await switch_over(session)
    equal(source_db, dest_db, "t")


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_detached_partition_stops_until_both_are_copied_again(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str, shape: str
) -> None:
    statements, leaf = SHAPES[shape]
    async with streaming(nats_server, tmp_path, source_db, dest_db, *statements) as (_, session):
        run(
            source_db,
            "UPDATE t SET v = 'changed' WHERE id % 10 = 0",
            f"ALTER TABLE t DETACH PARTITION {leaf.name}",
            f"UPDATE {leaf.name} SET v = 'apart' WHERE id % 4 = 1",
        )
        view = await stopped(session)
        assert view.failure is not None
        assert f"{leaf} is no partition of public.t any more" in view.failure.message
        assert view.failure.hint == "copy the rows again with: pgmig-cli resync-table --id m public.t"
        # The table of its own that the source has now.
        run(dest_db, f"CREATE TABLE {leaf.name} ({COLUMNS}, PRIMARY KEY (id))")
        await resync(session, TABLE, leaf)
        run(source_db, f"UPDATE {leaf.name} SET v = 'afterwards' WHERE id % 20 = 1")
        await switch_over(session)
    equal(source_db, dest_db, "t", leaf.name)


async def test_an_attached_partition_comes_with_its_root(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    shape = [RANGES[0], RANGES[1], RANGES[2].replace("MAXVALUE", "1000")]
    async with streaming(nats_server, tmp_path, source_db, dest_db, *shape) as (_, session):
        run(
            source_db,
            f"CREATE TABLE more ({COLUMNS}, PRIMARY KEY (id))",
            "INSERT INTO more VALUES (1000, 'before', '')",
            "ALTER TABLE t ATTACH PARTITION more FOR VALUES FROM (1000) TO (2000)",
            "INSERT INTO t VALUES (1001, 'since', '')",
        )
        await until(
            session,
            "m",
            lambda view: (
                sum(event.text.startswith("copied ") for event in view.events) == 2
                and view.phase is Phase.STREAMING
            ),
        )
        await switch_over(session)
    equal(source_db, dest_db, "t")


async def test_a_column_that_both_sides_added_is_adopted(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    async with streaming(nats_server, tmp_path, source_db, dest_db, *RANGES) as (_, session):
        run(source_db, "ALTER TABLE t ADD w int", "UPDATE t SET w = id")
        view = await stopped(session)
        assert view.failure is not None
        assert (
            'run on the destination: BEGIN READ WRITE; ALTER TABLE "public"."t" ADD COLUMN "w" integer; '
            "COMMIT; then continue" in view.failure.hint  # and, where the applier was first, skip-transaction
        )
        run(dest_db, "ALTER TABLE t ADD COLUMN w int")
        await session.resume("m")
        await until_phase(session, "m", Phase.STREAMING)
        await switch_over(session)
    query = "SELECT id, w FROM t ORDER BY id"
    assert rows(dest_db, query) == rows(source_db, query)


async def test_a_root_without_partitions_is_empty_when_it_is_copied_again(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    other = "CREATE TABLE other (id int PRIMARY KEY)"
    run(dest_db, other)
    shape = (
        *RANGES,
        f"{other} PARTITION BY LIST (id)",
        "CREATE TABLE one PARTITION OF other FOR VALUES IN (1)",
    )
    async with streaming(nats_server, tmp_path, source_db, dest_db, *shape) as (_, session):
        run(source_db, "DROP TABLE low, high")
        await stopped(session)
        await resync(session, TABLE)
        run(source_db, RANGES[1], "INSERT INTO t VALUES (1, 'anew', '')")
        await until(session, "m", lambda view: any("new partitions" in e.text for e in view.events))
        await until_phase(session, "m", Phase.STREAMING)
        await switch_over(session)
    equal(source_db, dest_db, "t")


async def test_a_root_that_both_sides_dropped_is_forgotten_with_its_partitions(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    async with streaming(nats_server, tmp_path, source_db, dest_db, *RANGES) as (_, session):
        run(source_db, "CREATE TABLE other (id int PRIMARY KEY)", "DROP TABLE t", "DROP TABLE other")
        view = await stopped(session)
        assert view.failure is not None
        assert view.failure.hint == f'{ON_DESTINATION} DROP TABLE "public"."t"; COMMIT; then continue'
        run(dest_db, "DROP TABLE t")
        await session.resume("m")
        await until_phase(session, "m", Phase.STREAMING)
        await switch_over(session)


@pytest.mark.parametrize("then", ["changed", "dropped"])
async def test_what_a_root_has_got_with_its_copy_is_not_applied_to_partitions_again(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str, then: str
) -> None:
    """An operator divides the destination's table as the source's is, between copy and changes."""
    async with streaming(nats_server, tmp_path, source_db, dest_db, *RANGES) as (services, session):
        services.stop("applier")
        run(source_db, "INSERT INTO t VALUES (-1, 'new', '')", "DELETE FROM t WHERE id = 1")
        events = len((await session.get("m")).events)
        await session.resync_tables("m", (TABLE,))
        await until(
            session,
            "m",
            lambda view: any(event.text.startswith("copied ") for event in view.events[events:]),
        )
        await session.pause("m")
        parted = [statement.replace(" t ", " parted ").replace(" t)", " parted)") for statement in RANGES]
        run(dest_db, *parted, "INSERT INTO parted SELECT * FROM t", "DROP TABLE t")
        run(dest_db, "ALTER TABLE parted RENAME TO t")
        services.start("applier")
        await session.resume("m")
        await until_phase(session, "m", Phase.STREAMING)
        run(source_db, "INSERT INTO t VALUES (-2, 'newer', '')")
        if then == "dropped":
            run(source_db, "DROP TABLE low")
            view = await stopped(session)
            assert view.failure is not None
            assert view.failure.hint == f'{ON_DESTINATION} DROP TABLE "public"."low"; COMMIT; then continue'
            run(dest_db, "DROP TABLE low")
            await session.resume("m")
            await until_phase(session, "m", Phase.STREAMING)
        await switch_over(session)
    equal(source_db, dest_db, "t")
