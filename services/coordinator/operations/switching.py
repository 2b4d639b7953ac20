"""The switchover of one migration as an operation: requested, held, cancelled, and continued after a restart.

At most one runs. Its record is stored before `begin` returns, so the next coordinator knows it:

preparing, ready   nothing is blocked. A held operation is prepared again and waits. Another one continues
                   within what is left of its timeout, which an operator expects to be over by then
running            the next coordinator undoes it (services.coordinator.operations.undo). `settle` ends
                   it, also as succeeded if the decision was stored
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from functools import partial

from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.operations import handover, settling, switchover, turning
from services.coordinator.operations.readiness import check_ready
from services.coordinator.operations.steps import StepFeed
from services.coordinator.operations.switchover import store
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.pipeline import Pipelines
from services.coordinator.pipeline.reports import unexpected
from services.shared.model import (
    ErrorKind,
    Failure,
    Operation,
    OperationKind,
    OperationState,
    PgmigError,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverStep,
    failure_of,
)
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

_KILLED = Failure(
    ErrorKind.SWITCHOVER_FAILED,
    "the coordinator ended before the operation was decided",
    "writes are not blocked any more; try again",
)
_KILLED_IN_HOOK = Failure(
    ErrorKind.SWITCHOVER_FAILED,
    "the coordinator ended after it had started the hook before the freeze; writes were not blocked",
    "see what the hook has done, then switch over again",
)
_TOO_LATE = Failure(
    ErrorKind.TIMEOUT,
    "the coordinator was started again after the time of the switchover was over; writes were not blocked",
    "switch over again",
)


def _check_same(known: Operation, options: SwitchoverOptions, kind: OperationKind) -> None:
    if (known.options, known.kind) != (options, kind):
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"operation {known.operation_id} was requested with the same request id and other options",
            "repeat the options of the first request, or choose another request id",
        )


class Switching:
    """pipelines: of the migration. None: only the pipeline of `context` exists, and the direction never
    changes."""

    def __init__(
        self, context: Context, schema: Schema, workers: Workers, pipelines: Pipelines | None = None
    ) -> None:
        self._given, self._pipelines = (context, schema, workers), pipelines
        self._operations = context.migration.operations
        self._task: asyncio.Task[None] | None = None
        self._feed = StepFeed(context.migration, "")
        self._stopped = False

    @property
    def _parts(self) -> tuple[Context, Schema, Workers]:
        """Of the pipeline that works."""
        if self._pipelines is None:
            return self._given
        active = self._pipelines.active
        return active.context, active.schema, active.workers

    @property
    def _context(self) -> Context:
        return self._parts[0]

    @property
    def running(self) -> bool:
        """Whether a switchover runs here, or waits to begin or to proceed. Not once its end is visible: who
        sees the end may send the next command at once, while the end is still being stored."""
        operations = self._context.migration.record.operations
        ended = bool(operations) and operations[-1].state.ended
        return self._task is not None and not self._task.done() and not ended

    @property
    def held(self) -> bool:
        """Whether it waits for an operator, or prepares for that."""
        operation = self._operations.current
        return operation is not None and operation.held

    async def begin(
        self,
        request_id: str,
        options: SwitchoverOptions,
        kind: OperationKind = OperationKind.SWITCHOVER,
    ) -> Operation:
        """Start a switchover, or return the one that was started with this request id.

        Raises INVALID_ARGUMENT if that one has other options, or for hooks and poolers that this coordinator
        does not accept; WRONG_PHASE if another one has not ended, or if
        the migration does not stream and is not about to; FENCED, and the errors of writing the state file.
        """
        given, options = options.pause_poolers, handover.recorded(options)
        known = self._operations.requested(request_id)
        if known is not None:
            _check_same(known, options, kind)
            self._context.poolers.give(given)
            return known
        handover.check_accepted(self._context, options)
        turning.check_options(kind, options, self._context.migration.record.options)
        migration = self._context.migration
        if self._operations.current is None:
            await self.wait()  # the one before has ended, and may still be storing that
            check_ready(migration, kind)
        operation = self._operations.began(
            Operation(secrets.token_hex(8), migration.record.migration_id, request_id, kind, options)
        )
        self._feed = StepFeed(migration, operation.operation_id)
        try:
            await self._save()
            await at_point(operation.kind, Point.REQUESTED)
        except BaseException as exc:
            error = cause(exc) or unexpected(migration, exc)
            self._operations.ended(operation.operation_id, OperationState.FAILED, failure=failure_of(error))
            raise
        operation = self._operations.found(operation.operation_id) or operation
        if operation.cancel_requested:  # while it was being stored
            try:
                await store(self._context, strict=self._stopped)
            finally:
                self._operations.ended(operation.operation_id, OperationState.CANCELLED)
            return self._operations.found(operation.operation_id) or operation
        self._context.poolers.give(given)  # not before: a request that is refused changes nothing
        if not self._stopped:
            self._start(operation)
        return operation

    async def _save(self) -> None:
        """After `stop` the background retries of the journal have ended, so the store must answer now."""
        await self._context.journal.save(strict=self._stopped)

    def _start(self, operation: Operation) -> None:
        self._feed = StepFeed(self._context.migration, operation.operation_id)
        left_s = math.inf if operation.held else operation.left_s(time.time())
        self._task = asyncio.create_task(
            switchover.run(*self._parts, self._feed, left_s, pipelines=self._pipelines),
            name=f"switchover-{self._context.migration.id}",
        )
        self._task.add_done_callback(partial(self._left_open, operation.operation_id))

    def _left_open(self, operation_id: str, task: asyncio.Task[None]) -> None:
        """End an operation whose task did not: it was cancelled before its first step, or an error of ours
        ended it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the switchover of migration %s failed", self._context.migration.id, exc_info=error)
        operation = self._operations.current
        if operation is None or operation.operation_id != operation_id:
            return
        if operation.state is OperationState.RUNNING:
            self.settle()
        elif operation.cancel_requested:
            self._operations.ended(operation.operation_id, OperationState.CANCELLED)
        elif error is not None:
            failure = failure_of(unexpected(self._context.migration, error))
            self._operations.ended(operation.operation_id, OperationState.FAILED, failure=failure)

    def resume(self) -> None:
        """Continue with the operation that the coordinator before has left."""
        operation = self._operations.current
        if operation is None:
            if handover.due(self._context):
                self._conclude(lambda: None)
            return
        ended = partial(self._operations.ended, operation.operation_id)
        if operation.state is OperationState.RUNNING:
            self.settle()
        elif operation.cancel_requested:
            self._conclude(partial(ended, OperationState.CANCELLED))
        elif operation.failure is not None:
            self._conclude(partial(ended, OperationState.FAILED))
        elif self._context.migration.handover.hook_started(operation.operation_id):
            self._operations.failing(operation.operation_id, _KILLED_IN_HOOK)  # it cannot be cancelled now
            self._conclude(partial(ended, OperationState.FAILED))
        elif operation.held or operation.left_s(time.time()) > 0:
            self._operations.prepares_again()
            self._start(operation)
        else:
            ended(OperationState.FAILED, failure=_TOO_LATE)

    def settle(self) -> None:
        """End an operation that ran in another process, once its outcome is known from the phase. Hooks and
        poolers come first. One that was decided ends when others can write to the destination."""
        migration, operation = self._context.migration, self._operations.current
        if operation is None or operation.state is not OperationState.RUNNING or migration.in_switchover:
            return
        if migration.record.phase.ended and self._context.pipeline.record.guard is not None:
            return
        if migration.decided_last and settling.closed(self._context):
            return
        if not migration.decided_last and operation.failure is None:
            self._operations.failing(operation.operation_id, _KILLED)  # it cannot be cancelled any more
        self._conclude(self._settled)

    def _conclude(self, end: Callable[[], None]) -> None:
        """Call `end` when what is due of hooks and poolers is done."""
        if not handover.due(self._context):
            end()
            return
        operation = self._operations.current
        self._feed = StepFeed(self._context.migration, operation.operation_id if operation else "")
        self._task = asyncio.create_task(self._concluded(end), name=f"conclude-{self._context.migration.id}")

    async def _concluded(self, end: Callable[[], None]) -> None:
        migration = self._context.migration
        warnings = await handover.conclude(self._context, self._feed)
        migration.warned(warnings)
        end()
        try:
            await self._context.journal.save()
        except PgmigError as exc:
            log.error("after hooks and poolers: %s", exc)

    def _settled(self) -> None:
        migration, operation = self._context.migration, self._operations.current
        if operation is None or operation.state is not OperationState.RUNNING or migration.in_switchover:
            return
        if migration.decided_last:
            result = migration.record.switchover
            step = SwitchoverStep(StepName.COMMIT, StepState.DONE, result=result)
            self._operations.ended(operation.operation_id, OperationState.SUCCEEDED, step, result)
            return
        end = OperationState.CANCELLED if operation.cancel_requested else OperationState.ROLLED_BACK
        step = SwitchoverStep(StepName.ROLLBACK, StepState.DONE)
        self._operations.ended(operation.operation_id, end, step, failure=operation.failure or _KILLED)

    async def cancel(self, operation: Operation) -> Operation:
        """Cancel it; its end is seen in the record. Raises WRONG_PHASE if it was decided or has ended."""
        if operation.state is OperationState.CANCELLED or operation.cancel_requested:
            return operation
        migration = self._context.migration
        running = operation.state is OperationState.RUNNING and not migration.in_switchover
        decided = self._feed.deciding or migration.record.phase.ended or (running and migration.decided_last)
        if operation.state.ended or (decided and operation.failure is None):
            ended = f"has ended: {operation.state}" if operation.state.ended else "is decided"
            raise PgmigError(
                ErrorKind.WRONG_PHASE,
                f"operation {operation.operation_id} cannot be cancelled any more: it {ended}",
                f"see `pgmig-cli status --id {operation.migration_id}`",
            )
        if operation.failure is None:
            await self._interrupt()
        return self._operations.found(operation.operation_id) or operation

    async def _interrupt(self) -> None:
        """While nothing is blocked, the request is stored before the operation ends: once a client has seen
        that end, no coordinator continues the operation."""
        task, blocking = self._task, self._context.migration.in_switchover
        self._operations.cancelling()
        if task is not None and blocking:
            task.cancel()
        try:
            await store(self._context, strict=self._stopped)
        finally:
            if task is not None and not blocking:
                task.cancel()

    async def proceed(self, operation: Operation) -> Operation:
        """Let a held operation proceed. Raises WRONG_PHASE if it is not held or has ended."""
        if operation.proceeded_at:
            return operation
        if not operation.held or operation.state.ended or operation.cancel_requested:
            state = operation.state if operation.state.ended or operation.options.hold else "not held"
            raise PgmigError(
                ErrorKind.WRONG_PHASE,
                f"operation {operation.operation_id} cannot proceed: it is {state}",
                f"see `pgmig-cli operations --id {operation.migration_id}`",
            )
        self._operations.proceeds()
        await self._save()
        return self._operations.found(operation.operation_id) or operation

    async def wait(self) -> None:
        """Return when the switchover that runs here has ended."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """The coordinator ends. A switchover that blocks writes is undone. Another one is left to the next
        coordinator."""
        self._stopped = True
        self._feed.leave.set()
        if self._task is not None:
            self._task.cancel()
            await self.wait()

    @property
    def opening(self) -> bool:
        """Whether it is decided, and waits until others can write to the destination."""
        migration = self._context.migration
        guarded = migration.record.phase.ended and self._context.pipeline.record.guard is not None
        return migration.decided_last and (guarded or settling.closed(self._context))

    async def leave(self) -> None:
        """Stop waiting for that. `settle` ends the operation when the guard is lifted."""
        self._feed.leave.set()
        await self.wait()
