"""Whether a switchover may begin. It is refused at once, or waits within its time. Nothing is blocked yet.

If a migration is catching up, or if its applier reconnects after a restart, it will soon stream again. So the
switchover waits for it. If an operator must resume it, or if it still copies, it will not stream within
seconds, so the switchover is refused.
"""

from __future__ import annotations

import asyncio
import time

from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context
from services.shared.model import ErrorKind, PgmigError, PipelineState

_ABOUT_TO = frozenset({PipelineState.CATCHUP, PipelineState.STREAMING})


def check_ready(migration: Migration) -> None:
    """Raises WRONG_PHASE unless the migration streams, or is about to."""
    if migration.state in _ABOUT_TO and not migration.in_switchover:
        return
    failure = migration.failure
    if migration.state is PipelineState.FAILED and failure is not None:
        problem = f"migration {migration.id} has failed: {failure.message}"
    else:
        problem = f"migration {migration.id} is in phase {migration.phase}, not streaming"
    raise PgmigError(ErrorKind.WRONG_PHASE, problem, _remedy(migration))


def _remedy(migration: Migration) -> str:
    resume = f"`pgmig-cli resume --id {migration.id}`"
    if migration.state is PipelineState.PAUSED:
        return f"resume it first: {resume}"
    if migration.state is PipelineState.FAILED:
        failure = migration.failure
        return (failure.hint if failure else "") or f"remove the cause of the failure, then {resume}"
    if migration.record.phase.ended:
        return ""
    return "wait until it is streaming (see `pgmig-cli status`)"


async def await_ready(migration: Migration, deadline: float) -> None:
    """Return when it streams, an applier is at work, and the lag fits in the time that is left.

    deadline: time.monotonic(). Raises TIMEOUT, and WRONG_PHASE when it is paused or fails meanwhile.
    """
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            while not _ready(migration, deadline):
                check_ready(migration)
                await migration.changed()
    except TimeoutError as exc:
        raise _late(migration) from exc


async def await_credentials(context: Context, deadline: float) -> Credentials:
    """Both connection strings. deadline: time.monotonic(). Raises CREDENTIALS_NEEDED."""
    migration = context.migration
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await context.credentials.both()
    except TimeoutError as exc:
        raise PgmigError(
            ErrorKind.CREDENTIALS_NEEDED,
            f"the connection strings of migration {migration.id} are not known any more; "
            "writes were not blocked",
            f"give them with `pgmig-cli resume --id {migration.id} --source-uri ... --dest-uri ...`, "
            "then switch over again",
        ) from exc


def _ready(migration: Migration, deadline: float) -> bool:
    now = time.monotonic()
    _, seconds = migration.following.behind(now)
    streaming = migration.state is PipelineState.STREAMING and not migration.in_switchover
    return streaming and migration.following.live and seconds <= deadline - now


def _late(migration: Migration) -> PgmigError:
    if not migration.following.live:
        return PgmigError(
            ErrorKind.TIMEOUT,
            f"no applier is at work for migration {migration.id}; writes were not blocked",
            "see that an applier is attached (`pgmig-cli status`), then switch over again",
        )
    size, seconds = migration.following.behind(time.monotonic())
    return PgmigError(
        ErrorKind.TIMEOUT,
        f"the destination of migration {migration.id} is {seconds:.0f} s ({size} bytes) behind; "
        "writes were not blocked",
        "wait until it has caught up, or allow more time",
    )
