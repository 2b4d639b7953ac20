"""Compares the source's tables with the recorded ones. Harmless changes are adopted; others are an error or
lead to a copy.

A change is adopted if the rows of both sides remain the same: new catalog rows for the same columns, columns
that an operator has altered in the same way on the destination, and a table that was dropped on both sides.
A new partition whose table exists on the destination is copied, because it may have been attached with rows.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from services.coordinator.migration.copy_parts import copied_by_table, part_id
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import DroppedTable
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.tables.explain import (
    absent,
    drift_error,
    findings,
    left_root,
    names_copied,
    replaced_on_destination,
    unlogged,
)
from services.coordinator.tables.look import Difference, Look, look
from services.coordinator.tables.routed import parted, take_routes
from services.shared.model import (
    ChangeKind,
    ErrorKind,
    EventLevel,
    Lsn,
    PgmigError,
    PipelineId,
    TableId,
    TableIdentity,
)
from services.shared.pg.bookkeeping.copy_ledger import forget_plans, read_ledger_alone
from services.shared.pg.catalog.columns import read_columns
from services.shared.pg.catalog.partition_routes import places
from services.shared.pg.catalog.server import listing
from services.shared.pg.catalog.table_changes import compare
from services.shared.pg.catalog.table_identity import (
    KnownTable,
    forget_tables,
    freshly_known,
    known_tables,
    note_tables,
    replaced_destinations,
)
from services.shared.pg.session.connection import Connection, connection, translated

log = logging.getLogger(__name__)


def not_copied(pipeline: PipelineStatus, tables: Sequence[TableId]) -> PgmigError:
    """The error for new partitions whose rows, if they have any, only a copy would bring."""
    side = pipeline.id.publisher
    way = "finalize" if side == "destination" else "abort"
    return PgmigError(
        ErrorKind.SCHEMA_DRIFT,
        f"new partitions of the {side} cannot be replicated, because this direction copies no rows: "
        + listing(tables),
        f"detach or drop them on the {side}, then `pgmig-cli resume --id {pipeline.id.migration}`; or end "
        f"the replication (`pgmig-cli {way} --id {pipeline.id.migration}`)",
    )


@dataclass(frozen=True, slots=True)
class TableComparison:
    """error: SCHEMA_DRIFT for the remaining differences; None if there are none. copy: names under which
    tables are to be copied. adopted: tables whose changes were adopted. at: the source's WAL position when
    its catalogs were read. now: the source's tables as they were then."""

    error: PgmigError | None
    copy: tuple[TableId, ...]
    adopted: tuple[TableId, ...]
    at: Lsn
    unpublished: tuple[TableId, ...]
    now: Mapping[TableId, TableIdentity]


async def compare_tables(
    context: Context, schema: Schema, cause: PgmigError | None = None, source: Connection | None = None
) -> TableComparison:
    """Compare both sides and adopt harmless changes. cause: the error that stopped the applier. source: a
    session to use if the source may refuse new ones."""
    pipeline = context.pipeline
    uris, migration = await context.credentials.both(), context.migration
    async with AsyncExitStack() as stack:
        if source is None:
            source = await stack.enter_async_context(connection(uris.source_uri, "source"))
        destination = await stack.enter_async_context(connection(uris.destination_uri, "destination"))
        known = await known_tables(destination, pipeline.id)
        if not known:
            return TableComparison(None, (), (), Lsn(0), (), {})
        seen = await look(source, known, pipeline.id, migration.record.options)
        if schema.routing.routes or seen.added() or any(one.root for one in known.values()):
            seen = replace(
                seen, known=await take_routes(context, schema.routing, source, destination, seen.chosen)
            )
        lost = await parted(schema.routing, source, seen)
        harmless, gone, left = await _divide(context.pipeline, source, destination, seen, lost)
        missing_parents = await absent(destination, seen.added_parents())
        parents = [seen.now[table] for table in seen.added_parents() if table not in missing_parents]
        new = freshly_known({one.table: one for one in parents})
        if noted := [*seen.refreshed(), *harmless, *new]:
            await context.journal.check_ours()
            await _note(destination, pipeline.id, noted)
        if gone:
            await forget(context, schema, destination, gone, seen.end)
        for table in harmless:
            migration.event(
                EventLevel.INFO, f"altered columns of {table.identity.table} are the same on both sides"
            )
        lasting = [table for table in seen.added() if not seen.now[table].logged]
        added = names_copied([t for t in seen.added() if seen.now[t].logged], schema.routing.routes)
        missing = (*await absent(destination, (*added, *lasting)), *missing_parents)
        lasting = [table for table in lasting if table not in missing]
        left_names = {*(one.table for one in left), *lost}
        places = {table: one.root for table, one in seen.known.items() if one.root is not None}
        replaced = await replaced_destinations(destination, pipeline.id, places)
        replaced = [table for table in replaced if table not in left_names]
        error = None
        if left or missing or lasting or replaced or lost:
            found = await findings(source, destination, seen, left, missing)
            others = (*map(unlogged, lasting), *map(replaced_on_destination, replaced))
            error = drift_error(migration.id, (*found, *others, *map(left_root, lost.items())), cause)
        copy = tuple(table for table in added if table not in missing)
        if copy and pipeline.without_copy:
            error, copy = error or not_copied(pipeline, copy), ()
        # A root that is copied again: its table still contains the rows of other partitions.
        if roots := [table for table in copy if table not in seen.added()]:
            await context.journal.check_ours()
            await forget_copies(destination, pipeline.id, roots, identities=False)
    adopted = (*(table.identity.table for table in harmless), *gone)
    return TableComparison(error, copy, adopted, seen.at, seen.unpublished(), seen.now)


