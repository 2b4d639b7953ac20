"""Runs one migration from phase to phase.

If a phase fails for a reason that a retry may correct, it is entered again after a wait. Any other failure
stops the workers and puts the migration into phase failed, with the cause. `halt` cancels the running phase
and `begin` enters it again. Each phase can be entered again after a crash at any point. The commands of
operators (services.coordinator.commands) use `halt` and `begin`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.coordinator.migration.state import Migration
from services.coordinator.operations import after_switchover as afterwards
from services.coordinator.operations import settling
from services.coordinator.operations import skip as skipping
from services.coordinator.operations.switching import Switching
from services.coordinator.operations.undo import undo
from services.coordinator.phases import copy, follow, indexes, schema
from services.coordinator.pipeline import milestones
from services.coordinator.pipeline.guarding import lift_at_last, needed, unwatch_at_last
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.pipeline import Pipeline, Pipelines
from services.coordinator.pipeline.primary_watch import PrimaryWatch
from services.coordinator.pipeline.promotion import continue_if_promoted
from services.coordinator.pipeline.readiness_watch import ReadinessWatch
from services.coordinator.pipeline.reports import unexpected
from services.coordinator.pipeline.source_watch import Lookout
from services.coordinator.tables.recover import after_drift
from services.shared.model import (
    ErrorKind,
    EventLevel,
    MigrationPhase,
    OperationState,
    PgmigError,
    PipelineState,
    back_off_s,
    failure_of,
)
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
SAMPLE_EVERY_S = 1.0


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


class PhaseLoop:
    def __init__(self, pipelines: Pipelines) -> None:
        self.pipelines = pipelines
        self._task: asyncio.Task[None] | None = None
        self._direction = self._context.migration.record.active
        self.readiness_watch = ReadinessWatch(self._context.pipeline, self._context.credentials)
        self._sampling: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._lifting: asyncio.Task[None] | None = None
        self._timeline = 0  # of the side that the pipeline writes to, when the last phase began
        self.switching = Switching(self._context, self._schema, self._workers, pipelines)
        self._primaries = PrimaryWatch(self._context, self._workers)

    # Of the pipeline that works.

    @property
    def _context(self) -> Context:
        return self.pipelines.active.context

    @property
    def _schema(self) -> Schema:
        return self.pipelines.active.schema

    @property
    def _workers(self) -> Workers:
        return self.pipelines.active.workers

    @property
    def migration(self) -> Migration:
        return self._context.migration

    def start(self) -> None:
        """Begin, or continue where the record says. For a migration that does not run, nothing is begun."""
        self._context.journal.open()
        self._look_on()
        self.switching.resume()
        self.begin()

    def _look_on(self) -> None:
        """Watch the ends of the pipeline that works."""
        self._sampling = [
            asyncio.create_task(self._sample(), name=f"sample-{self.migration.id}"),
            asyncio.create_task(self.readiness_watch.run(), name=f"readiness-{self.migration.id}"),
            asyncio.create_task(self._primaries.run(), name=f"primaries-{self.migration.id}"),
        ]

    async def _turn(self) -> None:
        """Another pipeline may work now: watch its ends."""
        if self._direction is self.migration.record.active:
            return
        self._direction = self.migration.record.active
        await self._look_away()
        self.readiness_watch = ReadinessWatch(self._context.pipeline, self._context.credentials)
        self._primaries = PrimaryWatch(self._context, self._workers)
        self._look_on()

    async def _look_away(self) -> None:
        for task in self._sampling:
            task.cancel()
            await asyncio.wait({task})

    def begin(self) -> None:
        if self.migration.phase.running:
            self._workers.reports.cleared()
            self._task = asyncio.create_task(self._drive(), name=f"drive-{self.migration.id}")
        self.watch_old_source()

    def watch_old_source(self) -> None:
        """Once it has switched over, as long as this coordinator runs."""
        if self.migration.record.phase is MigrationPhase.SWITCHED_OVER and self._watching is None:
            self._watching = asyncio.create_task(
                afterwards.watch(self._context), name=f"watch-{self.migration.id}"
            )
        self._open_destination()

    def _open_destination(self) -> None:
        """Once it has ended, if something is left of the guard of the destination, or it is still frozen."""
        if (
            (needed(self._context.pipeline) or settling.closed(self._context))
            and self.migration.record.phase.ended
            and (self._lifting is None or self._lifting.done())
        ):
            self._lifting = asyncio.create_task(self._lift(), name=f"open-destination-{self.migration.id}")

    async def _lift(self) -> None:
        """The operation ends, hooks and poolers included, before the triggers are dropped."""
        await self.switching.wait()  # its end lifts the guard
        with suppress(PgmigError):
            await lift_at_last(self._context)
            await settling.open_at_last(self.pipelines)
            self.switching.settle()
            await self._context.journal.save()
            await unwatch_at_last(self._context)
            await self._context.journal.save()

    async def unwatch(self) -> None:
        tasks = [task for task in (self._watching, self._lifting) if task is not None]
        self._watching = self._lifting = None
        for task in tasks:
            task.cancel()
            await asyncio.wait({task})

    async def stop(self) -> None:
        """The coordinator ends. Workers continue, and the next coordinator takes over. A
        switchover that blocks writes and has not been decided is rolled back first."""
        await self.switching.stop()
        await self.halt()
        await self._look_away()
        await self.unwatch()
        if not self.migration.removed:
            with suppress(PgmigError):
                await self._context.journal.save()
        await self._context.journal.close()

    async def halt(self) -> None:
        """End the running phase, wherever it is."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})

    async def _sample(self) -> None:
        lookout = Lookout(self._context.pipeline, self._context.credentials)
        try:
            while True:
                for pipeline in self.migration.pipelines:
                    pipeline.sample(time.monotonic())
                await lookout.look()
                await asyncio.sleep(SAMPLE_EVERY_S)
        finally:
            await lookout.close()

    async def _drive(self) -> None:
        try:
            await self._through_phases()
        finally:
            await self._schema.index_work.stop()

    async def _through_phases(self) -> None:
        retries = 0
        while self.migration.phase.running:
            entered = self.migration.phase
            try:
                await self._advance()
                retries = 0
            except Exception as exc:
                error = cause(exc) or unexpected(self.migration, exc)
                if error.kind is ErrorKind.FENCED:
                    log.error("migration %s is left to another coordinator: %s", self.migration.id, error)
                    return
                if error.kind is ErrorKind.PROMOTED:
                    await self._workers.staffing.release()
                    self._workers.reports.cleared()
                elif not error.policy.retry:
                    switched = await self._switched_over()
                    if not switched:
                        await self._fail(error)
                    self.watch_old_source()
                    if not switched:
                        return
                    retries = 0
                    continue
                if error.kind is ErrorKind.SNAPSHOT_LOST:
                    self._workers.snapshot.lost()
                wait = back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, retries)
                retries += 1
                self.migration.event(EventLevel.WARNING, f"phase {entered} is retried: {error}")
                await asyncio.sleep(wait)

    async def _advance(self) -> None:
        """Run one state of the pipeline, or the rest of it, and enter the next one."""
        if self.migration.in_switchover:
            if self.switching.running:
                await self.switching.wait()  # it ends by itself, one way or the other
                self.watch_old_source()
                return
            await undo(self._context)  # a coordinator died before it could decide
            self.switching.settle()
            await self._context.journal.save()
            return
        await self._context.journal.check_ours()  # another coordinator may run the migration now
        await self._settled()
        await self._primaries.begin()
        await continue_if_promoted(self._context, self._workers.staffing, self.pipelines.active.bus)
        pipeline = self._context.pipeline
        state = pipeline.state
        await self._look_for_milestone(state)
        target = await self._run_state(state)
        if target is not pipeline.state:
            if state in _MARKED:
                await milestones.reach(self._context, self._timeline)
            if target is PipelineState.ENDED:
                self.migration.completed()
            else:
                pipeline.entered(target)
        await self._context.journal.save()
        if target is PipelineState.ENDED:
            await self._workers.staffing.release()
        self.watch_old_source()

    async def _look_for_milestone(self, state: PipelineState) -> None:
        """Raises GAP. On a promoted server, what is known of the work on indexes is not valid."""
        if state is PipelineState.CREATED:
            return
        timeline = await milestones.check(self._context)
        if timeline != self._timeline:
            self._timeline = timeline
            await self._schema.index_work.stop()

    async def _settled(self) -> None:
        """Do what follows a change of direction, unless it was done."""
        operation = self.migration.operations.current
        if operation is not None and operation.state is OperationState.RUNNING:
            await self.switching.wait()  # it may still be opening the new primary
        await self._turn()
        if self.migration.record.idle is None:
            return
        await settling.open_at_last(self.pipelines)
        self.switching.settle()
        await settling.settle(self.pipelines, anew=False)

    async def _run_state(self, state: PipelineState) -> PipelineState:
        """The state's own end, or the error of a worker that ends it."""
        pipeline = self._context.pipeline
        running = asyncio.ensure_future(_RUN[state](self.pipelines.active))
        fatal = asyncio.create_task(self._workers.reports.until_fatal(), name="fatal")
        try:
            await asyncio.wait({running, fatal}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            error = fatal.result()
            if await self._switched_over():
                return pipeline.state
            if error.kind is ErrorKind.SCHEMA_DRIFT and state in _APPLYING:
                return await after_drift(self._context, self._schema, self._workers.reports, error)
            raise error
        finally:
            for task in (running, fatal):
                task.cancel()
            await asyncio.wait({running, fatal})

    async def _switched_over(self) -> bool:
        """Whether the migration has switched over, or its other pipeline works. If an operation blocks
        writes, wait for its end: it sees the error of the worker too, and rolls back or has decided. One
        that only prepares is not waited for, because it would hide the error until its time is over."""
        direction = self._direction
        if self.migration.in_switchover:
            await self.switching.wait()
        turned = self.migration.record.active is not direction
        return turned or self.migration.record.phase is MigrationPhase.SWITCHED_OVER

    async def _fail(self, error: PgmigError) -> None:
        pipeline = self._context.pipeline
        migration = self.migration
        log.error("migration %s failed in phase %s: %s", migration.id, migration.phase, error)
        failure = skipping.explained(failure_of(error), migration.record.migration_id)
        pipeline.failed(failure)
        with suppress(PgmigError):
            await self._context.journal.save()
        await self._workers.staffing.release()
