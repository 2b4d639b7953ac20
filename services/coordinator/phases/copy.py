"""Phase copy: send parts through the queue to the copiers, until the ledger lists all of them as copied.

The ledger on the destination records how each table is divided and which parts are copied. The queue and the
reports only make this faster. So if the queue, reports, a copier or the coordinator is lost, the ledger is
read again.

The parts in the queue name an exported snapshot. If that snapshot is lost with the decoder's session, the
incomplete tables get new plans under a new snapshot, and a floor: the applier skips changes that the later
snapshot already contains. A clone without replication has no applier that could synchronize tables of two
snapshots. So there all tables are copied again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.coordinator.migration.copy_parts import (
    copied_by_table,
    plan_parts,
)
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.post_data.build import POST_DATA, begin
from services.coordinator.tables import unpublished
from services.coordinator.tables.to_copy import renewed, tables_to_copy
from services.shared.bus.connection import Client
from services.shared.bus.queue import delete_queue, ensure_queue, publish_parts, purge, queued
from services.shared.model import (
    ErrorKind,
    EventLevel,
    Lsn,
    PgmigError,
    PipelineState,
    Role,
    SnapshotReady,
    TableId,
    counted,
)
from services.shared.pg.apply.fence import fence_applier
from services.shared.pg.bookkeeping.copy_ledger import CopyLedger, read_ledger
from services.shared.pg.bookkeeping.schema import steps_done
from services.shared.pg.session.connection import connection

CHECK_EVERY_S = 5.0
MOST_ROUNDS = 5
"""How many snapshots a clone without replication tries while tables are being changed."""

_OF_A_SNAPSHOT = frozenset({ErrorKind.SNAPSHOT_LOST, ErrorKind.TABLE_CHANGED})


async def run(context: Context, schema: Schema, workers: Workers, bus: Client) -> PipelineState:
    """Returns the next phase."""
    pipeline = context.pipeline
    if not await _built(context):
        begin(context, schema, workers.reports)
    if context.pipeline.record.applier_epoch:
        await _keep_applier_out(context, workers.staffing)
    # After a restart of the coordinator the copiers may still copy: they are not disturbed.
    published = bool(context.pipeline.record.snapshot_id)
    await workers.staffing.staff(Role.DECODER, *([Role.COPIER] if published else []))
    rounds, why = 0, "the snapshot was lost"
    while not (await _all_copied(context, workers.reports) and await unpublished.copied(context, workers)):
        snapshot = await workers.snapshot.open()
        if snapshot.identity != context.pipeline.record.snapshot_id:
            await _publish(context, schema, workers, bus, snapshot, why=why)
        changed = await _watch(context, workers, bus, snapshot)
        why = "tables were changed on the source" if changed else "the snapshot was lost"
        rounds += changed
        if rounds >= MOST_ROUNDS and not context.migration.record.options.follow:
            raise PgmigError(
                ErrorKind.COPY_FAILED,
                f"tables of the source were truncated or altered during each of {rounds} attempts to copy",
                "stop the jobs that do so (the events name the tables), then continue; or clone with "
                "--follow, which copies only the changed tables again",
            )
    await workers.staffing.staff(Role.DECODER)
    await delete_queue(bus, context.pipeline.id)
    migration = context.migration
    migration.event(EventLevel.INFO, f"copied {counted(len(pipeline.record.tables), 'table')}")
    return PipelineState.INDEXES


async def _keep_applier_out(context: Context, staffing: Staffing) -> None:
    """Changes were applied before, and an applier that lost its connection to us may still apply them."""
    uris, pipeline = await context.credentials.both(), context.pipeline
    await staffing.release([Role.APPLIER])
    async with connection(uris.destination_uri, "destination") as conn:
        await fence_applier(conn, pipeline.id, pipeline.record.applier_epoch)


async def _built(context: Context) -> bool:
    """Whether indexes and constraints are there already: tables are copied again, or more were added."""
    uris = await context.credentials.both()
    async with connection(uris.destination_uri, "destination") as conn:
        return POST_DATA in await steps_done(conn, context.pipeline.id)


async def _all_copied(context: Context, reports: Reports) -> bool:
    """Read the ledger; whether every table is copied."""
    uris, pipeline = await context.credentials.both(), context.pipeline
    async with connection(uris.destination_uri, "destination") as conn:
        ledger = await read_ledger(conn, pipeline.id)
    return await _take_ledger(context, reports, ledger)


async def _take_ledger(context: Context, reports: Reports, ledger: CopyLedger) -> bool:
    pipeline = context.pipeline
    slot = pipeline.record.slot
    pipeline.copying.settle(ledger, slot.consistent_lsn if slot else Lsn(0))
    if pipeline.copying.records() != pipeline.record.tables:
        pipeline.copies_noted()
        await context.journal.save()
    reports.notify()  # the task that builds indexes waits for complete tables
    return pipeline.copying.complete


async def _publish(
    context: Context, schema: Schema, workers: Workers, bus: Client, snapshot: SnapshotReady, *, why: str
) -> None:
    """Queue what the ledger lacks, under this snapshot. why: it is not the first one, for an event."""
    pipeline = context.pipeline
    migration = context.migration
    follow = migration.record.options.follow
    if pipeline.record.snapshot_id:
        which = "incomplete tables" if follow else "all tables"
        migration.event(EventLevel.WARNING, f"{why}: {which} are copied under a new snapshot")
    if pipeline.record.snapshot_id or not follow:
        # Copiers that hold parts of the old one stop first. One that does not hear it works in vain.
        await workers.staffing.staff(Role.DECODER)
        await purge(bus, pipeline.id)
        workers.reports.part_errors = [
            one for one in workers.reports.part_errors if one[1].kind not in _OF_A_SNAPSHOT
        ]
        if follow and await _all_copied(context, workers.reports):
            return
    found = await tables_to_copy(context, schema, workers, snapshot)
    if found is None:
        workers.snapshot.close()
        return
    tables, ledger = found.tables, await renewed(context, schema.routing, snapshot, found)
    if not await _take_ledger(context, workers.reports, ledger):
        missing = set(pipeline.copying.missing())
        versions = (
            migration.record.source.server_version_num,
            migration.record.destination.server_version_num,
        )
        copied = {part for parts in copied_by_table(ledger).values() for part in parts}
        wanted = [table for table in tables if table.table in missing]
        parts = plan_parts(wanted, ledger.plans, copied, snapshot, versions)
        await ensure_queue(bus, pipeline.id)
        await publish_parts(bus, pipeline.id, parts)
    pipeline.parts_queued(snapshot.identity)
    await context.journal.save()
    await workers.staffing.staff(Role.DECODER, Role.COPIER)


async def _watch(context: Context, workers: Workers, bus: Client, snapshot: SnapshotReady) -> bool:
    """Return when all parts are reported, the queue lacks parts, or a new snapshot is needed; whether
    it is needed because a table was changed on the source.

    A changed table waits until all others are copied under this snapshot: otherwise a table that is
    truncated every hour would keep a large one from ever being complete.
    """
    pipeline = context.pipeline
    migration = context.migration
    changed: set[TableId] = set()

    def turn() -> bool:
        lost = workers.snapshot.current is not snapshot
        return pipeline.copying.complete or lost or bool(workers.reports.part_errors)

    while not pipeline.copying.complete and workers.snapshot.current is snapshot:
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_EVERY_S):
                await workers.reports.until(turn)
        if _snapshot_is_lost(context.pipeline, workers.reports, changed):
            workers.snapshot.close()
            return False
        if changed and (
            not migration.record.options.follow or changed.issuperset(pipeline.copying.missing())
        ):
            workers.snapshot.close()
            return True
        if turn():
            continue
        left = await queued(bus, pipeline.id)
        if (left or 0) >= pipeline.copying.missing_parts(but=changed):
            continue
        # Parts have left the queue without a report. They were entered in the ledger before that.
        if await _all_copied(context, workers.reports) or (left or 0) < pipeline.copying.missing_parts(
            but=changed
        ):
            if not pipeline.copying.complete:
                migration.event(
                    EventLevel.WARNING, "parts are missing from the copy queue and are queued again"
                )
                pipeline.queue_incomplete()
            return False
    return False


def _snapshot_is_lost(pipeline: PipelineStatus, reports: Reports, changed: set[TableId]) -> bool:
    """Take what copiers reported of parts that failed; add to `changed` tables that are not what the
    snapshot shows. Raises what neither a new snapshot nor a retry cures."""
    errors, reports.part_errors = reports.part_errors, []
    lost = False
    for part, error in errors:
        table = pipeline.copying.table_of(part)
        if error.kind is ErrorKind.TABLE_CHANGED and table is not None:
            pipeline.migration.event(EventLevel.WARNING, str(error))
            changed.add(table)
        elif error.kind is ErrorKind.SNAPSHOT_LOST:
            lost = True
        else:
            raise error
    return lost
