"""The writer of the change stream, of which there is one.

Every message is published with the stream sequence that must precede it, so a second or stale
writer fails instead of mixing its messages in. Publishing is pipelined. If the stream is full
(`max_bytes`, discard new), the writer waits, which is back-pressure on the source.

The stream has one subject, which names the timeline of the publisher (rule 82). So after a promotion a writer
that still reads from the former primary cannot publish to the stream, and cannot open it: it may only create
it where there is none. Such a stream is replaced by the writer of a later timeline, and not read by anybody.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api
from nats.js import errors as js_errors

from services.shared.bus.connection import translated
from services.shared.bus.stream_info import ask, stream_info, stream_state, timeline_of
from services.shared.model import ErrorKind, PgmigError, PipelineId

ACK_TIMEOUT_S = 10.0
MAX_IN_FLIGHT_BYTES = 8 << 20
FULL_RETRY_S = 0.2
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
    """Writes the change stream of one pipeline; two tasks may call `publish` and `check`."""

    def __init__(self, client: Client, pipeline: PipelineId, *, max_bytes: int) -> None:
        self._client = client
        self._pipeline = pipeline
        self._stream = pipeline.change_stream
        self._subject = ""
        self._config = api.StreamConfig(
            name=self._stream,
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,
            max_bytes=max_bytes,
            storage=api.StorageType.FILE,
            num_replicas=1,
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

    async def open(self, timeline: int) -> StreamTail:
        """Create the stream if it is missing, and read where it ends.

        timeline: of the publisher that is read. A stream of an earlier one is replaced. Raises PROMOTED if
        the stream is of a later one: this writer reads from a former primary.
        """
        self._subject = self._pipeline.change_subject(timeline)
        config = self._config.evolve(subjects=[self._subject])
        with translated(f"opening change stream {self._stream}"):
            try:
                await self._client.jetstream().add_stream(config)
            except js_errors.BadRequestError:  # it exists with other limits, or of another timeline
                if await self._replaced(timeline):
                    await self._client.jetstream().add_stream(config)
                else:
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

    async def _replaced(self, timeline: int) -> bool:
        """Whether the stream was of an earlier timeline, and is removed now."""
        subjects = (await stream_info(self._client, self._stream))["config"]["subjects"]
        if subjects == [self._subject]:
            return False
        found = timeline_of(subjects)
        if found > timeline:
            raise PgmigError(
                ErrorKind.PROMOTED,
                f"{self._stream} has the changes of timeline {found}, and this decoder reads timeline "
                f"{timeline}: a former primary",
                "if no server was promoted, the stream is of an earlier migration of this id: remove it, "
                f"`nats stream rm {self._stream}`",
            )
        await self._client.jetstream().delete_stream(self._stream)
        return True

    async def _raise_cap(self) -> None:
        """Give an existing stream our `max_bytes` if that is more; its other limits do not change."""
        config = (await stream_info(self._client, self._stream))["config"]
        if 0 < config["max_bytes"] < self.max_bytes:
            await ask(self._client, f"STREAM.UPDATE.{self._stream}", {**config, "max_bytes": self.max_bytes})

    async def ends(self) -> tuple[bytes, bytes] | None:
        """The stream's first and last message; None if the stream is empty."""
        with translated(f"checking change stream {self._stream}"):
            _, first, last = await stream_state(self._client, self._stream)
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
        created, first, last = await stream_state(self._client, self._stream)
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
                await self._await_first()
            self._drop_acknowledged()
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

    def _drop_acknowledged(self) -> None:
        while self._in_flight and self._in_flight[0].stored:
            self.waiting_for_space = False
            self._in_flight_bytes -= len(self._in_flight.popleft().data)

    async def _outcome_of_first(self) -> int:
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                return await asyncio.shield(self._in_flight[0].outcome)
        except TimeoutError as exc:
            raise PgmigError(ErrorKind.BROKER, f"no acknowledgement from {self._stream}") from exc

    async def _await_first(self) -> None:
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
            self._drop_acknowledged()

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
        """Raise an error unless everything published is stored, at the end of the stream that was opened.

        Call it regularly, because an idle writer has no other way to detect a lost stream.
        """
        with translated(f"checking change stream {self._stream}"):
            created, _, _ = await stream_state(self._client, self._stream)
        if created != self._tail.created:
            raise PgmigError(ErrorKind.FENCED, f"{self._stream} was created again")
        async with self._lock:
            while self._in_flight:
                await self._await_first()
            with translated(f"checking change stream {self._stream}"):
                _, _, last = await stream_state(self._client, self._stream)
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
