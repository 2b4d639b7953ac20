"""A change that the destination refuses stops the pipeline until the cause is removed or it is skipped."""

from __future__ import annotations

import pytest

from services.shared.model import (
    ErrorKind,
    Lsn,
)
from tests.support.pipeline.in_process import DDL, equal, pipeline, rows, run
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(240)


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


async def test_a_skipped_transaction_is_left_out_completely_and_no_other_one(
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
