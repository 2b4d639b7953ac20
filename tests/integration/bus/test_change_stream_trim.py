"""Trimming a change stream removes what was applied, and never a message of a stream created again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from shutil import copytree, rmtree

import nats.errors
import pytest

from services.shared.bus.change_reader import ChangeReader
from services.shared.bus.change_writer import ChangeWriter
from services.shared.bus.connection import Client, bus
from services.shared.model import MigrationId, PgmigError
from services.shared.runtime.retry import retrying
from tests.support.servers.nats import NatsServer

PIPELINE = MigrationId("trim").forward

pytestmark = pytest.mark.timeout(60)


async def write(client: Client, *messages: bytes) -> None:
    writer = ChangeWriter(client, PIPELINE, max_bytes=1 << 20)
    await writer.open(1)
    for message in messages:
        await writer.publish(message, {})
    await writer.check()
    await writer.close()


async def read(reader: ChangeReader, count: int) -> list[tuple[int, bytes]]:
    """(sequence, data) of that many messages, whatever streams they are of."""
    found: list[tuple[int, bytes]] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            message = await reader.next()
            if message is not None:
                found.append((message.sequence, message.data))
    return found


async def test_messages_before_the_sequence_are_removed(nats_server: NatsServer) -> None:
    async with bus(nats_server.url, "test") as client:
        await write(client, b"one", b"two", b"three")
        reader = ChangeReader(client, PIPELINE, 1)
        sequences = [sequence for sequence, _ in await read(reader, 3)]
        await reader.trim(sequences[1])
        await reader.close()
        again = ChangeReader(client, PIPELINE, 1)
        assert [data for _, data in await read(again, 2)] == [b"two", b"three"]
        await again.close()


async def test_a_recreated_stream_is_not_purged_by_sequences_of_the_old_one(nats_server: NatsServer) -> None:
    async with bus(nats_server.url, "test") as client:
        await write(client, b"old 1", b"old 2", b"old 3")
        reader = ChangeReader(client, PIPELINE, 1)
        old = await read(reader, 3)
        await client.jetstream().delete_stream(PIPELINE.change_stream)
        await write(client, b"new 1", b"new 2", b"new 3")
        await reader.trim(old[-1][0])  # before the reader knows
        first = await read(reader, 1)
        await reader.trim(old[-1][0])  # and after
        assert [data for _, data in first + await read(reader, 2)] == [b"new 1", b"new 2", b"new 3"]
        assert first[0][0] > old[-1][0]
        await reader.trim(first[0][0] + 1)
        await reader.close()
        again = ChangeReader(client, PIPELINE, 1)
        assert [data for _, data in await read(again, 2)] == [b"new 2", b"new 3"]
        await again.close()


async def test_a_restored_store_is_read_from_its_beginning(nats_server: NatsServer, tmp_path: Path) -> None:
    """Also when a writer has filled it again, with other messages, beyond what was read."""

    async def write_alone(*messages: bytes) -> None:
        async with bus(nats_server.url, "writer") as client:
            await write(client, *messages)

    await write_alone(b"1", b"2")
    nats_server.stop()
    copytree(nats_server.store_dir, tmp_path / "store")
    nats_server.start()
    await write_alone(b"3", b"4")
    async with bus(nats_server.url, "reader") as client:
        reader = ChangeReader(client, PIPELINE, 1)
        old = await read(reader, 4)
        await asyncio.to_thread(nats_server.stop)
        rmtree(nats_server.store_dir)
        copytree(tmp_path / "store", nats_server.store_dir)
        await asyncio.to_thread(nats_server.start)
        await write_alone(b"2b", b"3", b"4b", b"5")
        await reader.trim(old[-1][0])  # before the reader knows: it must not lose what nobody has read
        assert await retrying("reading", reader.next) is None
        again = await read(reader, 6)
        assert [data for _, data in again] == [b"1", b"2", b"2b", b"3", b"4b", b"5"]
        assert again[0][0] > old[-1][0]
        await reader.close()


async def test_a_recreated_stream_is_reported_although_the_first_check_fails(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus(nats_server.url, "test") as client:
        await write(client, b"old")
        reader = ChangeReader(client, PIPELINE, 1)
        await read(reader, 1)
        await client.jetstream().delete_stream(PIPELINE.change_stream)
        await write(client, b"new")
        with monkeypatch.context() as patch:
            patch.setattr(reader._js, "add_consumer", refused)
            async with asyncio.timeout(30):
                with pytest.raises(PgmigError):
                    await reader.next()
        assert await reader.next() is None
        assert [data for _, data in await read(reader, 1)] == [b"new"]
        await reader.close()


async def refused(*_args: object) -> None:
    raise nats.errors.TimeoutError