async def try_compare_tables(context: Context, schema: Schema) -> TableComparison | None:
    """`compare_tables`. Returns None if a server cannot be queried now or a statement interfered."""
    try:
        return await compare_tables(context, schema)
    except PgmigError as exc:
        if exc.kind in {ErrorKind.SCHEMA_DRIFT, ErrorKind.FENCED}:
            raise
        log.warning("the source's tables cannot be compared just now: %s", exc)
        return None


async def _divide(
    pipeline: PipelineStatus,
    source: Connection,
    destination: Connection,
    seen: Look,
    split_off: Collection[TableId],
) -> tuple[list[KnownTable], list[TableId], list[Difference]]:
    """Altered tables to record again, dropped tables to forget, and the remaining differences. split_off:
    tables whose differences are reported elsewhere."""
    routed = {t for t, one in seen.known.items() if one.root is not None}
    follow = {t for t in routed if seen.target(t) not in seen.now}  # the change is that of their root
    differences = [one for one in seen.differences() if one.table not in {*follow, *split_off}]
    tables = [one.table for one in differences if _adoptable(one)]
    here = await read_columns(source, tables)
    there = await read_columns(destination, [seen.target(table) for table in tables])
    here_placed, there_placed = await places(source, tables, seen.chosen), await places(destination, tables)
    options = pipeline.migration.record.options
    by_own_name = {record.table for record in pipeline.copying.records()}
    # An earlier call may have been interrupted after it had saved the record.
    by_own_name |= {one.table for one in pipeline.record.dropped}
    lost = [one for one in differences if one.kind is ChangeKind.GONE]
    lost = [one for one in lost if one.table in by_own_name or not one.before.has_rows]
    gone = set(await absent(destination, [one.table for one in lost]))
    gone |= {table for table in follow if seen.target(table) in gone}
    harmless, left = [], []
    for one in differences:
        if one.table in gone:
            continue
        target = seen.target(one.table)
        if one.now is None or one.table not in here or target not in there:
            left.append(one)
            continue
        found = compare(
            destination,
            one.before,
            one.now,
            here[one.table],
            there[target],
            constraints=not options.data_only and options.selection.everything,
            lax=True,
        )
        placed = here_placed.get(one.table) == there_placed.get(one.table)
        if target != one.table:  # the other differences are reported for the root
            found, placed = replace(found, own=()), True
        old_rows_differ = found.old_rows_differ and one.before.has_rows
        if found.statements or not placed or old_rows_differ:
            left.append(one)
            continue
        signatures = (*seen.known[one.table].signatures, one.now.signature)
        noted = replace(seen.known[one.table], identity=one.now, signatures=tuple(dict.fromkeys(signatures)))
        harmless.append(noted)
    return harmless, sorted(gone), left


def _adoptable(one: Difference) -> bool:
    """A partitioned table itself has no rows that could differ."""
    if one.now is None or one.now.kind != one.before.kind:
        return False
    return one.kind is ChangeKind.COLUMNS or not one.before.has_rows


async def _note(conn: Connection, pipeline_id: PipelineId, tables: Sequence[KnownTable]) -> None:
    with translated("noting the source's tables"):
        async with conn.transaction():
            await note_tables(conn, pipeline_id, tables)


async def forget(
    context: Context, schema: Schema, destination: Connection, tables: Sequence[TableId], at: Lsn
) -> None:
    """Forget tables that exist on neither side any more. at: changes to them that were committed before this
    position are skipped.

    The record is saved before the destination's rows about them are deleted. So after a crash either these
    rows still exist and the call is repeated, or nothing remains to be done. The rest of the schema is
    dumped again, because a table may have been renamed.
    """
    pipeline = context.pipeline
    migration = context.migration
    await schema.index_work.stop()
    schema.files.archive.unlink(missing_ok=True)
    pipeline.copying.forget(tables)
    others = tuple(one for one in pipeline.record.dropped if one.table not in tables)
    dropped = tuple(DroppedTable(table, at) for table in tables)
    pipeline.tables_dropped((*others, *dropped))
    await context.journal.save()
    await forget_copies(destination, pipeline.id, tables, identities=True)
    for table in tables:
        migration.event(EventLevel.INFO, f"table {table} was dropped on both sides")


async def forget_copies(
    conn: Connection, pipeline_id: PipelineId, tables: Sequence[TableId], *, identities: bool
) -> None:
    """Delete the destination's bookkeeping of these tables' copies. identities: also their identities."""
    keys = {part_id(table) for table in tables}
    with translated("forgetting copies of tables"):
        async with conn.transaction():
            ledger = await read_ledger_alone(conn, pipeline_id)
            parts = [part for key, done in copied_by_table(ledger).items() if key in keys for part in done]
            await forget_plans(conn, pipeline_id, tables, parts)
            if identities:
                await forget_tables(conn, pipeline_id, tables)


def begin_copy(
    pipeline: PipelineStatus, tables: Sequence[TableId], why: str, without: Sequence[DroppedTable] = ()
) -> None:
    """Change to phase copy for these tables. Nothing is awaited, so no other task can run in between.
    without: partitions whose rows the new copies do not contain."""
    pipeline.copying.add(tables)
    named = {*tables, *(one.table for one in without)}
    dropped = [one for one in pipeline.record.dropped if one.table not in named]
    dropped += [one for one in without if one.table not in tables]
    pipeline.began_copy(tables, dropped, secrets.token_hex(8))
    listed = ", ".join(map(str, tables[:5])) + (" and more" if len(tables) > 5 else "")
    pipeline.migration.event(EventLevel.INFO, f"{why}: {listed}")
