"""Phase schema: slot and snapshot on the source, the pre-data schema on the destination.

Done when the destination's bookkeeping says so: the section is restored in one transaction
together with that note.
"""

from __future__ import annotations

from services.coordinator.pipeline import Pipeline
from services.shared.model import Phase, Role, SnapshotReady
from services.shared.pg.bookkeeping import ensure_bookkeeping, mark_step, steps_done
from services.shared.pg.catalog import list_tables_under, publication_tables
from services.shared.pg.connection import connection
from services.shared.pg.dump import dump_schema, run_script, section_script
from services.shared.pg.event_triggers import silence
from services.shared.pg.identity import choose_published, put_back, set_full
from services.shared.pg.tools import DumpTools, find_tools
from services.shared.pg.truncation import TRUNCATE_SINCE, table_files

PRE_DATA = "pre-data"


async def run(pipeline: Pipeline) -> Phase:
    """Returns the next phase."""
    migration = pipeline.migration
    uris = await pipeline.credentials()
    if migration.record.slot is None:
        # Whoever began before a crash may have told us of a slot that we did not note.
        await pipeline.release()
        await _choose_published(pipeline)
    await pipeline.staff(Role.DECODER)
    await pipeline.until(lambda: migration.record.slot is not None)
    await pipeline.journal.save()
    async with connection(uris.destination_uri, "destination") as conn:
        done = await steps_done(conn, migration.record.migration_id)
    if PRE_DATA in done and migration.record.tables:
        return Phase.COPY
    snapshot = await pipeline.open_snapshot()
    await _list_tables(pipeline, snapshot)
    if PRE_DATA not in done:
        await _restore(pipeline, snapshot)
    return Phase.COPY


async def _choose_published(pipeline: Pipeline) -> None:
    """Once: a publication that was made before a crash carries the first choice.

    What is altered on the source is noted before, so that cleanup knows it whatever happens; and
    it is altered before a publication stands, or UPDATE and DELETE would fail there meanwhile.
    """
    migration = pipeline.migration
    uris = await pipeline.credentials()
    async with connection(uris.source_uri, "source") as conn:
        if not migration.record.options.follow:
            migration.update(published=await publication_tables(conn))
        elif not (migration.record.published or migration.record.inserts_only):
            chosen = await choose_published(conn, migration.record.options.no_key_tables)
            if migration.record.source.server_version_num < TRUNCATE_SINCE:
                migration.update(files=await table_files(conn, chosen.whole))
            migration.update(
                published=chosen.whole,
                inserts_only=chosen.inserts_only,
                copied_only=chosen.copied_only,
                altered=chosen.altered,
            )
            for warning in chosen.warnings:
                migration.event("warning", warning)
        await pipeline.journal.save()
        await set_full(conn, [one.table for one in migration.record.altered])


async def _list_tables(pipeline: Pipeline, snapshot: SnapshotReady) -> None:
    uris, migration = await pipeline.credentials(), pipeline.migration
    async with connection(uris.source_uri, "source") as conn:
        migration.copying.plan(await list_tables_under(conn, snapshot.snapshot_name))
    migration.update(tables=migration.copying.records())
    await pipeline.journal.save()


async def _restore(pipeline: Pipeline, snapshot: SnapshotReady) -> None:
    uris, migration = await pipeline.credentials(), pipeline.migration
    tools = await schema_tools(pipeline)
    pipeline.archive.parent.mkdir(parents=True, exist_ok=True)
    await dump_schema(tools, uris.source_uri, snapshot.snapshot_name, pipeline.archive)
    options = migration.record.options
    script = await section_script(
        tools, pipeline.archive, PRE_DATA, no_owner=options.no_owner, no_acl=options.no_acl
    )
    async with connection(uris.destination_uri, "destination") as conn:
        await ensure_bookkeeping(conn)
    async with connection(uris.destination_uri, "destination") as conn, conn.transaction():
        await silence(conn)
        await run_script(conn, script, PRE_DATA)
        await put_back(conn, migration.record.altered)  # the destination gets what the source had
        await mark_step(conn, migration.record.migration_id, PRE_DATA)
    migration.event("info", f"schema of {len(migration.record.tables)} tables is on the destination")


async def schema_tools(pipeline: Pipeline) -> DumpTools:
    record = pipeline.migration.record
    return await find_tools(
        record.source.server_version_num // 10000, record.destination.server_version_num // 10000
    )
