"""The change stream: one fenced writer, one ordered reader.

Writer: every message is published with the stream sequence that must precede it, so a second or stale
writer fails instead of mixing its messages in. Publishing is pipelined. If the stream is full
(`max_bytes`, discard new), the writer waits, which is back-pressure on the source.

Reader: an ephemeral pull consumer without acknowledgements. It starts at a sequence, checks that there
are no gaps, and is created again after any irregularity. A durable consumer would redeliver messages
between newer ones exactly when something has failed.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js import errors as js_errors

from services.shared.bus.connection import translated
from services.shared.model import ErrorKind, MigrationId, PgmigError

ACK_TIMEOUT_S = 10.0
MAX_IN_FLIGHT_BYTES = 8 << 20
FULL_RETRY_S = 0.2
HEARTBEAT_S = 1.0
PULL_MESSAGES = 32
PULL_EXPIRES_S = 30.0
DEFAULT_MAX_BYTES = 16 << 30

_ERR_STORE_FULL = {10077, 10047, 10122, 10023}  # maximum bytes exceeded; insufficient resources
_ERR_WRONG_LAST_SEQUENCE = 10071
_NO_RESPONDERS = 503


@dataclass(frozen=True, slots=True)
class StreamTail:
    """The end of a stream. data: its last message, None if the stream is empty."""

    created: str
    last_sequence: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    sequence: int
    data: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Published:
    """An unacknowledged message. sequence: of the message before it. outcome: JetStream error code."""

    sequence: int
    data: bytes
    headers: dict[str, str]
    outcome: asyncio.Future[int]

    @property
    def stored(self) -> bool:
        return self.outcome.done() and self.outcome.result() == 0


class ChangeWriter:
    """Writes the change stream of one migration; two tasks may call `publish` and `check`."""

    def __init__(self, client: Client, migration: MigrationId, *, max_bytes: int, replicas: int = 1) -> None:
        self._client = client
        self._stream = migration.change_stream
        self._subject = migration.change_subject
        self._config = api.StreamConfig(
            name=self._stream,
            subjects=[self._subject],
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,
            max_bytes=max_bytes,
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            allow_direct=True,
        )
        self._tail = StreamTail("", 0, None)
        self._next = 0
        self._in_flight: deque[_Published] = deque()
        self._in_flight_bytes = 0
        self._lock = asyncio.Lock()
        self._inbox = ""
        self._acks: Subscription | None = None
        self.waiting_for_space = False
        self.refusals = 0  # because the stream was full

    @property
    def max_bytes(self) -> int:
        return self._config.max_bytes or 0

    async def open(self) -> StreamTail:
        """Create the stream if it is missing, and read where it ends."""
        with translated(f"opening change stream {self._stream}"):
            try:
                await self._client.jetstream().add_stream(self._config)
            except js_errors.BadRequestError:  # it exists with other limits
                await self._raise_cap()
            self._tail = await self._read_tail()
            await self.close()
            self._inbox = self._client.new_inbox()
            self._acks = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_ack)
        self._next = self._tail.last_sequence
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self.waiting_for_space = False
        return self._tail

    async def _raise_cap(self) -> None:
        """Give an existing stream our `max_bytes` if that is more; its other limits do not change."""
        config = (await _stream_info(self._client, self._stream))["config"]
        if 0 < config["max_bytes"] < self.max_bytes:
            await _ask(self._client, f"STREAM.UPDATE.{self._stream}", {**config, "max_bytes": self.max_bytes})

    async def ends(self) -> tuple[bytes, bytes] | None:
        """The stream's first and last message; None if the stream is empty."""
        with translated(f"checking change stream {self._stream}"):
            _, first, last = await _stream_state(self._client, self._stream)
            if last < first or last == 0:
                return None
            get = self._client.jetstream().get_msg
            with suppress(js_errors.NotFoundError):  # purged in the meantime
                messages = await get(self._stream, first), await get(self._stream, last)
                return messages[0].data or b"", messages[1].data or b""
        return None

    async def close(self) -> None:
        """Stop receiving acknowledgements. Unacknowledged messages may or may not be stored."""
        subscription, self._acks = self._acks, None
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _read_tail(self) -> StreamTail:
        created, first, last = await _stream_state(self._client, self._stream)
        data = None
        if last >= first and last > 0:
            with suppress(js_errors.NotFoundError):
                data = (await self._client.jetstream().get_msg(self._stream, last)).data
        return StreamTail(created, last, data)

    async def publish(self, data: bytes, headers: dict[str, str]) -> None:
        """Queue one message. Waits while too much is unacknowledged or the stream is full.

        Raises FENCED if another writer has written to the stream, BROKER if the outcome is unknown:
        `open` the stream again, and continue after the messages that it contains.
        """
        async with self._lock:
            while self._in_flight and self._in_flight_bytes + len(data) > MAX_IN_FLIGHT_BYTES:
                await self._settle_first()
            self._settle_finished()
            await self._send(data, headers)

    async def _send(self, data: bytes, headers: dict[str, str]) -> None:
        sequence = self._next
        fenced = {**headers, api.Header.EXPECTED_LAST_SEQUENCE.value: str(sequence)}
        item = _Published(sequence, data, headers, asyncio.get_running_loop().create_future())
        self._in_flight.append(item)
        self._in_flight_bytes += len(data)
        self._next += 1
        with translated(f"publishing to {self._stream}"):
            await self._client.publish(
                self._subject, data, reply=f"{self._inbox}.{sequence + 1}", headers=fenced
            )

    async def _on_ack(self, message: Msg) -> None:
        """Set the outcome of a publication: its error code, or 0 if it has the expected sequence."""
        sequence = int(message.subject.rsplit(".", 1)[1]) - 1
        for item in self._in_flight:
            if item.sequence == sequence and not item.outcome.done():
                item.outcome.set_result(_outcome(message, sequence + 1))
                return

    def _settle_finished(self) -> None:
        while self._in_flight and self._in_flight[0].stored:
            self.waiting_for_space = False
            self._in_flight_bytes -= len(self._in_flight.popleft().data)

    async def _outcome_of_first(self) -> int:
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                return await asyncio.shield(self._in_flight[0].outcome)
        except TimeoutError as exc:
            raise PgmigError(ErrorKind.BROKER, f"no acknowledgement from {self._stream}") from exc

    async def _settle_first(self) -> None:
        code = await self._outcome_of_first()
        if code in _ERR_STORE_FULL:
            await self._publish_again()
        elif code == _ERR_WRONG_LAST_SEQUENCE:
            raise PgmigError(ErrorKind.FENCED, f"{self._stream} was written by another, or created again")
        elif code:
            raise PgmigError(
                ErrorKind.BROKER, f"publishing to {self._stream} failed with JetStream error {code}"
            )
        else:
            self._settle_finished()

    async def _publish_again(self) -> None:
        """The stream is full, so all later messages were refused too. Retry the first until there is
        space for it, then send the others again."""
        first, *others = pending = list(self._in_flight)
        await asyncio.wait([item.outcome for item in pending], timeout=ACK_TIMEOUT_S)
        code = first.outcome.result()
        while code in _ERR_STORE_FULL:
            self.waiting_for_space = True
            self.refusals += 1
            await asyncio.sleep(FULL_RETRY_S)
            self._next = first.sequence
            self._in_flight.clear()
            self._in_flight_bytes = 0
            await self._send(first.data, first.headers)
            code = await self._outcome_of_first()
        for item in others:
            await self._send(item.data, item.headers)

    async def check(self) -> None:
        """Raise unless everything published is stored, at the end of the stream that was opened.

        Call it regularly, because an idle writer has no other way to detect a lost stream.
        """
        with translated(f"checking change stream {self._stream}"):
            created, _, _ = await _stream_state(self._client, self._stream)
        if created != self._tail.created:
            raise PgmigError(ErrorKind.FENCED, f"{self._stream} was created again")
        async with self._lock:
            while self._in_flight:
                await self._settle_first()
            with translated(f"checking change stream {self._stream}"):
                _, _, last = await _stream_state(self._client, self._stream)
            if last != self._next:
                raise PgmigError(ErrorKind.FENCED, f"{self._stream} was written by another")


