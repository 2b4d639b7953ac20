"""A deletion from the state bucket whose answers are lost, and which is repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from services.shared.bus.connection import Client, bus
from services.shared.bus.store import StateStore
from services.shared.model import ErrorKind, PgmigError
from tests.support.servers.nats import NatsServer


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    async with bus(nats_server.url, "test") as client:
        yield client


async def forget(store: StateStore) -> bool:
    """As the journal does."""
    await store.save("a", b"")
    return await store.delete("a", b"mark")


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("purge", ["a", "a.>"])
async def test_deletion_can_be_repeated_after_a_purge_without_an_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch, lost: str, purge: str
) -> None:
    """The cleanup is repeated from its beginning, which writes the record once more."""
    store = StateStore(client)
    await store.save("a", b"1")
    really = store._purge

    async def purged(keys: str) -> None:
        if keys != purge or lost == "answer":
            await really(keys)
        if keys == purge:
            raise TimeoutError

    with monkeypatch.context() as failing:
        failing.setattr(store, "_purge", purged)
        with pytest.raises(PgmigError) as caught:
            await forget(store)
    assert caught.value.kind is ErrorKind.BROKER
    await store.save("a", b"1")
    assert await forget(store)
    assert await StateStore(client).load() == {}
    assert await store.removed() == {"a": b"mark"}


async def test_deletion_that_another_coordinator_completes_is_final(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has deleted the key since: what was begun here does not write it again."""
    first, second = StateStore(client), StateStore(client)
    await first.save("a", b"1")

    async def unanswered(_keys: str) -> None:
        raise TimeoutError

    with monkeypatch.context() as failing:
        failing.setattr(first, "_purge", unanswered)
        with pytest.raises(PgmigError):
            await forget(first)
    await first.save("a", b"1")
    await second.load()
    assert await forget(second)
    with pytest.raises(PgmigError) as caught:
        await first.save("a", b"2")
    assert caught.value.kind is ErrorKind.FENCED
