"""There and back: changes of the new primary reach the old one without a copy, and after a rollback the other
way round again."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.bus.connection import bus
from services.shared.model import ApplierProgress, ErrorKind, MigrationId, SentinelApplied
from services.shared.pg.reverse.remove import remove_reverse
from tests.support.pipeline.back import prepared, running, server_of_major
from tests.support.pipeline.in_process import Pipeline, rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)

MIGRATION = MigrationId("pipe")
TABLES = ("t", "f", "part", "g", "parent", "child", "fired", 'odd % "table')
DDL = """
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
CREATE TABLE f (v text, n numeric);
ALTER TABLE f REPLICA IDENTITY FULL;
CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (100) TO (200);
CREATE TABLE g (id int PRIMARY KEY, v int, double int GENERATED ALWAYS AS (v * 2) STORED,
                n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
CREATE TABLE fired (n serial PRIMARY KEY, id int, what text);
CREATE TABLE "odd % ""table" (id int PRIMARY KEY, "a ""%s" text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.fired (id, what) VALUES (NEW.id, TG_OP); RETURN NULL; END';
CREATE TRIGGER noted AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE PROCEDURE note();
"""


def changes(base: int) -> tuple[str, ...]:
    """All kinds of changes, with keys from `base` on."""
    return (
        f"INSERT INTO t SELECT i, 'v' || i, repeat('x', 9000) FROM generate_series({base}, {base + 9}) i",
        f"UPDATE t SET v = 'changed' WHERE id BETWEEN {base} AND {base + 3}",  # big is not sent
        f"UPDATE t SET big = NULL WHERE id = {base + 4}",
        f"UPDATE t SET id = id + 50 WHERE id = {base + 5}",
        f"DELETE FROM t WHERE id = {base + 6}",
        f"INSERT INTO f VALUES ('a', {base}), ('b', NULL), ('same', 1), ('same', 1)",
        f"UPDATE f SET n = n + 0.5 WHERE n = {base}",
        "DELETE FROM f WHERE v = 'b'",
        f"INSERT INTO part VALUES ({base % 100}, 'low'), ({100 + base % 100}, 'high')",
        f"UPDATE part SET id = 199 - id WHERE id = {base % 100}",  # to another partition
        f"INSERT INTO g (id, v) VALUES ({base}, 7), ({base + 1}, NULL)",
        f"UPDATE g SET v = 8 WHERE id = {base}",
        f"INSERT INTO parent VALUES ({base}), ({base + 1})",
        f"INSERT INTO child VALUES ({base}, {base}), ({base + 1}, {base + 1})",
        f"DELETE FROM parent WHERE id = {base}",  # and of child
        f'INSERT INTO "odd % ""table" VALUES ({base}, NULL), ({base + 1}, $$\'%s"$$)',
        f"BEGIN; INSERT INTO t VALUES ({base + 40}, 'rolled back'); ROLLBACK",
    )


@pytest.fixture(
    scope="module", params=[(14, 18), (17, 18), (18, 14)], ids=lambda pair: f"{pair[0]}-{pair[1]}"
)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """The old primary and the new one."""
    old, new = request.param
    with server_of_major(old) as first, server_of_major(new) as second:
        yield first, second


@pytest.fixture
def old(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[str]:
    with servers[0].fresh_database("old") as uri:
        yield uri


@pytest.fixture
def new(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[str]:
    with servers[1].fresh_database("new") as uri:
        yield uri


def close_by_default(uri: str, *, closed: bool) -> None:
    """As a switchover leaves the side that is not to be written to."""
    database = sql.Identifier(urlsplit(uri).path.lstrip("/"))
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        change = sql.SQL("SET default_transaction_read_only = on" if closed else "RESET ALL")
        conn.execute(sql.SQL("ALTER DATABASE {} {}").format(database, change))


def equal(old: str, new: str) -> None:
    """Both sides have the same rows of every table, and some."""
    for table in TABLES:
        name = '"' + table.replace('"', '""') + '"'
        query = f"SELECT x::text, count(*) FROM {name} x GROUP BY 1 ORDER BY 1"
        found = rows(old, query)
        assert found == rows(new, query), table
        assert found, table


async def applied(p: Pipeline, token: str) -> int:
    """Rows that the applier has written up to the sentinel that this writes."""
    await p.drain(token)
    sentinel = next(one for one in p.reports if isinstance(one, SentinelApplied) and one.token == token)

    def seen() -> list[ApplierProgress]:
        found = (one for one in p.reports if isinstance(one, ApplierProgress))
        return [one for one in found if one.applied_lsn >= sentinel.lsn]

    await p.until(lambda: bool(seen()))
    return seen()[0].rows_applied


async def test_there_and_back_and_there_again(old: str, new: str, nats_server: NatsServer) -> None:
    run(old, DDL)
    run(new, DDL)
    async with bus(nats_server.url, "test") as client:
        ready = await prepared(old, new, MIGRATION.forward)
        async with running(old, new, client, MIGRATION.forward, ready) as forward:
            run(old, *changes(0))
            await forward.drain("forward")
            equal(old, new)
            # Before the switchover, while the applier of the other direction writes to the new primary:
            back = await prepared(new, old, MIGRATION.reverse)
            run(old, *changes(20))
            await forward.drain("switchover")
        close_by_default(old, closed=True)
        async with running(new, old, client, MIGRATION.reverse, back) as reverse:
            run(new, "SELECT setval('fired_n_seq', 5000)", "INSERT INTO t VALUES (1000, 'first', NULL)")
            assert await applied(reverse, "first") == 2, (
                "the row, and the one that its trigger wrote: no earlier change"
            )
            run(new, *changes(40), "TRUNCATE part_low, child", "INSERT INTO part VALUES (7, 'after')")
            run(new, "INSERT INTO child VALUES (41, 41)")
            await reverse.drain("reverse")
            equal(old, new)
            await reverse.stop("decoder")
            run(new, *changes(60))
            await reverse.stop("applier")
            await reverse.start_decoder()
            reverse.start_applier()
            await reverse.drain("restarted")
            equal(old, new)
            again = await prepared(old, new, MIGRATION.forward)
            run(new, *changes(80))
            await reverse.drain("rollback")
        close_by_default(old, closed=False)
        close_by_default(new, closed=True)
        async with running(old, new, client, MIGRATION.forward, again) as forward:
            run(old, "SELECT setval('fired_n_seq', 10000)", "INSERT INTO t VALUES (2000, 'last', NULL)")
            assert await applied(forward, "last") == 2
            run(old, "UPDATE t SET v = 'end'", "DELETE FROM f")
            run(old, "INSERT INTO f VALUES ('new', 1)")
            await forward.drain("end")
            equal(old, new)
        for way, here, there in ((MIGRATION.forward, old, new), (MIGRATION.reverse, new, old)):
            assert (await remove_reverse(here, there, way)).left == ()
    for uri in (old, new):
        assert rows(uri, "SELECT slot_name FROM pg_replication_slots") == []
        assert rows(uri, "SELECT pubname FROM pg_publication") == []
        assert rows(uri, "SELECT roname FROM pg_replication_origin") == []
        assert rows(uri, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []


@pytest.fixture(scope="module", params=[10, 11, 12, 13], ids=lambda major: f"to-{major}")
def ancient(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A source older than any destination of a migration."""
    with server_of_major(request.param) as server:
        yield server


async def test_back_to_an_old_version(ancient: PostgresServer, dest_db: str, nats_server: NatsServer) -> None:
    tables = "CREATE TABLE t (id int PRIMARY KEY, v text, big text); CREATE TABLE f (v text, n numeric);" + (
        "ALTER TABLE f REPLICA IDENTITY FULL; CREATE TABLE part (id int, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE part_low PARTITION OF part (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (100)"
    )
    with ancient.fresh_database("old") as old:
        for uri in (old, dest_db):
            run(uri, tables)
        async with bus(nats_server.url, "test") as client:
            ready = await prepared(dest_db, old, MIGRATION.reverse)
            async with running(dest_db, old, client, MIGRATION.reverse, ready) as reverse:
                run(dest_db, *(one for one in changes(0) if one.split()[2] in {"t", "f"} or " t " in one))
                run(
                    dest_db,
                    "UPDATE f SET n = 2 WHERE v = 'same'",
                    "INSERT INTO part VALUES (1, 'a'), (2, 'b')",
                )
                await reverse.drain("rows")
                for table in ("t", "f", "part"):
                    query = f"SELECT x::text, count(*) FROM {table} x GROUP BY 1 ORDER BY 1"
                    assert rows(old, query) == rows(dest_db, query) != []
                run(dest_db, "TRUNCATE t, part_low", "INSERT INTO t VALUES (1, 'after', NULL)")
                await reverse.drain("truncated")
                query = "SELECT id, v, big FROM t UNION ALL SELECT id, v, NULL FROM part"
                assert rows(old, query) == [(1, "after", None)]
            assert (await remove_reverse(dest_db, old, MIGRATION.reverse)).left == ()


async def test_a_table_that_was_altered_on_the_new_primary_stops_the_pipeline(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    for uri in (source_db, dest_db):
        run(uri, "CREATE TABLE t (id int PRIMARY KEY, v text, big text)")
    async with bus(nats_server.url, "test") as client:
        ready = await prepared(dest_db, source_db, MIGRATION.reverse)
        async with running(dest_db, source_db, client, MIGRATION.reverse, ready) as reverse:
            run(dest_db, "INSERT INTO t VALUES (1, 'before', NULL)")
            await reverse.drain("before")
            for uri in (source_db, dest_db):
                run(uri, "ALTER TABLE t RENAME v TO w", "ALTER TABLE t RENAME big TO v")
            run(dest_db, "INSERT INTO t VALUES (2, 'w', 'v')")
            error = await reverse.failure("applier")
    assert error.kind is ErrorKind.SCHEMA_DRIFT
    assert "columns of table public.t were altered on the destination" in error.message
    assert "resync-table" not in error.hint
    assert rows(source_db, "SELECT * FROM t") == [(1, "before", None)]
