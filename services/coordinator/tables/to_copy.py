"""The tables that phase copy must copy, as the snapshot shows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from services.coordinator.migration.copy_parts import choose_split, gathered, renew_plans, wants_key
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.tables.adopt import forget, forget_copies
from services.coordinator.tables.explain import (
    Finding,
    absent,
    creations,
    drift_error,
    gone_from_source,
    unlogged,
)
from services.coordinator.tables.foreign_writes import watch
from services.coordinator.tables.publish import publish
from services.coordinator.tables.routed import look_for_routes
from services.shared.model import (
    PipelineId,
    SnapshotReady,
    SourceTable,
    Split,
    TableFile,
    TableId,
    TableIdentity,
)
from services.shared.pg.bookkeeping.copy_ledger import (
    CopyLedger,
    read_ledger,
    read_ledger_alone,
    replace_plans,
)
from services.shared.pg.catalog.columns import read_columns
from services.shared.pg.catalog.partition_routes import lineage, topmost
from services.shared.pg.catalog.partitions import divisions
from services.shared.pg.catalog.selected import choose_under
from services.shared.pg.catalog.table_changes import compare, expressions_set
from services.shared.pg.catalog.table_identity import (
    KnownTable,
    forget_tables,
    freshly_known,
    known_tables,
    note_destinations,
    note_tables,
    read_identities_under,
)
from services.shared.pg.catalog.tables import key_bounds, list_tables_under
from services.shared.pg.copy.table import empty_for_parts
from services.shared.pg.guard.foreign_writes import forget_foreign_writes
from services.shared.pg.replication.position import wal_insert_position
from services.shared.pg.replication.truncation import TRUNCATE_SINCE
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import Connection, connection, translated


@dataclass(frozen=True, slots=True)
class ToCopy:
    """splits: how each table is divided. identities: of the source's tables, by their own names."""

    tables: Sequence[SourceTable]
    splits: Mapping[TableId, Split]
    identities: Mapping[TableId, TableIdentity]


async def tables_to_copy(
    context: Context, schema: Schema, workers: Workers, snapshot: SnapshotReady
) -> ToCopy | None:
    """Returns None if tables were added to the publication, because a new snapshot is needed then. Raises
    SCHEMA_DRIFT for tables that no longer match their table on the destination."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    version = migration.record.source.server_version_num
    larger_than = migration.record.options.split_tables_larger_than
    await look_for_routes(context, schema.routing)
    async with connection(uris.source_uri, "source") as conn:
        chosen = await choose_under(conn, snapshot.snapshot_name, migration.record.options)
        under = await list_tables_under(conn, snapshot.snapshot_name, chosen)
        listed = gathered(under, schema.routing.routes)
        found = {table.table: table for table in listed}
        by_key = [table for table in found.values() if wants_key(table, larger_than, version)]
        bounds = await key_bounds(conn, by_key, snapshot.snapshot_name) if by_key else {}
        identities = await read_identities_under(conn, pipeline.id, snapshot.snapshot_name)
        if schema.routing.routes:
            _list_roots(context.pipeline, schema.routing, found)
        async with connection(uris.destination_uri, "destination") as destination:
            await _by_partitions(context.pipeline, conn, destination, found, identities)
            # as they are now, not under the snapshot
            there = await read_columns(conn, _wanted(context.pipeline))
            await _forget_dropped(
                context, schema, (conn, destination), found.keys() & there.keys(), identities
            )
            if not migration.record.options.follow:
                await _take_new(context.pipeline, conn, destination, found)
            wanted = _wanted(context.pipeline)
            leaves = _leaves(schema.routing, wanted, identities)
            if migration.record.options.follow and await _publish(
                context.pipeline, workers.snapshot, conn, identities, leaves
            ):
                return None
            if migration.record.options.follow and version < TRUNCATE_SINCE:
                _note_files(context.pipeline, identities, leaves)
            if not migration.record.options.data_only:
                await _check_columns(
                    context.pipeline, schema, (conn, destination), wanted, identities, chosen=chosen
                )
    pipeline.copying.estimate(listed)
    tables = [found[table] for table in wanted]
    splits = {t.table: choose_split(t, larger_than, version, bounds.get(t.table)) for t in tables}
    return ToCopy(tables, splits, identities)


def _list_roots(pipeline: PipelineStatus, routing: Routing, found: Collection[TableId]) -> None:
    """List roots instead of their partitions."""
    listed = {record.table for record in pipeline.copying.records()}
    pipeline.copying.forget(route.leaf for route in routing.routes if route.leaf in listed)
    pipeline.copying.add({r.root: None for r in routing.routes if r.root in found and r.root not in listed})
    pipeline.copies_noted()


def _note_files(
    pipeline: PipelineStatus, identities: Mapping[TableId, TableIdentity], leaves: Collection[TableId]
) -> None:
    """Record the relation files of added tables under the snapshot. A change of the file shows a TRUNCATE,
    which the source does not replicate."""
    record = pipeline.record
    known = {one.table for one in record.files} | {*record.inserts_only, *record.copied_only}
    added = tuple(TableFile(table, identities[table].file) for table in leaves if table not in known)
    if added:
        pipeline.files_noted(added)


async def _publish(
    pipeline: PipelineStatus,
    snapshot: Snapshot,
    source: Connection,
    identities: Mapping[TableId, TableIdentity],
    leaves: Sequence[TableId],
) -> bool:
    """`publish`. If it fails, some tables may have been added already. The snapshot does not show them as
    published, so the next attempt needs another snapshot."""
    try:
        return await publish(pipeline, source, identities, leaves)
    except BaseException:
        snapshot.close()
        raise


async def _take_new(
    pipeline: PipelineStatus,
    source: Connection,
    destination: Connection,
    found: Mapping[TableId, SourceTable],
) -> None:
    """Add tables that were created after the schema was dumped. A clone without --follow does not add them
    later. Raises SCHEMA_DRIFT for those that are missing on the destination."""
    listed = {record.table for record in pipeline.copying.records()}
    new = [table for table in found if table not in listed]
    missing = await absent(destination, new)
    if missing:
        found_missing = await creations(source, destination, missing, copied=True)
        raise drift_error(pipeline.migration.id, found_missing, follow=False)
    if new:
        pipeline.copying.add(new)
        pipeline.copies_noted()


def _leaves(
    routing: Routing, names: Sequence[TableId], identities: Mapping[TableId, TableIdentity]
) -> list[TableId]:
    """The source's tables whose rows are copied under these names: for a root, its partitions."""
    roots = {route.leaf: route.root for route in routing.routes}
    wanted = set(names)
    return [t for t, one in identities.items() if one.has_rows and roots.get(t, t) in wanted]


