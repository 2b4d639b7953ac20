"""A source that was promoted since its slot was made: its WAL may lack changes, so it is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationOptions, PgmigError, Phase
from tests.support.servers.installs import oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import proxied
from tests.support.services.services import Services, until_phase


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer(oldest(), fsync=False) as server:
        yield server


def promote(server: PostgresServer) -> None:
    """Start it as a standby and promote it: the same databases on a new timeline."""
    server.stop()
    (server.root / "data" / "standby.signal").touch()
    server.start()
    server.execute("SELECT pg_promote()")


async def test_source_on_another_timeline_is_refused_by_its_names(
    server: PostgresServer, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    source = server.create_database("shop")
    with psycopg.connect(source) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    here = f"127.0.0.1:{server.port}"
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session, proxied(here) as proxy:
            await session.start("m", source, dest_db, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            await session.pause("m")
            promote(server)
            with pytest.raises(PgmigError) as caught:
                await session.resume("m", source.replace(here, proxy.address))
            assert caught.value.kind is ErrorKind.GAP
            assert f"{proxy.address}/shop is on timeline 2" in caught.value.message
            assert f"{here}/shop, timeline 1" in caught.value.message
            assert "pgmig-cli cleanup --force --id m" in caught.value.hint
            view = await session.get("m")
            assert view.phase is Phase.PAUSED
            assert f"{view.source.host}:{view.source.port}" == here
            done = await session.cleanup("m", source.replace(here, proxy.address), force=True)
            assert done.left == ()  # the promoted server is the recorded database, and is cleaned up
