"""Whether a switchover may begin. It is refused at once, or waits within its time. Nothing is blocked yet.

If a migration is catching up, or if its applier reconnects after a restart, it will soon stream again. So the
switchover waits for it. If an operator must resume it, or if it still copies, it will not stream within
seconds, so the switchover is refused. Once a switchover was requested, it also waits for the copy of a new
partition.
"""

from __future__ import annotations

import asyncio
import time

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import Record
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context
from services.shared.model import (
    Direction,
    ErrorKind,
    EventLevel,
    LagLimit,
    OperationKind,
    PgmigError,
    PipelineState,
    Reason,
)
from services.shared.model.readiness import credentials_needed, lagging, no_applier, phase_reason


def check_ready(migration: Migration, kind: OperationKind = OperationKind.SWITCHOVER) -> None:
    """Raises WRONG_PHASE unless the migration streams, or is about to, in the direction of the operation, and
    everything is done that follows its last change of direction."""
    record, name = migration.record, str(migration.id)
    back = kind is OperationKind.ROLLBACK
    if not record.phase.ended and back is not (record.active is Direction.REVERSE):
        raise PgmigError(ErrorKind.WRONG_PHASE, *_other_direction(name, back=back))
    if _being_opened(record):
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"migration {name} has not finished what follows its last change of direction",
            f"wait a moment; see the events of `pgmig-cli status --id {name}`",
        )
    reason = phase_reason(str(migration.id), migration.phase, migration.failure)
    if reason is not None:
        raise PgmigError(ErrorKind.WRONG_PHASE, reason.text, reason.remedy)


def _being_opened(record: Record) -> bool:
    idle = record.idle
    guarded = idle is not None and idle.guard is not None
    return not record.phase.ended and (guarded or record.frozen(record.active) is not None)


def _other_direction(name: str, *, back: bool) -> tuple[str, str]:
    if back:
        return (
            f"migration {name} cannot be rolled back: no changes are replicated back to its source",
            "only a switchover with --reverse can be rolled back",
        )
    return (
        f"migration {name} has switched over, and its changes are replicated back",
        f"go back with `pgmig-cli rollback --id {name}`, or end it with `pgmig-cli finalize --id {name}`",
    )


def check_running(migration: Migration) -> None:
    """Raises WRONG_PHASE if the migration was paused, has failed or has ended: it does not continue by
    itself."""
    if not migration.phase.running:
        check_ready(migration, migration.operations.kind)


async def await_ready(pipeline: PipelineStatus, deadline: float) -> None:
    """Return when it streams, an applier is at work, and the lag fits in the time that is left and in the
    operation's limit.

    It also waits while tables are copied and indexes are built: that began after the switchover was
    requested, for a new partition.

    deadline: time.monotonic(). Raises TIMEOUT, and WRONG_PHASE if it is paused or fails in the meantime.
    """
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            while not _ready(pipeline, deadline):
                check_running(pipeline.migration)
                await pipeline.migration.changed()
    except TimeoutError as exc:
        raise _late(pipeline) from exc


async def await_proceed(context: Context) -> None:
    """Everything is prepared: return when an operator lets the held operation proceed. Raises WRONG_PHASE if
    the migration fails in the meantime, and FENCED."""
    migration = context.migration
    if (operation := migration.operations.current) is None or not operation.held:
        return
    migration.operations.ready()
    kind = migration.operations.kind
    migration.event(EventLevel.INFO, f"the {kind} is ready; it waits for `pgmig-cli switchover --proceed`")
    await context.journal.save()
    while (operation := migration.operations.current) is not None and operation.held:
        check_running(migration)
        await migration.changed()


async def await_credentials(context: Context, deadline: float) -> Credentials:
    """Both connection strings. deadline: time.monotonic(). Raises CREDENTIALS_NEEDED."""
    migration = context.migration
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            uris = await context.credentials.both()
            moved = await context.credentials.find_primaries()
    except TimeoutError as exc:
        raise _not_begun(ErrorKind.CREDENTIALS_NEEDED, credentials_needed(str(migration.id))) from exc
    if moved:
        raise _promoted()
    return uris


async def check_primaries(context: Context, uris: Credentials) -> None:
    """Find the primaries again. Raises TRANSIENT if they are other servers than those of `uris`, and
    UNREACHABLE."""
    await context.credentials.find_primaries()
    if context.credentials.known.addresses != uris.addresses:
        raise _promoted()


def _promoted() -> PgmigError:
    return PgmigError(
        ErrorKind.TRANSIENT,
        "another server is the primary now; writes were not blocked",
        "wait until the migration works with it, then switch over again",
    )


def _ready(pipeline: PipelineStatus, deadline: float) -> bool:
    now = time.monotonic()
    size, seconds = pipeline.following.behind(now)
    streaming = pipeline.state is PipelineState.STREAMING and not pipeline.migration.in_switchover
    fits = seconds <= deadline - now and not _max_lag(pipeline.migration).forbids(size, seconds)
    return streaming and pipeline.following.working and fits


def _max_lag(migration: Migration) -> LagLimit:
    operation = migration.operations.current
    return operation.options.max_lag if operation is not None else LagLimit()


def _late(pipeline: PipelineStatus) -> PgmigError:
    migration, name = pipeline.migration, str(pipeline.migration.id)
    unready = phase_reason(name, migration.phase, migration.failure)
    if unready is not None:
        return _not_begun(ErrorKind.TIMEOUT, unready)
    if not pipeline.following.working:
        return _not_begun(ErrorKind.TIMEOUT, no_applier(name, pipeline.following.applier_error))
    size, seconds = pipeline.following.behind(time.monotonic())
    return _not_begun(ErrorKind.TIMEOUT, lagging(size, seconds, _max_lag(migration)))


def _not_begun(kind: ErrorKind, reason: Reason) -> PgmigError:
    return PgmigError(
        kind, f"{reason.text}; writes were not blocked", f"{reason.remedy}, then switch over again"
    )
