"""The copy queue on a real nats-server: leases, redelivery, loss of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from nats.js import errors as js_errors

from services.shared.bus.connection import Client, bus
from services.shared.bus.queue import (
    CONSUMER,
    Lease,
    PartQueue,
    delete_queue,
    ensure_queue,
    publish_parts,
    purge,
    queued,
)
from services.shared.model import CopyPart, ErrorKind, Lsn, MigrationId, PgmigError, TableId
from tests.support.servers.nats import NatsServer

PIPELINE = MigrationId("m1").forward
SOON_S = 30.0
NOW_S = 0.2


def make_part(name: str) -> CopyPart:
    return CopyPart(name, TableId("public", name), ("a",), "00000003-00000002-1", Lsn(77), True)


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    async with bus(nats_server.url, "test") as connected:
        await ensure_queue(connected, PIPELINE)
        yield connected


async def take(queue: PartQueue) -> Lease:
    lease = await queue.next(SOON_S)
    assert lease is not None
    return lease


async def test_parts_come_in_order_each_to_one_taker(client: Client) -> None:
    first, second = PartQueue(client, PIPELINE), PartQueue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("a"), make_part("b")])
    leases = [await take(first), await take(second)]
    assert [lease.part for lease in leases] == [make_part("a"), make_part("b")]
    assert await first.next(NOW_S) is None
    for lease in leases:
        await lease.done()
    assert await queued(client, PIPELINE) == 0


async def test_a_waiting_taker_gets_a_part_when_it_is_published(client: Client) -> None:
    queue = PartQueue(client, PIPELINE)
    waiting = asyncio.create_task(take(queue))
    await asyncio.sleep(0)
    await publish_parts(client, PIPELINE, [make_part("a")])
    assert (await waiting).part == make_part("a")


async def test_more_parts_than_one_round_of_publishing(client: Client) -> None:
    parts = [make_part(f"t{number}") for number in range(200)]
    await publish_parts(client, PIPELINE, parts)
    queue = PartQueue(client, PIPELINE)
    taken = [(await take(queue)).part.part_id for _ in parts]
    assert taken == [part.part_id for part in parts]


async def test_a_part_published_again_after_a_purge_is_delivered(client: Client) -> None:
    queue = PartQueue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("a")])
    await purge(client, PIPELINE)
    assert await queue.next(NOW_S) is None
    await publish_parts(client, PIPELINE, [make_part("a")])
    assert (await take(queue)).part == make_part("a")


async def test_an_abandoned_lease_passes_to_another(client: Client) -> None:
    first, second = (PartQueue(client, PIPELINE, ack_wait_s=0.5) for _ in range(2))
    await publish_parts(client, PIPELINE, [make_part("a")])
    await take(first)
    assert (await take(second)).part == make_part("a")


async def test_a_lease_in_progress_stays(client: Client) -> None:
    first, second = (PartQueue(client, PIPELINE, ack_wait_s=0.5) for _ in range(2))
    await publish_parts(client, PIPELINE, [make_part("a")])
    lease = await take(first)
    for _ in range(10):
        await lease.in_progress()
        assert await second.next(0.1) is None
    await lease.done()


async def test_a_part_given_back_comes_again_at_once(client: Client) -> None:
    queue = PartQueue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("a")])
    await (await take(queue)).retry()
    assert (await take(queue)).part == make_part("a")


async def test_a_part_given_back_with_a_delay_comes_after_it(client: Client) -> None:
    queue = PartQueue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("a"), make_part("b")])
    await (await take(queue)).retry(0.5)
    assert (await take(queue)).part == make_part("b")
    assert (await take(queue)).part == make_part("a")


async def test_a_dropped_part_never_comes_again(client: Client) -> None:
    queue = PartQueue(client, PIPELINE, ack_wait_s=0.5)
    await publish_parts(client, PIPELINE, [make_part("a")])
    await (await take(queue)).drop()
    assert await queue.next(1.0) is None
    assert await queued(client, PIPELINE) == 0


async def test_closing_gives_back_what_was_not_handed_out(client: Client) -> None:
    first, second = PartQueue(client, PIPELINE), PartQueue(client, PIPELINE)
    waiting = asyncio.create_task(first.next(SOON_S))
    await consumer_shows(client, "num_waiting")
    waiting.cancel()
    await asyncio.wait({waiting})
    await publish_parts(client, PIPELINE, [make_part("a")])
    await consumer_shows(client, "num_ack_pending")
    await first.close()
    assert (await take(second)).part == make_part("a")


async def consumer_shows(client: Client, number: str) -> None:
    """Wait until a number of the consumer is not 0; it has no event to wait for."""
    async with asyncio.timeout(SOON_S):
        while True:
            with suppress(js_errors.NotFoundError):
                info = await client.jetstream().consumer_info(PIPELINE.copy_stream, CONSUMER)
                if getattr(info, number):
                    return


async def test_a_message_that_is_no_part_is_corrupt_and_leaves_the_queue(client: Client) -> None:
    queue = PartQueue(client, PIPELINE)
    await client.jetstream().publish(PIPELINE.copy_subject, b"\xff\xff nonsense")
    with pytest.raises(PgmigError) as caught:
        await queue.next(SOON_S)
    assert caught.value.kind is ErrorKind.CORRUPT
    assert await queue.next(NOW_S) is None
    assert await queued(client, PIPELINE) == 0


async def test_a_missing_queue_is_a_broker_error_until_it_is_there(nats_server: NatsServer) -> None:
    async with bus(nats_server.url, "test") as client:
        queue = PartQueue(client, PIPELINE)
        with pytest.raises(PgmigError) as caught:
            await queue.next(NOW_S)
        assert caught.value.kind is ErrorKind.BROKER
        assert await queued(client, PIPELINE) is None
        with pytest.raises(PgmigError) as caught:
            await publish_parts(client, PIPELINE, [make_part("a")])
        assert caught.value.kind is ErrorKind.BROKER
        await ensure_queue(client, PIPELINE)
        await publish_parts(client, PIPELINE, [make_part("a")])
        assert (await take(queue)).part == make_part("a")


async def test_purging_and_deleting_what_is_missing_is_fine(client: Client) -> None:
    await delete_queue(client, PIPELINE)
    await delete_queue(client, PIPELINE)
    await purge(client, PIPELINE)


async def test_the_queue_may_be_ensured_again_with_other_settings(client: Client) -> None:
    await client.jetstream().update_stream(
        name=PIPELINE.copy_stream, subjects=[PIPELINE.copy_subject], retention="workqueue", max_msgs=9
    )
    await ensure_queue(client, PIPELINE)


async def restarted(server: NatsServer, *, wipe_store: bool = False) -> None:
    await asyncio.to_thread(server.restart, wipe_store=wipe_store)


async def test_parts_and_leases_survive_a_restart_of_the_server(
    client: Client, nats_server: NatsServer
) -> None:
    queue = PartQueue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("a"), make_part("b")])
    lease = await take(queue)
    await restarted(nats_server)
    assert (await until_taken(queue)).part == make_part("b")
    await lease.done()
    assert await queued(client, PIPELINE) == 1


async def test_after_loss_of_the_store_the_queue_is_made_and_filled_again(
    client: Client, nats_server: NatsServer
) -> None:
    queue = PartQueue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("a")])
    lease = await take(queue)
    await restarted(nats_server, wipe_store=True)
    with pytest.raises(PgmigError) as caught:
        async with asyncio.timeout(30):
            while await queue.next(NOW_S) is None:
                pass
    assert caught.value.kind is ErrorKind.BROKER
    with pytest.raises(PgmigError) as caught:
        await lease.done()
    assert caught.value.kind is ErrorKind.BROKER
    await ensure_queue(client, PIPELINE)
    await publish_parts(client, PIPELINE, [make_part("b")])
    assert (await until_taken(queue)).part == make_part("b")


async def until_taken(queue: PartQueue) -> Lease:
    """Like a copier: broker errors and empty answers are met with another request."""
    async with asyncio.timeout(30):
        while True:
            try:
                lease = await queue.next(1.0)
            except PgmigError as exc:
                assert exc.kind is ErrorKind.BROKER
                await asyncio.sleep(0.05)
                continue
            if lease is not None:
                return lease
