"""The copy queue: table parts, each taken by one of any number of copiers.

Theory of operation. A JetStream stream with work-queue retention per migration, and one
durable pull consumer that all its copiers share. A part is leased: it goes to another copier
when its own neither finishes nor says within ACK_WAIT_S that it goes on. The queue hands out
work and proves nothing: a part may be delivered twice, and the ledger on the destination
says whether it is still to be copied. So losing the whole queue costs one publishing run.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js import errors as js_errors

from services.shared.bus.connection import translated
from services.shared.model import CopyPart, MigrationId, PgmigError
from services.shared.wire.parts import decode_part, encode_part

ACK_WAIT_S = 30.0
ACK_TIMEOUT_S = 5.0
CONSUMER = "copiers"

_PUBLISH_TOGETHER = 64
_PUBLISH_ATTEMPTS = 3
_ERR_OTHER_CONFIGURATION = 10058  # the stream exists, with other settings
_NO_LIMIT = -1
_ANSWER_GRACE_S = 2.0
_NOTHING_CAME = {api.StatusCode.NO_MESSAGES.value, api.StatusCode.REQUEST_TIMEOUT.value}


async def ensure_queue(client: Client, migration: MigrationId, *, replicas: int = 1) -> None:
    """Create the stream unless it exists (which may have other settings: they stay)."""
    config = api.StreamConfig(
        name=migration.copy_stream,
        subjects=[migration.copy_subject],
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        num_replicas=replicas,
    )
    with translated(f"creating the copy queue {migration.copy_stream}"):
        try:
            await client.jetstream().add_stream(config)
        except js_errors.BadRequestError as exc:
            if exc.err_code != _ERR_OTHER_CONFIGURATION:
                raise


async def publish_parts(client: Client, migration: MigrationId, parts: Sequence[CopyPart]) -> None:
    """Queue `parts` in this order; returns when all are stored.

    De-duplication covers the repetitions within this call only: parts published by another
    call are other messages, else the broker would drop them for two minutes after a purge.
    """
    run = secrets.token_hex(8)
    with translated(f"filling the copy queue {migration.copy_stream}"):
        for start in range(0, len(parts), _PUBLISH_TOGETHER):
            together = parts[start : start + _PUBLISH_TOGETHER]
            await asyncio.gather(*(_publish(client, migration, part, run) for part in together))


async def _publish(client: Client, migration: MigrationId, part: CopyPart, run: str) -> None:
    headers = {api.Header.MSG_ID.value: f"{part.part_id}:{part.snapshot_name}:{run}"}
    jetstream = client.jetstream()
    for left in reversed(range(_PUBLISH_ATTEMPTS)):
        try:
            await jetstream.publish(
                migration.copy_subject,
                encode_part(part),
                stream=migration.copy_stream,
                headers=headers,
                timeout=ACK_TIMEOUT_S,
            )
        except nats.errors.TimeoutError:
            if not left:
                raise
        else:
            return


async def queued(client: Client, migration: MigrationId) -> int | None:
    """Parts not finished yet, leased ones included; None when the queue does not exist."""
    with translated(f"checking the copy queue {migration.copy_stream}"):
        try:
            info = await client.jetstream().stream_info(migration.copy_stream)
        except js_errors.NotFoundError:
            return None
    return info.state.messages


async def purge(client: Client, migration: MigrationId) -> None:
    """Take every part out. A copier that holds one goes on, and finishes by the ledger."""
    with translated(f"emptying the copy queue {migration.copy_stream}"), suppress(js_errors.NotFoundError):
        await client.jetstream().purge_stream(migration.copy_stream)


async def delete_queue(client: Client, migration: MigrationId) -> None:
    """Remove the stream and its consumer; nothing happens when it is missing."""
    with translated(f"removing the copy queue {migration.copy_stream}"), suppress(js_errors.NotFoundError):
        await client.jetstream().delete_stream(migration.copy_stream)


class Lease:
    """One part, ours until it is done, given back, or ACK_WAIT_S have passed without a sign."""

    def __init__(self, part: CopyPart, message: Msg) -> None:
        self.part = part
        self._message = message

    async def in_progress(self) -> None:
        """Keep the lease for another ACK_WAIT_S."""
        with translated(f"keeping the lease of part {self.part.part_id}"):
            await self._message.in_progress()

    async def done(self) -> None:
        """Take the part out of the queue; returns when the broker has confirmed it.

        Raises PgmigError(BROKER) when it may come back: the ledger then says that it is done.
        """
        with translated(f"finishing part {self.part.part_id}"):
            await self._message.ack_sync(timeout=ACK_TIMEOUT_S)

    async def retry(self, delay_s: float = 0.0) -> None:
        """Give it back, for any copier to take after `delay_s`."""
        with translated(f"giving back part {self.part.part_id}"):
            await self._message.nak(delay=delay_s)

    async def drop(self) -> None:
        """Take it out of the queue undone."""
        with translated(f"dropping part {self.part.part_id}"):
            await self._message.term()


class PartQueue:
    """One taker of parts. Not for concurrent use: each loop of a copier has its own."""

    def __init__(self, client: Client, migration: MigrationId, *, ack_wait_s: float = ACK_WAIT_S) -> None:
        self._client = client
        self._stream = migration.copy_stream
        self._subject = migration.copy_subject
        self._doing = f"taking a part from the copy queue {self._stream}"
        self._subscription: Subscription | None = None
        self._asked = False
        self.ack_wait_s = ack_wait_s

    async def next(self, timeout_s: float) -> Lease | None:
        """The next part; None when none came within `timeout_s`.

        Raises PgmigError(BROKER) when broker, stream or consumer is gone (call again: the
        consumer is then created again), and CORRUPT for a message that is no part, after taking it
        out of the queue.
        """
        try:
            with translated(self._doing):
                if self._subscription is None:
                    self._subscription = await self._subscribe()
                message = await self._take(self._subscription, timeout_s)
        except PgmigError:
            await self.close()
            raise
        return None if message is None else await _lease(message)

    async def _subscribe(self) -> Subscription:
        config = api.ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self.ack_wait_s,
            max_ack_pending=_NO_LIMIT,
            max_deliver=_NO_LIMIT,
            filter_subject=self._subject,
        )
        await self._client.jetstream().add_consumer(self._stream, config)
        return await self._client.subscribe(self._client.new_inbox())

    async def _take(self, subscription: Subscription, timeout_s: float) -> Msg | None:
        """One pull request, answered by a part or by a status; at most one is ever open, so an
        answer that a cancelled call did not wait for belongs to the next one."""
        if not self._asked:
            await self._pull(subscription, timeout_s)
            self._asked = True
        try:
            message = await subscription.next_msg(timeout=timeout_s + _ANSWER_GRACE_S)
        except nats.errors.TimeoutError:
            message = None  # the request was lost with a connection
        self._asked = False
        status = (message.headers or {}).get(api.Header.STATUS.value) if message else None
        if status in _NOTHING_CAME:
            return None
        if status is not None and message is not None:
            js_errors.APIError.from_msg(message)
        return message

    async def _pull(self, subscription: Subscription, timeout_s: float) -> None:
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{CONSUMER}",
            json.dumps({"batch": 1, "expires": int(timeout_s * 1e9)}).encode(),
            reply=subscription.subject,
        )

    async def close(self) -> None:
        """Stop taking; a part that has arrived but was not handed out goes back at once."""
        subscription, self._subscription = self._subscription, None
        self._asked = False
        if subscription is None:
            return
        with suppress(nats.errors.Error):
            while subscription.pending_msgs:
                message = await subscription.next_msg(timeout=ACK_TIMEOUT_S)
                if api.Header.STATUS.value not in (message.headers or {}):
                    await message.nak()
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def _lease(message: Msg) -> Lease:
    try:
        return Lease(decode_part(message.data), message)
    except PgmigError:
        with suppress(nats.errors.Error):
            await message.term()
        raise
