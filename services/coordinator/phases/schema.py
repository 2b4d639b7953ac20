"""Phase schema: slot and snapshot on the source, the pre-data schema on the destination.

The phase is done when the destination's bookkeeping records it. The section is restored in one transaction
together with that record.

When objects are dropped or renamed between the snapshot and the dump, every run of pg_dump under this
snapshot fails. Then the phase begins again under a new snapshot. The copy of each table
records the snapshot's LSN, so the applier skips the changes that the new snapshot already shows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import DroppedTable, Record
from services.coordinator.pipeline.dump_tools import schema_tools
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.guarding import guard
from services.coordinator.pipeline.parts import Context, Workers
from services.coordinator.pipeline.snapshot import Snapshot
from services.shared.model import (
    ErrorKind,
    EventLevel,
    PgmigError,
    PipelineState,
    Role,
    SnapshotReady,
    TableId,
    counted,
)
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping, mark_step, steps_done
from services.shared.pg.catalog.objects import list_schemas
from services.shared.pg.catalog.replica_identity import choose_published, put_back, set_full
from services.shared.pg.catalog.selected import choose, choose_under
from services.shared.pg.catalog.table_identity import (
    KnownTable,
    freshly_known,
    note_tables,
    read_identities_under,
)
from services.shared.pg.catalog.tables import list_tables_under, publication_tables
from services.shared.pg.replication.truncation import TRUNCATE_SINCE, table_files
from services.shared.pg.schema.archive.entries import Section
from services.shared.pg.schema.archive.restore_sql import Script
from services.shared.pg.schema.dump import dump_schema, run_entries, run_script, section_script
from services.shared.pg.schema.existing_objects import check_agreed, drop_agreed
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import connection
from services.shared.pg.session.event_triggers import silence
from services.shared.pg.session.standbys import read_standbys

PRE_DATA = "pre-data"
STANDBYS = (
    "the destination has standbys: if one of them is promoted that has not received all changes that were "
    "confirmed to the source, those changes are lost to the migration, and it stops. Start it with "
    "--confirm-after-standby to let the confirmation wait for them"
)
MOST_SNAPSHOTS = 5
"""How many snapshots are tried while objects of the source are being dropped or renamed."""


async def run(context: Context, files: Files, workers: Workers) -> PipelineState:
    """Returns the next phase."""
    pipeline = context.pipeline
    uris = await context.credentials.both()
    await guard(context)
    if pipeline.record.slot is None:
        # A decoder that began before a crash may have reported a slot that was not recorded.
        await workers.staffing.release()
        await _tell_of_standbys(context, uris.destination_uri)
        await _choose_published(context)
    await workers.staffing.staff(Role.DECODER)
    await workers.reports.until(lambda: pipeline.record.slot is not None)
    await context.journal.save()
    async with connection(uris.destination_uri, "destination") as conn:
        done = await steps_done(conn, pipeline.id)
    if PRE_DATA in done and pipeline.record.tables:
        return PipelineState.COPY
    await _under_snapshots(context, files, workers.snapshot, restored=PRE_DATA in done)
    return PipelineState.COPY


async def _tell_of_standbys(context: Context, uri: str) -> None:
    """By default pgmig confirms to the source what the destination's primary has flushed, and waits for no
    standby."""
    migration, options = context.migration, context.migration.record.options
    async with connection(uri, "destination") as conn:
        found = await read_standbys(conn)
    if options.confirm_after_standby:
        migration.event(
            EventLevel.INFO,
            f"what is written to the destination counts as flushed when its standbys have it: {found.named}"
            + (f" (synchronous_standby_names = '{found.synchronous}')" if found.synchronous else ""),
        )
    elif options.follow and (found.names or len(context.pipeline.destination.servers) > 1):
        migration.event(EventLevel.WARNING, STANDBYS)


async def _under_snapshots(context: Context, files: Files, snapshot: Snapshot, *, restored: bool) -> None:
    """List the tables and restore their schema under one snapshot; under another one when objects were
    dropped or renamed meanwhile. restored: only the list is missing."""
    for attempt in range(1, MOST_SNAPSHOTS + 1):
        try:
            await _under_snapshot(context, files, await snapshot.open(), restored=restored)
        except PgmigError as exc:
            if exc.kind is not ErrorKind.TABLE_CHANGED:
                raise
            snapshot.close()  # or the decoder would answer with the same one
            if attempt == MOST_SNAPSHOTS:
                raise PgmigError(
                    ErrorKind.SCHEMA_FAILED,
                    f"the schema could not be dumped under any of {attempt} snapshots: {exc.message}",
                    "stop the jobs that drop, rename or re-create objects of the source, then continue",
                ) from exc
            context.migration.event(EventLevel.WARNING, f"{exc}: {exc.hint}")
        else:
            return


async def _under_snapshot(context: Context, files: Files, snapshot: SnapshotReady, *, restored: bool) -> None:
    chosen, known = await _list_tables(context, snapshot)
    if restored:
        return
    if context.migration.record.options.data_only:
        await _take_tables(context, chosen, known)
    else:
        await _restore(context, files, snapshot, chosen, known)


async def _choose_published(context: Context) -> None:
    """Choose the published tables, once: a publication that was created before a crash has the first choice.

    Tables that will be altered on the source are recorded before, so that cleanup always knows them. They are
    altered before the publication exists, because otherwise UPDATE and DELETE would fail there until then.
    """
    pipeline = context.pipeline
    migration = context.migration
    uris = await context.credentials.both()
    async with connection(uris.source_uri, "source") as conn:
        taken = await choose(conn, migration.record.options)
        if not migration.record.options.follow:
            pipeline.tables_chosen(await publication_tables(conn, taken))
        elif not (pipeline.record.published or pipeline.record.inserts_only):
            chosen = await choose_published(conn, migration.record.options.no_key_tables, taken)
            if migration.record.source.server_version_num < TRUNCATE_SINCE:
                pipeline.files_noted(await table_files(conn, chosen.whole))
            pipeline.publication_chosen(chosen)
            for warning in chosen.warnings:
                migration.event(EventLevel.WARNING, warning)
        await context.journal.save()
        await set_full(conn, [one.table for one in pipeline.record.altered])


async def _list_tables(context: Context, snapshot: SnapshotReady) -> tuple[Chosen, tuple[KnownTable, ...]]:
    """Choose the objects and record the tables. Returns also the identities of tables to replicate."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    async with connection(uris.source_uri, "source") as conn:
        chosen = await choose_under(conn, snapshot.snapshot_name, migration.record.options)
        tables = await list_tables_under(conn, snapshot.snapshot_name, chosen)
        identities = await read_identities_under(conn, pipeline.id, snapshot.snapshot_name)
    _keep_floors(pipeline, {table.table for table in tables}, snapshot)
    pipeline.copying.plan(() if migration.record.options.schema_only else tables)
    pipeline.copies_noted()
    await context.journal.save()
    taken = {record.table for record in pipeline.record.tables}
    known = {
        t: one
        for t, one in identities.items()
        if t in taken or (taken and not one.has_rows and chosen.makes(t))
    }
    return chosen, tuple(freshly_known(known))


