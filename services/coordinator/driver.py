"""Drives one pipeline from state to state.

If a state fails for a reason that a retry may correct, it is entered again after a wait. Any other failure
stops the workers and puts the pipeline into state failed, with the cause. What the migration does around that
(switchovers, changes of direction) is given by its phase loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from services.coordinator.operations import skip as skipping
from services.coordinator.phases import copy, follow, indexes, schema
from services.coordinator.pipeline import milestones
from services.coordinator.pipeline.guarding import lift
from services.coordinator.pipeline.pipeline import Pipeline
from services.coordinator.pipeline.reports import unexpected
from services.coordinator.tables.recover import after_drift
from services.shared.model import (
    ErrorKind,
    EventLevel,
    PgmigError,
    PipelineState,
    back_off_s,
    failure_of,
)
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0


async def _created() -> PipelineState:
    return PipelineState.SCHEMA


_RUN: dict[PipelineState, Callable[[Pipeline], Awaitable[PipelineState]]] = {
    PipelineState.CREATED: lambda _pipeline: _created(),
    PipelineState.SCHEMA: lambda pipeline: schema.run(
        pipeline.context, pipeline.schema.files, pipeline.workers
    ),
    PipelineState.COPY: lambda pipeline: copy.run(
        pipeline.context, pipeline.schema, pipeline.workers, pipeline.bus
    ),
    PipelineState.INDEXES: lambda pipeline: indexes.run(pipeline.context, pipeline.schema, pipeline.workers),
    PipelineState.CATCHUP: lambda pipeline: follow.run(pipeline.context, pipeline.schema, pipeline.workers),
    PipelineState.STREAMING: lambda pipeline: follow.run(pipeline.context, pipeline.schema, pipeline.workers),
}


_APPLYING = frozenset({PipelineState.INDEXES, PipelineState.CATCHUP, PipelineState.STREAMING})
"""With an applier at work, for a while at least: where tables are of several snapshots."""


_MARKED = frozenset({PipelineState.SCHEMA, PipelineState.COPY, PipelineState.INDEXES})
"""Their work on the destination is in no progress that is compared later, so its end is a milestone."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the migration does around the states of the pipeline.

    before: awaited before each state is run. Returns whether it has to be awaited once more instead.
    beside: runs beside the state. When it ends, so does the run of the state. It never ends if there is
    nothing to do. over: whether the pipeline has no more work to do, although its worker has failed.
    ended: called when the migration may have ended.
    """

    before: Callable[[], Awaitable[bool]]
    beside: Callable[[], Coroutine[Any, Any, None]]
    over: Callable[[], Awaitable[bool]]
    ended: Callable[[], None]


class Driver:
    """pipeline: returns the pipeline, which is built anew when it works again."""

    def __init__(self, pipeline: Callable[[], Pipeline], around: Surroundings) -> None:
        self._pipeline = pipeline
        self._around = around
        self._timeline = 0  # of the side that the pipeline writes to, when the last state began

    async def run(self) -> None:
        try:
            await self._through_states()
        finally:
            await self._pipeline().schema.index_work.stop()

    async def _through_states(self) -> None:
        retries = 0
        while self._pipeline().context.pipeline.running:
            pipeline = self._pipeline()
            migration = pipeline.context.migration
            entered = migration.phase
            try:
                await self._advance()
                retries = 0
            except Exception as exc:
                error = cause(exc) or unexpected(migration, exc)
                if error.kind is ErrorKind.FENCED:
                    log.error("migration %s is left to another coordinator: %s", migration.id, error)
                    return
                if error.kind is ErrorKind.PROMOTED:
                    await self._pipeline().workers.staffing.release()
                    self._pipeline().workers.reports.cleared()
                elif not error.policy.retry:
                    over = await self._around.over()
                    if not over:
                        await self._fail(error)
                    self._around.ended()
                    if not over:
                        return
                    retries = 0
                    continue
                if error.kind is ErrorKind.SNAPSHOT_LOST:
                    self._pipeline().workers.snapshot.lost()
                wait = back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, retries)
                retries += 1
                migration.event(EventLevel.WARNING, f"phase {entered} is retried: {error}")
                await asyncio.sleep(wait)

    async def _advance(self) -> None:
        """Run one state of the pipeline, or the rest of it, and enter the next one."""
        if await self._around.before():
            return
        pipeline = self._pipeline()
        context, status = pipeline.context, pipeline.context.pipeline
        await self._look_for_milestone(pipeline)
        target = await self._run_state(pipeline)
        if target is not status.state:
            if target is PipelineState.ENDED:
                context.migration.completed()
            else:
                status.entered(target)
        await context.journal.save()
        if target is PipelineState.ENDED:
            await pipeline.workers.staffing.release()
        self._around.ended()

    async def _look_for_milestone(self, pipeline: Pipeline) -> None:
        """Raises GAP. On a promoted server, what is known of the work on indexes is not valid."""
        if pipeline.context.pipeline.state is PipelineState.CREATED:
            return
        timeline = await milestones.check(pipeline.context)
        if timeline != self._timeline:
            self._timeline = timeline
            await pipeline.schema.index_work.stop()

    async def _work(self, pipeline: Pipeline) -> PipelineState:
        """The work of the state, and what its end needs: a milestone, and after that, for a clone that
        replicates no changes, that others may write to the destination."""
        context, state = pipeline.context, pipeline.context.pipeline.state
        target = await _RUN[state](pipeline)
        if target is not state and state in _MARKED:
            await milestones.reach(context, self._timeline)
        if target is PipelineState.ENDED:
            await context.journal.check_ours()
            await lift(context)
        return target

    async def _run_state(self, pipeline: Pipeline) -> PipelineState:
        """The state's own end, or the error of a worker that ends it."""
        context, workers, state = pipeline.context, pipeline.workers, pipeline.context.pipeline.state
        running = asyncio.create_task(self._work(pipeline), name=f"{state}-{context.migration.id}")
        fatal = asyncio.create_task(workers.reports.until_fatal(), name="fatal")
        beside = asyncio.create_task(self._around.beside(), name=f"beside-{context.migration.id}")
        try:
            await asyncio.wait({running, fatal, beside}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if beside.done():
                beside.result()
                return context.pipeline.state
            error = fatal.result()
            if await self._around.over():
                return context.pipeline.state
            if error.kind is ErrorKind.SCHEMA_DRIFT and state in _APPLYING:
                beside.cancel()
                await asyncio.wait({beside})
                return await after_drift(context, pipeline.schema, workers.reports, error)
            raise error
        finally:
            tasks = running, fatal, beside
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _fail(self, error: PgmigError) -> None:
        pipeline = self._pipeline()
        status, migration = pipeline.context.pipeline, pipeline.context.migration
        log.error("migration %s failed in phase %s: %s", migration.id, migration.phase, error)
        status.failed(skipping.explained(failure_of(error), migration.record.migration_id))
        with suppress(PgmigError):
            await pipeline.context.journal.save()
        await pipeline.workers.staffing.release()
