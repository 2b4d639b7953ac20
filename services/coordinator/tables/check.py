"""The last check of the tables before a switchover. It is repeated during the freeze."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.routing import Routing
from services.coordinator.tables.adopt import compare_tables
from services.coordinator.tables.explain import Finding, drift_error
from services.shared.model import ErrorKind, PgmigError, TableId, TableIdentity
from services.shared.pg.catalog.columns import read_columns
from services.shared.pg.catalog.partition_routes import lineage
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.table_changes import compare, expressions_set
from services.shared.pg.catalog.table_identity import known_tables
from services.shared.pg.session.connection import Connection, connection


async def check_unchanged(context: Context, schema: Schema, source: Connection) -> None:
    """Raises SCHEMA_DRIFT if a table of the source is not the table that was copied, or if columns of the
    two sides differ."""
    compared = await compare_tables(context, schema, source=source)
    if compared.error is not None:
        raise compared.error
    if compared.copy:
        named = ", ".join(map(str, compared.copy[:5]))
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
        await _compare_columns(context.pipeline, schema.routing, source, destination, compared.now)


async def _compare_columns(
    pipeline: PipelineStatus,
    routing: Routing,
    source: Connection,
    destination: Connection,
    now: Mapping[TableId, TableIdentity],
) -> None:
    """now: the source's tables, as `compare_tables` has just read them."""
    chosen = await choose(source, pipeline.migration.record.options)
    known = await known_tables(destination, pipeline.id)
    # Partitions that do not exist on the destination are checked under the name of their root.
    routed = {name for route in routing.routes for name in (route.leaf, route.root)}
    tables = [table for table in known if table in now and table not in routed]
    # Both sides are read at the same time, because writers wait for this during the freeze.
    here, there = await asyncio.gather(read_columns(source, tables), read_columns(destination, tables))
    lines = await lineage(source, destination, tables, chosen)
    whole = pipeline.migration.record.options.selection.everything
    found = []
    for table in sorted(tables, key=lambda table: lines.root(table) != table):
        if table not in here or table not in there:
            continue  # the caller looks for missing tables
        root = lines.root(table)
        comparison = compare(
            destination,
            known[table].identity,
            now[table],
            here[table],
            there[table],
            root=root,
            constraints=whole,
            own_only=root != table and root in here and root in there,
            set_by_root=expressions_set(here.get(root, ()), there.get(root, ())),
        )
        again: tuple[TableId, ...] = ()
        names = [[column.name for column in side[table]] for side in (here, there)]
        if names[0] != names[1] and table not in lines.inheriting and not comparison.statements:
            comparison = compare(destination, None, now[table], here[table], there[table], exact=True)
            if [name for name in names[1] if name in names[0]] != names[0]:
                again = tuple(t for t in tables if now[t].has_rows and lines.root(t) == table)
        statements = (*comparison.statements, *lines.placing(destination, table))
        first = lines.detaching(destination, table)
        if statements or first:
            problem = f"{table} differs between source and destination"
            found.append(Finding(table, problem, statements, bool(again), first=first, leaves=again))
    if found:
        raise drift_error(pipeline.migration.id, found)
