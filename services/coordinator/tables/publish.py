"""Adding tables to the publication: new ones, and those that were dropped and created again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.coordinator.pipeline import Pipeline
from services.shared.model import ErrorKind, PgmigError, TableId, TableIdentity
from services.shared.pg.catalog import lacking_identity, list_tables
from services.shared.pg.connection import Connection
from services.shared.pg.publication import add_to_publication


async def publish(
    pipeline: Pipeline,
    source: Connection,
    now: Mapping[TableId, TableIdentity],
    names: Sequence[TableId],
) -> bool:
    """Have the changes of these tables replicated, where they are not; whether any was added.

    Only a snapshot that is taken afterwards may be copied under. Raises NO_REPLICA_IDENTITY.
    """
    migration = pipeline.migration
    copied_only = migration.record.copied_only
    wanted = {
        table
        for table in names
        if table in now and now[table].logged and not now[table].published and table not in copied_only
    }
    if not wanted:
        return False
    lacking = lacking_identity(tuple(t for t in await list_tables(source) if t.table in wanted))
    if lacking:
        raise PgmigError(
            ErrorKind.NO_REPLICA_IDENTITY,
            f"tables without a replica identity: {', '.join(map(str, lacking))}",
            "give them a primary key or another replica identity on the source, then resume",
        )
    await add_to_publication(source, migration.id.publication, sorted(wanted))
    migration.event("info", f"added to the publication: {', '.join(map(str, sorted(wanted)))}")
    return True
