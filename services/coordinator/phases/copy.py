"""Phase copy: parts go through the queue to the copiers, until the ledger has them all.

The ledger on the destination says which parts are copied; queue and reports only speed things
up. So whatever is lost (queue, reports, a copier, ourselves) costs a look at the ledger.

The parts in the queue name an exported snapshot. When it is lost with the decoder's session,
the parts that are left are published again under a new one, and their tables get a floor: the
applier skips what the later snapshot already holds. A clone that does not follow has no applier
to bring tables of two snapshots into step: there all parts are copied again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.coordinator import unfollowed
from services.coordinator.parts import plan_parts
from services.coordinator.pipeline import Pipeline
from services.shared.bus.queue import delete_queue, ensure_queue, publish_parts, purge, queued
from services.shared.model import ErrorKind, Lsn, PgmigError, Phase, Role, SnapshotReady
from services.shared.pg.bookkeeping import copied_parts, forget_parts
from services.shared.pg.catalog import list_tables_under
from services.shared.pg.connection import connection

CHECK_EVERY_S = 5.0


async def run(pipeline: Pipeline) -> Phase:
    """Returns the next phase."""
    # After a restart of ours the copiers may still be at it: they are not disturbed.
    published = bool(pipeline.migration.record.snapshot_id)
    await pipeline.staff(Role.DECODER, *([Role.COPIER] if published else []))
    while not (await _settled(pipeline) and await unfollowed.copied(pipeline)):
        snapshot = await pipeline.open_snapshot()
        if snapshot.identity != pipeline.migration.record.snapshot_id:
            await _publish(pipeline, snapshot)
        await _watch(pipeline, snapshot)
    await pipeline.staff(Role.DECODER)
    await delete_queue(pipeline.bus, pipeline.migration.id)
    migration = pipeline.migration
    migration.event("info", f"{len(migration.record.tables)} tables are copied")
    return Phase.INDEXES


async def _settled(pipeline: Pipeline) -> bool:
    """Read the ledger; whether every table is copied."""
    uris, migration = await pipeline.credentials(), pipeline.migration
    async with connection(uris.destination_uri, "destination") as conn:
        ledger = await copied_parts(conn, migration.record.migration_id)
    slot = migration.record.slot
    migration.copying.settle(ledger, slot.consistent_lsn if slot else Lsn(0))
    if migration.copying.records() != migration.record.tables:
        migration.update(tables=migration.copying.records())
        await pipeline.journal.save()
    return migration.copying.complete


async def _publish(pipeline: Pipeline, snapshot: SnapshotReady) -> None:
    """Queue what the ledger lacks, under this snapshot."""
    uris, migration = await pipeline.credentials(), pipeline.migration
    follow = migration.record.options.follow
    if migration.record.snapshot_id:
        which = "incomplete tables" if follow else "all tables"
        migration.event("warning", f"the snapshot was lost: {which} are copied under a new one")
    if migration.record.snapshot_id or not follow:
        await pipeline.staff(Role.DECODER)  # copiers that hold parts of the old one stop first
        await purge(pipeline.bus, migration.id)
        if not follow:
            async with connection(uris.destination_uri, "destination") as conn:
                await forget_parts(conn, migration.record.migration_id)
        if await _settled(pipeline):
            return
    async with connection(uris.source_uri, "source") as conn:
        tables = {t.table: t for t in await list_tables_under(conn, snapshot.snapshot_name)}
    missing = migration.copying.missing()
    gone = [str(table) for table in missing if table not in tables]
    if gone:
        raise PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"tables were dropped on the source before they were copied: {', '.join(gone[:5])}",
            "clean up and start the migration again; do not change the schema meanwhile",
        )
    versions = migration.record.source.server_version_num, migration.record.destination.server_version_num
    parts = plan_parts([tables[table] for table in missing], (), snapshot, versions)
    await ensure_queue(pipeline.bus, migration.id)
    await publish_parts(pipeline.bus, migration.id, parts)
    migration.update(snapshot_id=snapshot.identity)
    await pipeline.journal.save()
    await pipeline.staff(Role.DECODER, Role.COPIER)


async def _watch(pipeline: Pipeline, snapshot: SnapshotReady) -> None:
    """Return when all parts are reported, the snapshot is lost, or the queue lacks parts."""
    migration = pipeline.migration

    def turn() -> bool:
        lost = pipeline.snapshot is not snapshot
        return migration.copying.complete or lost or bool(pipeline.part_errors)

    while not turn():
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_EVERY_S):
                await pipeline.until(turn)
                break
        left = await queued(pipeline.bus, migration.id)
        # Read after the queue: what has left the queue was in the ledger before.
        if await _settled(pipeline) or (left or 0) < len(migration.copying.missing()):
            if not migration.copying.complete:
                migration.event("warning", "the copy queue lost parts: they are queued again")
                migration.update(snapshot_id="")
            return
    errors, pipeline.part_errors = pipeline.part_errors, []
    for error in errors:
        if error.kind is not ErrorKind.SNAPSHOT_LOST:
            raise error
        if pipeline.snapshot is snapshot:
            pipeline.snapshot = None
