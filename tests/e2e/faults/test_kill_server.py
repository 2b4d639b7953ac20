"""kill -9 of a PostgreSQL server while changes stream; what it had not flushed yet is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.shared.model import Phase
from tests.e2e.conftest import ROWS
from tests.support.data.schema import seed
from tests.support.data.workload import Writer
from tests.support.migrations.live import Live
from tests.support.migrations.stack import Stack
from tests.support.servers.installs import newest, oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

COMMITS = 40
COMES_BACK_S = 20.0


@pytest.fixture
def source() -> Iterator[PostgresServer]:
    with PostgresServer(oldest(), fsync=False) as server:
        yield server


@pytest.fixture
def dest() -> Iterator[PostgresServer]:
    """The WAL writer hardly ever comes by, so that a crash loses a lot."""
    with PostgresServer(newest(), fsync=False, settings={"wal_writer_delay": "2s"}) as server:
        yield server


async def test_killed_destination_and_killed_source(
    source: PostgresServer, dest: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    shop, target = source.create_database("shop"), dest.create_database("shop")
    seed(shop, ROWS)
    with (
        Stack(nats_server, tmp_path) as stack,
        Writer(shop, connections=3, rate=75, reconnect_for=COMES_BACK_S) as writer,
    ):
        async with stack.session() as session:
            live = Live(session, "crashes", shop, target)
            await live.start()
            await live.until_phase(Phase.STREAMING)
            for _ in range(2):
                writer.wait_for_commits(COMMITS)
                dest.kill9()
                writer.wait_for_commits(COMMITS)
                dest.start()
                writer.wait_for_commits(COMMITS)
                source.kill9()
                source.start()
            writer.wait_for_commits(COMMITS)
            await live.compare_in_step(writer)
