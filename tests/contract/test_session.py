"""The session over a real gRPC server: what it passes on, and how `follow` outlives a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from clients.session import Connection, Session, reconnect_delay
from services.shared.model import ErrorKind, MigrationOptions, MigrationView, PgmigError, Phase
from services.shared.rpc.server import ControlServer
from tests.fakes.control import RESULT, STEPS, NoWorkers, StandInControl
from tests.support.servers.process import free_port
from tests.support.servers.proxy import proxied


@asynccontextmanager
async def served(control: StandInControl, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    server = ControlServer(listen, control, NoWorkers())
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def test_calls_carry_arguments_and_frozen_views() -> None:
    control = StandInControl()
    async with served(control) as address, Session(address) as session:
        options = MigrationOptions(follow=True, copy_workers=3, index_workers=4, maintenance_work_mem_kb=5)
        started = await session.start("m", "postgresql://a", "postgresql://b", options)
        assert started.phase is Phase.CREATED
        assert await session.get("m") == started
        assert await session.list_all() == (started,)
        assert (await session.pause("m")).phase is Phase.PAUSED
        assert (await session.resume("m", "postgresql://a", None)).phase is Phase.CREATED
        steps = [step async for step in session.switchover("m", 2.5)]
        assert [step.name for step in steps] == list(STEPS)
        assert steps[-1].result == RESULT
        assert (await session.abort("m")).phase is Phase.ABORTED
        assert "replication slot pgmig_m" in (await session.cleanup("m")).removed
    assert ("start", "m", "postgresql://a", "postgresql://b", options) in control.calls
    assert ("resume", "m", "postgresql://a", None) in control.calls
    assert ("switchover", "m", 2.5) in control.calls


async def test_coordinator_is_reached_over_a_slow_network() -> None:
    """A connection takes several round trips, here of 0.6 s each."""
    control = StandInControl()
    control.put(MigrationView("m", Phase.COMPLETE))
    async with served(control) as address, proxied(address, 0.3) as proxy, Session(proxy.address) as session:
        assert (await session.get("m")).phase is Phase.COMPLETE


async def test_watch_ends_when_the_migration_is_cleaned_up() -> None:
    control = StandInControl()
    control.put(MigrationView("m", Phase.COMPLETE))
    async with served(control) as address, Session(address) as session, aclosing(session.watch("m")) as views:
        assert (await anext(views)).phase is Phase.COMPLETE
        control.remove("m")
        with pytest.raises(StopAsyncIteration):
            await anext(views)


async def test_watch_raises_when_the_coordinator_goes() -> None:
    control = StandInControl()
    control.put(MigrationView("m", Phase.STREAMING))
    async with served(control) as address:
        session = Session(address)
        views = session.watch("m")
        await anext(views)
    with pytest.raises(PgmigError) as caught:
        await anext(views)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    await session.close()


async def test_follow_reports_a_lost_connection_and_continues_after_it() -> None:
    control = StandInControl()
    control.put(MigrationView("m", Phase.COPY))
    address = f"127.0.0.1:{free_port()}"
    told: asyncio.Queue[Connection] = asyncio.Queue()
    async with Session(address) as session:
        async with served(control, address):
            views = session.follow("m", told.put_nowait)
            assert (await anext(views)).phase is Phase.COPY
        following = asyncio.create_task(anext(views))
        lost = await told.get()
        assert lost.lost
        assert lost.error is not None
        assert lost.error.kind is ErrorKind.UNREACHABLE
        control.move("m", Phase.INDEXES)
        async with served(control, address):
            assert (await following).phase is Phase.INDEXES
            assert not (await told.get()).lost
            await views.aclose()


async def test_follow_raises_at_once_when_no_coordinator_was_ever_there() -> None:
    async with Session(f"127.0.0.1:{free_port()}") as session:
        with pytest.raises(PgmigError) as caught:
            await anext(session.follow("m"))
    assert caught.value.kind is ErrorKind.UNREACHABLE


async def test_follow_raises_permanent_errors() -> None:
    async with served(StandInControl()) as address, Session(address) as session:
        with pytest.raises(PgmigError) as caught:
            await anext(session.follow("unknown"))
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_reconnect_delay_grows_to_its_bound() -> None:
    delays = [reconnect_delay(failures) for failures in range(1, 100)]
    assert delays == sorted(delays)
    assert delays[0] == 0.2
    assert delays[-1] == 5.0
