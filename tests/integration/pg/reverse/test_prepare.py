"""What a pipeline back needs is created once, however often one tries, and removed without a trace."""

from __future__ import annotations

import asyncio
import sys

import psycopg
import pytest

from services.shared.model import ErrorKind, Lsn, MigrationOptions, NoKeyTables, PgmigError, TableId
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.catalog.table_identity import known_tables
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.reverse.check import check_reverse
from services.shared.pg.reverse.ends import EndSessions, opened_ends
from services.shared.pg.reverse.position import current_position
from services.shared.pg.reverse.prepare import ReverseReady, prepare_reverse
from services.shared.pg.reverse.remove import remove_reverse, retire
from services.shared.pg.session.connection import connection
from tests.integration.pg.reverse.conftest import REVERSE, execute
from tests.support.pipeline.in_process import rows
from tests.support.preflight import traces

FULL = MigrationOptions(no_key_tables=NoKeyTables.IDENTITY_FULL)
IDENTITY = "SELECT relreplident::text FROM pg_class WHERE relname = 'keyless'"
SLOT = f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{REVERSE.slot}'"


async def chosen(new: str, old: str, options: MigrationOptions = FULL) -> Published:
    check = await check_reverse(new, old, REVERSE, options=options)
    assert check.blocking == ()
    return check.published


async def prepare(new: str, old: str, published: Published, *, within_s: float = 30.0) -> ReverseReady:
    return await prepare_reverse(new, old, REVERSE, published, epoch="e", within_s=within_s)


async def test_it_is_repeated_without_effect_and_removed_without_a_trace(new: str, old: str) -> None:
    for uri in (new, old):
        execute(uri, "CREATE TABLE keyless (a int)")
    before = traces(new), traces(old)
    published = await chosen(new, old)
    ready = await prepare(new, old, published)
    made = traces(new), traces(old)
    assert rows(new, IDENTITY) == [("f",)]
    assert rows(new, SLOT) == [(str(ready.consistent_lsn),)]
    assert {str(table) for table in ready.published} == {
        *("public.keyless", "public.part", "public.t", 'public.odd % "table')
    }
    assert await prepare(new, old, published) == ready
    assert (traces(new), traces(old)) == made
    async with connection(old, "source") as conn:
        known = await known_tables(conn, REVERSE)
    assert {table.name for table in known} == {
        *("keyless", "t", 'odd % "table', "part", "part_low", "part_high")
    }
    removed = await remove_reverse(new, old, REVERSE, altered=published.altered)
    assert removed.left == ()
    assert len(removed.removed) == 4  # slot, publication, identity, bookkeeping
    assert (traces(new), traces(old)) == before
    assert rows(new, IDENTITY) == [("d",)]
    assert await remove_reverse(new, old, REVERSE, altered=published.altered) == type(removed)(())


async def test_databases_that_are_read_only_by_default(new: str, old: str) -> None:
    for uri in (new, old):
        execute(
            uri,
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',"
            " current_database()); END $$",
        )
    ready = await prepare(new, old, await chosen(new, old))
    conn = await writable_connection(new, side="destination")
    try:
        assert await current_position(conn) > ready.consistent_lsn
    finally:
        await conn.close()
    assert len((await remove_reverse(new, old, REVERSE)).removed) == 3


async def test_a_slot_that_cannot_be_created_in_time_leaves_no_slot(new: str, old: str) -> None:
    published = await chosen(new, old)
    with psycopg.connect(new) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(PgmigError) as caught:
            await prepare(new, old, published, within_s=1.0)
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert rows(new, SLOT) == []
    ready = await prepare(new, old, published)
    assert rows(new, SLOT) == [(str(ready.consistent_lsn),)]


