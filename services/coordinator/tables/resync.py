"""Copying tables again while changes are replicated, and adding tables that were created since the start.

A table gets a new plan under a new snapshot, and a floor: the applier skips changes that the snapshot already
contains. A table that is not in the publication is added to it first, so that the stream contains every
change that the snapshot does not contain.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import DroppedTable
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.routing import Routing
from services.coordinator.tables.adopt import begin_copy, forget_copies
from services.coordinator.tables.explain import absent, drift_error, findings, names_copied, unlogged
from services.coordinator.tables.look import Look, look
from services.coordinator.tables.publish import publish
from services.coordinator.tables.routed import look_for_routes, parted
from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.catalog.table_identity import known_tables
from services.shared.pg.session.connection import connection

AGAIN = "tables are copied again"


async def prepare_resync(context: Context, routing: Routing, tables: Sequence[TableId]) -> None:
    """Let phase copy copy these tables. No worker runs. Raises INVALID_ARGUMENT for a name that is not a
    table of the migration, SCHEMA_DRIFT for a table that the destination lacks, and NO_REPLICA_IDENTITY."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    await look_for_routes(context, routing)
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        known = await known_tables(destination, pipeline.id)
        seen = await look(source, known, pipeline.id, migration.record.options)
        names = _resolved(context.pipeline, routing, seen, tables)
        lost = await parted(routing, source, seen)
        missing = await absent(destination, names)
        if missing:
            raise drift_error(migration.id, await findings(source, destination, seen, (), missing))
        lasting = [table for table in tables if _is_unlogged(seen, table)]
        if lasting:
            raise drift_error(migration.id, [unlogged(table) for table in lasting])
        await publish(context.pipeline, source, seen.now, names)
        await forget_copies(destination, pipeline.id, names, identities=False)
    # The rows of the root's table are replaced, and no earlier change may bring the old ones back.
    without = [DroppedTable(leaf, seen.end) for leaf, root in lost.items() if root in names]
    begin_copy(context.pipeline, names, AGAIN, without)


def _is_unlogged(seen: Look, table: TableId) -> bool:
    """Whether its rows are copied, but its changes are not replicated."""
    known, now = seen.known.get(table), seen.now.get(table)
    return now is not None and not now.logged and (known is None or known.identity.logged)


def _listed(pipeline: PipelineStatus, table: TableId) -> bool:
    return any(record.table == table for record in pipeline.copying.records())


def _resolved(
    pipeline: PipelineStatus, routing: Routing, seen: Look, tables: Sequence[TableId]
) -> tuple[TableId, ...]:
    """The names under which the tables are copied."""
    names = names_copied(tables, routing.routes)
    roots = {route.root for route in (*routing.routes, *routing.parted)}
    new = {table for table, one in seen.now.items() if one.has_rows and seen.chosen.fills(table)}
    unknown = [table for table in names if table not in new | roots and not _listed(pipeline, table)]
    if unknown:
        named = ", ".join(map(str, unknown))
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"no such tables in migration {pipeline.migration.id}: {named}",
            "name tables as status does, SCHEMA.TABLE; a partitioned table by its partitions",
        )
    return names
