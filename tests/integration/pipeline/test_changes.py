"""Rows that the applier writes are the source's: values, commit order, keys, whole transactions, TRUNCATE."""

from __future__ import annotations

import logging

import pytest
from psycopg import AsyncConnection

from services.shared.model import (
    Lsn,
    TableId,
)
from tests.support.pipeline.in_process import DDL, equal, pipeline, rows, run
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(240)


async def test_changes_arrive_exactly(
    source_db: str, dest_db: str, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
            "INSERT INTO t SELECT i, 'v' || i, repeat('x', 10000) FROM generate_series(1, 500) i",
            "INSERT INTO t VALUES (1001, NULL, ''), (1002, '', NULL), (1003, E'a\\\\b\\n\\t''\"', 'é')",
            "UPDATE t SET v = 'changed' WHERE id % 3 = 0",
            "UPDATE t SET id = id + 5000 WHERE id % 7 = 0",
            "DELETE FROM t WHERE id % 5 = 0",
        )
        await p.drain("one")
        equal(p)
    assert "was refused" not in caplog.text, "sets of rows were written as sets"


async def test_null_and_empty_and_unchanged_are_three_things(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
            "INSERT INTO t SELECT i, 'v', repeat('x', 9000) FROM generate_series(1, 12) i",
        )
        await p.drain("rows")
        run(
            source_db,
            "UPDATE t SET v = NULL WHERE id <= 4",
            "UPDATE t SET v = '' WHERE id BETWEEN 5 AND 8",
            "UPDATE t SET big = NULL WHERE id = 12",
            "UPDATE t SET big = '' WHERE id = 11",
        )
        await p.drain("changes")
        equal(p)
        query = "SELECT count(*) FILTER (WHERE v IS NULL), count(*) FILTER (WHERE length(big) = 9000) FROM t"
        assert rows(dest_db, query) == [(4, 10)]


@pytest.mark.parametrize("known", [True, False], ids=["known tables", "new tables"])
async def test_commits_that_interleave_arrive_in_commit_order(
    source_db: str, dest_db: str, nats_server: NatsServer, *, known: bool
) -> None:
    """Transactions that describe a table for the first time are read one by one, others in runs."""
    ddl = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "u") as p:
        await p.start_decoder()
        p.start_applier()
        if known:
            run(source_db, "INSERT INTO t VALUES (1, 'start')", "INSERT INTO u VALUES (1, 'start')")
        async with (
            await AsyncConnection.connect(source_db) as early,
            await AsyncConnection.connect(source_db) as late,
        ):
            await early.execute("INSERT INTO t VALUES (2, 'begun first')")
            await late.execute("INSERT INTO u VALUES (2, 'begun second')")
            await late.commit()
            await p.drain("between")
            assert rows(dest_db, "SELECT 't' FROM t WHERE id = 2 UNION SELECT 'u' FROM u WHERE id = 2") == [
                ("u",)
            ]
            await early.commit()
        await p.drain("after")
        equal(p)
        equal(p, "u")


async def test_unique_keys_that_swap_are_written_one_at_a_time_without_a_replay(
    source_db: str, dest_db: str, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ddl = "CREATE TABLE t (id int PRIMARY KEY, code int UNIQUE); CREATE TABLE u (id int PRIMARY KEY, v int)"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "u") as p:
        await p.start_decoder()
        run(source_db, "INSERT INTO t SELECT i, i FROM generate_series(1, 20) i")
        p.start_applier()
        await p.drain("rows")
        for turn in range(5):
            run(
                source_db,
                "UPDATE t SET code = -1 WHERE code = 1; "
                + " ".join(f"UPDATE t SET code = {n} WHERE code = {n + 1};" for n in range(1, 20))
                + f"UPDATE t SET code = 20 WHERE code = -1; INSERT INTO u VALUES ({turn}, {turn})",
            )
        await p.drain("turns")
        equal(p)
        equal(p, "u")
    assert "was refused" in caplog.text, "the set met the unique key"
    assert "one by one" not in caplog.text


FULL = "CREATE TABLE t (v text, j json, p point); ALTER TABLE t REPLICA IDENTITY FULL"


