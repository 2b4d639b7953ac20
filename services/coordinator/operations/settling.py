"""What follows a change of direction. Each step can be repeated, by this coordinator or the next one.

1. The new primary is opened to writers: its guard is lifted, or its freeze undone. Until that is done, no
   other operation can begin.
2. The side that was left accepts connections, which are read-only by default.
3. Writes of others to the side that was left are recorded.
4. The pipeline that worked before is retired: its appliers are kept out by the epoch that the decision has
   recorded; slot, publication, origin and bookkeeping are removed. Now it can be prepared again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.operations.undo import claiming, thaw_recorded
from services.coordinator.pipeline.guarding import FIRST_RETRY_S, LONGEST_RETRY_S, lift, unwatch_soon
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipeline, Pipelines
from services.coordinator.pipeline.reports import unexpected
from services.coordinator.tables.foreign_writes import watch
from services.shared.bus.store import delete_stream
from services.shared.model import ErrorKind, EventLevel, MigrationPhase, Operation, PgmigError, back_off_s
from services.shared.pg.freeze.thaw import StillDisabledError, admit_readers
from services.shared.pg.reverse.ends import EndSessions, opened_ends
from services.shared.pg.reverse.remove import retire
from services.shared.pg.session.connection import translated
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

ADMITTED_WITHIN_S = 5.0
UNWATCHED_WITHIN_S = 3.0
WITHDRAWN_WITHIN_S = 10.0
"""How long the end of an operation that failed waits for the removal of what it had prepared."""


def closed(context: Context) -> bool:
    """Whether the side that serves writers is not known to be open to them. context: of the pipeline that
    works, or that worked last."""
    record = context.migration.record
    if record.phase is MigrationPhase.SWITCHED_OVER:
        return record.destination_freeze is not None or record.forward.guard is not None
    if record.phase.ended:
        return False
    idle = record.idle
    return record.frozen(record.active) is not None or (idle is not None and idle.guard is not None)


async def open_primary(pipelines: Pipelines) -> None:
    """Let others write to the new primary. Raises CREDENTIALS_NEEDED, FENCED and the server's errors.

    It is what the pipeline that works replicates from. After the end of the migration it is what that
    pipeline has written to, and an earlier rollback may have frozen it. It is open also if subscriptions
    cannot be enabled again.
    """
    record = pipelines.migration.record
    out = record.active.opposite if record.phase.ended else record.active
    known = {pipeline.context.pipeline.id.direction: pipeline.context for pipeline in pipelines.all}
    if (into := known.get(out.opposite)) is not None:
        await lift(into)
    if (works := known.get(out)) is not None and works.pipeline.freeze is not None:
        try:
            await thaw_recorded(works, await works.credentials.known_source())
        except StillDisabledError as exc:
            works.migration.event(
                EventLevel.WARNING, f"{exc}; pgmig does not try again: enable them with ALTER SUBSCRIPTION"
            )
        works.migration.thawed(out)


async def open_at_last(pipelines: Pipelines, tell: Callable[[str], None] = lambda _: None) -> None:
    """Repeat `open_primary` until it succeeds: nobody can write before. tell: called with each failure.
    Raises FENCED."""
    context, failures = pipelines.active.context, 0
    while closed(context) and not context.migration.removed:
        try:
            await open_primary(pipelines)
            await context.journal.save()
        except Exception as exc:
            error = _report(context, exc)
            if error.kind is ErrorKind.FENCED:
                raise error from exc
            tell(str(error))
            await asyncio.sleep(back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, failures))
            failures += 1


def _report(context: Context, exc: Exception) -> PgmigError:
    error = cause(exc) or unexpected(context.migration, exc)
    log.error("opening the new primary of migration %s: %s", context.migration.id, error)
    if error.kind is not ErrorKind.FENCED:
        side = context.pipeline.id.publisher
        context.migration.event(
            EventLevel.ERROR, f"the {side} is not open to writers yet: {error}; pgmig tries again"
        )
    return error


async def admit(pipelines: Pipelines) -> None:
    """The side that was left accepts connections, for the applier, and is read-only by default."""
    idle = pipelines.idle
    if idle is None or (freeze := idle.context.pipeline.freeze) is None or not freeze.database:
        return
    uri = await idle.context.credentials.known_source()
    await admit_readers(uri, freeze, claiming(idle.context))
    kind = idle.context.migration.operations.kind
    await at_point(kind, Point.ADMITTED)


async def admit_soon(pipelines: Pipelines) -> None:
    """`admit`, for an operation that was just decided. A failure is logged: it is tried again."""
    try:
        async with asyncio.timeout(ADMITTED_WITHIN_S), pipelines.preparing:
            await admit(pipelines)
    except Exception as exc:
        migration = pipelines.migration
        log.error("opening the side that was left by %s: %s", migration.id, cause(exc) or exc)


async def _retire(pipeline: Pipeline) -> None:
    context, own = pipeline.context, pipeline.context.pipeline
    await pipeline.workers.staffing.release()

    async def announce(sessions: EndSessions) -> None:
        own.sessions_claimed(sessions)
        await context.journal.confirm()

    uris = await context.credentials.both()
    async with opened_ends(
        uris.source_uri, uris.destination_uri, own.id, own.record.sessions, announce
    ) as ends:
        with translated(f"removing what pipeline {own.id} has left"):
            await retire(
                ends,
                own.id,
                epoch=own.record.applier_epoch,
                inserts_only=bool(own.record.inserts_only),
                altered=own.record.altered,
            )
    await delete_stream(pipeline.bus, own.id.change_stream)
    own.retired()
    await context.journal.save()
    await at_point(context.migration.operations.kind, Point.RETIRED)


async def settle(pipelines: Pipelines, *, anew: bool) -> None:
    """Steps 2 to 4. anew: the idle pipeline is retired even if the current operation has begun to prepare it.
    Raises TRANSIENT, SLOT_ACTIVE, FENCED and the servers' errors. Waits for credentials."""
    await pipelines.active.context.credentials.both()
    async with pipelines.preparing:
        idle = pipelines.idle
        if idle is None:
            return
        works, settled = pipelines.active.context, idle.context.pipeline.record.retired
        if works.pipeline.without_copy:
            if not settled:
                await admit(pipelines)
            if not (settled and works.pipeline.record.watched):  # an earlier run may have left idle triggers
                await watch(works, [one.table for one in works.pipeline.copying.records()])
                await works.journal.save()
        if not settled and (anew or not _prepared(works.migration.operations.current, idle)):
            await _retire(idle)
        await unwatch_soon(idle.context, UNWATCHED_WITHIN_S, last=False)


def _prepared(operation: Operation | None, idle: Pipeline) -> bool:
    """Whether that operation has begun to prepare it."""
    return operation is not None and idle.context.pipeline.record.prepared_by == operation.operation_id


async def withdraw(pipelines: Pipelines) -> None:
    """The operation that has prepared the opposite direction has failed: nothing stays on the servers. What
    fails is done before the next operation begins, or by `cleanup`."""
    idle = pipelines.idle
    if idle is None or idle.context.pipeline.record.retired:
        return
    try:
        async with asyncio.timeout(WITHDRAWN_WITHIN_S), pipelines.preparing:
            await _retire(idle)
    except Exception as exc:
        error = cause(exc) or unexpected(idle.context.migration, exc)
        if error.kind is not ErrorKind.FENCED:
            names = idle.context.pipeline.id
            idle.context.migration.event(
                EventLevel.WARNING,
                f"replication slot {names.slot} of the {names.publisher} is not removed yet: {error}",
            )
