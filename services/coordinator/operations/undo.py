"""Undoing a switchover or rollback that was not decided: applications can write again to the frozen side.

Another coordinator may be running at the same time. So this one opens its session on the source, writes the
record with that session by compare-and-set, and changes the source only after that. If another coordinator
has decided or undone the switchover in the meantime, that write is refused (FENCED), and the source is not
changed. If another coordinator takes over later, it finds the session in the record and ends it.
"""

from __future__ import annotations

import asyncio

from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.reports import unexpected
from services.shared.model import (
    ErrorKind,
    EventLevel,
    PgmigError,
    PipelineState,
    back_off_s,
)
from services.shared.pg.freeze.sessions import OwnSession
from services.shared.pg.freeze.thaw import Announce, StillDisabledError, enable_again, let_writers_in
from services.shared.runtime.assignments import cause
from services.shared.runtime.retry import retrying

FIRST_UNDO_S, LONGEST_UNDO_S = 0.5, 15.0
"""Between two attempts to let writers in again."""


async def undo_at_last(context: Context) -> None:
    """Repeat `undo` until it succeeds, because nobody can write before. Raises FENCED."""
    migration, failures = context.migration, 0
    while migration.in_switchover:
        try:
            await undo(context)
        except Exception as exc:
            error = cause(exc) or unexpected(context.migration, exc)
            if error.kind is ErrorKind.FENCED:
                raise error from exc
            _report_failure(context, error)
            await asyncio.sleep(back_off_s(FIRST_UNDO_S, LONGEST_UNDO_S, failures))
            failures += 1


def _report_failure(context: Context, error: PgmigError) -> None:
    if isinstance(error, StillDisabledError):
        way = f" ({error.hint})" if error.hint else ""
        context.migration.event(EventLevel.ERROR, f"{error}{way}; pgmig tries again")
    else:
        side = context.pipeline.id.publisher
        context.migration.event(EventLevel.ERROR, f"the {side} is not open to writers yet: {error}")


async def undo(context: Context) -> None:
    """From a phase that blocks writers and was not decided, back to streaming. Raises FENCED, with the source
    as it is, when another coordinator has written the record since."""
    kind = context.migration.operations.kind
    await at_point(kind, Point.UNDOING)
    if context.pipeline.freeze is not None:
        thaw = _Thaw(context)
        fenced = await retrying(
            "thawing the source",
            thaw.attempt,
            on_failure=lambda error: _report_failure(context, error),
        )
        if fenced is not None:
            raise fenced
    await at_point(kind, Point.OPENED)
    context.migration.switchover_undone()
    pipeline = context.pipeline
    if pipeline.state is PipelineState.STREAMING and not pipeline.following.live:
        pipeline.entered(PipelineState.CATCHUP)
    await at_point(kind, Point.UNDONE)
    await context.journal.save()


class _Thaw:
    """A thaw that is attempted until it succeeds. Once writers can write, only subscriptions are left. Later
    attempts neither set the default nor open the database: an operator may have changed these since."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: set[str] = set()

    async def attempt(self) -> PgmigError | None:
        """Returns FENCED instead of raising it: `retrying` would try again."""
        try:
            await self._open_known()
            uri = await self._context.credentials.source()  # a standby may have been promoted since
            await self._open_at(uri)
            await _enable_recorded(self._context, uri)
        except StillDisabledError as exc:  # it is retried after any error
            raise StillDisabledError(ErrorKind.TRANSIENT, exc.message, exc.hint) from exc
        except PgmigError as exc:
            if exc.kind is not ErrorKind.FENCED:
                raise
            return exc
        return None

    async def _open_known(self) -> None:
        """Open the primary that is known, so that writers need not wait for other servers of the list. It may
        not answer any more."""
        try:
            await self._open_at(await self._context.credentials.source(again=False))
        except PgmigError as exc:
            if exc.kind is not ErrorKind.UNREACHABLE:
                raise

    async def _open_at(self, uri: str) -> None:
        if uri not in self._open:
            await _open_recorded(self._context, uri)
            self._open.add(uri)


async def thaw_recorded(context: Context, uri: str) -> bool:
    """Thaw the source of the pipeline as recorded. Returns whether there was anything to restore.

    Raises FENCED, with the source as it is, when another coordinator has written the record since. Raises
    StillDisabledError if writers can write, and only subscriptions are left.
    """
    changed = await _open_recorded(context, uri)
    await _enable_recorded(context, uri)
    return changed


async def _open_recorded(context: Context, uri: str) -> bool:
    freeze = context.pipeline.freeze
    assert freeze is not None
    lines = await let_writers_in(uri, freeze, claiming(context))
    for line in lines:
        context.migration.event(EventLevel.INFO, line)
    return bool(lines)


async def _enable_recorded(context: Context, uri: str) -> None:
    freeze = context.pipeline.freeze
    assert freeze is not None
    await enable_again(uri, freeze, claiming(context))


def claiming(context: Context) -> Announce:
    """Writes the sessions that change the freeze into the record, and the record into the store.

    If that succeeds, the store contains no decision of another coordinator, and none of ours whose answer
    was lost. A coordinator that still runs this switchover can no longer decide it.
    """

    async def claim(sessions: tuple[OwnSession, ...]) -> None:
        context.migration.thaw_claimed(context.pipeline.id.direction, sessions)
        await context.journal.claim()

    return claim