async def test_equal_rows_without_a_key_change_one_at_a_time(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, FULL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            """INSERT INTO t SELECT 'same', '{"a": 1, "a": 2}', '(1,2)' FROM generate_series(1, 5)""",
            "INSERT INTO t VALUES (NULL, NULL, NULL)",
            "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)",
            "UPDATE t SET v = 'other' WHERE ctid = (SELECT min(ctid) FROM t WHERE v = 'same')",
        )
        await p.drain("one")
        equal(p)


async def test_a_large_transaction_is_atomic_and_complete(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            "INSERT INTO t SELECT i, 'v', repeat('y', 100) FROM generate_series(1, 30000) i",
            "INSERT INTO t VALUES (900001, 'large', repeat('z', 3000000))",
        )
        await p.drain("one")
        equal(p)
        assert rows(dest_db, "SELECT count(DISTINCT xmin::text) FROM t WHERE id <= 30000") == [(1,)]


async def test_truncate_of_tables_that_refer_to_each_other(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = """CREATE TABLE t (id serial PRIMARY KEY, v text);
             CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t)"""
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "child") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            "INSERT INTO t (v) VALUES ('a'), ('b')",
            "INSERT INTO child VALUES (1, 1)",
            "TRUNCATE t RESTART IDENTITY CASCADE",
            "INSERT INTO t (v) VALUES ('c')",
        )
        await p.drain("one")
        equal(p)
        assert rows(dest_db, "SELECT count(*) FROM child") == [(0,)]


async def test_a_truncate_of_more_than_a_message_holds(source_db: str, dest_db: str) -> None:
    """The relations that it names take more than NATS's default limit of 1 MiB to describe."""
    names = [f"t{n}" for n in range(25)]
    columns = ", ".join(f"{'c' * 55}{n:04} int" for n in range(1000))
    ddl = "; ".join(f"CREATE TABLE {name} ({columns})" for name in names)
    with NatsServer(max_payload=1 << 20) as nats:
        async with pipeline(source_db, dest_db, nats, ddl, *names) as p:
            await p.start_decoder()
            p.start_applier()
            run(source_db, *(f"INSERT INTO {name} DEFAULT VALUES" for name in names[:3]))
            await p.drain("rows")
            run(source_db, f"TRUNCATE {', '.join(names)}", "INSERT INTO t0 DEFAULT VALUES")
            await p.drain("truncated")
            counted = [rows(dest_db, f"SELECT count(*) FROM {name}")[0][0] for name in names[:3]]
            assert counted == [1, 0, 0]


@pytest.mark.parametrize("strict", [True, False])
async def test_strict_boundaries_write_one_transaction_for_each_source_transaction(
    source_db: str, dest_db: str, nats_server: NatsServer, strict: bool
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(
            source_db,
            *(f"INSERT INTO t SELECT {n} * 10 + i FROM generate_series(1, 9) i" for n in range(200)),
            "INSERT INTO t SELECT i FROM generate_series(10000, 22000) i",
        )
        p.start_applier(strict=strict)
        await p.drain("one")
        equal(p)
        written = rows(dest_db, "SELECT count(DISTINCT xmin::text) FROM t")[0][0]
        assert isinstance(written, int)
        assert written == 201 if strict else written < 100


async def test_changes_below_a_tables_floor_are_in_its_copy(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = "CREATE TABLE t (v text); CREATE TABLE u (v text); " + "; ".join(
        f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in ("t", "u")
    )
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "u") as p:
        await p.start_decoder()
        run(source_db, "INSERT INTO t VALUES ('copied')", "INSERT INTO u VALUES ('streamed')")
        run(source_db, "INSERT INTO t VALUES ('copied too')", "INSERT INTO u VALUES ('streamed too')")
        floor = Lsn.parse(str(rows(source_db, "SELECT pg_current_wal_insert_lsn()::text")[0][0]))
        run(dest_db, "INSERT INTO t VALUES ('copied'), ('copied too')")
        p.start_applier(floors=((TableId("public", "t"), floor), (TableId("public", "u"), Lsn(1))))
        run(source_db, "INSERT INTO t VALUES ('later')", "INSERT INTO u VALUES ('later')")
        await p.drain("one")
        equal(p, "t")
        equal(p, "u")