def _wanted(pipeline: PipelineStatus) -> tuple[TableId, ...]:
    copying = pipeline.copying
    if pipeline.migration.record.options.follow:
        return copying.missing()
    return tuple(record.table for record in copying.records())


async def _by_partitions(
    pipeline: PipelineStatus,
    source: Connection,
    destination: Connection,
    found: Mapping[TableId, SourceTable],
    identities: Mapping[TableId, TableIdentity],
) -> None:
    """Copy partitions under their own names if both sides now have the same partitions of a root."""
    wanted = [table for table in _wanted(pipeline) if table not in found]
    roots = [table for table in wanted if table in identities and not identities[table].has_rows]
    if not roots:
        return
    tops = await topmost(source, tuple(found))
    bare = set(roots) - set(tops.values())
    if bare:  # on the destination they contain rows of partitions that no longer exist on the source
        with translated("emptying tables of the destination"):
            async with destination.transaction():
                await destination.execute("SET LOCAL lock_timeout = '60s'")
                await empty_for_parts(destination, sorted(bare))
                await _forget_parted(destination, pipeline.id, bare, ())
    listed = {record.table for record in pipeline.copying.records()}
    leaves = [leaf for leaf, top in tops.items() if top in roots and leaf not in listed]
    await forget_copies(destination, pipeline.id, roots, identities=False)
    pipeline.copying.forget(roots)
    pipeline.copying.add(leaves)
    pipeline.copies_noted()


async def _forget_parted(
    destination: Connection, pipeline_id: PipelineId, roots: Collection[TableId], leaves: Collection[TableId]
) -> None:
    """Forget partitions whose rows are no longer in these tables. leaves: partitions whose rows still are."""
    known = await known_tables(destination, pipeline_id) if roots else {}
    lost = [table for table, one in known.items() if one.root in roots and table not in leaves]
    if lost:
        await forget_tables(destination, pipeline_id, lost)


