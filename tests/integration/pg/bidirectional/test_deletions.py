"""Deletions are recorded with their time, whoever deletes, and nothing of it remains."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationId, PgmigError, TableId
from services.shared.pg.bidirectional.deletions import check_recorded, ignore_deletions, record_deletions
from services.shared.pg.bookkeeping.schema import drop_bookkeeping
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.installs import newest
from tests.support.servers.postgres import PostgresServer

PIPELINE = MigrationId("a" * 40).reverse
TABLES = (TableId("public", "t"), TableId("public", 'odd"one'), TableId("public", "low"))
DDL = """
CREATE TABLE t (b timestamptz, a numeric, v text, PRIMARY KEY (b, a));
CREATE TABLE "odd""one" ("k'1" int PRIMARY KEY, v text);
CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE high PARTITION OF part FOR VALUES FROM (100) TO (200);
CREATE TABLE keyless (v text);
INSERT INTO t VALUES ('2024-01-02 03:04:05+00', 1.50, 'x'), ('2024-01-02 03:04:05+00', 2, 'x');
INSERT INTO "odd""one" VALUES (1, 'x'), (2, 'x');
INSERT INTO part VALUES (1), (101), (2);
"""
RECORDED = "SELECT relation::regclass::text, key FROM pgmig.deleted_row ORDER BY 1, 2"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(newest(), settings={"track_commit_timestamp": "on"}, fsync=False) as found:
        yield found


@pytest.fixture
def uri(server: PostgresServer) -> Iterator[str]:
    with server.fresh_database("deletions") as uri:
        run(uri, DDL)
        yield uri


async def record(uri: str, *tables: TableId) -> None:
    async with connection(uri, "test") as conn:
        await record_deletions(conn, PIPELINE, tables)


async def test_deletions_and_changes_of_keys_are_recorded(uri: str) -> None:
    await record(uri, *TABLES)
    await record(uri, *TABLES)
    run(
        uri,
        "SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'; DELETE FROM t WHERE a = 1.5",
        "UPDATE t SET v = 'y', a = a",
        "UPDATE t SET v = 'z'",
        'UPDATE "odd""one" SET "k\'1" = 3 WHERE "k\'1" = 1',
        "UPDATE part SET id = 150 WHERE id = 1",
        "DELETE FROM low WHERE id = 2",
    )
    assert rows(uri, RECORDED) == [
        ('"odd""one"', ["1"]),
        ("low", ["1"]),
        ("low", ["2"]),
        ("part", ["1"]),
        ("part", ["2"]),
        ("t", ["1.50", "2024-01-02 03:04:05+00"]),
    ]


async def test_the_time_of_the_record_is_that_of_the_last_deletion(uri: str) -> None:
    await record(uri, *TABLES)
    query = "SELECT xmin::text, pg_xact_commit_timestamp(xmin) FROM pgmig.deleted_row"
    run(uri, 'DELETE FROM "odd""one" WHERE v = $$x$$ AND "k\'1" = 1')
    ((first, at),) = rows(uri, query)
    run(uri, 'INSERT INTO "odd""one" VALUES (1)', 'DELETE FROM "odd""one" WHERE "k\'1" = 1')
    ((second, later),) = rows(uri, query)
    assert first != second
    assert at < later  # type: ignore[operator]


async def test_an_application_needs_no_rights_and_an_applier_is_not_recorded(
    uri: str, server: PostgresServer
) -> None:
    await record(uri, *TABLES)
    run(uri, "DROP ROLE IF EXISTS plain", "CREATE ROLE plain", "GRANT ALL ON t TO plain")
    run(uri, "SET ROLE plain; DELETE FROM t WHERE a = 2")
    run(uri, "SET session_replication_role = replica; DELETE FROM t")
    assert rows(uri, RECORDED) == [("t", ["2", "2024-01-02 03:04:05+00"])]
    run(uri, "REVOKE ALL ON t FROM plain", "DROP ROLE plain")


async def test_what_is_not_recorded_is_noticed(uri: str) -> None:
    await record(uri, *TABLES)
    async with connection(uri, "test") as conn:
        await check_recorded(conn, PIPELINE, TABLES[0], ["a", "b"])
        await check_recorded(conn, PIPELINE, TableId("public", "low"), ["id"])
        for table, key in ((TABLES[0], ["a"]), (TableId("public", "keyless"), ["v"])):
            with pytest.raises(PgmigError) as caught:
                await check_recorded(conn, PIPELINE, table, key)
            assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
        run(uri, "ALTER TABLE t DISABLE TRIGGER USER")
        with pytest.raises(PgmigError):
            await check_recorded(conn, PIPELINE, TABLES[0], ["a", "b"])
        with pytest.raises(PgmigError) as caught:
            await record_deletions(conn, PIPELINE, [TableId("public", "keyless")])
        assert caught.value.kind is ErrorKind.NO_REPLICA_IDENTITY


async def test_nothing_remains_and_no_statement_fails(uri: str) -> None:
    await record(uri, *TABLES)
    with psycopg.connect(uri) as busy:
        busy.execute("DELETE FROM t WHERE a = 2")
        async with connection(uri, "test") as conn:
            with pytest.raises(PgmigError) as caught:
                await ignore_deletions(conn, PIPELINE, time.monotonic())
            assert caught.value.kind is ErrorKind.TRANSIENT
        busy.execute("DELETE FROM t")  # by a function that does nothing any more
        busy.rollback()
    async with connection(uri, "test") as conn:
        await ignore_deletions(conn, PIPELINE, time.monotonic() + 30)
        await drop_bookkeeping(conn, PIPELINE)
        await ignore_deletions(conn, PIPELINE, time.monotonic() + 30)
    assert rows(uri, "SELECT FROM pg_namespace WHERE nspname = 'pgmig'") == []
    assert rows(uri, "SELECT FROM pg_trigger WHERE NOT tgisinternal") == []
    run(uri, "DELETE FROM t", 'DELETE FROM "odd""one"', "DELETE FROM part")
