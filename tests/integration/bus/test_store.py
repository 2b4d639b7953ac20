"""The state bucket: compare and set, a store that vanishes, a second coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.shared.bus.connection import Client, bus
from services.shared.bus.store import LONGEST, StateStore, delete_stream
from services.shared.model import STATE_BUCKET, ErrorKind, PgmigError
from tests.support.servers.nats import NatsServer


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


async def test_nothing_is_overlooked_by_a_coordinator_that_starts_again_and_again(client: Client) -> None:
    """nats-py's own list of keys was empty about once in a thousand times on a busy machine."""
    await StateStore(client).save("a", b"1")
    for _ in range(500):
        assert await StateStore(client).load() == {"a": b"1"}
    assert await client.jetstream().consumers_info(f"KV_{STATE_BUCKET}") == []


async def test_second_coordinator_fences_the_first(client: Client) -> None:
    first, second = StateStore(client), StateStore(client)
    await first.save("a", b"1")
    await second.load()
    await second.save("a", b"2")
    for value in (b"3", b"4", b"3"):  # to be refused must not teach it the revision that it lacks
        with pytest.raises(PgmigError) as caught:
            await first.save("a", value)
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


async def test_a_key_that_another_coordinator_has_deleted_stays_deleted(client: Client) -> None:
    first, second = StateStore(client), StateStore(client)
    await first.save("a", b"1")
    await second.load()
    assert await second.delete("a")
    for value in (b"2", b"1", b"2"):
        with pytest.raises(PgmigError) as caught:
            await first.save("a", value)
        assert caught.value.kind is ErrorKind.FENCED
    assert await StateStore(client).load() == {}


async def test_a_bucket_that_another_coordinator_has_made_again_is_written_to(client: Client) -> None:
    first, second = StateStore(client), StateStore(client)
    await first.save("a", b"1")
    await first.save("b", b"1")
    assert await delete_stream(client, f"KV_{STATE_BUCKET}")
    await second.save("c", b"1")
    await first.save("a", b"2")
    await first.save("b", b"2")
    assert await StateStore(client).load() == {"a": b"2", "b": b"2", "c": b"1"}


async def test_deleting_a_stream_that_is_not_there_is_no_error(client: Client) -> None:
    assert not await delete_stream(client, "PGMIG_CHANGES_none")


def large(seed: bytes, size: int = 3 * LONGEST + 7) -> bytes:
    return (seed * (size // len(seed) + 1))[:size]


async def keys(client: Client) -> list[str]:
    bucket = await client.jetstream().key_value(STATE_BUCKET)
    return sorted(await bucket.keys())


async def test_a_value_larger_than_a_message_is_stored_in_fragments(client: Client) -> None:
    store = StateStore(client)
    for value in (large(b"first"), large(b"second"), large(b"second"), b"small", large(b"last")):
        await store.save("a", value)
        later = StateStore(client)
        assert await later.load() == {"a": value}
        pieces = len(await keys(client)) - 1
        assert pieces == (0 if value == b"small" else 4)
    await later.save("a", large(b"by another"))
    assert len(await keys(client)) == 5
    assert await later.delete("a")
    assert await StateStore(client).load() == {}


async def test_a_value_is_no_larger_than_the_brokers_default_takes() -> None:
    value = bytes(range(256)) * 12_000
    with NatsServer(max_payload=1024 * 1024) as server:
        async with bus(server.url, "test") as client:
            await StateStore(client).save("a", value)
            assert await StateStore(client).load() == {"a": value}


async def test_a_fenced_coordinator_deletes_no_fragment_of_the_other(client: Client) -> None:
    first, second = StateStore(client), StateStore(client)
    await first.save("a", large(b"1"))
    await second.load()
    await second.save("a", large(b"2"))
    with pytest.raises(PgmigError) as caught:
        await first.save("a", large(b"3"))
    assert caught.value.kind is ErrorKind.FENCED
    assert await StateStore(client).load() == {"a": large(b"2")}


async def test_a_value_whose_fragments_are_lost_is_empty(client: Client) -> None:
    store = StateStore(client)
    await store.save("a", large(b"1"))
    await store.save("b", b"2")
    await client.jetstream().purge_stream(f"KV_{STATE_BUCKET}", subject=f"$KV.{STATE_BUCKET}.a.>")
    assert await StateStore(client).load() == {"a": b"", "b": b"2"}
