"""The switchover: freeze the source, prove that the destination has everything, decide.

Steps: pause-poolers (where the operator names some), freeze, sentinel, drain, close, sequences, unpublished
(where there is anything of that kind), verify, commit. Until the commit is stored, a failure or the end of
the allowed time rolls the switchover back: writes are not blocked any more, the phase is streaming again, and
the failure is stored in the record. Storing the record in phase switched-over *is* the commit; the locks are
released only after that. From step close on, the source's database accepts no connections, also after the
switchover. So nobody can write to it, not even a superuser. From that step on pgmig reads the source in the
session of the freeze, because no other session can be opened.

How to thaw the source is stored before it is frozen. So a coordinator that starts after a crash finds phase
switchover and undoes it (services.coordinator.operations.undo). What happens before and after that, and to
which operation it belongs: services.coordinator.operations.switching.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from services.coordinator.migration.failpoints import Edge, Point, at_point, at_step
from services.coordinator.migration.state import Migration
from services.coordinator.operations import handover, settling, turning
from services.coordinator.operations import switchover_steps as steps
from services.coordinator.operations.certificate import issue
from services.coordinator.operations.readiness import (
    await_credentials,
    await_proceed,
    await_ready,
    check_primaries,
    check_running,
)
from services.coordinator.operations.steps import StepFeed
from services.coordinator.operations.undo import undo_at_last
from services.coordinator.pipeline.guarding import DROPPED_FIRST_S, lift_at_last, unwatch_soon
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.pipeline import Pipelines
from services.coordinator.pipeline.reports import unexpected
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.tables import unpublished
from services.coordinator.tables.unlogged import check_unlogged
from services.shared.model import (
    ErrorKind,
    EventLevel,
    FreezeMode,
    LargeObjects,
    MigrationPhase,
    OperationKind,
    OperationState,
    PgmigError,
    PipelineState,
    StepName,
    StepState,
    failure_of,
)
from services.shared.model.view.certificate import CheckName
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.freeze.unfrozen import Unfrozen
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

LEFT_WITHIN_S = 5.0
"""A coordinator that ends waits so long for the destination to be opened."""
LOOK_AGAIN_S = 0.2
"""Pause before another attempt to begin, if the migration did not stream just then."""


async def run(
    context: Context,
    schema: Schema,
    workers: Workers,
    feed: StepFeed,
    timeout_s: float,
    *,
    pipelines: Pipelines | None = None,
) -> None:
    """The whole switchover or rollback, or its undo. Its outcome is that of the operation in the record.
    timeout_s: for the preparation and for blocking writes; infinite for a held operation until it proceeds.
    pipelines: of the migration, if the direction may change."""
    interrupted: BaseException | None = None
    try:
        deadline = time.monotonic() + timeout_s
        uris = await await_credentials(context, deadline)
        await _attempt(steps.Run(context, schema, workers, feed, deadline, uris, pipelines))
    except BaseException as exc:  # also when cancelled: the source must not stay frozen
        interrupted = exc
    if _decided(context):
        await _to_its_end(_finish(context, workers.staffing, feed, pipelines))
    elif interrupted is not None and not _continues_later(context.migration, interrupted):
        await _fail(context, feed, interrupted, pipelines)
    if interrupted is not None and not isinstance(interrupted, Exception):
        raise interrupted


def _decided(context: Context) -> bool:
    """The migration has ended, or its other pipeline works."""
    idle = context.pipeline.state is PipelineState.IDLE
    return idle or context.migration.record.phase is MigrationPhase.SWITCHED_OVER


def _cancelled(migration: Migration) -> bool:
    operation = migration.operations.current
    return operation is not None and operation.cancel_requested


def _continues_later(migration: Migration, exc: BaseException) -> bool:
    """The coordinator stops, and nothing was blocked yet."""
    stopped = isinstance(exc, asyncio.CancelledError) and not _cancelled(migration)
    return stopped and not migration.in_switchover


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, and raise a cancellation only after its end, however often it comes. A client that sees
    the end of the migration may stop the coordinator at once, while the client of the switchover still waits
    for its outcome. And a source that is being thawed must not stay frozen."""
    task = asyncio.create_task(work, name="outcome")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
    task.result()


