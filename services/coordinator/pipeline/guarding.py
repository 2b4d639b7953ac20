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
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.reports import unexpected
from services.shared.model import ErrorKind, EventLevel, PgmigError, back_off_s
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.catalog.server import listing
from services.shared.pg.guard.foreign_writes import Left, ignore_writes, unwatch_writes
from services.shared.pg.guard.read_only import (
    before_guard,
    end_setters,
    lift_guard,
    lifting,
    opening_statement,
    set_guard,
)
from services.shared.pg.session.connection import Connection, connect, connection
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
DROPPED_WITHIN_S = 10.0
"""How long to wait for tables that others have locked."""
DROPPED_FIRST_S = 0.5
"""The end of a switchover waits so long for them before it is reported."""
ATTEMPT_S = 60.0
"""An attempt to lift the guard that takes longer has lost its connection."""
STILL_READ_ONLY = "database {} of the destination is still read-only by default"

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
    guard. The caller saves the record. Raises CREDENTIALS_NEEDED, and FENCED, with the guard as it is, when
    another coordinator has taken the migration over."""
    migration = context.migration
    known, watched = context.pipeline.record.guard, context.pipeline.record.watched
    if known is None and not watched:
        return False
    async with _destination(context) as conn:
        if known is not None:
            known = await lifting(conn, known)
            context.pipeline.guard_claimed(known)
        await context.journal.check_ours()
        if watched:
            await _ignore_writes(conn, context)
        if known is None:
            return False
        lifted = await lift_guard(conn, context.pipeline.id, migration.record.instance, known)
    for line in lifted.lines:
        migration.event(EventLevel.INFO, line)
    for line in lifted.warnings:
        migration.event(EventLevel.WARNING, line)
    context.pipeline.guard_lifted()
    _warn(context, "")
    return True


@asynccontextmanager
async def _destination(context: Context) -> AsyncIterator[Connection]:
    """A session at the primary that is known. If it does not answer, the primary is looked for, which takes
    long if a server of the list does not answer."""
    uri = await context.credentials.known_destination(again=False)
    try:
        conn = await connect(uri, "destination")
    except PgmigError as exc:
        if exc.kind is not ErrorKind.UNREACHABLE:
            raise
        found = await context.credentials.known_destination()
        if found == uri:
            raise
        conn = await connect(found, "destination")
    try:
        yield conn
    finally:
        await conn.close()


async def _ignore_writes(conn: Connection, context: Context) -> None:
    """A failure does not keep the destination closed. `unwatch` does it again."""
    try:
        await ignore_writes(conn, context.pipeline.id)
    except PgmigError as exc:
        log.error("the triggers of migration %s on the destination: %s", context.migration.id, exc)


async def lift_at_last(context: Context, tell: Callable[[str], None] = lambda _: None) -> None:
    """Repeat `lift` until it succeeds: nobody can write to the destination before. For a migration that has
    ended. tell: called with each failure. Raises FENCED."""
    failures = 0
    while _guarded(context.pipeline) and not context.migration.removed:
        try:
            await _attempt(lift(context))
        except Exception as exc:
            error = cause(exc) or unexpected(context.migration, exc)
            log.error("the guard of the destination of migration %s: %s", context.migration.id, error)
            if error.kind is ErrorKind.FENCED:
                raise error from exc
            tell(_report(context, error))
            await asyncio.sleep(back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, failures))
            failures += 1


async def _attempt(work: Coroutine[Any, Any, object]) -> None:
    try:
        async with asyncio.timeout(ATTEMPT_S):
            await work
    except TimeoutError as exc:
        raise PgmigError(ErrorKind.TIMEOUT, f"the destination has not answered for {ATTEMPT_S:g} s") from exc


def _report(context: Context, error: PgmigError) -> str:
    """What an operator must know while the guard cannot be lifted. The record has it, too, for clients that
    find no coordinator."""
    known = context.pipeline.record.guard
    if known is None:
        return str(error)
    text = (
        f"{STILL_READ_ONLY.format(known.database)}: {error.message}; pgmig tries again as long as a "
        f"coordinator runs; to open it yourself: {opening_statement(known)}"
    )
    context.migration.event(EventLevel.ERROR, text)
    _warn(context, text)
    return text


def _warn(context: Context, text: str) -> None:
    """Among the warnings of a decided switchover. "": not any more."""
    decided = context.migration.record.switchover
    if decided is None:
        return
    others = tuple(one for one in decided.warnings if not one.startswith(STILL_READ_ONLY.partition("{")[0]))
    context.migration.warned((*others, text) if text else others)


async def unwatch(context: Context, within_s: float = DROPPED_WITHIN_S) -> Left:
    """Drop the triggers that record writes. Call this after `lift`. Returns tables that keep theirs. The
    caller saves the record. Raises CREDENTIALS_NEEDED."""
    if not context.pipeline.record.watched:
        return Left()
    async with _destination(context) as conn:
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
            context.migration.event(EventLevel.WARNING, still_watched(context.pipeline, left))


def still_watched(pipeline: PipelineStatus, left: Left) -> str:
    """For messages. Such a trigger does nothing any more."""
    texts = []
    if left.locked:
        texts.append(f"these tables of the destination are in use: {listing(left.locked)}")
    if left.refused:
        texts.append(
            "our role may not change these tables of the destination, so let their owners run DROP TRIGGER "
            f"{pipeline.id.origin} ON each of them: {listing(left.refused)}"
        )
    return f"pgmig's triggers, which do nothing any more, cannot all be dropped now: {'; '.join(texts)}"


async def unwatch_at_last(context: Context) -> None:
    """Repeat `unwatch` until it succeeds. For a migration that has ended, after `lift_at_last`."""
    failures = 0
    while context.pipeline.record.watched and not context.migration.removed:
        try:
            left = await unwatch(context)
            if not left:
                return
            context.migration.event(EventLevel.WARNING, still_watched(context.pipeline, left))
        except Exception as exc:
            error = cause(exc) or unexpected(context.migration, exc)
            log.error("the triggers of migration %s on the destination: %s", context.migration.id, error)
        await asyncio.sleep(back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, failures))
        failures += 1


def needed(pipeline: PipelineStatus) -> bool:
    """Whether something is left of the guard."""
    return _guarded(pipeline) or pipeline.record.watched


def _guarded(pipeline: PipelineStatus) -> bool:
    return pipeline.record.guard is not None
