"""Whether the destination has every table of the source, as it was copied, with valid indexes."""

from __future__ import annotations

from dataclasses import dataclass

from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.tables.check import check_unchanged
from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.model.readiness import invalid_indexes, tables_missing
from services.shared.pg.catalog.partitions import existing_tables
from services.shared.pg.catalog.replica_identity import uncovered
from services.shared.pg.catalog.selected import choose
from services.shared.pg.catalog.server import listing
from services.shared.pg.catalog.tables import list_tables, publication_tables
from services.shared.pg.freeze.source import Freeze, source_session
from services.shared.pg.readiness.destination import invalid_indexes_of, valid_among
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import connection, translated


@dataclass(frozen=True, slots=True)
class Matching:
    """chosen: the objects that are migrated now. tables: how many of the source's tables exist on the
    destination. unlogged: those whose changes are not replicated, because they are not in the WAL."""

    chosen: Chosen
    tables: int
    unlogged: tuple[TableId, ...] = ()


async def check_tables(
    context: Context, schema: Schema, uris: Credentials, freeze: Freeze | None = None
) -> Matching:
    """Raises SCHEMA_DRIFT unless every table of the source is what was copied, and the destination has
    it with the same columns.

    If the destination is partitioned in another way, the root must exist there. A new partition has no route
    to it.
    """
    migration, record = context.migration, context.pipeline.record
    roots = {route.leaf: route.root for route in schema.routing.routes}
    async with source_session(uris.source_uri, freeze) as conn:
        await check_unchanged(context, schema, conn)
        chosen = await choose(conn, migration.record.options)
        known = {*record.published, *record.inserts_only, *record.copied_only}
        known |= {one.table for one in record.tables}
        unknown = await uncovered(conn, await publication_tables(conn, chosen), known)
        listed = await list_tables(conn, chosen)
        present = {table.table for table in listed}
    targets = {roots.get(table, table) for table in present}
    async with connection(uris.destination_uri, "destination") as conn:
        with translated("looking for the tables of the destination"):
            arrived = await existing_tables(conn, targets)
    lacking = sorted({*unknown, *(targets - arrived)})
    if lacking and context.pipeline.without_copy:
        side = context.pipeline.id.publisher
        raise PgmigError(
            ErrorKind.SCHEMA_DRIFT,
            f"tables of the {side} are not replicated: {listing(lacking)}",
            f"without a copy, new tables cannot be replicated: drop them on the {side}; or end the migration "
            f"({'finalize' if side == 'destination' else 'abort'})",
        )
    if lacking:
        reason = tables_missing(str(migration.id), lacking)
        raise PgmigError(ErrorKind.SCHEMA_DRIFT, reason.text, reason.remedy)
    return Matching(chosen, len(present), tuple(table.table for table in listed if not table.logged))


async def check_indexes(uris: Credentials) -> None:
    """Raises DESTINATION_NOT_READY for indexes that are valid on the source, but not on the destination."""
    async with connection(uris.destination_uri, "destination") as conn:
        invalid = await invalid_indexes_of(conn)
    if not invalid:
        return
    async with connection(uris.source_uri, "source") as conn:
        differing = await valid_among(conn, invalid)
    if differing:
        reason = invalid_indexes(differing)
        raise PgmigError(ErrorKind.DESTINATION_NOT_READY, reason.text, reason.remedy)