async def _finish(
    context: Context, staffing: Staffing, feed: StepFeed, pipelines: Pipelines | None = None
) -> None:
    """The operation ends only when others can write to the destination."""
    migration = context.migration
    decided = migration.record.switchover
    assert decided is not None
    turned = pipelines if not migration.record.phase.ended else None
    if turned is not None:
        await at_point(migration.operations.kind, Point.TURNED)
    opened = await _opened(context, feed, pipelines)
    stopped = await _release(context, staffing)
    if not opened:
        return  # the next coordinator does that and the rest
    if turned is not None:
        await settling.admit_soon(turned)
    await at_point(context.migration.operations.kind, Point.FINISHED)
    warnings = await handover.conclude(context, feed)
    # Until now: the destination could be written to only after its guard was lifted.
    result = replace(decided, write_downtime_ms=feed.elapsed_ms(), warnings=warnings)
    context.migration.event(
        EventLevel.INFO,
        f"{_done(migration)}; writes were blocked for {result.write_downtime_ms} ms",
    )
    result = await issue(context, result, stopped=stopped)
    await unwatch_soon(context, DROPPED_FIRST_S, last=False)
    feed.succeeded(result)
    try:
        await context.journal.save()
        if context.pipeline.record.watched:
            await unwatch_soon(context)
            await context.journal.save()
    except PgmigError as exc:  # the store has the decision
        log.error("after the switchover: %s", exc)


async def _opened(context: Context, feed: StepFeed, pipelines: Pipelines | None) -> bool:
    """Open the new primary, however long that takes: lift the guard of the destination, undo the freeze of an
    earlier change of direction. Returns False if the coordinator leaves before."""
    tell = partial(feed.tell, StepName.COMMIT, StepState.STARTED)

    async def open_it() -> None:
        if context.migration.record.phase.ended:
            await lift_at_last(context, tell)
        if pipelines is not None:
            await settling.open_at_last(pipelines, tell)

    opening = asyncio.create_task(open_it(), name="open-destination")
    leaving = asyncio.create_task(feed.leave.wait(), name="leave")
    await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        await asyncio.wait({opening}, timeout=LEFT_WITHIN_S)
    for task in (opening, leaving):
        task.cancel()
    await asyncio.wait({opening, leaving})
    if opening.cancelled():
        return False
    if (error := opening.exception()) is not None:  # FENCED: that coordinator does it, and what follows
        log.error("the switchover of migration %s: %s", context.migration.id, error)
    return True


async def _release(context: Context, staffing: Staffing) -> bool:
    """Whether all workers have stopped."""
    stopped = await staffing.release()
    if not stopped:
        context.migration.event(
            EventLevel.WARNING,
            "not all workers are known to have stopped: see that no applier writes to the destination",
        )
    return stopped


def _done(migration: Migration) -> str:
    if migration.operations.kind is OperationKind.ROLLBACK:
        return "rolled back: the source serves writers again"
    return "switched over"


async def _fail(
    context: Context, feed: StepFeed, exc: BaseException, pipelines: Pipelines | None = None
) -> None:
    error = cause(exc) or _interrupted(context.migration, exc)
    feed.failing(failure_of(error))  # from now on it cannot be cancelled
    feed.tell(StepName.ROLLBACK, StepState.STARTED, error.message)
    try:
        await _to_its_end(_roll_back(context, feed, error, pipelines))
    finally:
        feed.left(failure_of(error))  # unless it has ended


def _interrupted(migration: Migration, exc: BaseException) -> PgmigError:
    if not isinstance(exc, asyncio.CancelledError):
        return unexpected(migration, exc)
    if _cancelled(migration):
        return PgmigError(ErrorKind.SWITCHOVER_FAILED, "an operator cancelled the switchover")
    return PgmigError(ErrorKind.SWITCHOVER_FAILED, "the coordinator stopped during the switchover")


