"""kill -9 of whatever runs, while changes stream: nothing is lost, nothing is applied twice.

One migration serves all tests of this module, each with an application of its own, so that each
finds what the one before has left. The first failure is the one to look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.shared.model import Phase
from tests.support.migrations.live import Live, application
from tests.support.migrations.stack import Stack
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.xdist_group("kill_in_streaming")

MIGRATION = "kills"
WORKERS = ("decoder", "applier", "copier-1")
COMMITS = 40


@dataclass(frozen=True, slots=True)
class Streaming:
    """Databases, broker and services of a migration in phase streaming."""

    source: str
    dest: str
    nats: NatsServer
    stack: Stack


@pytest.fixture(scope="module")
def streaming(
    source_server: PostgresServer,
    dest_server: PostgresServer,
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Streaming]:
    with ExitStack() as resources:
        source = resources.enter_context(source_server.fresh_database("shop", template))
        dest = resources.enter_context(dest_server.fresh_database("dest"))
        nats = resources.enter_context(NatsServer())
        folder: Path = tmp_path_factory.mktemp("kills")
        uris = {"PGMIG_SOURCE_URI": source, "PGMIG_DEST_URI": dest}
        stack = resources.enter_context(Stack(nats, folder, workers=WORKERS, settings=uris))
        asyncio.run(_begin(stack, source, dest))
        yield Streaming(source, dest, nats, stack)


async def _begin(stack: Stack, source: str, dest: str) -> None:
    async with stack.session() as session:
        live = Live(session, MIGRATION, source, dest)
        await live.start()
        await live.until_phase(Phase.STREAMING)


@pytest.fixture
async def live(streaming: Streaming) -> AsyncIterator[Live]:
    async with streaming.stack.session() as session:
        yield Live(session, MIGRATION, streaming.source, streaming.dest)


@pytest.mark.parametrize("name", ["decoder", "applier", "coordinator"])
async def test_killed_service(name: str, streaming: Streaming, live: Live) -> None:
    with application(live.source) as writer:
        for _ in range(2):
            writer.wait_for_commits(COMMITS)
            streaming.stack.kill9(name)
            writer.wait_for_commits(COMMITS)
            streaming.stack.start(name)
        writer.wait_for_commits(COMMITS)
        await live.compare_in_step(writer)


async def test_everything_killed_at_once(streaming: Streaming, live: Live) -> None:
    everything = ("coordinator", "decoder", "applier")
    with application(live.source) as writer:
        writer.wait_for_commits(COMMITS)
        streaming.stack.kill9(*everything)
        streaming.nats.kill9()
        writer.wait_for_commits(COMMITS)
        streaming.nats.start()
        streaming.stack.start(*everything)
        writer.wait_for_commits(COMMITS)
        await live.compare_in_step(writer)


async def test_killed_broker_with_its_store_kept_loses_nothing(streaming: Streaming, live: Live) -> None:
    with application(live.source) as writer:
        writer.wait_for_commits(COMMITS)
        streaming.nats.kill9()
        writer.wait_for_commits(COMMITS)
        streaming.nats.start()
        writer.wait_for_commits(COMMITS)
        await live.compare_in_step(writer)


async def test_killed_broker_with_its_store_lost_loses_nothing(streaming: Streaming, live: Live) -> None:
    with application(live.source) as writer:
        writer.wait_for_commits(COMMITS)
        streaming.nats.kill9()
        writer.wait_for_commits(COMMITS)
        streaming.nats.restart(wipe_store=True)
        writer.wait_for_commits(COMMITS)
        await live.compare_in_step(writer)


async def test_killed_coordinator_and_store_gone_state_comes_from_file(
    streaming: Streaming, live: Live
) -> None:
    before = await live.until_phase(Phase.STREAMING)
    with application(live.source) as writer:
        streaming.stack.kill9("coordinator")
        streaming.nats.kill9()
        writer.wait_for_commits(COMMITS)
        streaming.nats.restart(wipe_store=True)
        streaming.stack.start("coordinator")
        writer.wait_for_commits(COMMITS)
        after = await live.until_phase(Phase.STREAMING)
        assert after.tables == before.tables
        assert after.created_at == before.created_at
        await live.compare_in_step(writer)


async def test_after_all_that_it_switches_over(streaming: Streaming, live: Live) -> None:
    with application(live.source) as writer:
        await live.finish(writer)
