"""Finds partitions that exist only on the destination, before indexes of partitioned tables are created."""

from __future__ import annotations

import asyncio

from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.parts import Context
from services.coordinator.tables.explain import drift_error, findings
from services.coordinator.tables.look import look
from services.shared.model import TableId
from services.shared.pg.catalog.partition_routes import places
from services.shared.pg.catalog.table_identity import known_tables
from services.shared.pg.schema.archive.entries import read_archive
from services.shared.pg.session.connection import connection


async def check_partitions(context: Context, files: Files) -> None:
    """Raises SCHEMA_DRIFT while the destination has a partition that is not in the schema's archive.

    The archive is made again when tables are dropped or renamed during the copy. It has no index for a
    partition that the source had detached or dropped by then, and an index of a partitioned table is
    valid only when every partition has its own. PostgreSQL does not check again when a partition
    without an index is dropped, so it must be dropped first.
    """
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        known = await known_tables(destination, pipeline.id)
        there = await places(destination, known.keys())
        if not there:
            return
        seen = await look(source, known, pipeline.id, migration.record.options)
        here = await places(source, there.keys(), seen.chosen)
        left = [one for one in seen.differences() if one.table in there and one.table not in here]
        if not left:
            return
        archive = await asyncio.to_thread(read_archive, files.archive)
        attached = {TableId(e.schema, e.name) for e in archive if e.kind == "TABLE ATTACH"}
        left = [one for one in left if one.table not in attached]
        if left:
            found, follow = (
                await findings(source, destination, seen, left, ()),
                migration.record.options.follow,
            )
            raise drift_error(migration.id, found, follow=follow)
