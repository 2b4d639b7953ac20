"""Which standbys of a server count, and what they have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.session.connection import connection
from services.shared.pg.session.standbys import check_standbys, read_standbys, safe_position
from tests.support.servers.installs import newest
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.standby import SLOT, StandbyServer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, StandbyServer]]:
    with PostgresServer(newest(), fsync=False) as primary, StandbyServer(primary) as standby:
        yield primary, standby


def set_names(primary: PostgresServer, names: str) -> None:
    with psycopg.connect(primary.uri(), autocommit=True) as conn:
        conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
        conn.execute("SELECT pg_reload_conf()")


async def until_names(uri: str, *names: str) -> None:
    async with asyncio.timeout(30), connection(uri, "destination") as conn:
        while (await read_standbys(conn)).names != names:
            await asyncio.sleep(0.01)  # neither a reload nor a new standby is reported


async def until_safe(uri: str) -> None:
    """What is committed now becomes safe."""
    async with asyncio.timeout(30), connection(uri, "destination") as conn:
        row = await (await conn.execute("SELECT pg_logical_emit_message(true, 'x', 'x')::text")).fetchone()
        assert row is not None
        while await safe_position(conn) < Lsn.parse(row[0]):
            await asyncio.sleep(0.01)


async def test_a_standby_that_streams_counts_and_a_logical_receiver_does_not(
    pair: tuple[PostgresServer, StandbyServer],
) -> None:
    uri = pair[0].uri()
    await until_names(uri, SLOT)
    async with connection(uri, "destination") as conn:
        await conn.execute("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
        await conn.execute("CREATE PUBLICATION nothing")
        receiver = await psycopg.AsyncConnection.connect(
            f"{uri}?replication=database&application_name=receiver", autocommit=True
        )
        try:
            receiver.pgconn.send_query(
                b"START_REPLICATION SLOT logical LOGICAL 0/0 (proto_version '1', publication_names 'nothing')"
            )
            seen = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver'"
            async with asyncio.timeout(30):
                while (await (await conn.execute(seen)).fetchone()) != (1,):
                    await asyncio.sleep(0.01)
            assert (await read_standbys(conn)).names == (SLOT,)
        finally:
            receiver.pgconn.finish()
        await check_standbys(conn, "destination", "do something else")
    await until_safe(uri)


async def test_with_synchronous_standby_names_only_these_count(
    pair: tuple[PostgresServer, StandbyServer],
) -> None:
    primary, _ = pair
    set_names(primary, SLOT)
    try:
        await until_names(primary.uri(), SLOT)
        await until_safe(primary.uri())
        set_names(primary, "another")
        await until_names(primary.uri())
        async with connection(primary.uri(), "destination") as conn:
            assert await safe_position(conn) == Lsn(0)
            with pytest.raises(PgmigError) as caught:
                await check_standbys(conn, "destination", "do something else")
            assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
            assert "no standby that synchronous_standby_names names" in caught.value.message
    finally:
        set_names(primary, "")


async def test_a_wait_that_somebody_cancels_makes_nothing_safe(
    pair: tuple[PostgresServer, StandbyServer],
) -> None:
    """PostgreSQL reports the commit as done, with a warning."""
    primary, _ = pair
    set_names(primary, f"FIRST 2 ({SLOT}, another)")  # one of the two is there
    try:
        await until_names(primary.uri(), SLOT)
        async with connection(primary.uri(), "destination") as conn:
            position = asyncio.create_task(safe_position(conn))
            pid = conn.info.backend_pid
            async with asyncio.timeout(30), connection(primary.uri(), "source") as other:
                query = (
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE pid = %s AND wait_event = 'SyncRep'"
                )
                while not await (await other.execute(query, [pid])).fetchone():
                    await asyncio.sleep(0.01)
            assert await position == Lsn(0)
    finally:
        set_names(primary, "")


async def test_a_role_that_may_not_see_standbys_is_told_what_it_needs(
    pair: tuple[PostgresServer, StandbyServer],
) -> None:
    primary, _ = pair
    await until_names(primary.uri(), SLOT)
    with psycopg.connect(primary.uri(), autocommit=True) as conn:
        conn.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    async with connection(primary.uri(user="weak", password="weak"), "destination") as conn:
        with pytest.raises(PgmigError) as caught:
            await check_standbys(conn, "destination", "do something else")
    assert caught.value.kind is ErrorKind.PERMISSION
    assert "GRANT pg_monitor TO weak" in caught.value.hint
