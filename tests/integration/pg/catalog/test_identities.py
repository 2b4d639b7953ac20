"""Replica identities that hold generated columns, and partitioned tables whose partitions have keys of
their own: what is published of them, and that the source's own UPDATE and DELETE go on working."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    MigrationOptions,
    NoKeyTables,
    PgmigError,
    Phase,
    StepState,
)
from services.shared.pg.catalog.replica_identity import choose_published
from services.shared.pg.session.connection import connection
from tests.integration.coordinator.tables.test_no_key_tables import flushed, warned
from tests.support.pipeline.in_process import pipeline, rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

GENERATED_KEYS = [
    "CREATE TABLE single (a int NOT NULL, b text, k int GENERATED ALWAYS AS (a * 10) STORED PRIMARY KEY)",
    "CREATE TABLE composite (a int, b text, k int GENERATED ALWAYS AS (a % 3) STORED, PRIMARY KEY (a, k))",
    "CREATE TABLE indexed (a int NOT NULL, b text, k int NOT NULL GENERATED ALWAYS AS (a * 10) STORED)",
    "CREATE UNIQUE INDEX indexed_k ON indexed (k)",
    "ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_k",
    "CREATE TABLE whole (a int, b text, k text GENERATED ALWAYS AS (b || '!') STORED)",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE parted (a int, b text, k int GENERATED ALWAYS AS (a * 10) STORED, PRIMARY KEY (a))"
    " PARTITION BY RANGE (a)",
    "CREATE TABLE parted_1 PARTITION OF parted DEFAULT",
]
TABLES = ("single", "composite", "indexed", "whole", "parted")
IDENTITIES = """
    SELECT c.relname, c.relreplident::text,
           (SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
      FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY 1"""


def changes(table: str) -> list[str]:
    return [
        f"UPDATE {table} SET b = 'same key' WHERE a % 5 = 0",
        f"UPDATE {table} SET a = a + 1000 WHERE a % 7 = 0",
        f"DELETE FROM {table} WHERE a % 11 = 0",
        f"INSERT INTO {table} (a, b) SELECT i, 'late' FROM generate_series(2001, 2100) i",
        f"UPDATE {table} SET a = a + 1000, b = 'moved' WHERE a > 2050",
        f"UPDATE {table} SET b = 'one' WHERE a = 3",
        f"DELETE FROM {table} WHERE a = 4",
    ]


def fill(source: str, *tables: str) -> None:
    run(
        source,
        *(f"INSERT INTO {t} (a, b) SELECT i, 'v' || i FROM generate_series(1, 100) i" for t in tables),
    )


def equal(source: str, dest: str, *tables: str) -> None:
    for table in tables:
        query = f"SELECT t::text FROM {table} t ORDER BY 1"
        assert rows(dest, query) == rows(source, query), table


@pytest.fixture
def services(nats_server: NatsServer, tmp_path: Path) -> Iterator[Services]:
    with Services(nats_server, tmp_path) as running:
        yield running


@pytest.fixture
def new_source(dest_server: PostgresServer) -> Iterator[str]:
    """A source that publishes generated columns: PostgreSQL 18."""
    with dest_server.fresh_database("source") as uri:
        yield uri


async def follow(session: Session, source: str, dest: str, choice: NoKeyTables = NoKeyTables.REFUSE) -> None:
    await session.start("m", source, dest, MigrationOptions(follow=True, no_key_tables=choice))
    await until_phase(session, "m", Phase.STREAMING)


async def switched_over(session: Session) -> None:
    await until_phase(session, "m", Phase.STREAMING)
    assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE


async def refused(source: str, choice: NoKeyTables = NoKeyTables.REFUSE) -> PgmigError:
    async with connection(source, "source") as conn:
        with pytest.raises(PgmigError) as caught:
            await choose_published(conn, choice)
    assert caught.value.kind is ErrorKind.NO_REPLICA_IDENTITY
    return caught.value


async def test_stored_generated_columns_of_identities_are_published_from_18_on(
    services: Services, new_source: str, dest_db: str
) -> None:
    run(new_source, *GENERATED_KEYS)
    fill(new_source, *TABLES)
    async with services.session() as session:
        await follow(session, new_source, dest_db)
        for table in TABLES:
            run(new_source, *changes(table))
        run(new_source, "TRUNCATE indexed", "INSERT INTO indexed (a) VALUES (1)")
        await flushed(session, new_source)
        equal(new_source, dest_db, *TABLES)
        assert rows(dest_db, IDENTITIES) == rows(new_source, IDENTITIES)
        await switched_over(session)


async def test_before_18_an_identity_with_a_generated_column_counts_as_none(source_db: str) -> None:
    run(source_db, *GENERATED_KEYS)
    error = await refused(source_db)
    assert "generated" in error.message
    assert all(f"public.{name}" in error.message for name in ("composite", "indexed", "single"))
    assert "public.whole" not in error.message and "public.parted" not in error.message


async def test_before_18_identity_full_replicates_keys_with_generated_columns_and_is_restored(
    services: Services, source_db: str, dest_db: str
) -> None:
    run(source_db, *GENERATED_KEYS)
    fill(source_db, *TABLES)
    before = rows(source_db, IDENTITIES)
    async with services.session() as session:
        await follow(session, source_db, dest_db, NoKeyTables.IDENTITY_FULL)
        for table in TABLES:
            run(source_db, *changes(table))
        await flushed(session, source_db)
        equal(source_db, dest_db, *TABLES)
        assert rows(dest_db, IDENTITIES) == before
        await session.cleanup("m", force=True)
    assert rows(source_db, IDENTITIES) == before


async def test_a_virtual_generated_column_rules_out_replica_identity_full(new_source: str) -> None:
    virtual = "a int, k int GENERATED ALWAYS AS (a * 10) VIRTUAL"
    run(
        new_source,
        f"CREATE TABLE keyless ({virtual})",
        f"CREATE TABLE whole ({virtual})",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        f"CREATE TABLE keyed ({virtual}, PRIMARY KEY (a))",
    )
    for choice in (NoKeyTables.REFUSE, NoKeyTables.IDENTITY_FULL):
        error = await refused(new_source, choice)
        assert "public.keyless" in error.message and "public.whole" in error.message
        assert "public.keyed" not in error.message
    assert "virtual" in error.message
    assert "insert-only" in error.hint and "identity-full" not in error.hint
    async with connection(new_source, "source") as conn:
        inserts = await choose_published(conn, NoKeyTables.INSERT_ONLY)
    assert [table.name for table in inserts.whole] == ["keyed"]
    assert [table.name for table in inserts.inserts_only] == ["keyless", "whole"]


ROOT_WITHOUT_KEY = [
    "CREATE TABLE root (a int, b text) PARTITION BY RANGE (a)",
    "CREATE TABLE low PARTITION OF root (PRIMARY KEY (a)) FOR VALUES FROM (1) TO (1000)",
    "CREATE TABLE high PARTITION OF root (PRIMARY KEY (a)) FOR VALUES FROM (1000) TO (9000)",
]
LATER = [
    "CREATE TABLE later PARTITION OF root FOR VALUES FROM (9000) TO (10000)",
    "INSERT INTO root VALUES (9001, 'new'), (9002, 'new')",
    "UPDATE root SET b = 'changed' WHERE a = 9001",
    "DELETE FROM root WHERE a = 9002",
]


@pytest.mark.parametrize("choice", [NoKeyTables.REFUSE, NoKeyTables.IDENTITY_FULL])
async def test_a_partition_made_later_can_be_updated_though_its_root_has_no_key(
    services: Services, source_db: str, dest_db: str, choice: NoKeyTables
) -> None:
    statements = ROOT_WITHOUT_KEY
    if choice is NoKeyTables.IDENTITY_FULL:
        statements = [one.replace(" (PRIMARY KEY (a))", "") for one in statements]
    run(source_db, *statements)
    fill(source_db, "root")
    async with services.session() as session:
        await follow(session, source_db, dest_db, choice)
        run(source_db, *changes("root"))
        await flushed(session, source_db)
        equal(source_db, dest_db, "root")
        run(source_db, *LATER)
        await until_phase(session, "m", Phase.STREAMING)
        with pytest.raises(PgmigError, match=r"public\.later"):
            async for _ in session.switchover("m", 20.0):
                pass
        view = await until(session, "m", lambda view: view.phase is Phase.STREAMING)
        assert warned(view, "public.root")
        run(source_db, "DROP TABLE later")
        await flushed(session, source_db)
        equal(source_db, dest_db, "root")
        await switched_over(session)


async def test_a_partition_made_later_has_its_roots_key_and_is_replicated(
    services: Services, source_db: str, dest_db: str
) -> None:
    run(source_db, *(one.replace("b text)", "b text, PRIMARY KEY (a))").replace(" (PRIMARY KEY (a))", "")
                     for one in ROOT_WITHOUT_KEY))  # fmt: skip
    async with services.session() as session:
        await follow(session, source_db, dest_db)
        run(dest_db, LATER[0])
        run(source_db, *LATER)
        await flushed(session, source_db)
        equal(source_db, dest_db, "root")
        await switched_over(session)


async def test_rows_without_columns_are_deleted_one_by_one(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    """Of a table without columns, and of one all of whose columns are generated."""
    ddl = """CREATE TABLE bare (); CREATE TABLE computed (k int GENERATED ALWAYS AS (7) STORED);
             ALTER TABLE bare REPLICA IDENTITY FULL; ALTER TABLE computed REPLICA IDENTITY FULL"""
    one = "DELETE FROM {0} WHERE ctid IN (SELECT ctid FROM {0} LIMIT {1})"
    async with pipeline(source_db, dest_db, nats_server, ddl, "bare", "computed") as p:
        await p.start_decoder()
        p.start_applier()
        for table in ("bare", "computed"):
            run(source_db, *[f"INSERT INTO {table} DEFAULT VALUES"] * 30, one.format(table, 20))
            run(source_db, one.format(table, 1))
        run(source_db, "UPDATE computed SET k = DEFAULT")
        await p.drain("changes")
        counted = "SELECT (SELECT count(*) FROM bare), (SELECT count(*) FROM computed)"
        assert rows(dest_db, counted) == rows(source_db, counted) == [(9, 9)]


pytestmark = pytest.mark.timeout(180)
