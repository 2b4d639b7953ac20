"""Phase indexes: everything of the schema that goes faster, or only works, with the rows there.

The post-data section (indexes, constraints, triggers, policies) and the statistics for the
planner. A clone that does not follow ends here, with the sequences' values.

Where tables were copied under several snapshots, a row may refer to one that a later snapshot
does not hold any more: no foreign key would stand. So before keys are made, changes are applied
up to the latest of those snapshots, from where on the tables are of one moment.
"""

from __future__ import annotations

from functools import partial

from services.coordinator.phases.schema import schema_tools
from services.coordinator.pipeline import Pipeline
from services.shared.model import IndexProgress, Lsn, Phase, Role
from services.shared.pg.bookkeeping import ensure_bookkeeping, mark_step, steps_done
from services.shared.pg.connection import connection
from services.shared.pg.database_settings import read_database_settings, write_database_settings
from services.shared.pg.dump import dump_schema, section_script
from services.shared.pg.postdata import analyze, restore_post_data
from services.shared.pg.sequences import read_sequences, set_sequences

POST_DATA = "post-data"
ANALYZE = "analyze"
DATABASE = "database"


async def run(pipeline: Pipeline) -> Phase:
    """Returns the next phase."""
    uris, migration = await pipeline.credentials(), pipeline.migration
    follow = migration.record.options.follow
    await pipeline.staff(*([Role.DECODER] if follow else []))
    pipeline.close_snapshot()
    async with connection(uris.destination_uri, "destination") as conn:
        await ensure_bookkeeping(conn)
        done = await steps_done(conn, migration.record.migration_id)
    if POST_DATA not in done:
        await _build(pipeline, done)
    pipeline.archive.unlink(missing_ok=True)
    if ANALYZE not in done:
        await analyze(uris.destination_uri, migration.record.options.index_workers)
        async with connection(uris.destination_uri, "destination") as conn:
            await mark_step(conn, migration.record.migration_id, ANALYZE)
    if not follow:
        await _copy_sequences(pipeline)
    if DATABASE not in done:
        await _set_up_database(pipeline)
    return Phase.CATCHUP if follow else Phase.COMPLETE


async def _build(pipeline: Pipeline, done: set[str]) -> None:
    uris, migration = await pipeline.credentials(), pipeline.migration
    tools = await schema_tools(pipeline)
    if not pipeline.archive.exists():
        pipeline.archive.parent.mkdir(parents=True, exist_ok=True)
        await dump_schema(tools, uris.source_uri, None, pipeline.archive)
    options = migration.record.options
    script = await section_script(
        tools, pipeline.archive, POST_DATA, no_owner=options.no_owner, no_acl=options.no_acl
    )

    def progress(finished: int, total: int) -> None:
        migration.indexes = IndexProgress(total, finished)
        migration.touch()

    await restore_post_data(
        uris.destination_uri,
        migration.record.migration_id,
        script,
        done=done,
        step=POST_DATA,
        workers=migration.record.options.index_workers,
        progress=progress,
        tables_in_step=partial(_past_floors, pipeline),
    )
    migration.event("info", f"{migration.indexes.total} indexes and constraints are built")


async def _past_floors(pipeline: Pipeline) -> None:
    """Apply what was committed before the latest snapshot; then let the tables be locked."""
    migration = pipeline.migration
    latest = max((floor for _, floor in migration.copying.floors()), default=Lsn(0))
    if latest:
        migration.event("info", f"changes are applied up to {latest}, where the last table was copied")
        await pipeline.staff(Role.DECODER, Role.APPLIER)
        await pipeline.until(lambda: migration.following.applied >= latest)
        await pipeline.staff(Role.DECODER)


async def _set_up_database(pipeline: Pipeline) -> None:
    """Settings, privileges and comment of the database itself."""
    uris, migration = await pipeline.credentials(), pipeline.migration
    async with connection(uris.source_uri, "source") as conn:
        wanted = await read_database_settings(conn)
    options = migration.record.options
    told = await write_database_settings(uris.destination_uri, wanted, privileges=not options.no_acl)
    for warning in told:
        migration.event("warning", warning)
    async with connection(uris.destination_uri, "destination") as conn:
        await mark_step(conn, migration.record.migration_id, DATABASE)


async def _copy_sequences(pipeline: Pipeline) -> None:
    """Read after the copy: no sequence is behind a row that was copied."""
    uris = await pipeline.credentials()
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        await set_sequences(destination, await read_sequences(source, "source"))
