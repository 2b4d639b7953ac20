"""Connections that break, and servers that restart, amid a clone: it goes on by itself, all rows equal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from services.shared.model import MigrationOptions, MigrationView, Phase, TableState
from tests.e2e.conftest import ROWS
from tests.support.copying.databases import execute
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.data.workload import Writer
from tests.support.migrations.live import FOLLOW, Live
from tests.support.migrations.stack import Stack
from tests.support.servers.installs import newest, oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy, proxied

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("lost_connections")]

MIGRATION = "lost"
SLOWLY = 60 << 10
"""Bytes a second: the seeded tables take long enough for something to happen amid them."""
COMES_BACK_S = 20.0
SEVERAL = 3
INTERRUPTED = {"source": "the snapshot was lost", "destination": "copier retries: copying "}
"""What the timeline says of a copy that lost the server amid its rows."""


@dataclass(frozen=True, slots=True)
class Servers:
    source: PostgresServer
    dest: PostgresServer

    def named(self, side: str) -> PostgresServer:
        return self.source if side == "source" else self.dest


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """To be restarted."""
    with PostgresServer(oldest(), fsync=False) as source, PostgresServer(newest(), fsync=False) as dest:
        yield Servers(source, dest)


@dataclass(frozen=True, slots=True)
class Databases:
    source: str
    dest: str


@pytest.fixture
def databases(servers: Servers) -> Iterator[Databases]:
    with servers.source.fresh_database("shop") as source, servers.dest.fresh_database("dest") as dest:
        seed(source, ROWS)
        yield Databases(source, dest)


@pytest.fixture
def writer(databases: Databases) -> Iterator[Writer]:
    with Writer(databases.source, connections=3, rate=75, reconnect_for=COMES_BACK_S) as writer:
        yield writer


@pytest.fixture
def stack(nats_server: NatsServer, tmp_path: Path) -> Iterator[Stack]:
    with Stack(nats_server, tmp_path, workers=("decoder", "applier", "copier-1")) as stack:
        yield stack


async def test_a_plain_clone_whose_servers_restart(
    servers: Servers, databases: Databases, stack: Stack
) -> None:
    """What has no changes to follow is of one moment all the same: the last snapshot's."""
    async with stack.session() as session:
        live = Live(session, MIGRATION, databases.source, databases.dest)
        await live.start(MigrationOptions(max_rate=SLOWLY))
        for side in ("destination", "source"):
            await live.until(amid_the_copy)
            servers.named(side).restart()
            if side == "source":
                execute(databases.source, "UPDATE shop.accounts SET tags = '{after the restart}'")
            await live.until_event(INTERRUPTED[side])
        await live.until_phase(Phase.COMPLETE)
        assert compare_databases(databases.source, databases.dest) == []


async def test_a_destination_restarted_while_indexes_are_built(
    servers: Servers, databases: Databases, stack: Stack, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, databases.source, databases.dest)
        await live.start(FOLLOW)
        await live.until_phase(Phase.COPY)
        with closing(psycopg.connect(databases.dest)) as blocker:
            blocker.execute("LOCK TABLE pgmig.step IN SHARE MODE")  # whoever has built something waits
            view = await live.until(lambda view: view.indexes.building != () and all_copied(view))
            assert "applier" not in {worker.role for worker in view.workers}, "keys are not there yet"
            servers.dest.restart()
        await live.until_event("building indexes is retried")
        await live.finish(writer)


def all_copied(view: MigrationView) -> bool:
    return all(table.state is TableState.COPIED for table in view.tables)


@pytest.mark.parametrize("wipe_store", [False, True], ids=["it keeps its store", "its store is lost"])
async def test_broker_restart_during_the_copy_loses_nothing(
    wipe_store: bool, databases: Databases, stack: Stack, nats_server: NatsServer, writer: Writer
) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, databases.source, databases.dest)
        await live.start(replace(FOLLOW, max_rate=SLOWLY))
        await live.until(amid_the_copy)
        nats_server.kill9()
        writer.wait_for_commits(20)
        nats_server.restart(wipe_store=wipe_store)
        await live.until_phase(Phase.STREAMING)
        await live.compare_in_step(writer)


def amid_the_copy(view: MigrationView) -> bool:
    states = {table.state for table in view.tables}
    return {TableState.COPIED, TableState.WAITING} <= states


@asynccontextmanager
async def proxied_uri(uri: str) -> AsyncIterator[tuple[str, Proxy]]:
    login, _, rest = uri.rpartition("@")
    address, _, database = rest.partition("/")
    async with proxied(address) as proxy:
        yield f"{login}@{proxy.address}/{database}", proxy


@pytest.mark.parametrize("side", ["source", "destination"])
async def test_connections_lost_repeatedly_during_the_copy_lose_nothing(
    side: str, databases: Databases, stack: Stack, writer: Writer
) -> None:
    async with (
        stack.session() as session,
        proxied_uri(databases.source) as (source, of_source),
        proxied_uri(databases.dest) as (dest, of_dest),
    ):
        proxy = of_source if side == "source" else of_dest
        await session.start(MIGRATION, source, dest, replace(FOLLOW, max_rate=SLOWLY))
        live = Live(session, MIGRATION, databases.source, databases.dest)
        for _ in range(SEVERAL):
            await live.until(amid_the_copy)
            proxy.cut()
            await asyncio.to_thread(writer.wait_for_commits, 20)
        await live.until_event(INTERRUPTED[side])
        await live.until_phase(Phase.STREAMING)
        proxy.cut()
        await asyncio.to_thread(writer.wait_for_commits, 20)
        await live.compare_in_step(writer)


@pytest.mark.parametrize(
    "restart", ["source fast", "source immediate", "destination fast", "destination immediate"]
)
async def test_server_restart_during_the_copy_loses_nothing(
    restart: str, servers: Servers, databases: Databases, stack: Stack, writer: Writer
) -> None:
    side, mode = restart.split()
    async with stack.session() as session:
        live = Live(session, MIGRATION, databases.source, databases.dest)
        await live.start(replace(FOLLOW, max_rate=SLOWLY))
        await live.until(amid_the_copy)
        servers.named(side).restart(mode)
        await live.until_event(INTERRUPTED[side])
        await live.until_phase(Phase.STREAMING)
        await live.compare_in_step(writer)
