"""Partitions of the source whose rows are in their root's table on the destination.

The destination records them (`KnownTable.root`), because nothing else shows them after the source has dropped
or detached such a partition. The rows of that partition are kept in the root's table, and only a new copy of
the root removes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.coordinator.migration.record import DroppedTable
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.routing import Routing
from services.coordinator.tables.look import Look
from services.shared.model import (
    EventLevel,
    Lsn,
    Route,
    TableId,
)
from services.shared.pg.catalog.partition_routes import topmost
from services.shared.pg.catalog.partitions import divisions, find_routes
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.table_identity import KnownTable, known_tables, note_destinations, note_tables
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import Connection, connection, translated


async def look_for_routes(context: Context, routing: Routing) -> None:
    """Compare the partitions of both sides as they are now, for the copy and the applier.
    They differ only if an operator has changed the destination's tables."""
    uris = await context.credentials.both()
    async with (
        connection(uris.source_uri, "source") as source,
        connection(uris.destination_uri, "destination") as destination,
    ):
        chosen = await choose(source, context.migration.record.options)
        await take_routes(context, routing, source, destination, chosen)


async def take_routes(
    context: Context, routing: Routing, source: Connection, destination: Connection, chosen: Chosen
) -> dict[TableId, KnownTable]:
    """`look_for_routes` with these sessions. Returns the destination's records of the tables afterwards."""
    pipeline = context.pipeline
    migration, before = context.migration, routing.routes
    routing.routes = await find_routes(source, destination, chosen)
    roots = sorted({route.root for route in routing.routes})
    if roots and routing.routes != before:
        migration.event(
            EventLevel.INFO, f"partitioned otherwise on the destination: {', '.join(map(str, roots[:5]))}"
        )
    known = await known_tables(destination, pipeline.id)
    routes = {route.leaf: route.root for route in routing.routes}
    in_roots = {t: one.root for t, one in known.items() if one.root is not None and t not in routes}
    tops = await topmost(destination, in_roots)
    divided = {table: root for table, root in in_roots.items() if tops.get(table) == root}
    ways = await divisions(destination, set(routes.values()))
    changed = {
        leaf: replace(known[leaf], root=root, division=ways[root])
        for leaf, root in routes.items()
        if leaf in known and (known[leaf].root, known[leaf].division) != (root, ways[root])
    }
    changed |= {leaf: replace(known[leaf], root=None, division="") for leaf in divided}
    if divided:
        await _keep_floors(context, divided)
    if changed:
        with translated("noting the source's tables"):
            async with destination.transaction():
                await note_tables(destination, pipeline.id, changed.values())
                # An operator who partitions a table in another way moves its rows. A re-created table is
                # empty.
                places = {leaf: one.root or leaf for leaf, one in changed.items()}
                await note_destinations(destination, pipeline.id, places)
    routing.parted = tuple(Route(leaf, root) for leaf, root in in_roots.items() if leaf not in divided)
    return known | changed


async def _keep_floors(context: Context, divided: Mapping[TableId, TableId]) -> None:
    """For partitions that were created on the destination: their rows were copied with the root."""
    pipeline = context.pipeline
    floors, listed = dict(pipeline.copying.floors()), {record.table for record in pipeline.record.tables}
    added = [DroppedTable(t, floors.get(root, Lsn(0))) for t, root in divided.items() if t not in listed]
    others = tuple(one for one in pipeline.record.dropped if one.table not in divided)
    pipeline.floors_kept((*others, *added))
    await context.journal.save()


async def parted(routing: Routing, source: Connection, seen: Look) -> dict[TableId, TableId]:
    """Partitions that were dropped or detached from their root on the source, with the root. Call
    `take_routes` first. If the root itself was dropped or renamed, that is reported instead."""
    roots = {route.leaf: route.root for route in routing.parted if route.root in seen.now}
    tops = await topmost(source, roots)
    return {leaf: root for leaf, root in roots.items() if tops.get(leaf) != root}
