"""What is committed between two sentinels is seen in the WAL, and rolls a switchover back."""

from __future__ import annotations

import pytest

from services.coordinator.operations.fence import check_nothing_behind
from services.shared.model import ErrorKind, PgmigError, SentinelApplied, TableId
from tests.support.pipeline.in_process import Pipeline, pipeline, run
from tests.support.servers.nats import NatsServer

DDL = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)"


def last(p: Pipeline) -> SentinelApplied:
    return [report for report in p.reports if isinstance(report, SentinelApplied)][-1]


async def test_every_kind_of_change_between_two_sentinels_is_counted_and_nothing_else(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t", "u") as p:
        await p.start_decoder()
        p.start_applier()
        run(source_db, "INSERT INTO t SELECT generate_series(1, 100)", "INSERT INTO u VALUES (1)")
        await p.drain("first")
        assert last(p).since == ""
        with pytest.raises(PgmigError):
            check_nothing_behind(last(p), "some other")
        await p.drain("second")
        assert (last(p).since, last(p).changes) == ("first", ())
        check_nothing_behind(last(p), "first")
        run(
            source_db,
            "INSERT INTO t VALUES (101)",
            "UPDATE t SET id = 102 WHERE id = 101",
            "DELETE FROM t WHERE id < 3",
            "TRUNCATE u",
        )
        await p.drain("third")
        assert last(p).changes == ((TableId("public", "t"), 4), (TableId("public", "u"), 1))
        with pytest.raises(PgmigError) as caught:
            check_nothing_behind(last(p), "second")
        assert caught.value.kind is ErrorKind.SWITCHOVER_FAILED
        assert "4 rows of" in caught.value.message
        await p.stop("applier")
        p.start_applier()  # which has seen no sentinel
        await p.drain("fourth")
        with pytest.raises(PgmigError, match="restarted"):
            check_nothing_behind(last(p), "third")
