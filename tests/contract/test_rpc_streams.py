"""Streams of the control API: views and switchover steps, the client that leaves, the server that stops."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from services.shared.model import ErrorKind, PgmigError, TableId, TableProgress, TableState
from services.shared.rpc.control_client import ControlClient
from tests.fakes.control_service import OPERATION, SUCCEEDED, VIEW, FakeControl, serving


async def test_watch_yields_each_view_and_ends_with_the_handler() -> None:
    control = FakeControl()
    later = replace(VIEW, revision=8)
    async with serving(control) as (_server, client):
        control.views.put_nowait(later)
        control.views.put_nowait(None)
        assert [view async for view in client.watch("m1")] == [VIEW, later]


async def test_a_watcher_that_leaves_closes_the_handlers_iterator() -> None:
    control = FakeControl()
    async with serving(control) as (_server, client):
        async with aclosing(client.watch("m1")) as views:
            assert await anext(views) == VIEW
        async with asyncio.timeout(30):
            await control.watch_closed.wait()


async def test_a_cancelled_watcher_closes_the_handlers_iterator() -> None:
    control = FakeControl()
    seen = asyncio.Event()

    async def watch(client: ControlClient) -> None:
        async for _view in client.watch("m1"):
            seen.set()

    async with serving(control) as (_server, client), asyncio.timeout(30):
        task = asyncio.create_task(watch(client))
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await control.watch_closed.wait()


async def test_leaving_an_operation_closes_only_the_watch() -> None:
    control = FakeControl()
    async with serving(control) as (_server, client), asyncio.timeout(30):
        async with aclosing(client.watch_operation("8f3a")) as states:
            assert await anext(states) == OPERATION
        await control.steps_closed.wait()
        assert await client.get("m1") == VIEW


async def test_stopping_the_server_ends_a_watch_as_unreachable_without_waiting_for_the_grace() -> None:
    control = FakeControl()
    async with serving(control) as (server, client), asyncio.timeout(30):
        views = client.watch("m1")
        await anext(views)
        stopping = asyncio.create_task(server.stop(60))
        with pytest.raises(PgmigError, match="shutting down") as caught:
            await anext(views)
        await stopping
        await server.wait()
    assert caught.value.kind is ErrorKind.UNREACHABLE


@pytest.mark.parametrize("ended", [True, False])
async def test_stopping_the_server_sends_the_end_of_an_operation_that_has_ended(ended: bool) -> None:
    """Its end may come in the same moment; a client that missed it would wait for a coordinator in vain."""
    control = FakeControl(now=SUCCEEDED if ended else OPERATION)
    async with serving(control) as (server, client), asyncio.timeout(30):
        states = client.watch_operation("8f3a")
        assert await anext(states) == OPERATION
        stopping = asyncio.create_task(server.stop(60))
        if ended:
            assert [one async for one in states] == [SUCCEEDED]
        else:
            with pytest.raises(PgmigError, match="shutting down"):
                await anext(states)
        await stopping


async def test_a_view_of_ten_thousand_tables_fits() -> None:
    control = FakeControl()
    tables = tuple(TableProgress(TableId("s" * 60, f"t{n:060}"), TableState.COPIED) for n in range(10_000))
    async with serving(control) as (_server, client):
        control.views.put_nowait(replace(VIEW, tables=tables * 4))
        control.views.put_nowait(None)
        assert len([view async for view in client.watch("m1")][1].tables) == 40_000