async def _forget_dropped(
    context: Context,
    schema: Schema,
    sides: tuple[Connection, Connection],
    there: set[TableId],
    identities: Mapping[TableId, TableIdentity],
) -> None:
    """Forget tables that were dropped before they were copied. Raises SCHEMA_DRIFT while they exist on the
    destination."""
    pipeline = context.pipeline
    source, destination = sides
    gone = [table for table in _wanted(context.pipeline) if table not in there]
    if not gone:
        return
    lacking = await absent(destination, gone)
    left = [table for table in gone if table not in lacking]
    if left:
        migration = context.migration
        known = await known_tables(destination, pipeline.id)
        names = {one.oid: table for table, one in identities.items() if table in there or table not in gone}
        found = [gone_from_source(destination, table, _oid(known, table), names) for table in left]
        raise drift_error(migration.id, found)
    await forget(context, schema, destination, lacking, await wal_insert_position(source))


def _oid(known: Mapping[TableId, KnownTable], table: TableId) -> int:
    return known[table].identity.oid if table in known else 0


async def _check_columns(
    pipeline: PipelineStatus,
    schema: Schema,
    sides: tuple[Connection, Connection],
    wanted: Sequence[TableId],
    identities: Mapping[TableId, TableIdentity],
    *,
    chosen: Chosen,
) -> None:
    """Compare columns: a column of another type than the source's could change the values."""
    wanted = [table for table in wanted if table in identities]
    known = await known_tables(sides[1], pipeline.id)
    roots = {*(await topmost(sides[1], wanted)).values()} - {*wanted}
    roots = {root for root in roots if root in known and root in identities}
    tables = [*sorted(roots), *wanted]
    here, there = await read_columns(sides[0], tables), await read_columns(sides[1], tables)
    lines = await lineage(*sides, tables, chosen)
    follow = pipeline.migration.record.options.follow
    found = []
    for table in tables:
        now, before = identities[table], known[table].identity if table in known else None
        if follow and before is not None and before.logged and not now.logged:
            found.append(unlogged(table))
            continue
        if table not in there:
            found.append(Finding(table, f"{table} is missing on the destination", (), needs_copy=False))
            continue
        same = before if before is not None and before.oid == now.oid else None
        comparison = compare(
            sides[1],
            same,
            now,
            here.get(table, ()),
            there[table],
            root=lines.root(table),
            constraints=False,
            copied=True,
            exact=before is not None and same is None and lines.has_order(table),
            own_only=lines.root(table) in roots - {table},
            set_by_root=expressions_set(here.get(lines.root(table), ()), there.get(lines.root(table), ())),
        )
        first = lines.detaching(sides[1], table)
        statements = (*comparison.statements, *lines.placing(sides[1], table))
        if statements or first:
            problem = f"{table} was altered before its rows were copied"
            found.append(Finding(table, problem, statements, needs_copy=False, first=first))
    if found:
        if lines.differ():  # the rest of the schema is dumped again: it attaches indexes in another way then
            await schema.index_work.stop()
            schema.files.archive.unlink(missing_ok=True)
        raise drift_error(pipeline.migration.id, found, follow=follow)


async def renewed(context: Context, routing: Routing, snapshot: SnapshotReady, found: ToCopy) -> CopyLedger:
    """The ledger with the plans for this snapshot. One transaction stores a table's new plan, deletes its
    parts and records its identity on the source. It also empties a table that is divided into parts, because
    a single part must not empty it."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    key, follow = pipeline.id, migration.record.options.follow
    if follow:
        await watch(context, [table.table for table in found.tables])
    async with connection(uris.destination_uri, "destination") as conn:
        with translated("making the tables of the destination ready for their copy"):
            async with conn.transaction():
                ledger = await read_ledger_alone(conn, key)
                new, void = renew_plans(found.tables, found.splits, ledger, snapshot, follow=follow)
                await conn.execute("SET LOCAL lock_timeout = '60s'")
                await empty_for_parts(conn, [plan.table for plan in new if plan.split.parts > 1])
                await replace_plans(conn, key, new, void)
                await forget_foreign_writes(conn, key, [plan.table for plan in new])
                leaves = _leaves(routing, [plan.table for plan in new], found.identities)
                await _forget_parted(conn, key, {plan.table for plan in new} - set(leaves), leaves)
                roots = {route.leaf: route.root for route in routing.routes}
                ways = await divisions(conn, set(roots.values()))
                divided = {leaf: (root, ways[root]) for leaf, root in roots.items()}
                await note_tables(conn, key, freshly_known({t: found.identities[t] for t in leaves}, divided))
                await note_destinations(conn, key, {leaf: roots.get(leaf, leaf) for leaf in leaves})
        return await read_ledger(conn, key)
