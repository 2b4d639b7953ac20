"""One assignment of the decoder, from slot to stream, across all failures that a retry cures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.decoder.marks import Marks
from services.decoder.slot import Snapshots, check_identity, check_not_rewound, prepare, recorded
from services.decoder.stream import DecoderStream
from services.shared.bus.change_writer import ChangeWriter
from services.shared.bus.connection import Client
from services.shared.bus.flush import FlushChannel
from services.shared.model import (
    Assignment,
    CloseSnapshot,
    DecoderWork,
    Lsn,
    OpenSnapshot,
    PgmigError,
    SlotReady,
    WorkerReport,
)
from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.replication.publication import check_usable, read_slot
from services.shared.runtime.assignments import cause, retried
from services.shared.runtime.retry import retrying
from services.shared.wire.changes import decode_batch, decode_flush_report

log = logging.getLogger(__name__)


class Decoding:
    """The state of one decoder assignment. It outlives a replication session."""

    def __init__(
        self,
        assignment: Assignment,
        client: Client,
        report: Callable[[WorkerReport], None],
        max_stream_bytes: int,
    ) -> None:
        assert isinstance(assignment.work, DecoderWork)
        self._id = assignment.assignment_id
        self._work = assignment.work
        self._pipeline = assignment.pipeline
        self._client = client
        self._report = report
        self._writer = ChangeWriter(client, self._pipeline, max_bytes=max_stream_bytes)
        self._snapshots = Snapshots(self._work, self._pipeline, self._id)
        self._snapshot_wanted = asyncio.Event()
        self._flushed = Lsn(0)

    async def run(self) -> None:
        """Prepare the slot, then stream until cancelled. Raises errors that no retry cures."""
        try:
            await self._hold_source()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve_snapshots(), name="snapshots")
                if self._work.follow:
                    group.create_task(self._stream_for_ever(), name="stream")
        finally:
            await self._snapshots.close()
            await self._writer.close()

    async def on_snapshot(self, command: OpenSnapshot | CloseSnapshot) -> None:
        """Never waits, because creating a snapshot may take as long as the source's oldest transaction."""
        if isinstance(command, CloseSnapshot):
            self._snapshot_wanted.clear()
            await self._snapshots.close()
        else:
            self._snapshot_wanted.set()

    async def _serve_snapshots(self) -> None:
        while True:
            await self._snapshot_wanted.wait()
            self._snapshot_wanted.clear()
            self._report(
                await retrying("exporting a snapshot", self._snapshots.ready, on_failure=self._report_retry)
            )

    def _report_retry(self, error: PgmigError) -> None:
        self._report(retried(self._id, error))

    async def _hold_source(self) -> None:
        if self._work.follow:
            ready = await retrying(
                f"preparing slot {self._pipeline.slot}",
                lambda: prepare(self._work, self._pipeline, self._snapshots),
                on_failure=self._report_retry,
            )
            self._work = self._snapshots.work = recorded(self._work, ready)
        else:
            ready = SlotReady(self._id, Lsn(0), "", 0)
        self._report(ready)

    async def _stream_for_ever(self) -> None:
        channel = FlushChannel(self._client, self._pipeline)
        subscription = await retrying(
            "listening for flush reports", lambda: channel.subscribe(self._on_flush_report)
        )
        try:
            await retrying(
                f"streaming from slot {self._pipeline.slot}",
                self._session,
                on_failure=self._report_retry,
            )
        finally:
            await subscription.unsubscribe()

    def _on_flush_report(self, data: bytes) -> None:
        self._flushed = max(self._flushed, decode_flush_report(data))

    async def _session(self) -> None:
        """Run one replication session. It ends by raising an exception."""
        slot = check_usable(
            await read_slot(self._work.source_uri, self._pipeline.slot),
            self._pipeline.slot,
            self._work.start_lsn,
        )
        tail = await self._writer.open(self._work.timeline)
        # The server would silently start at the slot's confirmed position instead. Starting there here makes
        # the gap visible: the batch chain breaks, and the applier refuses it unless its progress covers it.
        stored = decode_batch(tail.data).end_lsn if tail.data is not None else Lsn(0)
        # A pipeline without a copy starts later than its slot: both sides have what was committed before.
        start = max(stored, slot.confirmed_flush_lsn, self._work.start_lsn)
        replication = await ReplicationConnection.open(self._work.source_uri)
        try:
            identity = await replication.identify_system()
            check_identity(self._work, identity)
            check_not_rewound(identity, start)
            await replication.start(
                self._pipeline.slot,
                start,
                self._pipeline.publication,
                *([self._pipeline.inserts_publication] if self._work.inserts_only else []),
                local_only=self._work.local_only and not self._work.sends_seen,
            )
            log.info("streaming from slot %s at %s", self._pipeline.slot, start)
            stream = DecoderStream(
                self._id,
                replication,
                self._writer,
                position=start,
                local_only=self._work.local_only,
                marks=Marks(self._pipeline.opposite.origin if self._work.sends_seen else ""),
                flushed=lambda: self._flushed,
                report=self._report,
            )
            await _explained(stream)
        finally:
            await replication.close()


async def _explained(stream: DecoderStream) -> None:
    """Run the session. Replace its task group's error by the one that explains it."""
    try:
        await stream.run()
    except BaseExceptionGroup as group:
        error = cause(group)
        if error is None:
            raise
        raise error from group
