"""The state bucket: compare and set, a store that vanishes, a second coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.shared.bus.connection import Client, bus
from services.shared.bus.store import StateStore, delete_stream
from services.shared.model import STATE_BUCKET, ErrorKind, PgmigError
from tests.lab.nats import NatsServer


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    async with bus(nats_server.url, "test") as client:
        yield client


async def test_saved_values_are_loaded_by_the_next_coordinator(client: Client) -> None:
    store = StateStore(client)
    assert await store.load() == {}
    await store.save("a", b"1")
    await store.save("b", b"2")
    await store.save("a", b"3")
    later = StateStore(client)
    assert await later.load() == {"a": b"3", "b": b"2"}
    await later.save("a", b"4")
    assert await StateStore(client).load() == {"a": b"4", "b": b"2"}


async def test_second_coordinator_fences_the_first(client: Client) -> None:
    first, second = StateStore(client), StateStore(client)
    await first.save("a", b"1")
    await second.load()
    await second.save("a", b"2")
    with pytest.raises(PgmigError) as caught:
        await first.save("a", b"3")
    assert caught.value.kind is ErrorKind.FENCED
    assert await StateStore(client).load() == {"a": b"2"}


async def test_write_whose_answer_was_lost_is_recognised(client: Client) -> None:
    store, twin = StateStore(client), StateStore(client)
    await store.save("a", b"1")
    await twin.load()
    await twin.save("a", b"2")  # as if ours had arrived and its answer had not
    store._attempted["a"] = b"2"
    await store.save("a", b"3")
    assert await StateStore(client).load() == {"a": b"3"}


async def test_deleted_bucket_is_made_again_by_the_next_write(client: Client) -> None:
    store = StateStore(client)
    await store.save("a", b"1")
    await store.save("b", b"1")
    assert await delete_stream(client, f"KV_{STATE_BUCKET}")
    await store.save("a", b"2")
    assert await StateStore(client).load() == {"a": b"2"}
    await store.save("b", b"2")
    assert await StateStore(client).load() == {"a": b"2", "b": b"2"}


async def test_wiped_server_is_written_again(client: Client, nats_server: NatsServer) -> None:
    store = StateStore(client)
    await store.save("a", b"1")
    nats_server.kill9()
    with pytest.raises(PgmigError) as caught:
        await store.save("a", b"2")
    assert caught.value.kind is ErrorKind.BROKER
    nats_server.restart(wipe_store=True)
    await store.save("a", b"3")
    assert await StateStore(client).load() == {"a": b"3"}


async def test_deleted_key_is_gone_and_can_be_written_again(client: Client) -> None:
    store = StateStore(client)
    await store.save("a", b"1")
    assert await store.delete("a")
    assert not await store.delete("a")
    assert await StateStore(client).load() == {}
    await store.save("a", b"2")
    assert await StateStore(client).load() == {"a": b"2"}


async def test_deleting_a_stream_that_is_not_there_is_no_error(client: Client) -> None:
    assert not await delete_stream(client, "PGMIG_CHANGES_none")