async def test_a_killed_attempt_is_continued_by_the_next_one(new: str, old: str) -> None:
    """Cancelled while the server creates the slot, whose session ends by itself."""
    published = await chosen(new, old)
    with psycopg.connect(new) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        first = asyncio.create_task(prepare(new, old, published))
        while not rows(new, SLOT):
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait({first})
        assert first.cancelled()
    ready = await prepare(new, old, published)
    assert rows(new, SLOT) == [(str(ready.consistent_lsn),)]


PREPARING = """
import asyncio, sys
from services.shared.model import MigrationId
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.reverse.prepare import prepare_reverse
work = prepare_reverse(*sys.argv[1:3], MigrationId("back").reverse, Published(()), epoch="e", within_s=3.0)
asyncio.run(work)
"""


async def test_the_server_ends_the_attempt_of_a_process_that_was_killed(new: str, old: str) -> None:
    with psycopg.connect(new) as writer:
        writer.execute("INSERT INTO t VALUES (1)")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PREPARING, new, old)
        async with asyncio.timeout(30):
            while not rows(new, SLOT):
                await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
            while rows(new, SLOT):
                await asyncio.sleep(0.05)


async def test_a_publication_that_differs_is_replaced(new: str, old: str) -> None:
    published = await chosen(new, old)
    first = await prepare(new, old, published)
    execute(new, f"ALTER PUBLICATION {REVERSE.publication} DROP TABLE t")
    assert await prepare(new, old, published) == first
    listed = rows(new, "SELECT tablename::text FROM pg_publication_tables")
    assert ("t",) in listed


async def test_progress_of_an_earlier_pipeline_is_refused(new: str, old: str) -> None:
    published = await chosen(new, old)
    execute(
        old,
        f"SELECT pg_replication_origin_create('{REVERSE.origin}')",
        f"SELECT pg_replication_origin_advance('{REVERSE.origin}', '0/2A')",
    )
    with pytest.raises(PgmigError, match="progress 0/2A of an earlier pipeline") as caught:
        await prepare(new, old, published)
    assert caught.value.kind is ErrorKind.ALREADY_EXISTS
    assert rows(new, SLOT) == []
    assert (
        "replication origin pgmig__reverse_back on the source"
        in (await remove_reverse(new, old, REVERSE)).removed
    )
    await prepare(new, old, published)


async def test_one_side_is_cleaned_while_the_other_cannot_be_reached(new: str, old: str) -> None:
    await prepare(new, old, await chosen(new, old))
    gone = "postgresql://nobody:none@127.0.0.1:1/none"
    removed = await remove_reverse(gone, old, REVERSE)
    assert removed.removed == ("bookkeeping of pipeline back/reverse on the source",)
    assert [side for side, _ in removed.left] == ["destination"]
    assert len((await remove_reverse(new, old, REVERSE)).removed) == 2  # slot and publication


COMMITS = f"""
SELECT pg_catalog.get_byte(data, 0) = 66,
       ('x' || pg_catalog.encode(pg_catalog.substr(data, 2, 8), 'hex'))::bit(64)::bigint
  FROM pg_catalog.pg_logical_slot_peek_binary_changes(
       '{REVERSE.slot}', NULL, NULL, 'proto_version', '1', 'publication_names', '{REVERSE.publication}')
 WHERE pg_catalog.get_byte(data, 0) IN (66, 73)
"""


async def test_the_position_divides_earlier_commits_from_later_ones(new: str, old: str) -> None:
    """The commits before it are those that had been reported, whether they were flushed or not."""
    await prepare(new, old, await chosen(new, old))
    positions: list[Lsn] = []
    with psycopg.connect(new, autocommit=True) as writer:
        writer.execute("SET synchronous_commit = off")
        async with connection(new, "destination") as conn:
            for turn in range(50):
                writer.execute("INSERT INTO t VALUES (%s, %s)", [turn, "x" * (turn * 97 % 1500)])
                positions.append(await current_position(conn))
                flushed = rows(new, "SELECT pg_current_wal_flush_lsn()::text")[0][0]
                assert Lsn.parse(str(flushed)) >= positions[-1], "a decoder refuses to start beyond"
    changed: list[int] = []
    begun = 0
    for begins, final_lsn in rows(new, COMMITS):
        if begins:
            begun = int(str(final_lsn))
        else:
            changed.append(begun)
    assert len(changed) == len(positions)
    for turn, position in enumerate(positions):
        assert changed[turn] < position.value
        assert turn + 1 == len(positions) or changed[turn + 1] >= position.value


