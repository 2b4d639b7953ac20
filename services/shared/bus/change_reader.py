"""The reader of the change stream, which keeps its order.

An ephemeral pull consumer without acknowledgements. It starts at a sequence, checks that there
are no gaps, and is created again after any irregularity. A durable consumer would redeliver messages
between newer ones exactly when something has failed.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js import errors as js_errors

from services.shared.bus.connection import translated
from services.shared.bus.stream_info import state_in, stream_info, stream_state
from services.shared.model import ErrorKind, PgmigError, PipelineId

HEARTBEAT_S = 1.0
PULL_MESSAGES = 32
PULL_EXPIRES_S = 30.0


@dataclass(frozen=True, slots=True)
class StoredMessage:
    sequence: int
    data: bytes
    headers: dict[str, str]


class ChangeReader:
    """Reads the change stream of one pipeline in order, from the first retained message.

    If a stream is created again, its sequences start at 1 again, but messages of the old stream may still
    be unapplied. So the sequences that are returned, and passed to `trim`, continue to increase.

    timeline: of the publisher. A stream with the changes of another one counts as missing (rule 82).
    """

    def __init__(self, client: Client, pipeline: PipelineId, timeline: int) -> None:
        self._client = client
        self._js = client.jetstream()
        self._stream = pipeline.change_stream
        self._subject = pipeline.change_subject(timeline)
        self._created = ""
        self._next = 0
        self._latest = b""  # the last message that was read
        self._base = 0  # added to the sequences of the current stream
        self._consumer = ""
        self._subscription: Subscription | None = None
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._credit = 0

    async def next(self) -> StoredMessage | None:
        """The next message; None if the stream was created again, or the broker's store was restored
        to an earlier state (reading starts again from the first message).

        Waits without limit. Raises PgmigError(BROKER) if the broker or the stream is
        gone; call again to retry.
        """
        while True:
            if self._subscription is None and not await self._place():
                return None
            assert self._subscription is not None
            try:
                with translated(f"reading change stream {self._stream}"):
                    if self._credit <= PULL_MESSAGES // 2:
                        await self._pull()
                    # Subscription.next_msg is not used, because its wait_for can lose a cancellation.
                    async with asyncio.timeout(3 * HEARTBEAT_S):
                        message = await self._arrived.get()
            except PgmigError:
                await self._drop()
                continue
            status = (message.headers or {}).get(api.Header.STATUS.value)
            if status == "100":
                continue
            if status is not None:
                if status in {"404", "408"}:
                    self._credit = 0
                    continue
                await self._drop()
                continue
            self._credit -= 1
            sequence = message.metadata.sequence.stream
            if sequence != self._next:
                await self._drop()
                continue
            self._next += 1
            self._latest = message.data
            return StoredMessage(self._base + sequence, message.data, dict(message.headers or {}))

    async def _pull(self) -> None:
        assert self._subscription is not None
        request = {
            "batch": PULL_MESSAGES,
            "expires": int(PULL_EXPIRES_S * 1e9),
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
        }
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
            json.dumps(request).encode(),
            reply=self._subscription.subject,
        )
        self._credit += PULL_MESSAGES

    async def _place(self) -> bool:
        """(Re)create the consumer at the next message. Returns False if the stream was created again."""
        await self._drop()
        with translated(f"reading change stream {self._stream}"):
            found = await stream_info(self._client, self._stream)
            if found["config"]["subjects"] != [self._subject]:
                raise PgmigError(
                    ErrorKind.BROKER,
                    f"change stream {self._stream} is not read from the promoted server yet: it has no "
                    f"subject {self._subject}",
                )
            created, first, last = state_in(found)
            same = created == self._created and await self._holds_what_was_read(first, last)
            place = max(self._next if same else first, 1)
            if place < first:
                raise PgmigError(
                    ErrorKind.GAP, f"change stream {self._stream} was trimmed beyond what was read"
                )
            config = api.ConsumerConfig(
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=place,
                ack_policy=api.AckPolicy.NONE,
                inactive_threshold=60.0,
                mem_storage=True,
                num_replicas=1,
                max_deliver=1,
            )
            info = await self._js.add_consumer(self._stream, config)
            self._consumer = info.name
            # The queue contains at most the messages that were requested.
            self._arrived = asyncio.Queue()
            self._subscription = await self._client.subscribe(
                self._client.new_inbox(), cb=self._arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        self._credit = 0
        anew = not same and bool(self._created)
        if not same:  # after everything that can fail, so that it is reported once
            self._base += self._next
        self._created, self._next = created, place
        return not anew

    async def _holds_what_was_read(self, first: int, last: int) -> bool:
        """After a store was restored to an earlier state, the same stream is shorter, or has different
        messages after that state. Trimming keeps the last message read, unless later ones exist."""
        before = self._next - 1
        if before > last:
            return False
        if before < max(first, 1) or not self._latest:
            return True
        stored = await self._js.get_msg(self._stream, before)
        return stored.data == self._latest

    async def _drop(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def close(self) -> None:
        consumer = self._consumer
        await self._drop()
        if consumer and self._client.is_connected:
            with suppress(nats.errors.Error, js_errors.Error, TimeoutError):  # it expires anyway
                await self._js.delete_consumer(self._stream, consumer)

    async def trim(self, sequence: int) -> None:
        """Remove every message before `sequence`. Call it only for what the destination has flushed.

        It has no effect if the message belongs to a stream that no longer exists, or to a store that was
        restored to an earlier state: then other messages have its number, and nobody may have read them.
        """
        created, first_kept = self._created, sequence - self._base
        if first_kept <= 1:
            return
        with translated(f"trimming change stream {self._stream}"):
            found, first, last = await stream_state(self._client, self._stream)
            if found == created and last >= first_kept and await self._holds_what_was_read(first, last):
                await self._js.purge_stream(self._stream, seq=first_kept)
