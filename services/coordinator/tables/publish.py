"""Adds tables to the publication: new tables, and tables that were dropped and created again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.shared.model import (
    ErrorKind,
    EventLevel,
    PgmigError,
    TableId,
    TableIdentity,
)
from services.shared.pg.catalog.partition_routes import topmost
from services.shared.pg.catalog.replica_identity import never_identified
from services.shared.pg.replication.publication import add_to_publication
from services.shared.pg.session.connection import Connection


async def publish(
    pipeline: PipelineStatus,
    source: Connection,
    now: Mapping[TableId, TableIdentity],
    names: Sequence[TableId],
) -> bool:
    """Add those of these tables to the publication that are not in it. Returns whether any was added.

    Rows may be copied only under a snapshot that is taken afterwards. Raises NO_REPLICA_IDENTITY.
    """
    left_out = set(pipeline.record.copied_only)
    unpublished = [t for t in names if t in now and now[t].logged and not now[t].published]
    tops = await topmost(source, unpublished)
    wanted = {table for table in unpublished if not {table, tops.get(table, table)} & left_out}
    if not wanted:
        return False
    lacking = await never_identified(source, wanted, sends_generated=pipeline.record.sends_generated)
    if lacking:
        raise PgmigError(
            ErrorKind.NO_REPLICA_IDENTITY,
            f"tables without a replica identity: {', '.join(map(str, lacking))}",
            "give them a primary key or another replica identity on the source, then continue",
        )
    await add_to_publication(source, pipeline.id.publication, sorted(wanted))
    pipeline.migration.event(
        EventLevel.INFO, f"added to the publication: {', '.join(map(str, sorted(wanted)))}"
    )
    return True
