"""The destination is read-only by default from the start of a migration, and opened at its end.

`guard` runs before the migration changes the destination. What it will change is stored before, by a
compare-and-set, so that every later coordinator can restore it. `lift` restores it: after a switchover was
decided, before a clone is complete, and with `abort` and `cleanup`. A coordinator that finds a migration that
has ended with its guard still in the record lifts it (`lift_at_last`), so that the destination is never left
read-only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.reports import unexpected
from services.shared.model import ErrorKind, EventLevel, PgmigError, TableId, back_off_s
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.catalog.server import listing
from services.shared.pg.guard.foreign_writes import ignore_writes, unwatch_writes
from services.shared.pg.guard.read_only import before_guard, end_setters, lift_guard, set_guard
from services.shared.pg.session.connection import connection
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
DROPPED_WITHIN_S = 10.0
"""How long to wait for tables that others have locked."""
DROPPED_FIRST_S = 0.5
"""The end of a switchover waits so long for them before it is reported."""
LIFTED_WITHIN_S = 10.0
"""How long the end of a switchover waits for it. After that it is tried again in the background."""

UNGUARDED = (
    "others can write to the destination while it is migrated: {error}. Keep applications away, or let the "
    "owner of the database run ALTER DATABASE ... SET default_transaction_read_only = on, and RESET it after "
    "the switchover"
)


async def guard(context: Context) -> None:
    """Make the destination read-only for others, unless the operator does not want that. A role that may not
    do it is a warning. Raises FENCED and BROKER."""
    migration = context.migration
    if migration.record.options.no_guard_destination:
        return
    uris, known = await context.credentials.both(), context.pipeline.record.guard
    async with connection(uris.destination_uri, "destination") as conn:
        await ensure_bookkeeping(conn)
        try:
            found = await before_guard(conn)
        except PgmigError as exc:
            if exc.kind is not ErrorKind.PERMISSION:
                raise
            migration.event(EventLevel.WARNING, UNGUARDED.format(error=exc.message))
            return
        if known is not None:  # an earlier attempt may have set it
            found = replace(known, sessions=(*known.sessions, *found.sessions))
        context.pipeline.guard_claimed(found)
        await context.journal.claim()
        context.pipeline.guard_claimed(replace(found, sessions=await end_setters(conn, found)))
        older = await set_guard(conn, context.pipeline.id, migration.record.instance, found)
    if older is None:
        return
    migration.event(
        EventLevel.INFO, f"database {found.database} of the destination is read-only by default for others"
    )
    if older:
        migration.event(
            EventLevel.WARNING,
            f"sessions on the destination that began before are not read-only: {older}; keep them from "
            "writing",
        )


async def lift(context: Context) -> bool:
    """Let others write to the destination, and record their writes no more. Returns whether there was a
    guard. The caller saves the record. Raises CREDENTIALS_NEEDED."""
    migration = context.migration
    known, watched = context.pipeline.record.guard, context.pipeline.record.watched
    if known is None and not watched:
        return False
    uri = await context.credentials.known_destination()
    async with connection(uri, "destination") as conn:
        if watched:
            await ignore_writes(conn, context.pipeline.id)
        if known is None:
            return False
        lifted = await lift_guard(conn, context.pipeline.id, migration.record.instance, known)
    for line in lifted.lines:
        migration.event(EventLevel.INFO, line)
    for line in lifted.warnings:
        migration.event(EventLevel.WARNING, line)
    context.pipeline.guard_lifted()
    return True


async def lift_soon(context: Context) -> None:
    """`lift`, for a migration that has ended. A failure is an event: it is tried again in the background."""
    try:
        async with asyncio.timeout(LIFTED_WITHIN_S):
            await lift(context)
    except Exception as exc:
        _report(context, exc)


async def unwatch(context: Context, within_s: float = DROPPED_WITHIN_S) -> tuple[TableId, ...]:
    """Drop the triggers that record writes. Call this after `lift`. Returns tables that keep theirs. The
    caller saves the record. Raises CREDENTIALS_NEEDED."""
    if not context.pipeline.record.watched:
        return ()
    uri = await context.credentials.known_destination()
    async with connection(uri, "destination") as conn:
        left = await unwatch_writes(conn, context.pipeline.id, time.monotonic() + within_s)
    if not left:
        context.pipeline.writes_watched(watched=False)
    return left


async def unwatch_soon(context: Context, within_s: float = DROPPED_WITHIN_S, *, last: bool = True) -> None:
    """`unwatch`, for a migration that has ended. What fails is tried again in the background. last: tables
    that keep their trigger are a warning."""
    try:
        left = await unwatch(context, within_s)
    except PgmigError as exc:
        log.error("the triggers of migration %s on the destination: %s", context.migration.id, exc)
    else:
        if left and last:
            context.migration.event(EventLevel.WARNING, still_watched(left))


def still_watched(tables: Sequence[TableId]) -> str:
    return (
        "tables of the destination are locked, so pgmig's trigger on them, which does nothing any more, "
        f"cannot be dropped now: {listing(tables)}"
    )


async def lift_at_last(context: Context) -> None:
    """Repeat `lift` and `unwatch` until they succeed: nobody can write to the destination before. For a
    migration that has ended."""
    failures = 0
    while needed(context.pipeline) and not context.migration.removed:
        try:
            await lift(context)
            await context.journal.save()
            left = await unwatch(context)
            await context.journal.save()
            if left:
                raise PgmigError(ErrorKind.TRANSIENT, still_watched(left))
        except Exception as exc:
            error = _report(context, exc)
            if error.kind is ErrorKind.FENCED:
                return
            await asyncio.sleep(back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, failures))
            failures += 1


def needed(pipeline: PipelineStatus) -> bool:
    """Whether something is left of the guard."""
    return pipeline.record.guard is not None or pipeline.record.watched


def _report(context: Context, exc: Exception) -> PgmigError:
    error = cause(exc) or unexpected(context.migration, exc)
    known = context.pipeline.record.guard
    log.error("the guard of the destination of migration %s: %s", context.migration.id, error)
    if error.kind is not ErrorKind.FENCED and known is not None:
        context.migration.event(
            EventLevel.ERROR,
            f"database {known.database} of the destination is still read-only by default: {error}; "
            "pgmig tries again",
        )
    return error
