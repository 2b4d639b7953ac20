"""Both sides are written to, and changes meet: each kind of conflict on real servers, by each policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from services.shared.bus.connection import bus
from services.shared.model import ApplierProgress, ErrorKind, WorkerReport
from services.shared.model.conflicts.policy import ConflictKind, Decision, OnConflict
from services.shared.pg.reverse.remove import remove_reverse
from tests.support.pipeline.back import server_of_major
from tests.support.pipeline.both_ways import MIGRATION, SETTINGS, BothWays, both_ways
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)

FORWARD, REVERSE = MIGRATION.forward, MIGRATION.reverse
DDL = """
CREATE TABLE t (id int PRIMARY KEY, v text, big text);
ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
INSERT INTO t SELECT i, 'old', repeat('x', 9000) FROM generate_series(1, 20) i;
CREATE TABLE p (a int, b text, v text, PRIMARY KEY (b, a));
"""
ROWS = "SELECT id, v FROM t ORDER BY id"


@pytest.fixture(scope="module", params=[(14, 18), (17, 18)], ids=lambda pair: f"{pair[0]}-{pair[1]}")
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with (
        server_of_major(request.param[0], SETTINGS) as first,
        server_of_major(request.param[1], SETTINGS) as second,
    ):
        yield first, second


@pytest.fixture
def here(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[str]:
    with servers[0].fresh_database("here") as uri:
        yield uri


@pytest.fixture
def there(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[str]:
    with servers[1].fresh_database("there") as uri:
        yield uri


async def meeting(both: BothWays, here: str, there: str) -> None:
    """`here` and then `there` are committed on the two sides before either has arrived on the other."""
    await both.settle()
    await both.forward.stop("applier")
    await both.reverse.stop("applier")
    run(both.here, here)
    run(both.there, there)
    both.forward.start_applier()
    both.reverse.start_applier()


def equal(both: BothWays, query: str = ROWS) -> list[tuple[object, ...]]:
    found = rows(both.here, query)
    assert found == rows(both.there, query)
    return found


async def test_changes_in_turn_are_no_conflict(here: str, there: str, nats_server: NatsServer) -> None:
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(here, there, client, DDL, OnConflict.STOP, "t", "p") as both,
    ):
        for turn in range(2):  # the row was last written by the other side, which has seen nothing since
            run(here, "UPDATE t SET v = 'again' WHERE id = 15")
            await both.forward.drain(f"again {turn}")
        for turn in range(5):
            run(here, f"UPDATE t SET v = 'here {turn}' WHERE id <= 10", "DELETE FROM t WHERE id = 20")
            run(here, "INSERT INTO p VALUES (1, 'a', 'here')")
            await both.settle()
            run(there, f"UPDATE t SET v = 'there {turn}' WHERE id <= 5", "DELETE FROM p")
            run(there, "INSERT INTO t VALUES (20, 'there', 'x')")
            await both.settle()
        assert equal(both)[0] == (1, "there 4")
        equal(both, "SELECT * FROM p")
        assert await both.conflicts(FORWARD) == await both.conflicts(REVERSE) == []


@pytest.mark.parametrize(
    ("first", "second", "result", "kinds"),
    [
        (
            "UPDATE t SET v = 'here', big = 'b' WHERE id = 1",
            "UPDATE t SET v = 'there', big = 'c' WHERE id = 1",
            "there",
            (ConflictKind.UPDATE_ORIGIN_DIFFERS, ConflictKind.UPDATE_ORIGIN_DIFFERS),
        ),
        (
            "INSERT INTO t VALUES (50, 'here')",
            "INSERT INTO t VALUES (50, 'there')",
            "there",
            (ConflictKind.INSERT_EXISTS, ConflictKind.INSERT_EXISTS),
        ),
        (
            "DELETE FROM t WHERE id = 1",
            "UPDATE t SET v = 'there', big = 'c' WHERE id = 1",
            "there",
            (ConflictKind.DELETE_ORIGIN_DIFFERS, ConflictKind.UPDATE_DELETED),
        ),
        (
            "UPDATE t SET v = 'here', big = 'b' WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
            None,
            (ConflictKind.UPDATE_DELETED, ConflictKind.DELETE_ORIGIN_DIFFERS),
        ),
        (
            "DELETE FROM t WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
            None,
            (ConflictKind.DELETE_MISSING, ConflictKind.DELETE_MISSING),
        ),
        (
            "UPDATE t SET v = 'here', big = 'b' WHERE id = 1",
            "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'there')",
            "there",
            (ConflictKind.UPDATE_ORIGIN_DIFFERS, ConflictKind.DELETE_ORIGIN_DIFFERS),
        ),
        (
            "INSERT INTO t VALUES (50, 'here')",
            "INSERT INTO t VALUES (50, 'there'); DELETE FROM t WHERE id = 50",
            None,
            (ConflictKind.INSERT_DELETED, ConflictKind.INSERT_EXISTS),
        ),
    ],
    ids=[
        "update-update",
        "insert-insert",
        "delete-update",
        "update-delete",
        "delete-delete",
        "update-replace",
        "insert-deleted",
    ],
)
async def test_the_last_update_wins_on_both_sides(  # noqa: PLR0917 - fixtures
    here: str,
    there: str,
    nats_server: NatsServer,
    first: str,
    second: str,
    result: str | None,
    kinds: tuple[ConflictKind, ConflictKind],
) -> None:
    """The second change is the later one."""
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(here, there, client, DDL, OnConflict.LAST_UPDATE_WINS, "t", "p") as both,
    ):
        await meeting(both, first, second)
        await both.settle()
        found = {row[0]: row[1] for row in equal(both)}
        key = 50 if "50" in first else 1
        assert found.get(key) == result
        forward, reverse = await both.conflicts(FORWARD), await both.conflicts(REVERSE)
        assert forward[0].kind is kinds[0]
        assert reverse[0].kind is kinds[1]
        assert forward[0].decision is Decision.KEPT
        assert forward[0].key == (("id", str(key)),)
        assert 0 < forward[0].remote_at < forward[0].local_at < forward[0].resolved_at


async def test_conflicts_stop_by_default(here: str, there: str, nats_server: NatsServer) -> None:
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(here, there, client, DDL, OnConflict.STOP, "t", "p") as both,
    ):
        await both.settle()
        await both.forward.stop("applier")
        await both.reverse.stop("applier")
        run(here, "UPDATE t SET v = 'before' WHERE id = 2", "UPDATE t SET v = 'here' WHERE id = 1")
        run(there, "UPDATE t SET v = 'there' WHERE id = 1")
        both.forward.start_applier()
        error = await both.forward.failure("applier")
        assert error.kind is ErrorKind.CONFLICT
        assert "id=1" in error.message
        assert error.lsn
        assert rows(there, "SELECT v FROM t WHERE id <= 2 ORDER BY id") == [("there",), ("before",)]
        both.forward.start_applier()
        await both.forward.failure("applier")
        (conflict,) = await both.conflicts(FORWARD)
        assert conflict.decision is Decision.STOPPED
        assert conflict.lsn == error.lsn


async def test_nothing_fails_after_the_pipeline_is_removed(
    here: str, there: str, nats_server: NatsServer
) -> None:
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(here, there, client, DDL, OnConflict.LAST_UPDATE_WINS, "t", "p") as both,
    ):
        await both.settle()
    assert (await remove_reverse(there, here, REVERSE)).left == ()
    run(here, "DELETE FROM t WHERE id = 1")
    assert rows(here, "SELECT FROM pg_trigger WHERE NOT tgisinternal") == []
    assert (await remove_reverse(here, there, FORWARD)).left == ()


async def test_other_policies_keep_or_replace_the_row(here: str, there: str, nats_server: NatsServer) -> None:
    update = "UPDATE t SET v = '{0}', big = 'b' WHERE id = 1"
    insert = "INSERT INTO t VALUES (50, '{0}')"
    delete = "DELETE FROM t WHERE id = 2"
    change = "UPDATE t SET v = '{0}', big = 'b' WHERE id = 2"
    query = "SELECT id, v FROM t WHERE id IN (1, 2, 50) ORDER BY id"
    for policy, here_has, there_has in (
        (OnConflict.KEEP_LOCAL, [(1, "here"), (50, "here")], [(1, "there"), (2, "there"), (50, "there")]),
        (OnConflict.APPLY_REMOTE, [(1, "there"), (2, "there"), (50, "there")], [(1, "here"), (50, "here")]),
    ):
        async with (
            bus(nats_server.url, "test") as client,
            both_ways(here, there, client, DDL, policy, "t", "p") as both,
        ):
            first = "; ".join((update, insert, delete)).format("here")
            second = "; ".join((update, insert, change)).format("there")
            await meeting(both, first, second)
            await both.settle()
            assert rows(here, query) == here_has, policy
            assert rows(there, query) == there_has, policy
            assert len(await both.conflicts(FORWARD)) == len(await both.conflicts(REVERSE)) == 3
        for uri, other, way in ((here, there, REVERSE), (there, here, FORWARD)):
            assert (await remove_reverse(other, uri, way)).left == ()
            run(uri, "DROP TABLE t, p")


def counted(reports: Sequence[WorkerReport]) -> int:
    """How many conflicts the last report of progress counts."""
    return next((one.conflicts for one in reversed(reports) if isinstance(one, ApplierProgress)), 0)


async def test_a_conflict_is_recorded_once_and_counted(
    here: str, there: str, nats_server: NatsServer
) -> None:
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(here, there, client, DDL, OnConflict.LAST_UPDATE_WINS, "t", "p") as both,
    ):
        await meeting(both, "INSERT INTO p VALUES (1, 'b', 'here')", "INSERT INTO p VALUES (1, 'b', 'there')")
        await both.settle()
        await both.forward.until(lambda: counted(both.forward.reports) == 1)
        for _ in range(2):
            await both.forward.stop("applier")
            both.forward.start_applier()
            await both.settle()
        (conflict,) = await both.conflicts(FORWARD)
        assert conflict.key == (("a", "1"), ("b", "b"))
        assert rows(there, "SELECT count(*) FROM pgmig.conflict") == [(1,)]


async def test_what_cannot_be_decided_stops(here: str, there: str, nats_server: NatsServer) -> None:
    ddl = f"{DDL}; CREATE UNIQUE INDEX ON p (v)"
    for first, second, stops, kind in (
        ("TRUNCATE t", "INSERT INTO t VALUES (60, 'there')", FORWARD, ConflictKind.TRUNCATE_ORIGIN_DIFFERS),
        ("UPDATE t SET v = 'here' WHERE id = 1", "TRUNCATE t", FORWARD, ConflictKind.UPDATE_MISSING),
        (  # the change that wins does not contain the long value that it has not changed
            "UPDATE t SET v = 'here' WHERE id = 2",
            "UPDATE t SET v = 'there' WHERE id = 2",
            REVERSE,
            ConflictKind.UPDATE_ORIGIN_DIFFERS,
        ),
        (
            "INSERT INTO p VALUES (1, 'b', 'same')",
            "INSERT INTO p VALUES (2, 'b', 'same')",
            FORWARD,
            ConflictKind.UNIQUE_EXISTS,
        ),
    ):
        async with (
            bus(nats_server.url, "test") as client,
            both_ways(here, there, client, ddl, OnConflict.LAST_UPDATE_WINS, "t", "p") as both,
        ):
            await meeting(both, first, second)
            error = await (both.forward if stops == FORWARD else both.reverse).failure("applier")
            assert error.kind is ErrorKind.CONFLICT, error
            found = await both.conflicts(stops)
            assert (found[-1].kind, found[-1].decision) == (kind, Decision.STOPPED)
        for uri, other, way in ((here, there, REVERSE), (there, here, FORWARD)):
            assert (await remove_reverse(other, uri, way)).left == ()
            run(uri, "DROP TABLE t, p")


async def test_the_last_update_must_be_knowable(
    nats_server: NatsServer, source_db: str, dest_db: str
) -> None:
    """These servers do not record when rows are changed."""
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(source_db, dest_db, client, DDL, OnConflict.LAST_UPDATE_WINS, "t", "p") as both,
    ):
        error = await both.forward.failure("applier")
        assert error.kind is ErrorKind.DESTINATION_NOT_READY
        assert "track_commit_timestamp" in error.hint
        error = await both.reverse.failure("applier")
        assert error.kind is ErrorKind.SOURCE_NOT_READY


async def test_a_transaction_that_is_written_in_parts_resolves_its_conflicts(
    here: str, there: str, nats_server: NatsServer
) -> None:
    async with (
        bus(nats_server.url, "test") as client,
        both_ways(here, there, client, DDL, OnConflict.LAST_UPDATE_WINS, "t", "p") as both,
    ):
        large = "INSERT INTO p SELECT i, 'b', 'here' FROM generate_series(1, 12000) i"
        last = "UPDATE p SET v = 'again' WHERE a IN (3, 11999)"
        await meeting(both, f"BEGIN; {large}; {last}; COMMIT", "INSERT INTO p VALUES (7000, 'b', 'there')")
        await both.settle()
        query = "SELECT v, count(*) FROM p GROUP BY v ORDER BY v"
        assert equal(both, query) == [("again", 2), ("here", 11997), ("there", 1)]
        (conflict,) = await both.conflicts(FORWARD)
        assert (conflict.kind, conflict.decision) == (ConflictKind.INSERT_EXISTS, Decision.KEPT)
        assert 0 < conflict.remote_at < conflict.local_at
