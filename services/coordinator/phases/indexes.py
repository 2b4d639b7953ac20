"""Phase indexes: create the parts of the schema that are faster, or only possible, after the rows are copied.

These are the post-data section (indexes, constraints, triggers, policies) and the planner's statistics. A
clone without replication ends with this phase, which also sets the sequences' values.

Work on a single table has begun in phase copy (services.coordinator.post_data.build). This phase waits for
it and does the rest in the order that services.shared.pg.schema.post_data gives. Each item is recorded as
done on the destination in its own transaction. After a crash only the items without a record are done again.

If tables were copied under several snapshots, a row may refer to a row that a later snapshot no longer
contains. A foreign key could not be created then. So before foreign keys are created, changes are applied up
to the latest of these snapshots; after that all tables show the same moment. If rows of the source itself
violate a foreign key, the migration stops. When it is resumed, changes up to that time are applied before the
key is checked again, so that rows corrected on the source count. A table whose rows violate a unique index is
then copied again (services.coordinator.tables.damaged).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import PipelineRecord
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.routing import Routing
from services.coordinator.post_data.build import POST_DATA, Building, begin, load
from services.coordinator.post_data.schedule import one_by_one
from services.coordinator.tables import damaged
from services.coordinator.tables.partitions import check_partitions
from services.coordinator.tables.routed import look_for_routes
from services.coordinator.tables.unlogged import check_unlogged
from services.shared.model import ErrorKind, EventLevel, Lsn, PgmigError, PipelineState, Role, TableId
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping, mark_step, steps_done
from services.shared.pg.catalog.replica_identity import use_indexes
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.sequences import SequenceSetter, read_sequences
from services.shared.pg.replication.position import wal_position
from services.shared.pg.schema.database_settings import read_database_settings, write_database_settings
from services.shared.pg.schema.dump import list_of
from services.shared.pg.schema.post_data import Item, analysis
from services.shared.pg.schema.unchecked_keys import doubtful_keys, loosen_keys
from services.shared.pg.session.connection import connection
from services.shared.pg.session.event_triggers import silence
from services.shared.runtime.assignments import cause

ANALYZE = "analyze"
KEYS = "foreign keys"
DATABASE = "database"


async def run(context: Context, schema: Schema, workers: Workers) -> PipelineState:
    """Returns the next phase."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    follow = migration.record.options.follow
    if pipeline.record.damaged:
        return await damaged.copy_again(context, schema.routing, workers.staffing)
    await workers.staffing.staff(*([Role.DECODER] if follow else []))
    workers.snapshot.close()
    async with connection(uris.destination_uri, "destination") as conn:
        await ensure_bookkeeping(conn)
        done = await steps_done(conn, pipeline.id)
    if ANALYZE not in done:
        try:
            building = (
                await _build(context, schema, workers)
                if POST_DATA not in done
                else await load(context, schema.files, workers.reports)
            )
        except Exception as exc:
            error = damaged.noted(context.pipeline, exc)
            if error is exc:
                raise
            raise error from exc
        await building.look_again()
        building.count(building.plan.items())
        await _analyze_the_others(context.pipeline, building)
    await schema.index_work.stop()
    await check_unlogged(context)
    await _finish(context, schema.files, done)
    return PipelineState.CATCHUP if follow else PipelineState.ENDED


async def _build(context: Context, schema: Schema, workers: Workers) -> Building:
    """The rest of the section; what of it is done already need not be known."""
    tables = begin(context, schema, workers.reports)
    await asyncio.wait({tables})  # to await it would cancel it with us; whoever pauses stops it anyway
    building = tables.result()
    if context.migration.record.options.data_only:
        await _warn_of_keys(context)
        return building  # the destination has its indexes and constraints
    await building.look_again()
    building.count(building.plan.of_tables())
    await _across_tables(context, schema, workers, building)
    context.migration.event(EventLevel.INFO, f"built indexes and constraints: {building.plan.total}")
    return building


async def _across_tables(context: Context, schema: Schema, workers: Workers, building: Building) -> None:
    if context.migration.record.options.follow:
        await check_partitions(context, schema.files)
    await _at_once(building, building.plan.parents, "post-data: partitioned tables")
    unchecked = any(item.step not in building.done for chain in building.plan.checks for item in chain)
    await _of_one_moment(context, schema.routing, workers, again=unchecked and KEYS in building.done)
    await _at_once(building, building.plan.keys, KEYS)
    checks = [one_by_one(f"check {number}", chain) for number, chain in enumerate(building.plan.checks)]
    try:
        await building.work_off(checks)
    except ExceptionGroup as exc:
        raise _with_remedy(exc, follow=context.migration.record.options.follow) from exc
    await _loosen_keys(context)
    await _at_once(building, building.plan.rest, POST_DATA)


