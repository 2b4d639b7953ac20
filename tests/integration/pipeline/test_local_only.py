"""Transactions that came from another server are not sent on: by the server's own filter from 16 on, by the
decoder's before. What is committed right before and after them is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import psycopg
import pytest

from services.decoder.batcher import Batcher
from services.shared.bus.connection import bus
from services.shared.model import Lsn, MigrationId
from services.shared.pg.replication import stream_options
from tests.integration.pipeline.test_reverse import applied
from tests.support.pipeline.back import prepared, running, server_of_major
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)

MIGRATION = MigrationId("both")
DDL = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)"
NEVER = 999_999


@pytest.fixture(scope="module", params=[14, 15, 16, 17], ids=lambda major: f"from-{major}")
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with server_of_major(request.param) as running_server:
        yield running_server


@pytest.fixture(params=["by the server", "by the decoder"])
def filtered(request: pytest.FixtureRequest, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the filter is. Newer servers are also tested with the decoder's."""
    if request.param == "by the decoder":
        monkeypatch.setattr(stream_options, "ORIGIN_SINCE", NEVER * 100)
    elif server.install.major < 16:
        pytest.skip("PostgreSQL before 16 has no filter of its own")
    else:
        monkeypatch.setattr(Batcher, "_drop_foreign", unexpected)
    return str(request.param)


def unexpected(_: Batcher) -> None:
    raise AssertionError("the server has sent a transaction with an origin")


@contextmanager
def from_elsewhere(uri: str) -> Iterator[psycopg.Connection]:
    """A session whose transactions have an origin, like those of an applier or a subscription."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SELECT pg_replication_origin_create('elsewhere')")
        conn.execute("SELECT pg_replication_origin_session_setup('elsewhere')")
        yield conn


async def test_transactions_with_an_origin_are_dropped_and_no_others(
    server: PostgresServer, dest_db: str, nats_server: NatsServer, filtered: str
) -> None:
    random = Random(filtered)
    way = MIGRATION.forward
    with server.fresh_database("local") as source:
        for uri in (source, dest_db):
            run(uri, DDL)
        async with bus(nats_server.url, "test") as client:
            ready = await prepared(source, dest_db, way, local_only=True)
            async with running(source, dest_db, client, way, ready, local_only=True) as p:
                with from_elsewhere(source) as elsewhere, psycopg.connect(source, autocommit=True) as local:
                    for turn in range(60):
                        foreign = turn % 2 == 0 if turn < 20 else random.random() < 0.5
                        writer, v = (elsewhere, "elsewhere") if foreign else (local, "local")
                        table = random.choice("tu")
                        statement = (
                            f"INSERT INTO {table} SELECT {turn * 10} + i, %s FROM generate_series(0, %s) i"
                        )
                        writer.execute(statement.encode(), [v, random.randrange(5)])
                    # Beyond a batch and the memory of the walsender, and nothing but such transactions then.
                    elsewhere.execute("SET logical_decoding_work_mem = '64kB'")
                    elsewhere.execute(
                        "INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1000, 9000) i"
                    )
                    local.execute("INSERT INTO t VALUES (10000, 'local')")
                    await p.drain("mixed")
                    for table in "tu":
                        query = f"SELECT * FROM {table} WHERE v = 'local' ORDER BY id"
                        assert rows(dest_db, f"SELECT * FROM {table} ORDER BY id") == rows(source, query)
                    elsewhere.execute("UPDATE t SET v = 'elsewhere'")
                    written = Lsn.parse(str(rows(source, "SELECT pg_current_wal_lsn()::text")[0][0]))
                await slot_reaches(source, way.slot, written)
                assert rows(dest_db, "SELECT count(*) FROM t WHERE v = 'elsewhere'") == [(0,)]


async def slot_reaches(uri: str, slot: str, position: Lsn) -> None:
    """The source can remove the WAL of dropped transactions."""
    async with asyncio.timeout(60):
        query = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
        while Lsn.parse(str(rows(uri, query)[0][0])) < position:
            await asyncio.sleep(0.1)


async def test_two_pipelines_in_opposite_directions_do_not_answer_each_other(
    server: PostgresServer, dest_db: str, nats_server: NatsServer, filtered: str
) -> None:
    with server.fresh_database("here") as here:
        for uri in (here, dest_db):
            run(uri, DDL)
        async with bus(nats_server.url, "test") as client:
            there = await prepared(here, dest_db, MIGRATION.forward, local_only=True)
            back = await prepared(dest_db, here, MIGRATION.reverse, local_only=True)
            async with (
                running(here, dest_db, client, MIGRATION.forward, there, local_only=True) as forward,
                running(dest_db, here, client, MIGRATION.reverse, back, local_only=True) as reverse,
            ):
                for turn in range(20):
                    run(here, f"INSERT INTO t VALUES ({turn}, 'here')")
                    run(dest_db, f"INSERT INTO t VALUES ({1000 + turn}, 'there')")
                await forward.drain("one")
                await reverse.drain("two")
                run(here, "UPDATE t SET v = 'from here' WHERE id >= 1000")
                await forward.drain("three")
                run(dest_db, "DELETE FROM t WHERE id < 10")
                assert await applied(reverse, "four") == 20 + 10
                assert await applied(forward, "five") == 20 + 20
                query = "SELECT * FROM t ORDER BY id"
                assert rows(here, query) == rows(dest_db, query)
                assert len(rows(here, query)) == 30
