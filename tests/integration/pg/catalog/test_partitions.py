"""Tables that the two sides divide into partitions differently: copied whole, followed exactly.

Preflight wants an empty destination and the schema is copied, so an operator's hand has to make the
sides differ. Most tests here stand on copier, decoder and applier; one goes the whole way.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.coordinator.migration.copy_parts import gathered, plan_parts
from services.shared.model import (
    CopyPlan,
    ErrorKind,
    Lsn,
    MigrationId,
    MigrationOptions,
    PgmigError,
    Phase,
    Route,
    SnapshotReady,
    Split,
    StepState,
    TableId,
)
from services.shared.pg.catalog.partitions import find_routes
from services.shared.pg.catalog.tables import list_tables, publication_tables
from services.shared.pg.copy.part import PartCopier
from services.shared.pg.replication.truncation import check_truncated, table_files
from services.shared.pg.session.connection import connection
from tests.support.copying.databases import copy_schema, exported_snapshot, keep_books
from tests.support.data.schema import seed
from tests.support.pipeline.in_process import Pipeline, pipeline, rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

COLUMNS = "id int, place text, v text"
PLAIN = [f"CREATE TABLE t ({COLUMNS}, PRIMARY KEY (id))"]
RANGES = [
    f"CREATE TABLE t ({COLUMNS}, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100)",
    "CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE)",
]
OTHER_BOUNDS = [RANGES[0], RANGES[1].replace("100", "60"), RANGES[2].replace("100", "60")]
SUB_PARTITIONS = [
    RANGES[0],
    f"{RANGES[1]} PARTITION BY HASH (id)",
    "CREATE TABLE even PARTITION OF low FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE odd PARTITION OF low FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    # Its columns stand in another order, and it has one more that is gone.
    "CREATE TABLE high (gone int, v text, place text, id int PRIMARY KEY)",
    "ALTER TABLE high DROP gone",
    "ALTER TABLE t ATTACH PARTITION high FOR VALUES FROM (100) TO (MAXVALUE)",
]
BY_PLACE = [
    f"CREATE TABLE t ({COLUMNS}) PARTITION BY LIST (place)",
    "CREATE TABLE here PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN ('here')",
    "CREATE TABLE there PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN ('there')",
]
SHAPES = {
    "partitions to plain": (RANGES, PLAIN),
    "plain to partitions": (PLAIN, RANGES),
    "other bounds": (RANGES, OTHER_BOUNDS),
    "sub-partitions to partitions": (SUB_PARTITIONS, RANGES),
    "partitions to sub-partitions": (RANGES, SUB_PARTITIONS),
    "sub-partitions to plain": (SUB_PARTITIONS, PLAIN),
    "alike": (SUB_PARTITIONS, SUB_PARTITIONS),
}
BEFORE = "INSERT INTO t SELECT i, 'here', 'v' || i FROM generate_series(1, 200) i"
CHANGES = [
    "INSERT INTO t SELECT i, 'there', 'w' || i FROM generate_series(201, 300) i",
    "INSERT INTO t VALUES (-1, 'a', NULL), (-2, 'b', '')",
    "UPDATE t SET v = 'changed' WHERE id % 3 = 0",
    "UPDATE t SET id = id + 1000 WHERE id BETWEEN 50 AND 99",  # from low to high
    "UPDATE t SET id = id - 1000 WHERE id BETWEEN 1050 AND 1070",  # and some of them back
    "DO $$ BEGIN UPDATE t SET id = 5000 WHERE id = 10; UPDATE t SET id = 10 WHERE id = 5000;"
    " UPDATE t SET v = 'twice' WHERE id = 10; END $$",
    "DO $$ BEGIN INSERT INTO t VALUES (6000); UPDATE t SET id = 40 - 1040 WHERE id = 6000; END $$",
    "DELETE FROM t WHERE id % 7 = 0",
]


async def copy(source: str, destination: str) -> None:
    """Everything, in the parts that the coordinator would make of it."""
    await keep_books(destination)
    async with connection(source, "source") as here, connection(destination, "destination") as there:
        routes = await find_routes(here, there)
        tables = gathered(await list_tables(here), routes)
        versions = here.info.server_version, there.info.server_version
    copier = PartCopier(source, destination, MigrationId("pipe").forward)
    with exported_snapshot(source) as (name, xids):
        snapshot = SnapshotReady("d", name, Lsn(1), xids)
        plans = {one.table: CopyPlan(one.table, "", snapshot.identity, Split()) for one in tables}
        for part in plan_parts(tables, plans, (), snapshot, versions):
            await copier.copy(part, lambda _rows, _size: None)
    await copier.close()


@asynccontextmanager
async def following(source: str, destination: str, nats: NatsServer) -> AsyncIterator[Pipeline]:
    """A pipeline with its decoder started, which the changes of the tests are for."""
    async with connection(source, "source") as conn:
        published = [table.name for table in await publication_tables(conn)]
    async with pipeline(source, destination, nats, "SELECT", *published) as p:
        p.routes = tuple(await routes(source, destination))
        await p.start_decoder()
        yield p


def both_sides(source: str, destination: str, shape: str) -> None:
    run(source, *SHAPES[shape][0])
    run(destination, *SHAPES[shape][1])


def equal(source: str, destination: str) -> None:
    query = "SELECT id, place, v FROM t ORDER BY id"
    assert rows(destination, query) == rows(source, query)


def routes_of(*leaves: str) -> tuple[Route, ...]:
    return tuple(Route(TableId("public", leaf), TableId("public", "t")) for leaf in leaves)


async def routes(source: str, destination: str) -> Sequence[Route]:
    async with connection(source, "source") as here, connection(destination, "destination") as there:
        return await find_routes(here, there)


@pytest.mark.parametrize("strict", [False, True], ids=["grouped", "strict boundaries"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_rows_arrive_wherever_the_destination_keeps_them(
    source_db: str, dest_db: str, nats_server: NatsServer, shape: str, strict: bool
) -> None:
    both_sides(source_db, dest_db, shape)
    run(source_db, BEFORE)
    await copy(source_db, dest_db)
    equal(source_db, dest_db)
    async with following(source_db, dest_db, nats_server) as p:
        run(source_db, *CHANGES)
        p.start_applier(strict=strict)
        await p.drain("changes")
        equal(source_db, dest_db)
        run(source_db, "TRUNCATE t", "INSERT INTO t VALUES (1, 'anew', NULL), (150, 'anew', NULL)")
        await p.drain("truncated")
        equal(source_db, dest_db)
        assert rows(dest_db, "SELECT count(*) FROM t") == [(2,)]


async def test_rows_that_move_with_their_key_are_written_as_sets(
    source_db: str, dest_db: str, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Gone from one partition and new in another is a net effect on one key of the plain table. All in
    one transaction, so that it is one set."""
    caplog.set_level(logging.INFO)
    run(source_db, *BY_PLACE, BEFORE)
    run(dest_db, *PLAIN)
    await copy(source_db, dest_db)
    async with following(source_db, dest_db, nats_server) as p:
        run(
            source_db,
            "DO $$ BEGIN INSERT INTO t VALUES (201, 'there');"
            " UPDATE t SET place = 'there' WHERE id % 2 = 0;"
            " UPDATE t SET place = 'here', v = 'back' WHERE id % 4 = 0; END $$",
        )
        p.start_applier()
        await p.drain("changes")
    equal(source_db, dest_db)
    assert "was refused" not in caplog.text


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_repeated_copy_replaces_what_was_there(source_db: str, dest_db: str, shape: str) -> None:
    both_sides(source_db, dest_db, shape)
    run(source_db, BEFORE)
    run(dest_db, "INSERT INTO t SELECT unnest(ARRAY[1, 101, 9999]), 'of an earlier attempt'")
    await copy(source_db, dest_db)
    equal(source_db, dest_db)


