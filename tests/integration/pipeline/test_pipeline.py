"""Decoder and applier on real servers: from WAL to rows, through restarts and crashes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from psycopg import AsyncConnection

from services.shared.bus.change_writer import ChangeWriter
from services.shared.model import (
    ApplierProgress,
    DecoderProgress,
    ErrorKind,
    Lsn,
    SlotReady,
    TableId,
)
from services.shared.wire.changes import ChangeBatch, encode_batch
from tests.support.pipeline.in_process import PIPELINE, TIMEOUT_S, Pipeline, pipeline, rows, run
from tests.support.servers.nats import NatsServer


def equal(p: Pipeline, table: str = "t") -> None:
    query = f'SELECT x::text FROM "{table}" x ORDER BY 1'
    assert rows(p.destination, query) == rows(p.source, query)
    assert rows(p.source, f'SELECT count(*) FROM "{table}"') != [(0,)]


DDL = "CREATE TABLE t (id int PRIMARY KEY, v text, big text)"


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


async def test_restarts_of_both_sides_neither_lose_nor_repeat(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        await p.start_decoder()
        p.start_applier()
        for turn in range(4):
            run(source_db, *(f"INSERT INTO t VALUES ('{turn}-{n}')" for n in range(50)))
            await p.drain(f"turn {turn}")
            run(source_db, *(f"INSERT INTO t VALUES ('{turn}+{n}')" for n in range(50)))
            if turn % 2:
                await p.stop("applier")
                run(source_db, f"INSERT INTO t VALUES ('{turn} while the applier is away')")
                p.start_applier()
            else:
                await p.stop("decoder")
                run(source_db, f"INSERT INTO t VALUES ('{turn} while the decoder is away')")
                await p.start_decoder()
        await p.drain("end")
        equal(p)


async def test_a_lost_broker_store_loses_nothing(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t SELECT 'first ' || i FROM generate_series(1, 1000) i")
        await p.drain("before")
        await p.stop("applier")
        run(source_db, *(f"INSERT INTO t VALUES ('unapplied {n}')" for n in range(20)))
        await asyncio.to_thread(nats_server.kill9)
        run(source_db, "INSERT INTO t VALUES ('while the broker is away')")
        await asyncio.to_thread(nats_server.restart, wipe_store=True)
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES ('after')")
        await p.drain("after")
        equal(p)


async def test_time_outs_of_role_and_database_end_no_session(
    source_db: str, dest_db: str, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions are idle, and a transaction is open, for four times as long as each allows."""
    for uri in (source_db, dest_db):
        for setting in ("idle_session_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"):
            run(
                uri,
                f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {setting} = 500', current_database());"
                f" EXECUTE format('ALTER ROLE %I IN DATABASE %I SET {setting} = 500', current_user,"
                " current_database()); END $$",
            )
    without = "-c idle_session_timeout=0 -c transaction_timeout=0 -c idle_in_transaction_session_timeout=0"
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES (1)")
        await p.drain("first")
        async with await AsyncConnection.connect(dest_db, options=without) as conn:
            await conn.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
            run(source_db, "INSERT INTO t VALUES (2)")
            await conn.execute("SELECT pg_sleep(2)")
            await conn.rollback()
        await p.drain("second")
        equal(p)
    assert "applying migration pipe failed" not in caplog.text
    assert f"streaming from slot {PIPELINE.slot} failed" not in caplog.text


