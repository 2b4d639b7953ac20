"""Every major version that can be a source, migrated to the newest one under live writes.

By default a few of them; PGMIG_TEST_SOURCES=all (`make test-matrix`) or a list like 10,12 takes others.
A version that cannot be had here is skipped, unless PGMIG_TEST_SOURCES_REQUIRED=1 makes that a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationId, PgmigError, Phase, TableId
from services.shared.pg.preflight.checks import check_migration
from tests.e2e.conftest import ROWS
from tests.support.data.compare import compare_databases, compare_rows
from tests.support.data.schema import seed
from tests.support.migrations.live import Live, application
from tests.support.migrations.stack import Stack
from tests.support.migrations.verdict import left_on_destination, left_on_source
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.releases import MAJORS, UnobtainableError, server_of
from tests.support.switchover.guarded import ASKS_TO_WRITE

pytestmark = pytest.mark.xdist_group("source_versions")

SOURCES_VARIABLE = "PGMIG_TEST_SOURCES"
REQUIRED_VARIABLE = "PGMIG_TEST_SOURCES_REQUIRED"
FEW = (10, 13, 14)
"""Without messages, roots and TRUNCATE; with roots; with messages. All other tests have the newest two."""
OLDEST = (10,)
"""Where what the source lacks is made up for."""
COMMITS = 40
LAST_COMMIT = "INSERT INTO shop.scratch (value) VALUES ('committed before the freeze')"
PARTED = "CREATE TABLE parted (id int NOT NULL) PARTITION BY RANGE (id)"
FIRST_PART = "CREATE TABLE parted_1 PARTITION OF parted (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (100)"
SECOND_PART = "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200)"
SECOND_KEY = "ALTER TABLE parted_2 ADD PRIMARY KEY (id)"


def sources(few: tuple[int, ...]) -> tuple[int, ...]:
    """The major versions to be tested. few: by default."""
    given = os.environ.get(SOURCES_VARIABLE, "")
    if given == "all":
        return MAJORS
    return tuple(int(major) for major in given.split(",")) if given else few


def of_sources(few: tuple[int, ...]) -> pytest.MarkDecorator:
    majors = sources(few)
    return pytest.mark.parametrize("source", majors, ids=[f"from-{m}" for m in majors], indirect=True)


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server of each version in turn."""
    try:
        install = server_of(request.param)
    except UnobtainableError as exc:
        if os.environ.get(REQUIRED_VARIABLE):
            raise
        pytest.skip(str(exc))
    with PostgresServer(install, fsync=False) as server:
        yield server