async def _attempt(run: steps.Run) -> None:
    pipeline = run.context.pipeline
    await _prepare(run)
    run.deadline += await handover.before_freeze(run.context, run.feed)
    migration = run.context.migration
    while True:
        await run.context.journal.confirm()  # a coordinator that was replaced does not begin
        await check_primaries(run.context, run.uris)
        opening = _freeze_mode(migration).open
        freeze = await opening(run.uris.source_uri, pipeline.id.slot, pipeline.id.publisher)
        try:
            check_running(migration)  # nothing is awaited between these checks and the move
            _check_not_cancelled(migration)
            if _may_begin(run):
                migration.began_switchover(freeze.before)
                await run.context.journal.save(strict=True)
                await at_point(run.context.migration.operations.kind, Point.RECORDED)
                return await _while_frozen(run, freeze)
        finally:
            await freeze.close()
        await asyncio.sleep(LOOK_AGAIN_S)
        await await_ready(pipeline, run.deadline)


def _may_begin(run: steps.Run) -> bool:
    """The applier may have fallen behind or failed meanwhile. While its failure is being examined, the
    migration may go back to copying. And the workers may still be with a former primary."""
    pipeline, workers = run.context.pipeline, run.workers
    streaming = pipeline.state is PipelineState.STREAMING and pipeline.following.working
    return streaming and workers.reports.fatal is None and workers.staffing.works_with(run.uris)


def _check_not_cancelled(migration: Migration) -> None:
    """The request may be recorded before it interrupts this task."""
    if _cancelled(migration):
        raise PgmigError(ErrorKind.SWITCHOVER_FAILED, "an operator cancelled the switchover")


def _freeze_mode(migration: Migration) -> type[Freeze]:
    operation = migration.operations.current
    none = operation is not None and operation.options.freeze is FreezeMode.NONE
    return Unfrozen if none else Freeze


async def _prepare(run: steps.Run) -> None:
    """Nothing is blocked yet. An operation that is held waits here, and is then prepared once more."""
    if run.pipelines is not None:
        await settling.settle(run.pipelines, anew=True)
    while True:
        operation = run.context.migration.operations.current
        held = operation is not None and operation.held
        await await_ready(run.context.pipeline, run.deadline)
        await run.context.journal.confirm()
        await steps.await_copies(run)
        await check_unlogged(run.context)
        await steps.synchronize_ahead(run)
        if run.turns is not None:
            async with run.turns.preparing:
                await turning.prepare(
                    run.context, run.turns, run.deadline, run.context.migration.operations.kind
                )
        if operation is not None:
            await handover.check(run.context, operation.options)
        if operation is None or not held:
            return await await_ready(run.context.pipeline, run.deadline)  # the checks took some time
        await await_proceed(run.context)
        run.deadline = time.monotonic() + operation.options.timeout_ms / 1000
        run.uris = await await_credentials(run.context, run.deadline)  # it may have waited for days


async def _while_frozen(run: steps.Run, freeze: Freeze) -> None:
    if handover.pauses(run.context):
        async with _step(run, StepName.PAUSE_POOLERS):
            await handover.pause(run.context, run.feed, run.deadline)
    async with _step(run, StepName.FREEZE):
        await steps.freeze_source(run, freeze)
    async with _step(run, StepName.SENTINEL):
        await steps.emit(run, freeze)
    async with _step(run, StepName.DRAIN):
        await steps.drain(run, freeze)
    async with _step(run, StepName.CLOSE):
        await steps.close_source(run, freeze)
    async with _step(run, StepName.SEQUENCES):
        await steps.set_sequences(run, freeze)
    if run.unpublished or await unpublished.any_on_source(run.context, freeze):
        async with _step(run, StepName.UNPUBLISHED):
            await unpublished.synchronize(run.context, freeze)
        copied = run.context.migration.record.options.large_objects is LargeObjects.COPY
        what = "large objects and extensions' tables" if copied else "extensions' tables only"
        run.evidence.passed(CheckName.UNPUBLISHED, what)
    async with _step(run, StepName.VERIFY):
        await steps.verify(run, freeze)
        if run.turns is not None:
            run.milestone = await turning.confirm(run.context, run.turns, run.uris, freeze)
        await steps.check_fence(run, freeze)
    async with _step(run, StepName.COMMIT, tell_end=False):  # reported when the locks are released
        await steps.commit(run)