async def test_a_broker_store_put_back_to_an_earlier_state_loses_nothing(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    """To one amid a transaction, of which the destination has long had the rest."""
    ddl = "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        p.max_stream_bytes = 1 << 20
        await p.start_decoder()
        run(source_db, "INSERT INTO t VALUES ('first')")
        run(source_db, "INSERT INTO t SELECT repeat('large', 100) || i FROM generate_series(1, 5000) i")
        await p.until(lambda: any(isinstance(r, DecoderProgress) and r.waiting_for_space for r in p.reports))
        await asyncio.to_thread(nats_server.stop)
        copytree(nats_server.store_dir, tmp_path / "store")
        await asyncio.to_thread(nats_server.start)
        await p.stop("decoder")
        p.max_stream_bytes = 1 << 30
        await p.start_decoder()
        p.start_applier()
        await p.drain("before")
        await asyncio.to_thread(nats_server.stop)
        rmtree(nats_server.store_dir)
        copytree(tmp_path / "store", nats_server.store_dir)
        await asyncio.to_thread(nats_server.start)
        run(source_db, "INSERT INTO t SELECT 'behind ' || i FROM generate_series(1, 100) i")
        await p.drain("behind")
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


async def test_update_of_a_missing_row_stops_the_pipeline(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL), (2, 'b', NULL)")
        await p.drain("one")
        run(dest_db, "DELETE FROM t WHERE id = 2")
        run(
            source_db,
            "UPDATE t SET v = 'before' WHERE id = 1",
            "UPDATE t SET v = 'missing' WHERE id = 2",
            "UPDATE t SET v = 'behind' WHERE id = 1",
        )
        error = await p.failure("applier")
        assert error.kind is ErrorKind.MISSING_ROW
        assert "public.t" in error.message and "id=2" in error.message
        assert error.lsn
        assert rows(dest_db, "SELECT v FROM t") == [("before",)], "all before it applied, nothing behind it"
        run(dest_db, "INSERT INTO t VALUES (2, 'b', NULL)")
        p.start_applier()
        await p.drain("two")
        equal(p)


async def test_a_key_that_rows_share_does_not_hide_a_missing_one(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    """One row too many and one too few are as many as there should be."""
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 100) i")
        await p.drain("one")
        await p.stop("applier")
        run(dest_db, "ALTER TABLE t DROP CONSTRAINT t_pkey", "UPDATE t SET id = 3 WHERE id = 2")
        run(source_db, "UPDATE t SET v = 'changed'")
        p.start_applier()
        error = await p.failure("applier")
    assert error.kind is ErrorKind.MISSING_ROW
    assert "public.t" in error.message


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


async def test_a_refused_change_stops_the_pipeline_at_its_transaction(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(dest_db, "ALTER TABLE t ADD CONSTRAINT no_poison CHECK (v <> 'poison')")
        run(
            source_db,
            "INSERT INTO t VALUES (1, 'fine', NULL)",
            "INSERT INTO t VALUES (2, 'poison', NULL)",
            "INSERT INTO t VALUES (3, 'fine', NULL)",
        )
        p.start_applier()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.APPLY_FAILED
        assert "no_poison" in error.message
        assert "table public.t, row id=2" in error.message
        assert error.xid == rows(source_db, "SELECT xmin::text::bigint FROM t WHERE id = 2")[0][0]
        assert rows(dest_db, "SELECT id FROM t") == [(1,)]
        run(dest_db, "ALTER TABLE t DROP CONSTRAINT no_poison")
        p.start_applier()
        await p.drain("one")
        equal(p)


@pytest.mark.parametrize("narrower", ["varchar(3)[]", "short", "shorter"])
async def test_a_value_too_long_for_the_destination_is_refused_and_not_cut(
    source_db: str, dest_db: str, nats_server: NatsServer, narrower: str
) -> None:
    wide = "varchar(20)[]" if narrower.endswith("[]") else "text"
    run(dest_db, "CREATE DOMAIN short AS varchar(3)", "CREATE DOMAIN shorter AS short CHECK (value <> '')")
    async with pipeline(
        source_db, dest_db, nats_server, f"CREATE TABLE t (id int PRIMARY KEY, v {wide})", "t"
    ) as p:
        await p.start_decoder()
        run(dest_db, f"ALTER TABLE t ALTER v TYPE {narrower}")
        short, long = ("'{abc}'", "'{abcdef}'") if narrower.endswith("[]") else ("'abc'", "'abcdef'")
        run(source_db, f"INSERT INTO t SELECT n, {short} FROM generate_series(1, 9) n")
        run(source_db, f"INSERT INTO t SELECT n, {long} FROM generate_series(10, 19) n")
        p.start_applier()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.APPLY_FAILED
        assert "too long" in error.message
        assert rows(dest_db, "SELECT count(*) FROM t") == [(9,)]
        run(dest_db, f"ALTER TABLE t ALTER v TYPE {wide}")
        p.start_applier()
        await p.drain("one")
        equal(p)


async def test_a_skipped_transaction_is_left_out_whole_and_alone(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(dest_db, "ALTER TABLE t ADD CONSTRAINT no_poison CHECK (v <> 'poison')")
        run(
            source_db,
            "INSERT INTO t VALUES (1, 'fine', NULL)",
            "INSERT INTO t SELECT i, CASE i WHEN 7000 THEN 'poison' ELSE 'with it' END"
            " FROM generate_series(2, 7000) i",
            "INSERT INTO t VALUES (8000, 'fine', NULL)",
            "INSERT INTO t VALUES (8001, 'poison', NULL)",
            "INSERT INTO t VALUES (8002, 'fine', NULL)",
        )
        given_up: tuple[Lsn, ...] = ()
        for last in (1, 8000):
            p.start_applier(skip=given_up)
            error = await p.failure("applier")
            assert rows(dest_db, "SELECT max(id) FROM t") == [(last,)], "nothing behind it is applied"
            assert error.lsn is not None
            given_up += (error.lsn,)
        assert given_up[0] < given_up[1]
        p.start_applier(skip=given_up)
        await p.drain("one")
        assert rows(dest_db, "SELECT id FROM t ORDER BY id") == [(1,), (8000,), (8002,)]


@pytest.mark.parametrize("strict", [True, False])
async def test_strict_boundaries_keep_source_transactions_apart(
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


async def test_a_refused_change_is_found_within_strict_boundaries(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = DDL + "; ALTER TABLE t ADD UNIQUE (v)"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t") as p:
        await p.start_decoder()
        run(source_db, *(f"INSERT INTO t VALUES ({n}, 'v{n}', NULL)" for n in range(50)))
        run(dest_db, "INSERT INTO t VALUES (1000, 'v30', NULL)")
        p.start_applier(strict=True)
        error = await p.failure("applier")
        assert error.kind is ErrorKind.APPLY_FAILED
        assert error.xid == rows(source_db, "SELECT xmin::text::bigint FROM t WHERE id = 30")[0][0]
        assert rows(dest_db, "SELECT count(*) FROM t") == [(31,)], "the 30 before it, and the one in the way"
        run(dest_db, "DELETE FROM t WHERE id = 1000")
        p.start_applier(strict=True)
        await p.drain("one")
        equal(p)


async def test_a_skipped_truncate_is_not_applied(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    ddl = DDL + "; CREATE TABLE child (id int PRIMARY KEY)"
    async with pipeline(source_db, dest_db, nats_server, ddl, "t", "child") as p:
        await p.start_decoder()
        run(source_db, "INSERT INTO t VALUES (1, 'fine', NULL)", "TRUNCATE t")
        run(source_db, "INSERT INTO t VALUES (2, 'fine', NULL)")
        run(dest_db, "CREATE TABLE referring (t int REFERENCES t)")
        p.start_applier()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.APPLY_FAILED
        assert error.lsn is not None
        p.start_applier(skip=(error.lsn,))
        await p.drain("one")
        assert rows(dest_db, "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


async def test_a_slot_moved_beyond_progress_is_a_gap(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL)")
        await p.drain("one")
        await p.stop("decoder")
        run(
            source_db,
            "INSERT INTO t VALUES (2, 'skipped by someone', NULL)",
            f"SELECT pg_replication_slot_advance('{PIPELINE.slot}', pg_current_wal_lsn())",
            "INSERT INTO t VALUES (3, 'c', NULL)",
        )
        await p.start_decoder()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.GAP
        assert error.message.count("/") >= 2, "both LSNs are named"
        assert rows(dest_db, "SELECT id FROM t") == [(1,)]


async def test_another_source_under_the_same_address_is_refused(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        await p.stop("decoder")
        assert p.slot is not None
        p.slot = SlotReady("d", p.slot.consistent_lsn, "1234567890", p.slot.timeline)
        await p.start_decoder()
        error = await p.failure("decoder")
        assert error.kind is ErrorKind.GAP
        assert "1234567890" in error.message


async def test_a_dropped_slot_is_a_gap(source_db: str, dest_db: str, nats_server: NatsServer) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        await p.stop("decoder")
        run(source_db, f"SELECT pg_drop_replication_slot('{PIPELINE.slot}')")
        await p.start_decoder()
        assert (await p.failure("decoder")).kind is ErrorKind.GAP


async def confirmed(uri: str) -> Lsn:
    found = rows(
        uri,
        f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{PIPELINE.slot}'",
    )
    return Lsn.parse(str(found[0][0]))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """For what no event tells: the source's own view of its slot."""
    async with asyncio.timeout(TIMEOUT_S):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_the_slot_is_told_only_what_the_destination_has_flushed(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL)")
        committed = Lsn.parse(str(rows(source_db, "SELECT pg_current_wal_lsn()::text")[0][0]))
        progress = len(p.reports)
        await p.until(lambda: len(p.reports) >= progress + 3)  # stored, several status updates later
        assert await confirmed(source_db) < committed

        async def told() -> bool:
            return await confirmed(source_db) >= committed

        p.start_applier()
        await eventually(told)


async def test_an_idle_source_lets_the_slot_advance(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "CREATE TABLE other (id int)", "INSERT INTO other SELECT generate_series(1, 10000)")
        written = Lsn.parse(str(rows(source_db, "SELECT pg_current_wal_lsn()::text")[0][0]))

        async def advanced() -> bool:
            return await confirmed(source_db) >= written

        await eventually(advanced)
        progress = [r for r in p.reports if isinstance(r, ApplierProgress)][-1]
        assert progress.flushed_lsn >= written, "the slot never runs ahead of the destination's progress"


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


async def test_a_table_that_the_destination_lacks_is_drift(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            "INSERT INTO t VALUES (1, 'a', NULL)",
            "CREATE TYPE mood AS ENUM ('good')",
            'ALTER TABLE t ADD extra numeric(9,2)[], ADD "Odd ""name" mood',
            "INSERT INTO t VALUES (2, 'b', NULL, '{7.25}', 'good')",
            "INSERT INTO t VALUES (3, 'behind', NULL, NULL, NULL)",
        )
        error = await p.failure("applier")
        assert error.kind is ErrorKind.SCHEMA_DRIFT
        assert error.xid == rows(source_db, "SELECT xmin::text::bigint FROM t WHERE id = 2")[0][0]
        assert "on the destination (id integer, v text, big text)" in error.message
        assert "(id integer, v text, big text, extra numeric(9,2)[], Odd" in error.message
        ddl = error.hint.removeprefix("run on the destination: ").removesuffix("; then continue")
        assert ddl == (
            'ALTER TABLE "public"."t" ADD COLUMN "extra" numeric(9,2)[],'
            ' ADD COLUMN "Odd ""name" <its type on the source>'
        )
        assert rows(dest_db, "SELECT id FROM t") == [(1,)]
        p.start_applier()
        assert (await p.failure("applier")).lsn == error.lsn, "it stops at the same place until cured"
        run(dest_db, "CREATE TYPE mood AS ENUM ('good')", ddl.replace("<its type on the source>", "mood"))
        p.start_applier()
        await p.drain("one")
        equal(p)


async def test_a_table_that_is_gone_from_the_destination_comes_with_its_ddl(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(dest_db, "DROP TABLE t")
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL)")
        p.start_applier()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.SCHEMA_DRIFT
        create = 'CREATE TABLE "public"."t" ("id" integer, "v" text, "big" text, PRIMARY KEY ("id"))'
        assert create in error.hint
        run(dest_db, create)
        p.start_applier()
        await p.drain("one")
        equal(p)


pytestmark = pytest.mark.timeout(240)


async def test_a_source_restored_to_an_earlier_state_is_a_gap(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        await p.stop("decoder")
        ahead = ChangeWriter(p.client, PIPELINE, max_bytes=1 << 20)
        await ahead.open()
        # What was read from the source before it was put back: far beyond its WAL of now.
        beat = ChangeBatch(Lsn(0), Lsn(1 << 60), heartbeat=True)
        await ahead.publish(encode_batch(beat), {})
        await ahead.check()
        await ahead.close()
        await p.start_decoder()
        error = await p.failure("decoder")
        assert error.kind is ErrorKind.GAP
        assert "earlier state" in error.message + error.hint