@of_sources(FEW)
async def test_live_database_is_migrated_completely(
    source: PostgresServer, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with source.fresh_database("shop") as shop:
        seed(shop, ROWS)
        with Stack(nats_server, tmp_path) as stack, application(shop) as writer:
            async with stack.session() as session:
                live = Live(session, "versions", shop, dest_db)
                await live.start()
                await live.until_phase(Phase.STREAMING)
                writer.wait_for_commits(COMMITS)
                await live.finish(writer)
                await session.cleanup("versions")
        assert left_on_source(shop) == []
        assert left_on_destination(dest_db) == []


@of_sources(OLDEST)
async def test_switchover_waits_for_what_was_committed_before_the_freeze(
    source: PostgresServer, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """On an idle source amid the WAL of another database and a switch of WAL files."""
    with source.fresh_database("shop") as shop, source.fresh_database("other") as other:
        seed(shop, ROWS)
        with Stack(nats_server, tmp_path) as stack:
            async with stack.session() as session:
                live = Live(session, "idle", shop, dest_db)
                await live.start()
                await live.until_phase(Phase.STREAMING)
                with psycopg.connect(dest_db) as blocker:
                    blocker.execute("LOCK TABLE shop.scratch IN EXCLUSIVE MODE")
                    source.execute(LAST_COMMIT, shop.rpartition("/")[2])
                    make_wal(source, other)
                    with pytest.raises(PgmigError) as caught:
                        await live.switch_over(timeout_s=3.0)
                assert caught.value.kind is ErrorKind.TIMEOUT
                assert "drain" in caught.value.message
                await live.until_phase(Phase.STREAMING)
                make_wal(source, other)
                await live.switch_over()
                await live.until_phase(Phase.SWITCHED_OVER)
        assert compare_databases(shop, dest_db) == []


def make_wal(server: PostgresServer, uri: str) -> None:
    """WAL that is not the migrated database's, and the end of a WAL file."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("CREATE TABLE noise AS SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n")
        conn.execute("DROP TABLE noise")
        conn.execute("SELECT pg_switch_wal()")


@of_sources(OLDEST)
async def test_truncate_is_replicated_or_stops_the_switchover(
    source: PostgresServer, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    with source.fresh_database("shop") as shop:
        seed(shop, ROWS)
        database = shop.rpartition("/")[2]
        with Stack(nats_server, tmp_path) as stack:
            async with stack.session() as session:
                live = Live(session, "truncated", shop, dest_db)
                await live.start()
                await live.until_phase(Phase.STREAMING)
                source.execute("VACUUM FULL shop.documents", database)  # rewritten, and all there
                source.execute("TRUNCATE shop.scratch", database)
                if source.install.major < 11:
                    with pytest.raises(PgmigError) as caught:
                        await live.switch_over()
                    assert caught.value.kind is ErrorKind.SWITCHOVER_FAILED
                    assert "shop.scratch" in caught.value.message
                    assert "shop.documents" not in caught.value.message
                    await live.until_phase(Phase.STREAMING)
                    assert "pgmig-cli resync-table --id truncated shop.scratch" in caught.value.hint
                    await session.resync_tables("truncated", (TableId("shop", "scratch"),))
                    await live.until_phase(Phase.STREAMING)
                await live.switch_over()
                await live.until_phase(Phase.SWITCHED_OVER)
        assert compare_databases(shop, dest_db) == []


@of_sources(OLDEST)
async def test_truncate_of_an_added_table_is_replicated_or_stops_the_switchover(
    source: PostgresServer, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    added = "CREATE TABLE added (id int PRIMARY KEY)"
    with source.fresh_database("added") as uri, Stack(nats_server, tmp_path) as stack:
        database = uri.rpartition("/")[2]
        source.execute("CREATE TABLE first (id int PRIMARY KEY)", database)
        async with stack.session() as session:
            live = Live(session, "added", uri, dest_db)
            await live.start()
            await live.until_phase(Phase.STREAMING)
            source.execute(added, database)
            source.execute("INSERT INTO added VALUES (1), (2)", database)
            with psycopg.connect(dest_db, options=ASKS_TO_WRITE) as conn:
                conn.execute(added)
            await session.resync_tables("added", (TableId("public", "added"),))
            await live.until_phase(Phase.STREAMING)
            source.execute("TRUNCATE added", database)
            source.execute("INSERT INTO added VALUES (3)", database)
            if source.install.major < 11:
                with pytest.raises(PgmigError) as caught:
                    await live.switch_over()
                assert caught.value.kind is ErrorKind.SWITCHOVER_FAILED
                assert "public.added" in caught.value.message
                assert "pgmig-cli resync-table --id added public.added" in caught.value.hint
                await live.until_phase(Phase.STREAMING)
                await session.resync_tables("added", (TableId("public", "added"),))
                await live.until_phase(Phase.STREAMING)
            await live.switch_over()
            await live.until_phase(Phase.SWITCHED_OVER)
        assert compare_rows(uri, dest_db) == []


@of_sources(OLDEST)
async def test_destination_before_12_is_refused(source: PostgresServer) -> None:
    with source.fresh_database("old") as old, source.fresh_database("new") as new:
        checking = check_migration(MigrationId.parse("backwards"), old, new, follow=True)
        if source.install.major < 12:
            with pytest.raises(PgmigError) as caught:
                await checking
            assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
            assert "12 or newer" in caught.value.hint
        else:
            await checking


@of_sources(OLDEST)
async def test_partition_created_during_the_migration_is_replicated_or_stops_the_switchover(
    source: PostgresServer, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Before 13 a publication carries partitions one by one, so a new one is not in it."""
    with source.fresh_database("parts") as parts:
        database = parts.rpartition("/")[2]
        source.execute(PARTED, database)
        source.execute(FIRST_PART, database)
        with Stack(nats_server, tmp_path) as stack:
            async with stack.session() as session:
                live = Live(session, "parts", parts, dest_db)
                await live.start()
                await live.until_phase(Phase.STREAMING)
                with psycopg.connect(dest_db, options=ASKS_TO_WRITE) as conn:
                    conn.execute(SECOND_PART)
                    conn.execute(SECOND_KEY)
                source.execute(SECOND_PART, database)
                source.execute(SECOND_KEY, database)
                source.execute("INSERT INTO parted VALUES (1), (101)", database)
                if source.install.major < 13:
                    with pytest.raises(PgmigError) as caught:
                        await live.switch_over()
                    assert caught.value.kind is ErrorKind.SCHEMA_DRIFT
                    assert "parted_2" in caught.value.message
                else:
                    await live.switch_over()
                    assert compare_rows(parts, dest_db) == []