async def _loosen_keys(context: Context) -> None:
    """Before anything refers to the constraints: comments come with the rest of the section."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    if not migration.record.options.follow:
        return
    async with connection(uris.destination_uri, "destination") as conn:
        await silence(conn)
        loose = await loosen_keys(conn, *_in_part_and_all(pipeline.record))
    for warning in loose.warnings:
        migration.event(EventLevel.WARNING, warning)


def _in_part_and_all(record: PipelineRecord) -> tuple[list[TableId], list[TableId]]:
    """Tables that are not replicated in full, and all tables that are copied."""
    return [*record.inserts_only, *record.copied_only], [one.table for one in record.tables]


async def _warn_of_keys(context: Context) -> None:
    """About keys of a destination that brought its own tables."""
    uris, record = await context.credentials.both(), context.migration.record
    if not record.options.follow:
        return
    async with connection(uris.destination_uri, "destination") as conn:
        warning = await doubtful_keys(conn, *_in_part_and_all(context.pipeline.record))
    if warning:
        context.migration.event(EventLevel.WARNING, warning)


async def _at_once(building: Building, items: Sequence[Item], step: str) -> None:
    async with building.session() as session:
        await building.run(session, items, step)


def _with_remedy(group: ExceptionGroup[Exception], *, follow: bool) -> Exception:
    error = cause(group)
    if error is None or error.kind is not ErrorKind.ORPHAN_ROW:
        return error or group
    remedy = (
        "correct such rows on the source alone (add what they refer to, or delete them), then continue: "
        "changes are applied before the key is checked again"
        if follow
        else "correct such rows on the source and, in a read-write transaction, on the destination (add what "
        "they refer to, or delete them), then continue"
    )
    return PgmigError(error.kind, error.message, remedy)


async def _of_one_moment(context: Context, routing: Routing, workers: Workers, *, again: bool) -> None:
    """Apply what was committed before the latest snapshot; then let the tables be locked.

    again: foreign keys were tried before, and rows may have been corrected on the source since.
    """
    pipeline = context.pipeline
    migration = context.migration
    floor = max((floor for _, floor in pipeline.copying.floors()), default=Lsn(0))
    target, why = floor, "position at which the last table was copied"
    if again and migration.record.options.follow:
        async with connection((await context.credentials.both()).source_uri, "source") as conn:
            target, why = await wal_position(conn), "before foreign keys are checked again"
    if target:
        migration.event(EventLevel.INFO, f"changes are applied up to {target}, {why}")
        await look_for_routes(context, routing)
        await workers.staffing.staff(Role.DECODER, Role.APPLIER)
        await workers.reports.until(lambda: pipeline.following.applied >= target)
        await workers.staffing.staff(Role.DECODER)


async def _analyze_the_others(pipeline: PipelineStatus, building: Building) -> None:
    """Statistics of what was not copied, or is made of several tables' rows."""
    version = pipeline.migration.record.destination.server_version_num
    copied = {record.table for record in pipeline.copying.records()}
    others = [analysis(table, kind, version) for table, kind in building.kinds.items() if table not in copied]
    await building.work_off([one_by_one(item.step, [item]) for item in others])


async def _finish(context: Context, files: Files, done: set[str]) -> None:
    """Statistics are complete. What is left: sequences, and the database's own settings, privileges
    and comment."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    options = migration.record.options
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        await use_indexes(destination, pipeline.record.altered)
        await mark_step(destination, pipeline.id, ANALYZE)
        files.archive.unlink(missing_ok=True)
        list_of(files.archive).unlink(missing_ok=True)
        if not (options.follow or options.schema_only):
            # Read after the copy: no sequence is behind a row that was copied.
            chosen = await choose(source, options)
            setter = await SequenceSetter.claim(destination, pipeline.id)
            await setter.set(destination, await read_sequences(source, "source", chosen))
        if DATABASE not in done and not options.data_only:
            wanted = await read_database_settings(source)
            privileges = not options.no_acl
            for warning in await write_database_settings(uris.destination_uri, wanted, privileges=privileges):
                migration.event(EventLevel.WARNING, warning)
            await mark_step(destination, pipeline.id, DATABASE)
