"""A change stream carries the changes of one timeline of the publisher, and none of a former one."""

from __future__ import annotations

import asyncio

import pytest

from services.shared.bus.change_reader import ChangeReader
from services.shared.bus.change_writer import ChangeWriter
from services.shared.bus.connection import Client, bus
from services.shared.bus.store import delete_stream
from services.shared.model import ErrorKind, MigrationId, PgmigError
from tests.support.servers.nats import NatsServer

PIPELINE = MigrationId("turn").forward

pytestmark = pytest.mark.timeout(60)


async def opened(client: Client, timeline: int) -> ChangeWriter:
    writer = ChangeWriter(client, PIPELINE, max_bytes=1 << 20)
    await writer.open(timeline)
    return writer


async def stored(client: Client, timeline: int, count: int) -> list[bytes]:
    reader = ChangeReader(client, PIPELINE, timeline)
    found: list[bytes] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            message = await reader.next()
            if message is not None:
                found.append(message.data)
    await reader.close()
    return found


async def test_a_writer_of_a_former_timeline_can_neither_publish_nor_open_the_stream(
    nats_server: NatsServer,
) -> None:
    async with bus(nats_server.url, "test") as client:
        former = await opened(client, 1)
        await delete_stream(client, PIPELINE.change_stream)
        writer = await opened(client, 2)
        await former.publish(b"former", {})  # the stream is empty, as when the former writer opened it
        with pytest.raises(PgmigError):
            await former.check()
        await writer.publish(b"one", {})
        await writer.check()
        with pytest.raises(PgmigError) as caught:
            await former.open(1)
        assert caught.value.kind is ErrorKind.PROMOTED
        assert "timeline 2" in caught.value.message
        assert await stored(client, 2, 1) == [b"one"]
        await former.close()
        await writer.close()


async def test_a_stream_of_a_former_timeline_is_not_read_and_is_replaced(nats_server: NatsServer) -> None:
    async with bus(nats_server.url, "test") as client:
        former = await opened(client, 9)
        await former.publish(b"former", {})
        await former.check()
        with pytest.raises(PgmigError) as caught:
            await stored(client, 10, 1)
        assert caught.value.kind is ErrorKind.BROKER
        writer = await opened(client, 10)
        await writer.publish(b"one", {})
        await writer.check()
        assert await stored(client, 10, 1) == [b"one"]
        await former.close()
        await writer.close()
