"""The end of a migration with a way back while a server cannot be reached, or the coordinator dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import conninfo

from clients.session import Session
from services.shared.model import OperationState, PgmigError, Phase
from tests.support.pipeline.in_process import rows
from tests.support.servers.proxy import Proxy, proxied
from tests.support.services.services import Services
from tests.support.switchover.both_sides import DDL, back, differences, equal_soon, started, there, writable

pytestmark = pytest.mark.timeout(240)

SLOTS = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute(DDL)
    return source_db


@pytest.fixture
async def destination(dest_db: str) -> AsyncIterator[tuple[Proxy, str]]:
    """The way to it, and its URI through that."""
    known = conninfo.conninfo_to_dict(dest_db)
    async with proxied(f"{known['host']}:{known['port']}") as proxy:
        host, port = proxy.address.split(":")
        password = f":{known['password']}" if known.get("password") else ""
        yield proxy, f"postgresql://{known['user']}{password}@{host}:{port}/{known['dbname']}"


async def test_abort_after_a_rollback_while_the_destination_is_down_leaves_the_rest_to_cleanup(
    services: Services, source: str, dest_db: str, destination: tuple[Proxy, str]
) -> None:
    proxy, uri = destination
    async with services.session() as session:
        await started(session, source, uri)
        await there(session)
        rolled = await back(session)
        assert rolled.state is OperationState.SUCCEEDED, rolled.failure
        proxy.refuse()
        view = await session.abort("m")
        assert view.phase is Phase.ABORTED
        assert view.left
        assert all("on the destination" in line for line in view.left)
        assert rows(source, SLOTS) == []
        assert writable(source)
        await proxy.accept_again()
        assert (await session.cleanup("m")).left == ()
    assert rows(dest_db, SLOTS) == []
    assert rows(dest_db, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []
    assert writable(dest_db)


async def test_finalize_while_the_new_primary_is_down_leaves_its_slot_to_cleanup(
    services: Services, source: str, dest_db: str, destination: tuple[Proxy, str]
) -> None:
    proxy, uri = destination
    async with services.session() as session:
        await started(session, source, uri)
        await there(session)
        proxy.refuse()
        view = await session.finalize("m")
        assert view.phase is Phase.SWITCHED_OVER
        assert any("pgmig__reverse_m" in line for line in view.left)
        await proxy.accept_again()
        assert (await session.finalize("m")).left == ()
        assert rows(dest_db, SLOTS) == []
        assert (await session.cleanup("m")).left == ()


async def test_coordinator_killed_after_it_has_recorded_the_end_leaves_the_rest_to_cleanup(
    services: Services, source: str, dest_db: str
) -> None:
    async def resumed(session: Session) -> None:
        await session.resume("m", source, dest_db)

    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        await equal_soon(source, dest_db)
    services.restart_with("switchover.finalized=kill")
    async with services.session() as session:
        await resumed(session)
        with suppress(PgmigError):
            await session.finalize("m")
        services.await_death("coordinator")
    services.start("coordinator")
    async with services.session() as session:
        await resumed(session)
        assert (await session.get("m")).phase is Phase.SWITCHED_OVER
        assert (await session.cleanup("m")).left == ()
    for uri in (source, dest_db):
        assert rows(uri, SLOTS) == []
    assert (writable(source), writable(dest_db)) == (False, True)


async def test_several_servers_are_named_for_both_sides(
    services: Services, source: str, dest_db: str
) -> None:
    """While a side is closed, its primary is looked for from another database of that side."""

    def several(uri: str) -> str:
        known = conninfo.conninfo_to_dict(uri)
        password = f":{known['password']}" if known.get("password") else ""
        place = f"{known['host']}:{known['port']}"
        return f"postgresql://{known['user']}{password}@{place},127.0.0.1:1/{known['dbname']}"

    async with services.session() as session:
        await started(session, several(source), several(dest_db))
        for _ in range(2):
            switched = await there(session)
            assert switched.state is OperationState.SUCCEEDED, switched.failure
            rolled = await back(session)
            assert rolled.state is OperationState.SUCCEEDED, rolled.failure
    assert differences(source, dest_db) == []