async def test_the_truncation_of_one_partition_is_not_passed_over(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    both_sides(source_db, dest_db, "partitions to plain")
    run(source_db, BEFORE)
    await copy(source_db, dest_db)
    async with following(source_db, dest_db, nats_server) as p:
        p.start_applier()
        run(source_db, "UPDATE t SET v = 'before'", "TRUNCATE low", "UPDATE t SET v = 'behind'")
        error = await p.failure("applier")
    assert error.kind is ErrorKind.SCHEMA_DRIFT
    assert error.lsn
    assert "public.low" in error.message
    assert error.hint.endswith("pgmig-cli resync-table --id pipe public.t")
    assert rows(dest_db, "SELECT v, count(*) FROM t GROUP BY v") == [("before", 200)]


async def test_a_key_that_two_partitions_share_stops_the_pipeline(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    """Each partition has a key of its own; on the plain table two rows have the same one."""
    run(
        source_db,
        *BY_PLACE,
        "INSERT INTO t VALUES (1, 'here', 'a'), (1, 'there', 'b'), (2, 'here', 'c')",
    )
    run(dest_db, f"CREATE TABLE t ({COLUMNS})")
    await copy(source_db, dest_db)
    async with following(source_db, dest_db, nats_server) as p:
        p.start_applier()
        run(source_db, "UPDATE t SET v = 'x' WHERE id = 2")
        await p.drain("the key of one row")
        equal(source_db, dest_db)
        run(source_db, "UPDATE t SET v = 'y' WHERE place = 'here' AND id = 1")
        assert (await p.failure("applier")).kind is ErrorKind.MISSING_ROW
    assert rows(dest_db, "SELECT v FROM t ORDER BY v") == [("a",), ("b",), ("x",)]


async def test_partitions_that_were_rewritten_are_counted_with_their_root(
    source_db: str, dest_db: str
) -> None:
    """Where the source does not replicate TRUNCATE."""
    both_sides(source_db, dest_db, "partitions to plain")
    run(source_db, BEFORE)
    run(dest_db, BEFORE)
    found = await routes(source_db, dest_db)
    async with connection(source_db, "source") as here, connection(dest_db, "destination") as there:
        files = await table_files(here, [route.leaf for route in found])
        run(source_db, "VACUUM FULL low")
        await check_truncated(here, there, files, found, MigrationId("pipe"))
        run(source_db, "TRUNCATE low")
        with pytest.raises(PgmigError) as caught:
            await check_truncated(here, there, files, found, MigrationId("pipe"))
    assert caught.value.kind is ErrorKind.SWITCHOVER_FAILED
    assert "resync-table --id pipe public.t;" in caught.value.hint


async def test_partitions_are_compared_down_to_their_bounds(source_db: str, dest_db: str) -> None:
    assert await routes(source_db, dest_db) == ()
    run(source_db, *SUB_PARTITIONS)
    assert await routes(source_db, dest_db) == (), "a table that the destination lacks is drift"
    run(dest_db, *SUB_PARTITIONS)
    assert await routes(source_db, dest_db) == ()
    run(dest_db, "DROP TABLE t", *PLAIN)
    assert await routes(source_db, dest_db) == routes_of("even", "high", "odd")
    run(source_db, "DROP TABLE t", *RANGES)
    run(dest_db, "DROP TABLE t", *OTHER_BOUNDS)
    assert await routes(source_db, dest_db) == routes_of("high", "low")


async def test_a_restored_schema_needs_no_routes(
    source_db: str, dest_db: str, dest_server: PostgresServer
) -> None:
    seed(source_db, 100)
    copy_schema(dest_server.bin_dir, source_db, dest_db)
    assert rows(source_db, "SELECT count(*) > 0 FROM pg_class WHERE relkind = 'p'") == [(True,)]
    assert await routes(source_db, dest_db) == ()


async def test_changes_reach_a_destination_that_was_repartitioned_during_pauses(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Without keys: those of the source's partitions would be made on the destination's."""
    source = [statement.replace(", PRIMARY KEY (id)", "") for statement in RANGES]
    run(
        source_db, *source, *[f"ALTER TABLE {leaf} REPLICA IDENTITY FULL" for leaf in ("low", "high")], BEFORE
    )
    with Services(nats_server, tmp_path, workers=("decoder", "applier")) as services:
        async with services.session() as session:
            await session.start("m", source_db, dest_db, MigrationOptions(follow=True))
            await until(session, "m", lambda view: any("no copier" in e.text for e in view.events))
            await session.pause("m")
            run(dest_db, "DROP TABLE t", f"CREATE TABLE t ({COLUMNS})")
            run(source_db, "UPDATE t SET v = 'during the pause' WHERE id % 10 = 0")
            services.start("copier")
            await session.resume("m")
            view = await until_phase(session, "m", Phase.STREAMING)
            assert [str(table.table) for table in view.tables] == ["public.t"]
            run(source_db, *CHANGES)
            await session.pause("m")
            parted = [
                statement.replace(" t ", " parted ").replace(" t)", " parted)") for statement in OTHER_BOUNDS
            ]
            run(dest_db, *parted, "INSERT INTO parted SELECT * FROM t", "DROP TABLE t")
            run(dest_db, "ALTER TABLE parted RENAME TO t")
            run(source_db, "UPDATE t SET v = 'during another' WHERE id % 9 = 0")
            await session.resume("m")
            await until_phase(session, "m", Phase.STREAMING)
            assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE
            equal(source_db, dest_db)
