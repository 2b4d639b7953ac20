"""What an operator does to a migration that runs, while the application writes."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from services.shared.model import ErrorKind, PgmigError, Phase
from tests.support.data.workload import Writer
from tests.support.migrations.live import Live, application, eventually
from tests.support.migrations.stack import Stack
from tests.support.migrations.verdict import (
    left_on_destination,
    left_on_source,
    present_on_destination,
    present_on_source,
)
from tests.support.servers.postgres import PostgresServer

Pair = tuple[str, str]


async def test_pause_and_resume(shop: str, dest_db: str, stack: Stack, writer: Writer) -> None:
    async with stack.session() as session:
        live = Live(session, "paused", shop, dest_db)
        await live.start()
        await live.until_phase(Phase.STREAMING)
        paused = await session.pause("paused")
        assert paused.phase is Phase.PAUSED
        assert markers(dest_db) < markers_after(writer, shop, 40)
        still = markers(dest_db)
        writer.wait_for_commits(20)
        assert markers(dest_db) == still
        await session.resume("paused")
        await live.finish(writer)


async def test_switchover_that_times_out_is_rolled_back_and_the_application_continues(
    shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, "late", shop, dest_db)
        await live.start()
        await live.until_phase(Phase.STREAMING)
        with psycopg.connect(shop) as holder:
            holder.execute("SELECT FROM shop.accounts WHERE id = 1 FOR UPDATE")
            with pytest.raises(PgmigError) as caught:
                await live.switch_over(timeout_s=2.0)
        assert caught.value.kind is ErrorKind.TIMEOUT
        assert "they are held by" in caught.value.message
        view = await live.until_phase(Phase.STREAMING)
        assert view.failure is not None
        assert view.switchover is None
        writer.wait_for_commits(40)
        await live.finish(writer)


async def test_switchover_that_cannot_drain_is_rolled_back_and_the_application_continues(
    shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, "stuck", shop, dest_db)
        await live.start()
        await live.until_phase(Phase.STREAMING)
        await live.drain()  # else the lag of a slow machine would refuse the switchover before the drain
        with psycopg.connect(dest_db) as blocker:
            blocker.execute("LOCK TABLE shop.markers IN EXCLUSIVE MODE")
            with pytest.raises(PgmigError) as caught:
                await live.switch_over(timeout_s=5.0)
        assert caught.value.kind is ErrorKind.TIMEOUT
        assert "drain" in caught.value.message
        with application(shop) as second:  # the first was ended with its sessions, and came back or not
            await live.until_phase(Phase.STREAMING)
            second.wait_for_commits(40)
            await live.finish(second)
        writer.stop()


@pytest.fixture
def other(source_server: PostgresServer, dest_server: PostgresServer, template: str) -> Iterator[Pair]:
    """Another database to migrate, and where to."""
    with (
        source_server.fresh_database("other", template) as source,
        dest_server.fresh_database("other") as dest,
    ):
        yield source, dest


async def test_two_migrations_share_the_services(
    shop: str, dest_db: str, other: Pair, stack: Stack, writer: Writer
) -> None:
    other_shop, other_dest = other
    with application(other_shop) as other_writer:
        async with stack.session() as session:
            one = Live(session, "one", shop, dest_db)
            two = Live(session, "two", other_shop, other_dest)
            await one.start()
            await two.start()
            await one.finish(writer)
            assert (await two.until_phase(Phase.STREAMING)).migration_id == "two"
            other_writer.wait_for_commits(20)
            assert {view.migration_id for view in await session.list_all()} == {"one", "two"}
            await session.cleanup("one")
            assert left_on_source(shop) == []
            assert present_on_source(other_shop) != []
            await two.finish(other_writer)
            await session.cleanup("two")
            assert await session.list_all() == ()
        for source, dest in ((shop, dest_db), (other_shop, other_dest)):
            assert left_on_source(source) == []
            assert left_on_destination(dest) == []


@pytest.mark.parametrize("phase", [Phase.COPY, Phase.STREAMING])
async def test_abort_and_cleanup_leave_nothing(
    phase: Phase, shop: str, dest_db: str, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, "given_up", shop, dest_db)
        await live.start()
        await live.until_phase(phase)
        assert (await session.abort("given_up")).phase is Phase.ABORTED
        assert left_on_source(shop) == []
        eventually(
            lambda: not any("origin" in thing for thing in present_on_destination(dest_db)),
            "the replication origin is dropped",
        )
        writer.wait_for_commits(20)
        await session.cleanup("given_up")
        assert left_on_destination(dest_db) == []
        assert await session.list_all() == ()


def markers(uri: str) -> int:
    """Transactions of the writer that have arrived."""
    with psycopg.connect(uri) as conn:
        row = conn.execute("SELECT count(*) FROM shop.markers").fetchone()
    assert row is not None
    return int(row[0])


def markers_after(writer: Writer, uri: str, commits: int) -> int:
    writer.wait_for_commits(commits)
    return markers(uri)