def _keep_floors(pipeline: PipelineStatus, present: Collection[TableId], snapshot: SnapshotReady) -> None:
    """Skip the changes of tables that existed under an earlier snapshot and were dropped or renamed since.

    The destination never gets these tables. The rows of a renamed table are copied under its new name.
    """
    record = pipeline.record
    earlier = {one.table for one in record.tables} | {one.table for one in record.dropped}
    if earlier and pipeline.migration.record.options.follow:
        gone = sorted(earlier - set(present))
        pipeline.floors_kept([DroppedTable(table, snapshot.lsn) for table in gone])


async def _take_tables(context: Context, chosen: Chosen, known: Sequence[KnownTable]) -> None:
    """The destination has its schema: only note that rows may go into it. Each table is emptied in
    the transaction that fills it."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as conn,
    ):
        await check_agreed(source, conn, chosen, migration.record.options.confirmed)
        await ensure_bookkeeping(conn)
        async with conn.transaction():
            await note_tables(conn, pipeline.id, known)
            await mark_step(conn, pipeline.id, PRE_DATA)
    migration.event(
        EventLevel.INFO, f"{counted(len(pipeline.record.tables), 'table')} of the destination to fill"
    )


async def _restore(
    context: Context, files: Files, snapshot: SnapshotReady, chosen: Chosen, known: Sequence[KnownTable]
) -> None:
    uris, migration = await context.credentials.both(), context.migration
    tools = await schema_tools(context.migration)
    files.archive.parent.mkdir(parents=True, exist_ok=True)
    options = migration.record.options
    there: tuple[str, ...] = ()
    if options.drop_if_exists:
        async with connection(uris.destination_uri, "destination") as conn:
            there = await list_schemas(conn)
    await dump_schema(
        tools,
        uris.source_uri,
        snapshot.snapshot_name,
        files.archive,
        replace(chosen, schemas_there=there),
        rows=not options.schema_only,
    )
    script = await section_script(
        files.archive,
        Section.PRE_DATA,
        no_owner=options.no_owner,
        no_acl=options.no_acl,
        skip=options.skip_objects,
    )
    try:
        await _run(context, script.text, chosen, known)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.SCHEMA_FAILED:
            raise
        await _run(context, script, chosen, known)  # once more, to name what fails
    migration.event(EventLevel.INFO, f"{_described(migration.record)} is on the destination")


async def _run(context: Context, script: bytes | Script, chosen: Chosen, known: Sequence[KnownTable]) -> None:
    """The section, with the note that it is done, in one transaction. bytes: as one query."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    options = migration.record.options
    dropped = 0
    async with connection(uris.destination_uri, "destination") as conn:
        await ensure_bookkeeping(conn)
        async with conn.transaction():
            await silence(conn)
            if options.drop_if_exists:
                async with connection(uris.source_uri, "source") as source:
                    dropped = await drop_agreed(source, conn, chosen, options)
            if isinstance(script, bytes):
                await run_script(conn, script, PRE_DATA)
            else:
                await run_entries(conn, script, PRE_DATA)
            await put_back(conn, pipeline.record.altered)  # the destination gets what the source had
            await note_tables(conn, pipeline.id, known)
            await mark_step(conn, pipeline.id, PRE_DATA)
    if options.drop_if_exists:
        migration.event(EventLevel.INFO, f"dropped {counted(dropped, 'object')} of the destination")


def _described(record: Record) -> str:
    if record.options.schema_only:
        return "the schema"
    return f"schema of {counted(len(record.forward.tables), 'table')}"
