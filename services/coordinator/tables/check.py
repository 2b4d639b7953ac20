"""The last check of the tables before a switchover. It is repeated during the freeze."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.routing import Routing
from services.coordinator.tables.adopt import take_stock
from services.coordinator.tables.explain import Finding, drift_error
from services.shared.model import ErrorKind, PgmigError, TableId, TableIdentity
from services.shared.pg.catalog.columns import read_columns
from services.shared.pg.catalog.partition_routes import inheriting, places, placing, topmost
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.table_changes import compare
from services.shared.pg.catalog.table_identity import known_tables
from services.shared.pg.session.connection import Connection, connection


async def check_unchanged(context: Context, schema: Schema, source: Connection) -> None:
    """Raises SCHEMA_DRIFT where a table of the source is not what was copied, or where columns of the two
    sides differ."""
    stock = await take_stock(context, schema, source=source)
    if stock.error is not None:
        raise stock.error
    if stock.copy:
        named = ", ".join(map(str, stock.copy[:5]))
        raise PgmigError(
            ErrorKind.TRANSIENT,
            f"new partitions of the source are not copied yet: {named}",
            "switch over again when the migration is streaming",
        )
    options = context.migration.record.options
    if options.data_only or not options.follow:
        return
    uris = await context.credentials.both()
    async with connection(uris.destination_uri, "destination") as destination:
        await _compare_columns(context.migration, schema.routing, source, destination, stock.now)


async def _compare_columns(
    migration: Migration,
    routing: Routing,
    source: Connection,
    destination: Connection,
    now: Mapping[TableId, TableIdentity],
) -> None:
    """now: the source's tables, as `take_stock` has just read them."""
    chosen = await choose(source, migration.record.options)
    known = await known_tables(destination, migration.pipeline_id)
    # Partitions that the destination has not got go by the name of their root.
    routed = {name for route in routing.routes for name in (route.leaf, route.root)}
    tables = [table for table in known if table in now and table not in routed]
    here_placed, there_placed = await places(source, tables, chosen), await places(destination, tables)
    # Both sides at once: within the freeze, writers wait for this.
    here, there = await asyncio.gather(read_columns(source, tables), read_columns(destination, tables))
    roots, inherited = await topmost(destination, tables), await inheriting(destination, tables)
    whole = migration.record.options.selection.everything
    found = []
    for table in tables:
        if table not in here or table not in there:
            continue  # the caller looks for missing tables
        identity = known[table].identity
        comparison = compare(
            destination,
            identity,
            now[table],
            here[table],
            there[table],
            root=roots.get(table),
            constraints=whole,
        )
        again = False
        names = [[column.name for column in side[table]] for side in (here, there)]
        if names[0] != names[1] and table not in inherited and not comparison.statements:
            comparison = compare(destination, None, now[table], here[table], there[table], exact=True)
            again = now[table].has_rows and [n for n in names[1] if n in names[0]] != names[0]
        placed = placing(destination, table, here_placed, there_placed)
        if comparison.statements or placed:
            problem = f"{table} differs between source and destination"
            found.append(Finding(table, problem, (*comparison.statements, *placed), needs_copy=again))
    if found:
        raise drift_error(migration.id, found)
