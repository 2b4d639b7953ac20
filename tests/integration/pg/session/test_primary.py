"""A connection string that names several servers leads to the primary, also after a promotion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import connection
from services.shared.pg.session.primary import find_primary, read_primary
from services.shared.pg.session.uri import each_server, endpoint
from tests.support.servers import door
from tests.support.servers.installs import newest
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.standby import StandbyServer, servers_uri

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    with PostgresServer(newest(), fsync=False) as server:
        server.create_database("shop")
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[StandbyServer]:
    with StandbyServer(primary) as server:
        yield server


def port_of(uri: str) -> int:
    [(_, port)] = endpoint(uri).servers
    return port


async def test_the_primary_is_found_at_any_place_of_the_list_and_a_standby_is_refused(
    primary: PostgresServer, standby: StandbyServer
) -> None:
    for servers in ((primary, standby), (standby, primary)):
        uri = servers_uri("shop", *servers)
        assert port_of(await find_primary(uri, "source")) == primary.port
        async with connection(uri, "source") as conn:
            assert conn.info.port == primary.port
    with pytest.raises(PgmigError) as caught:
        async with connection(standby.uri("shop"), "source"):
            pass
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert "is a standby" in caught.value.message


async def test_the_server_on_the_latest_timeline_counts_although_the_former_primary_still_runs(
    primary: PostgresServer, standby: StandbyServer
) -> None:
    uri = servers_uri("shop", primary, standby)
    standby.caught_up()
    before = await read_primary(primary.uri("shop"), "source")
    standby.promote()
    found = await find_primary(uri, "source", before.system_identifier)
    assert port_of(found) == standby.port
    after = await read_primary(found, "source")
    assert (after.system_identifier, after.timeline) == (before.system_identifier, before.timeline + 1)


async def test_the_primary_of_a_closed_database_is_found_from_another_database(
    primary: PostgresServer, standby: StandbyServer
) -> None:
    """As after a freeze: the standby refuses connections to this database, too."""
    uri = servers_uri("shop", standby, primary)
    door.close(primary.uri("shop"))
    try:
        standby.caught_up()
        with pytest.raises(PgmigError) as caught:
            await find_primary(uri, "source")
        assert caught.value.kind is ErrorKind.DATABASE_CLOSED
        assert port_of(await find_primary(uri, "source", database="postgres")) == primary.port
    finally:
        door.reopen(primary.uri("shop"))


async def test_a_server_of_another_system_is_not_taken_for_the_recorded_one(
    primary: PostgresServer, source_server: PostgresServer
) -> None:
    known = await read_primary(primary.uri("shop"), "source")
    with source_server.fresh_database("shop") as other:
        name = endpoint(other).dbname
        primary.create_database(name)
        with source_server.connect() as conn:
            conn.execute("CREATE ROLE twin LOGIN PASSWORD 'same'")
        primary.execute("CREATE ROLE twin LOGIN PASSWORD 'same'")
        uri = f"postgresql://twin:same@127.0.0.1:{source_server.port},127.0.0.1:{primary.port}/{name}"
        try:
            assert port_of(await find_primary(uri, "source", known.system_identifier)) == primary.port
            with pytest.raises(PgmigError) as caught:
                await find_primary(uri, "source")
            assert "no copies of each other" in caught.value.message
            with pytest.raises(PgmigError) as caught:
                await find_primary(uri, "source", "1234567890")
            assert "primary of another system" in caught.value.message
        finally:
            source_server.execute("DROP ROLE twin")


async def test_a_host_that_is_down_does_not_delay_the_search_while_the_known_primary_answers(
    primary: PostgresServer,
) -> None:
    """Its connection is still being attempted at the end of the search."""
    begun, over = asyncio.Event(), asyncio.Event()
    ended: list[bytes] = []

    async def read(reader: asyncio.StreamReader) -> None:
        ended.append(await reader.read(-1))

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        reading = asyncio.create_task(read(reader))
        await over.wait()
        reading.cancel()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        alone = primary.uri("shop")
        listed = alone.replace(f"127.0.0.1:{primary.port}", f"127.0.0.1:{port},127.0.0.1:{primary.port}")
        [_, known] = each_server(listed, "source")
        assert await find_primary(listed, "source", known=known) == known
        assert begun.is_set()
        assert ended == []
        over.set()
