"""Writes of others to the destination's tables: they are recorded from the copy on, and prevent a
switchover."""

from __future__ import annotations

import time
from collections.abc import Sequence

from services.coordinator.pipeline.parts import Context
from services.shared.model import ErrorKind, EventLevel, PgmigError, TableId
from services.shared.model.readiness import destination_changed, destination_guarded
from services.shared.model.readiness_facts import ForeignWriter
from services.shared.pg.catalog.server import listing
from services.shared.pg.guard.foreign_writes import read_foreign_writes, watch_writes
from services.shared.pg.guard.read_only import other_guards
from services.shared.pg.readiness.destination import read_writers
from services.shared.pg.session.connection import connection


async def watch(context: Context, tables: Sequence[TableId]) -> None:
    """Record writes of others to these tables of the destination, which are about to be emptied and
    copied."""
    migration = context.migration
    uris = await context.credentials.both()
    if not context.pipeline.record.watched:
        context.pipeline.writes_watched(watched=True)
        await context.journal.save()
    async with connection(uris.destination_uri, "destination") as conn:
        refused = await watch_writes(conn, context.pipeline.id, tables)
    if refused:
        migration.event(
            EventLevel.WARNING,
            "our role may not create triggers on tables of the destination, so writes of others to them are "
            f"not found: {listing(refused)}",
        )


async def check_foreign_writes(context: Context, *, open_ones: bool = False) -> tuple[ForeignWriter, ...]:
    """Raise DESTINATION_NOT_READY if others have written to the destination's tables, unless the operator
    lets others write there. Then it is a warning, and they are returned. Also if another migration would keep
    the destination read-only. open_ones: also if a transaction that writes is open."""
    migration, uris = context.migration, await context.credentials.both()
    async with connection(uris.destination_uri, "destination") as conn:
        if others := await other_guards(conn, context.pipeline.id):
            guarded = destination_guarded(others)
            raise PgmigError(ErrorKind.DESTINATION_NOT_READY, guarded.text, guarded.remedy)
    found = await foreign_writes(context, open_ones=open_ones)
    if not found:
        return ()
    allowed = migration.record.options.no_guard_destination
    reason = destination_changed(str(migration.id), found, blocking=not allowed)
    if not allowed:
        raise PgmigError(ErrorKind.DESTINATION_NOT_READY, reason.text, reason.remedy)
    migration.event(EventLevel.WARNING, reason.text)
    return found


async def foreign_writes(context: Context, *, open_ones: bool = False) -> tuple[ForeignWriter, ...]:
    """Who else has written to the destination's tables. open_ones: also whose transaction is open."""
    uris = await context.credentials.both()
    tables = {record.table for record in context.pipeline.copying.records()}
    async with connection(uris.destination_uri, "destination") as conn:
        now = time.time()
        found = await read_foreign_writes(conn, context.pipeline.id, tables, now)
        return (*found, *await read_writers(conn, tables, now, with_id=True)) if open_ones else found
