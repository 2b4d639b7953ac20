"""Phases catchup and streaming: the workers replicate the changes, and the coordinator watches the lag.

The phase changes between the two with the lag of the destination. A switchover is a separate task; during it
the phase is not changed. At the same time the source's tables are watched. For a new table the migration
returns to phase copy. If a table differs from what was copied, the phase ends with an error.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from services.coordinator.migration.lag import follow_state
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.source_watch import note
from services.coordinator.tables.adopt import begin_copy, try_compare_tables
from services.coordinator.tables.recover import NEW_TABLES
from services.coordinator.tables.routed import look_for_routes
from services.coordinator.tables.watch import watch_tables
from services.shared.model import ErrorKind, Lsn, PgmigError, PipelineState, Role, TableId
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.replication.position import SourceWatch
from services.shared.pg.replication.publication import check_usable, read_slot
from services.shared.pg.session.connection import connection

LOOK_EVERY_S = 1.0
REPLICATING = frozenset({PipelineState.CATCHUP, PipelineState.STREAMING})


async def run(context: Context, schema: Schema, workers: Workers) -> PipelineState:
    """Returns the phase that ends it, which somebody else moved to."""
    pipeline = context.pipeline
    migration = context.migration
    await _check_gap(context)
    await look_for_routes(context, schema.routing)
    compared = await try_compare_tables(context, schema)
    if compared is not None and compared.copy and compared.error is None:
        begin_copy(context.pipeline, compared.copy, NEW_TABLES)
        return PipelineState.COPY
    await workers.staffing.staff(Role.DECODER, Role.APPLIER)
    watch = SourceWatch((await context.credentials.both()).source_uri, pipeline.id.slot)
    tables = asyncio.create_task(
        watch_tables(context, schema, workers.reports), name=f"tables-{migration.id}"
    )
    tables.add_done_callback(lambda _task: workers.reports.notify())

    def outcome() -> bool:
        """Whether the watch has ended; a switchover compares the tables itself."""
        return tables.done() and not migration.in_switchover

    try:
        while pipeline.state in REPLICATING:
            if outcome():
                begin_copy(context.pipeline, tables.result(), NEW_TABLES)
                return PipelineState.COPY
            now = time.monotonic()
            if (state := await watch.look()) is not None:
                note(context.pipeline, state)
            await _judge(context, now)
            migration.touch()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await workers.reports.until(
                        lambda: pipeline.state not in REPLICATING or outcome() or _caught_up(context)
                    )
    finally:
        await _ended(tables)
        await watch.close()
    return pipeline.state


async def _ended(task: asyncio.Task[tuple[TableId, ...]]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # raised already, or of no more interest


async def _judge(context: Context, now: float) -> None:
    pipeline = context.pipeline
    migration = context.migration
    following = pipeline.following
    if following.flushed > pipeline.record.flushed_lsn:
        pipeline.flushed(following.flushed)
    if migration.in_switchover:
        return
    target = _target(context, now)
    if target is not pipeline.state:
        pipeline.entered(target)
        await context.journal.save()


def _target(context: Context, now: float) -> PipelineState:
    """Catchup also while no applier is at work, however little is pending."""
    pipeline = context.pipeline
    if not pipeline.following.live:
        return PipelineState.CATCHUP
    return follow_state(pipeline.state, *pipeline.following.behind(now))


def _caught_up(context: Context) -> bool:
    """Whether the pipeline streams from now on. The other way, the state changes at the next look only."""
    if context.pipeline.state is not PipelineState.CATCHUP or context.migration.in_switchover:
        return False
    return _target(context, time.monotonic()) is PipelineState.STREAMING


async def _check_gap(context: Context) -> None:
    """Check that slot and origin still meet (rule 4): the destination has everything that the slot no longer
    sends. This works after a loss of the key-value store, too: both positions are read from the servers.
    """
    uris, pipeline = await context.credentials.both(), context.pipeline
    assert pipeline.record.slot is not None
    start, names = pipeline.record.slot.consistent_lsn, pipeline.id
    slot = check_usable(await read_slot(uris.source_uri, names.slot), names.slot, start)
    async with connection(uris.destination_uri, "destination") as conn:
        progress = await applied_progress(conn, names)
    if pipeline.record.flushed_lsn > start and progress is None:
        raise PgmigError(
            ErrorKind.GAP,
            f"neither replication origin {names.origin} nor a row of pgmig.progress is on the "
            f"destination any more, which had progress {pipeline.record.flushed_lsn}",
            "restore the destination with its origin, or clean up and start the migration again",
            pipeline.record.flushed_lsn,
        )
    applied = max(progress or Lsn(0), start)
    if slot.confirmed_flush_lsn > applied:
        raise PgmigError(
            ErrorKind.GAP,
            f"the slot does not send changes before {slot.confirmed_flush_lsn} any more, "
            f"but the destination has only the changes before {applied}",
            "the changes between are lost to this migration: clean up and start it again",
            applied,
        )