@asynccontextmanager
async def _step(run: steps.Run, name: StepName, *, tell_end: bool = True) -> AsyncIterator[None]:
    """Report the step. It ends at the deadline, or when a worker fails finally."""
    run.feed.tell(name, StepState.STARTED)
    started = time.monotonic()
    try:
        async with asyncio.timeout(max(0.0, run.deadline - started)):
            await at_step(run.context.migration.operations.kind, name, Edge.BEGIN)
            yield
            await at_step(run.context.migration.operations.kind, name, Edge.END)
    except TimeoutError as exc:
        run.feed.tell(name, StepState.FAILED, "out of time")
        raise PgmigError(
            ErrorKind.TIMEOUT,
            f"the switchover ran out of time in step {name}",
            "writes are not blocked any more; check the lag, then try again or allow more time",
        ) from exc
    except PgmigError as exc:
        run.feed.tell(name, StepState.FAILED, exc.message)
        raise
    log.info("switchover step %s took %.0f ms", name, (time.monotonic() - started) * 1000)
    if tell_end:
        run.feed.tell(name, StepState.DONE)


async def store(context: Context, *, strict: bool = False) -> None:
    """Save the record, in the store at least if the state file cannot be written. Raises what
    `Journal.save` and `Journal.claim` raise."""
    try:
        await context.journal.save(strict=strict)
    except PgmigError as exc:
        if exc.kind in {ErrorKind.FENCED, ErrorKind.BROKER}:
            raise
        log.error("the state of migration %s is only in the store: %s", context.migration.id, exc)
        await context.journal.claim()


async def _store_cause(context: Context) -> None:
    """Nothing is blocked. The record says that the operation fails or is cancelled. That is stored before
    clients see the end: otherwise the next coordinator would continue an operation that they saw end."""
    try:
        await store(context)
    except PgmigError as exc:
        log.error("before the end of the switchover of migration %s: %s", context.migration.id, exc)


async def _roll_back(
    context: Context, feed: StepFeed, error: PgmigError, pipelines: Pipelines | None = None
) -> None:
    """Allow writes again, and retry until that succeeds. The migration keeps streaming."""
    pipeline = context.pipeline
    migration, cancelled = context.migration, _cancelled(context.migration)
    kind = migration.operations.kind
    if cancelled:
        migration.event(EventLevel.WARNING, f"{kind} cancelled")
    else:
        undone = "undone" if kind is OperationKind.ROLLBACK else "rolled back"
        migration.event(EventLevel.ERROR, f"{kind} {undone}: {error.message}")
    end = OperationState.ROLLED_BACK if migration.in_switchover else OperationState.FAILED
    if not migration.in_switchover:
        await _store_cause(context)
    else:
        try:
            await undo_at_last(context)
        except PgmigError as exc:
            log.error("the switchover of migration %s is left to another coordinator: %s", migration.id, exc)
            feed.left(failure_of(exc))
            return
    if not cancelled and pipeline.state is not PipelineState.FAILED:
        migration.switchover_failed(failure_of(error))  # else its own failure says what to do
    await handover.conclude(context, feed)
    if pipelines is not None:
        await settling.withdraw(pipelines)
    feed.undone(OperationState.CANCELLED if cancelled else end)
    try:
        await context.journal.save()
    except PgmigError as exc:  # the client receives the reason why the switchover failed
        log.error("after the switchover was rolled back: %s", exc)