def _outcome(message: Msg, sequence: int) -> int:
    """A publish acknowledgement's JetStream error code; 0 if stored as `sequence`."""
    if (message.headers or {}).get(api.Header.STATUS.value) == "503":
        return _NO_RESPONDERS
    reply = json.loads(message.data)
    if "error" in reply:
        return int(reply["error"].get("err_code") or reply["error"]["code"])
    return 0 if reply.get("seq") == sequence else _ERR_WRONG_LAST_SEQUENCE


async def _stream_state(client: Client, stream: str) -> tuple[str, int, int]:
    """(creation time, first sequence, last sequence). Uses the raw API, since nats-py omits `created`."""
    info = await _stream_info(client, stream)
    return info["created"], info["state"]["first_seq"], info["state"]["last_seq"]


async def _stream_info(client: Client, stream: str) -> dict[str, Any]:
    return await _ask(client, f"STREAM.INFO.{stream}")


async def _ask(client: Client, subject: str, body: object = None) -> dict[str, Any]:
    """One request to the JetStream API."""
    data = b"" if body is None else json.dumps(body).encode()
    reply = await client.request(f"$JS.API.{subject}", data, timeout=ACK_TIMEOUT_S)
    info: dict[str, Any] = json.loads(reply.data)
    if "error" in info:
        raise js_errors.APIError(**info["error"])
    return info


class ChangeReader:
    """Reads the change stream of one migration in order, from the first retained message.

    If a stream is created again, its sequences start at 1 again, but messages of the old stream may still
    be unapplied. So the sequences that are returned, and passed to `trim`, continue to increase.
    """

    def __init__(self, client: Client, migration: MigrationId) -> None:
        self._client = client
        self._js = client.jetstream()
        self._stream = migration.change_stream
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
            created, first, last = await _stream_state(self._client, self._stream)
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
        if not same:  # only now, when nothing can fail any more, so that it is reported once
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
            found, first, last = await _stream_state(self._client, self._stream)
            if found == created and last >= first_kept and await self._holds_what_was_read(first, last):
                await self._js.purge_stream(self._stream, seq=first_kept)
