"""One replication session: WAL in, change batches out, positions confirmed.

Four tasks share the session. The reader reads from the walsender, batches and publishes. If
the stream is full or NATS is slow, it waits, and unread WAL remains on the source. The
status task reports to the source what the destination has flushed, even while the
reader waits (rule 6). The watch task detects that the change stream was lost while idle, and the
space task that it is permanently full.

The session ends by raising an exception. The caller opens the next one, which reads its position from the
stream's last message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from services.decoder.batcher import Batcher
from services.decoder.marks import Marks
from services.decoder.space import Look, does_not_fit, in_vain
from services.shared.bus.change_writer import ChangeWriter
from services.shared.model import DecoderProgress, Lsn
from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.replication.wal_stream import Item, Keepalive
from services.shared.pgoutput.fragments import Fragment
from services.shared.runtime.telemetry import SpanName, inject, span
from services.shared.wire.changes import ChangeBatch, decode_batch, encode_batch

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0
"""Well below wal_sender_timeout (60 s, and rarely less than 10 s)."""
COALESCE_S = 0.001
"""Pause after each read, since a wake-up costs more than reading the data."""
BUSY_PER_S, BUSY_PAUSE_S = 10_000, 0.004
FAST_PER_S, FAST_PAUSE_S = 50_000, 0.02
"""Messages per second above which the pause between reads is longer. Batches fill at that rate anyway, and
a walsender needs half the work if its client lets the socket fill."""
FULL = 512 << 10
"""Bytes; after a read of this size the decoder is lagging, and it does not pause."""
HEARTBEAT_INTERVAL_S = 2.0
WATCH_INTERVAL_S = 2.0


def pause_after(messages: int, size: int, elapsed_s: float) -> float:
    """Seconds to wait before the next read. messages, size (bytes): of the last read. elapsed_s: time
    between the last read and the one before."""
    if size >= FULL:
        return 0.0
    if messages >= FAST_PER_S * elapsed_s and messages > FAST_PER_S * COALESCE_S:
        return FAST_PAUSE_S
    if messages >= BUSY_PER_S * elapsed_s and messages > BUSY_PER_S * COALESCE_S:
        return BUSY_PAUSE_S
    return COALESCE_S


class DecoderStream:
    """Publishes from an open replication stream until something fails."""

    def __init__(
        self,
        assignment_id: str,
        replication: ReplicationConnection,
        writer: ChangeWriter,
        *,
        position: Lsn,
        local_only: bool,
        marks: Marks,
        flushed: Callable[[], Lsn],
        report: Callable[[DecoderProgress], None],
    ) -> None:
        self._assignment_id = assignment_id
        self._replication = replication
        self._writer = writer
        self._batcher = Batcher(position, local_only=local_only, marks=marks)
        self._flushed = flushed
        self._report = report
        self._source = position
        self._confirmed = Lsn(0)
        self._next_heartbeat = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(), name="read")
            group.create_task(self._confirm(), name="confirm")
            group.create_task(self._watch(), name="watch")
            group.create_task(self._look_for_space(), name="space")

    async def _read(self) -> None:
        began = time.monotonic()
        while True:
            items, received = self._replication.drain()
            now = time.monotonic()
            await self._take(items)
            if not items:
                await self._flush_batch()
                await self._replication.wait_readable(STATUS_INTERVAL_S)
                began = time.monotonic()
                continue
            pause = pause_after(len(items), received, now - began)
            began = now
            if pause <= COALESCE_S and not self._batcher.in_transaction:
                await self._flush_batch()
            await asyncio.sleep(pause)

    async def _take(self, items: list[Item]) -> None:
        batcher, at = self._batcher, 0
        while at < len(items):
            at = batcher.collect(items, at)
            if at < len(items) and not batcher.full:
                item = items[at]
                at += 1
                if isinstance(item, bytes):
                    batcher.feed(item)
                elif isinstance(item, Fragment):
                    batcher.feed_fragment(item)
                else:
                    await self._keepalive(item)
            if batcher.full:
                await self._flush_batch()

    async def _flush_batch(self) -> None:
        while (batch := self._batcher.flush()) is not None:
            await self._publish(batch)

    async def _publish(self, batch: ChangeBatch) -> None:
        with span(SpanName.DECODE_BATCH, lsn=str(batch.end_lsn), bytes=len(batch.payload)):
            headers: dict[str, str] = {}
            inject(headers)
            await self._writer.publish(encode_batch(batch), headers)
        self._source = max(self._source, batch.end_lsn)

    async def _keepalive(self, keepalive: Keepalive) -> None:
        self._source = max(self._source, keepalive.wal_end)
        now = time.monotonic()
        if now >= self._next_heartbeat:
            await self._flush_batch()
            batch = self._batcher.heartbeat(keepalive.wal_end)
            if batch is not None:
                self._next_heartbeat = now + HEARTBEAT_INTERVAL_S
                await self._publish(batch)
        if keepalive.reply_requested:
            self._send_status()

    def _send_status(self, *, ask: bool = False) -> None:
        """Report to the slot what the destination has flushed, and nothing more (rules 2 and 6)."""
        self._confirmed = max(self._confirmed, self._flushed())
        self._replication.send_status(self._batcher.position, self._confirmed, reply=ask)

    async def _confirm(self) -> None:
        while True:
            self._send_status(ask=True)  # the answer contains the end of the source's WAL
            self._report(
                DecoderProgress(
                    self._assignment_id,
                    self._source,
                    self._batcher.position,
                    self._confirmed,
                    self._writer.waiting_for_space,
                )
            )
            await asyncio.sleep(STATUS_INTERVAL_S)

    async def _look_for_space(self) -> None:
        """Raise STREAM_FULL if the reader waits for space that will never exist."""
        before: Look | None = None
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            ends = await self._writer.ends() if self._writer.waiting_for_space else None
            if ends is None:
                before = None
                continue
            now = Look(self._writer.refusals, decode_batch(ends[0]), decode_batch(ends[1]), self._flushed())
            if in_vain(before, now):
                raise does_not_fit(now, self._writer.max_bytes)
            before = now

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self._writer.check()
