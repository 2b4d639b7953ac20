"""Runs one migration from phase to phase.

A driver (services.coordinator.driver) runs the pipeline that works; in phase bidirectional a second one runs
the other pipeline. `halt` cancels the running phase and `begin` enters it again. Each phase can be entered
again after a crash at any point. The commands of operators (services.coordinator.commands) use `halt` and
`begin`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from services.coordinator.driver import Driver, Surroundings
from services.coordinator.migration.state import Migration
from services.coordinator.operations import after_switchover as afterwards
from services.coordinator.operations import both_ways, settling
from services.coordinator.operations.switching import Switching
from services.coordinator.operations.undo import undo
from services.coordinator.pipeline.guarding import lift_at_last, needed, unwatch_at_last
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.pipeline import Pipeline, Pipelines
from services.coordinator.pipeline.primary_watch import PrimaryWatch
from services.coordinator.pipeline.promotion import continue_if_promoted
from services.coordinator.pipeline.readiness_watch import ReadinessWatch
from services.coordinator.pipeline.source_watch import Lookout
from services.shared.model import Direction, MigrationPhase, OperationState, PgmigError

SAMPLE_EVERY_S = 1.0


class PhaseLoop:
    def __init__(self, pipelines: Pipelines) -> None:
        self.pipelines = pipelines
        self._driver = Driver(lambda: pipelines.active, self._around())
        self._second: Driver | None = None
        self._driven: dict[Driver, asyncio.Task[None]] = {}
        self._works = self._working()
        self.readiness_watch = ReadinessWatch(self._context.pipeline, self._context.credentials)
        self._sampling: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._lifting: asyncio.Task[None] | None = None
        self.switching = Switching(self._context, self._schema, self._workers, pipelines)
        self._primaries: dict[Direction, PrimaryWatch] = {}

    def _working(self) -> tuple[Direction, ...]:
        """The directions in which pipelines work."""
        return tuple(one.direction for one in self.migration.record.working)

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
        """Watch the ends of the pipelines that work."""
        working = {direction: self.pipelines.of(direction) for direction in self._works}
        self._primaries = {
            direction: PrimaryWatch(pipeline.context, pipeline.workers)
            for direction, pipeline in working.items()
        }
        name = self.migration.id
        self._sampling = [
            asyncio.create_task(self._sample(), name=f"sample-{name}"),
            asyncio.create_task(self.readiness_watch.run(), name=f"readiness-{name}"),
            *(asyncio.create_task(one.run(), name=f"primaries-{name}") for one in self._primaries.values()),
        ]

    async def _turn(self) -> None:
        """Other pipelines may work now: watch their ends."""
        if self._works == self._working():
            return
        self._works = self._working()
        await self._look_away()
        self.readiness_watch = ReadinessWatch(self._context.pipeline, self._context.credentials)
        self._look_on()

    async def _look_away(self) -> None:
        for task in self._sampling:
            task.cancel()
            await asyncio.wait({task})

    def begin(self) -> None:
        self._drive(self._driver, self.pipelines.active)
        self._begin_second()
        self.watch_old_source()

    def _begin_second(self) -> None:
        """While both sides are written to, a second pipeline works."""
        if self.migration.record.phase is MigrationPhase.BIDIRECTIONAL:
            second = self._context.pipeline.id.direction.opposite
            if self._second is None:
                self._second = Driver(lambda: self.pipelines.of(second), self._around_second(second))
            self._drive(self._second, self.pipelines.of(second))

    def _drive(self, driver: Driver, pipeline: Pipeline) -> None:
        """Does nothing if the pipeline is halted, or is driven already."""
        known = self._driven.get(driver)
        if not pipeline.context.pipeline.running or (known is not None and not known.done()):
            return
        pipeline.workers.reports.cleared()
        name = f"drive-{pipeline.context.pipeline.id}"
        self._driven[driver] = asyncio.create_task(driver.run(), name=name)

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
        tasks, self._driven = self._driven, {}
        for task in tasks.values():
            if task is not asyncio.current_task():
                task.cancel()
                await asyncio.wait({task})

    async def _sample(self) -> None:
        working = [self.pipelines.of(direction).context for direction in self._works]
        lookouts = [Lookout(one.pipeline, one.credentials) for one in working]
        try:
            while True:
                for pipeline in self.migration.pipelines:
                    pipeline.sample(time.monotonic())
                for lookout in lookouts:
                    await lookout.look()
                await asyncio.sleep(SAMPLE_EVERY_S)
        finally:
            for lookout in lookouts:
                await lookout.close()

    def _around(self) -> Surroundings:
        """Of the pipeline that works, or the first one that does."""
        return Surroundings(self._before, self._beside, self._switched_over, self.watch_old_source)

    def _around_second(self, direction: Direction) -> Surroundings:
        async def before() -> bool:
            await self._context.journal.check_ours()
            await self._at_primaries(direction)
            return False

        async def over() -> bool:
            return not self.pipelines.of(direction).context.pipeline.running

        return Surroundings(before, _forever, over, lambda: None)

    async def _at_primaries(self, direction: Direction) -> None:
        """A state of that pipeline begins: it works with the primaries of now."""
        pipeline = self.pipelines.of(direction)
        await self._primaries[direction].begin()
        for other in map(self.pipelines.of, self._works):  # no pipeline works with a former primary any more
            if (known := other.context.credentials.known).complete:
                await other.workers.staffing.release_elsewhere(known)
        await continue_if_promoted(pipeline.context, pipeline.workers.staffing, pipeline.bus)

    async def _beside(self) -> None:
        """Open both sides to writers as soon as all is copied, if the operator wants that."""
        if self.migration.record.options.bidirectional and not self.migration.record.opened_both:
            await both_ways.open_both(self.pipelines)
        else:
            await _forever()

    async def _before(self) -> bool:
        """What precedes each state of the pipeline that works."""
        if self.migration.in_switchover:
            if self.switching.running:
                await self.switching.wait()  # it ends by itself, one way or the other
                self.watch_old_source()
                return True
            await undo(self._context)  # a coordinator died before it could decide
            self.switching.settle()
            await self._context.journal.save()
            return True
        await self._context.journal.check_ours()  # another coordinator may run the migration now
        await self._settled()
        if self.migration.record.phase is MigrationPhase.BIDIRECTIONAL:
            await both_ways.open_destination(self.pipelines)
            self._begin_second()
        await self._at_primaries(self._context.pipeline.id.direction)
        return False

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

    async def _switched_over(self) -> bool:
        """Whether the migration has switched over, or other pipelines work. If an operation blocks writes,
        wait for its end: it sees the error of the worker too, and rolls back or has decided. One that only
        prepares is not waited for, because it would hide the error until its time is over."""
        works = self._works
        if self.migration.in_switchover:
            await self.switching.wait()
        turned = self._working() != works
        return turned or self.migration.record.phase is MigrationPhase.SWITCHED_OVER


async def _forever() -> None:
    await asyncio.Event().wait()