async def test_tables_of_the_publisher_are_recorded_with_the_table_of_the_subscriber(
    new: str, old: str
) -> None:
    execute(old, "DROP TABLE part_high", "CREATE TABLE part_rest PARTITION OF part DEFAULT")
    ready = await prepare(new, old, await chosen(new, old))
    async with connection(old, "source") as conn:
        known = await known_tables(conn, REVERSE)
    assert known[TableId("public", "part_high")].root == TableId("public", "part")
    assert {route.leaf.name for route in ready.routes} == {"part_low", "part_high"}


async def test_a_coordinator_that_was_replaced_changes_nothing_any_more(new: str, old: str) -> None:
    """It has opened its sessions, and stops responding before it changes anything."""
    published = await chosen(new, old)
    recorded: list[EndSessions] = []

    async def announce(sessions: EndSessions) -> None:
        recorded.append(sessions)

    async with opened_ends(new, old, REVERSE, announce=announce) as replaced:
        await prepare_reverse(
            new, old, REVERSE, published, epoch="e", earlier=recorded[-1], announce=announce
        )
        made = traces(new), traces(old)
        for conn in (replaced.publisher, replaced.subscriber):
            with pytest.raises(psycopg.OperationalError):
                await conn.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            await retire(replaced, REVERSE, epoch="other")
    assert (traces(new), traces(old)) == made
    assert len(recorded[-1].publisher) == len(recorded[-1].subscriber) == 2


async def test_nothing_is_changed_by_who_may_not_record_its_sessions(new: str, old: str) -> None:
    before = traces(new), traces(old)
    published = await chosen(new, old)

    async def refused(_sessions: EndSessions) -> None:
        raise PgmigError(ErrorKind.FENCED, "another coordinator has taken over")

    with pytest.raises(PgmigError) as caught:
        await prepare_reverse(new, old, REVERSE, published, epoch="e", announce=refused)
    assert caught.value.kind is ErrorKind.FENCED
    assert (traces(new), traces(old)) == before


async def test_an_applier_of_a_pipeline_that_was_retired_cannot_return(new: str, old: str) -> None:
    """Neither with its own epoch nor with the empty one of a first run, until the pipeline is prepared again,
    and after everything was removed."""
    published = await chosen(new, old)
    await prepare(new, old, published)
    session = await ApplySession.open(old, REVERSE, Lsn(1), "e")
    try:
        async with opened_ends(new, old, REVERSE) as ends:
            await retire(ends, REVERSE, epoch="idle")
        assert rows(old, "SELECT roname FROM pg_replication_origin") == []
        assert rows(new, SLOT) == []
        with pytest.raises(PgmigError):
            await session.execute([], durable=True)
    finally:
        await session.close()
    for epoch in ("e", ""):
        with pytest.raises(PgmigError) as caught:
            await ApplySession.open(old, REVERSE, Lsn(1), epoch)
        assert caught.value.kind is ErrorKind.FENCED
    assert rows(old, "SELECT roname FROM pg_replication_origin") == []
    await prepare(new, old, published)
    session = await ApplySession.open(old, REVERSE, Lsn(1), "e")
    await session.close()
    assert (await remove_reverse(new, old, REVERSE)).left == ()
    with pytest.raises(PgmigError) as caught:
        await ApplySession.open(old, REVERSE, Lsn(1), "e")
    assert caught.value.kind is ErrorKind.FENCED
