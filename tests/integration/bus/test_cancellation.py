"""A task that talks to NATS ends when it is cancelled, whenever that is."""

from __future__ import annotations

import asyncio

import pytest

from services.shared.bus.connection import Client, bus, translated
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(60)


async def test_a_cancellation_that_meets_the_answer_is_not_lost(nats_server: NatsServer) -> None:
    async with bus(nats_server.url, "test") as client:
        task = asyncio.create_task(asks_for_ever(client))
        cancelled = cancels_as_the_answer_arrives(client, task)
        await cancelled
        async with asyncio.timeout(30):
            await asyncio.wait({task})
        assert task.cancelled()


async def asks_for_ever(client: Client) -> None:
    while True:
        with translated("asking"):
            await client.request("$JS.API.INFO", b"")


def cancels_as_the_answer_arrives(client: Client, task: asyncio.Task[None]) -> asyncio.Future[None]:
    """Cancel `task` between the arrival of its answer and its waking up. The result: it was done."""
    done = asyncio.get_running_loop().create_future()

    def look() -> None:
        waiting = list(client._resp_map.values())
        if not waiting:
            asyncio.get_running_loop().call_soon(look)
            return
        waiting[0].add_done_callback(cancel)

    def cancel(_answer: object) -> None:
        task.cancel()
        done.set_result(None)

    look()
    return done
