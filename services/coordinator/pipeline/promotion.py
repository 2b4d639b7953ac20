"""Continues a pipeline at a source that was promoted, or refuses to (rule 81).

This is decided before a phase begins, with all workers stopped: an applier that continued could advance the
progress that is compared. What the change stream has queued was read from the former primary. It is deleted,
and the slot sends it again, as far as the promoted server has it. A decoder that is cut off from the
coordinator and still reads from the former primary cannot publish any more (rule 82).
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.staffing import Staffing
from services.shared.bus.connection import Client
from services.shared.bus.store import delete_stream
from services.shared.model import ErrorKind, EventLevel, Lsn, PgmigError, PipelineState
from services.shared.pg.apply.fence import fence_applier
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.freeze.closed_database import writable_connection
from services.shared.pg.replication.timelines import check_continues, read_promoted
from services.shared.pg.session.primary import read_primary

READING = frozenset(
    {PipelineState.COPY, PipelineState.INDEXES, PipelineState.CATCHUP, PipelineState.STREAMING}
)


async def continue_if_promoted(context: Context, staffing: Staffing, bus: Client) -> None:
    """Record the source's timeline if it was promoted since. Raises GAP if changes are missing there, and
    TRANSIENT if a worker has not stopped."""
    pipeline, uris = context.pipeline, await context.credentials.both()
    slot = pipeline.record.slot
    if slot is None or not slot.timeline or pipeline.state not in READING:
        return
    side = pipeline.id.publisher
    now = await read_primary(uris.source_uri, side)
    if now.system_identifier != slot.system_identifier or now.timeline <= slot.timeline:
        return  # a decoder refuses another system, and an earlier timeline
    if not await staffing.release():
        raise PgmigError(
            ErrorKind.TRANSIENT,
            f"the {side} was promoted, and a worker that uses the former primary has not stopped yet",
            "stop that worker's process if it does not respond",
        )
    found = await read_promoted(uris.source_uri, pipeline.id.slot, side)
    applied = await _fenced_progress(context, uris.destination_uri)
    check_continues(found, pipeline.id.slot, slot.timeline, applied, latest_read(pipeline, applied))
    await delete_stream(bus, pipeline.id.change_stream)
    pipeline.slot_ready(replace(slot, timeline=found.timeline))
    context.migration.event(
        EventLevel.WARNING,
        f"the {side} was promoted: replication continues on timeline {found.timeline}, after the "
        f"destination's progress {applied}",
    )
    await context.journal.save()


async def _fenced_progress(context: Context, uri: str) -> Lsn:
    """The destination's progress, which no earlier applier can advance any more."""
    pipeline = context.pipeline
    slot = pipeline.record.slot
    assert slot is not None
    pipeline.put(replace(pipeline.record, applier_epoch=secrets.token_hex(8)))
    await context.journal.save()
    conn = await writable_connection(uri, side=pipeline.id.subscriber)
    try:
        await ensure_bookkeeping(conn)
        await fence_applier(conn, pipeline.id, pipeline.record.applier_epoch)
        progress = await applied_progress(conn, pipeline.id)
    finally:
        await conn.close()
    return max(progress or Lsn(0), slot.consistent_lsn)


def latest_read(pipeline: PipelineStatus, applied: Lsn) -> Lsn:
    """The latest position of the source that rows on the destination depend on."""
    record = pipeline.record
    start = record.slot.consistent_lsn if record.slot else Lsn(0)
    copied, dropped = [one.floor for one in record.tables], [one.floor for one in record.dropped]
    return max(applied, start, *copied, *dropped)
