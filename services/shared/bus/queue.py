"""The copy queue: table parts, each copied by one of any number of copiers.

Theory of operation. Each pipeline has a JetStream stream with work-queue retention, and one
durable pull consumer that all its copiers share. A part is leased. If its copier neither finishes it nor
renews the lease within ACK_WAIT_S, another copier gets the part. The queue distributes work but proves
nothing: a part may be delivered twice, and the ledger on the destination says whether it must still be
copied. So if the whole queue is lost, it is enough to publish the parts again.
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
from services.shared.model import CopyPart, PgmigError, PipelineId
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


async def ensure_queue(client: Client, pipeline: PipelineId) -> None:
    """Create the stream unless it exists. The settings of an existing stream do not change."""
    config = api.StreamConfig(
        name=pipeline.copy_stream,
        subjects=[pipeline.copy_subject],
        retention=api.RetentionPolicy.WORK_QUEUE,
        storage=api.StorageType.FILE,
        num_replicas=1,
    )
    with translated(f"creating the copy queue {pipeline.copy_stream}"):
        try:
            await client.jetstream().add_stream(config)
        except js_errors.BadRequestError as exc:
            if exc.err_code != _ERR_OTHER_CONFIGURATION:
                raise


async def publish_parts(client: Client, pipeline: PipelineId, parts: Sequence[CopyPart]) -> None:
    """Queue `parts` in this order; returns when all are stored.

    De-duplication covers only the repetitions within this call. Parts of another call are different
    messages; otherwise the broker would drop them for two minutes after a purge.
    """
    run = secrets.token_hex(8)
    with translated(f"filling the copy queue {pipeline.copy_stream}"):
        for start in range(0, len(parts), _PUBLISH_TOGETHER):
            together = parts[start : start + _PUBLISH_TOGETHER]
            await asyncio.gather(*(_publish(client, pipeline, part, run) for part in together))


async def _publish(client: Client, pipeline: PipelineId, part: CopyPart, run: str) -> None:
    headers = {api.Header.MSG_ID.value: f"{part.part_id}:{part.snapshot_name}:{run}"}
    jetstream = client.jetstream()
    for left in reversed(range(_PUBLISH_ATTEMPTS)):
        try:
            await jetstream.publish(
                pipeline.copy_subject,
                encode_part(part),
                stream=pipeline.copy_stream,
                headers=headers,
                timeout=ACK_TIMEOUT_S,
            )
        except nats.errors.TimeoutError:
            if not left:
                raise
        else:
            return


async def queued(client: Client, pipeline: PipelineId) -> int | None:
    """Number of unfinished parts, including leased ones; None if the queue does not exist."""
    with translated(f"checking the copy queue {pipeline.copy_stream}"):
        try:
            info = await client.jetstream().stream_info(pipeline.copy_stream)
        except js_errors.NotFoundError:
            return None
    return info.state.messages


async def purge(client: Client, pipeline: PipelineId) -> None:
    """Remove every part. A copier that holds a part continues, and finishes according to the ledger."""
    with translated(f"emptying the copy queue {pipeline.copy_stream}"), suppress(js_errors.NotFoundError):
        await client.jetstream().purge_stream(pipeline.copy_stream)


async def delete_queue(client: Client, pipeline: PipelineId) -> None:
    """Remove the stream and its consumer, if they exist."""
    with translated(f"removing the copy queue {pipeline.copy_stream}"), suppress(js_errors.NotFoundError):
        await client.jetstream().delete_stream(pipeline.copy_stream)


class Lease:
    """One part. It is ours until it is done or returned, or until ACK_WAIT_S pass without a renewal."""

    def __init__(self, part: CopyPart, message: Msg) -> None:
        self.part = part
        self._message = message

    async def in_progress(self) -> None:
        """Renew the lease for another ACK_WAIT_S."""
        with translated(f"keeping the lease of part {self.part.part_id}"):
            await self._message.in_progress()

    async def done(self) -> None:
        """Remove the part from the queue; returns when the broker has confirmed it.

        Raises PgmigError(BROKER) if the part may be delivered again. The ledger then says that it is done.
        """
        with translated(f"finishing part {self.part.part_id}"):
            await self._message.ack_sync(timeout=ACK_TIMEOUT_S)

    async def retry(self, delay_s: float = 0.0) -> None:
        """Return the part, so that any copier can get it after `delay_s`."""
        with translated(f"giving back part {self.part.part_id}"):
            await self._message.nak(delay=delay_s)

    async def drop(self) -> None:
        """Remove the part from the queue without finishing it."""
        with translated(f"dropping part {self.part.part_id}"):
            await self._message.term()


class PartQueue:
    """One receiver of parts. Not for concurrent use: each loop of a copier has its own."""

    def __init__(self, client: Client, pipeline: PipelineId, *, ack_wait_s: float = ACK_WAIT_S) -> None:
        self._client = client
        self._stream = pipeline.copy_stream
        self._subject = pipeline.copy_subject
        self._doing = f"taking a part from the copy queue {self._stream}"
        self._subscription: Subscription | None = None
        self._asked = False
        self.ack_wait_s = ack_wait_s

    async def next(self, timeout_s: float) -> Lease | None:
        """The next part; None if none arrived within `timeout_s`.

        Raises PgmigError(BROKER) if the broker, stream or consumer is gone (call again; the
        consumer is then created again), and CORRUPT for a message that is not a part, after removing it
        from the queue.
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
        """Send one pull request, which is answered by a part or by a status. At most one request is open,
        so if a call was cancelled before its answer arrived, the next call receives the answer."""
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
        """Stop receiving. A part that has arrived but was not passed on is returned at once."""
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
