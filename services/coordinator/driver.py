"""Drives one migration from phase to phase, and carries out what operators ask of it.

A phase that fails for a reason that a retry may cure is entered again after a wait; any other
failure stops the workers and leaves phase failed with its cause. Pausing cancels the running
phase: each can be entered again. Operators' commands exclude each other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from services.coordinator.migration.state import Migration, failure_of
from services.coordinator.operations import after_switchover as afterwards
from services.coordinator.operations import skip as skipping
from services.coordinator.operations import switchover, teardown
from services.coordinator.operations.readiness import check_ready
from services.coordinator.operations.steps import StepFeed
from services.coordinator.operations.undo import undo
from services.coordinator.phases import copy, follow, indexes, schema
from services.coordinator.pipeline.credentials import (
    GIVE_UP,
    GO_ON,
    NOTHING_GIVEN,
    Credentials,
    Judged,
    judge,
    judge_to_go_on,
)
from services.coordinator.pipeline.pipeline import Pipeline
from services.coordinator.pipeline.reports import unexpected
from services.coordinator.pipeline.source_watch import Lookout
from services.coordinator.tables.recover import after_drift
from services.coordinator.tables.resync import prepare_resync
from services.shared.model import (
    CleanupResult,
    ErrorKind,
    EventLevel,
    Lsn,
    PgmigError,
    Phase,
    SkippedTransaction,
    TableId,
    back_off_s,
)
from services.shared.pg.schema.dump import check_skippable
from services.shared.runtime.assignments import cause

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
SAMPLE_EVERY_S = 1.0


async def _created(_pipeline: Pipeline) -> Phase:
    return Phase.SCHEMA


_RUN: dict[Phase, Callable[[Pipeline], Awaitable[Phase]]] = {
    Phase.CREATED: _created,
    Phase.SCHEMA: schema.run,
    Phase.COPY: copy.run,
    Phase.INDEXES: indexes.run,
    Phase.CATCHUP: follow.run,
    Phase.STREAMING: follow.run,
}


_REPLICATING = frozenset({Phase.CATCHUP, Phase.STREAMING})
_APPLYING = frozenset({Phase.INDEXES, *_REPLICATING})
"""With an applier at work, for a while at least: where tables are of several snapshots."""
_RESYNCED = frozenset({Phase.COPY, Phase.INDEXES, *_REPLICATING})


class Driver:
    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._task: asyncio.Task[None] | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._switching: asyncio.Task[None] | None = None
        self._feed: StepFeed | None = None
        self._command = asyncio.Lock()

    @property
    def migration(self) -> Migration:
        return self.pipeline.migration

    def start(self) -> None:
        """Begin, or go on where the record says. A migration that does not run just stands."""
        self.pipeline.journal.open()
        self._sampling = asyncio.create_task(self._sample(), name=f"sample-{self.migration.id}")
        self._run()

    def _run(self) -> None:
        if self.migration.phase.running:
            self.pipeline.reports.cleared()
            self._task = asyncio.create_task(self._drive(), name=f"drive-{self.migration.id}")
        self._watch_old_source()

    def _watch_old_source(self) -> None:
        """Once it has switched over, as long as this coordinator runs."""
        if self.migration.phase is Phase.SWITCHED_OVER and self._watching is None:
            self._watching = asyncio.create_task(
                afterwards.watch(self.pipeline), name=f"watch-{self.migration.id}"
            )

    async def _unwatch(self) -> None:
        task, self._watching = self._watching, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def stop(self) -> None:
        """The coordinator ends: workers go on, and the next coordinator takes over. A
        switchover that has not been decided is rolled back first."""
        if self._switching is not None:
            self._switching.cancel()
            await asyncio.wait({self._switching})
        await self._halt()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait({self._sampling})
        await self._unwatch()
        if not self.migration.removed:
            with suppress(PgmigError):
                await self.pipeline.journal.save()
        await self.pipeline.journal.close()

    async def _halt(self) -> None:
        """End the running phase, wherever it is."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})

    async def _sample(self) -> None:
        lookout = Lookout(self.pipeline)
        try:
            while True:
                self.migration.sample(time.monotonic())
                await lookout.look()
                await asyncio.sleep(SAMPLE_EVERY_S)
        finally:
            await lookout.close()

    # The state machine.

    async def _drive(self) -> None:
        try:
            await self._through_phases()
        finally:
            await self.pipeline.index_work.stop()

    async def _through_phases(self) -> None:
        retries = 0
        while self.migration.phase.running:
            entered = self.migration.phase
            try:
                await self._enter(entered)
                retries = 0
            except Exception as exc:
                error = cause(exc) or unexpected(self.migration, exc)
                if error.kind is ErrorKind.FENCED:
                    log.error("migration %s is left to another coordinator: %s", self.migration.id, error)
                    return
                if not error.policy.retry:
                    await self._fail(error)
                    return
                if error.kind is ErrorKind.SNAPSHOT_LOST:
                    self.pipeline.snapshot.lost()
                wait = back_off_s(FIRST_RETRY_S, LONGEST_RETRY_S, retries)
                retries += 1
                self.migration.event(EventLevel.WARNING, f"phase {entered} is retried: {error}")
                await asyncio.sleep(wait)

    async def _enter(self, phase: Phase) -> None:
        """Run one phase, or whatever of it is left, and move on."""
        if phase is Phase.SWITCHOVER:
            if self._switching is not None and not self._switching.done():
                await asyncio.wait({self._switching})  # it ends by itself, one way or the other
                return
            await undo(self.pipeline)  # a coordinator died before it could decide
            return
        target = await self._run_phase(phase)
        if target is not self.migration.phase:
            self.migration.entered(target)
        await self.pipeline.journal.save()
        if target in {Phase.COMPLETE, Phase.SWITCHED_OVER}:
            await self.pipeline.staffing.release()
        self._watch_old_source()

    async def _run_phase(self, phase: Phase) -> Phase:
        """The phase's own end, or the error of a worker that ends it."""
        running = asyncio.ensure_future(_RUN[phase](self.pipeline))
        fatal = asyncio.create_task(self.pipeline.reports.until_fatal(), name="fatal")
        try:
            await asyncio.wait({running, fatal}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            error = fatal.result()
            if self._switching is not None:  # it sees the error too, and rolls back or has decided
                await asyncio.wait({self._switching})
                if self.migration.phase is Phase.SWITCHED_OVER:
                    return self.migration.phase
            if error.kind is ErrorKind.SCHEMA_DRIFT and phase in _APPLYING:
                return await after_drift(self.pipeline, error)
            raise error
        finally:
            for task in (running, fatal):
                task.cancel()
            await asyncio.wait({running, fatal})

    async def _fail(self, error: PgmigError) -> None:
        migration = self.migration
        log.error("migration %s failed in phase %s: %s", migration.id, migration.phase, error)
        failure = skipping.explained(failure_of(error), migration.record.migration_id)
        migration.failed(failure)
        with suppress(PgmigError):
            await self.pipeline.journal.save()
        await self.pipeline.staffing.release()

    # What operators ask.

    @asynccontextmanager
    async def _commanded(self) -> AsyncIterator[Migration]:
        async with self._command:
            if self.migration.removed:
                raise PgmigError(ErrorKind.NOT_FOUND, f"migration {self.migration.id} has been cleaned up")
            yield self.migration

    def _check_not_switching(self, done: str) -> None:
        """Raises WRONG_PHASE amid a switchover, which begins before its phase does."""
        if self._switching is not None and not self._switching.done():
            raise _wrong_phase(self.migration, done, "wait for the end of the switchover")

    async def pause(self) -> None:
        """Raises WRONG_PHASE unless it runs and is not switching over."""
        async with self._commanded() as migration:
            if migration.phase is Phase.PAUSED:
                return
            if not migration.phase.running or migration.phase is Phase.SWITCHOVER:
                raise _wrong_phase(migration, "paused")
            self._check_not_switching("paused")
            await self._halt()
            migration.paused()
            await self.pipeline.journal.save()
            await self.pipeline.staffing.release()

    async def resume(self, given: Credentials, skip_objects: tuple[str, ...] = ()) -> None:
        """Go on after a pause or a failure, or with the credentials that are given.

        skip_objects: of the schema, what is not restored either. Raises INVALID_ARGUMENT for a database
        that is not the recorded one.
        """
        async with self._commanded() as migration:
            judged = await judge_to_go_on(migration.record, given)
            if judged.moved and migration.phase.running:
                self._check_not_switching("given another address")
                await self._begin_elsewhere(judged)
                return
            credentials = self.pipeline.credentials.take_over(judged)
            if migration.phase.running or (migration.phase.ended and credentials.complete):
                return
            if migration.record.resume_phase is None:
                raise _wrong_phase(migration, "resumed")
            if skip_objects:
                await self._skip_objects(skip_objects)
            await self._go_on()

    async def _skip_objects(self, names: tuple[str, ...]) -> None:
        migration = self.migration
        await check_skippable(self.pipeline.files.archive, names)
        migration.objects_skipped(names)
        migration.event(EventLevel.WARNING, f"not restored, as requested: {', '.join(names)}")

    async def _begin_elsewhere(self, judged: Judged) -> None:
        """The running phase begins again at new addresses of the same databases."""
        await self._halt()
        await self.pipeline.staffing.release()
        self.pipeline.credentials.take_over(judged)
        await self.pipeline.journal.save()
        self._run()

    async def _go_on(self, skipped: SkippedTransaction | None = None) -> None:
        """Out of a pause or a failure; the record is saved before anything runs."""
        await self._halt()
        self.migration.resumed(skipped)
        await self.pipeline.journal.save()
        self._run()

    async def skip_transaction(
        self, lsn: Lsn, reason: str, who: str, given: Credentials = NOTHING_GIVEN
    ) -> None:
        """Go on after a failure without the one transaction that it is about.

        Raises INVALID_ARGUMENT unless that one commits at `lsn`, WRONG_PHASE for any other state.
        """
        async with self._commanded() as migration:
            given_up = skipping.decided(migration.record, lsn, reason, who, time.time())
            self.pipeline.credentials.take_over(await judge_to_go_on(migration.record, given))
            await self._go_on(given_up)
            migration.event(EventLevel.WARNING, skipping.told(given_up))
            await self.pipeline.journal.save()

    async def resync(self, tables: Sequence[TableId], given: Credentials = NOTHING_GIVEN) -> None:
        """Copy tables again, or add new ones; what ran, or was halted, goes on afterwards.

        Raises WRONG_PHASE unless it is copying or replicating, or was; CREDENTIALS_NEEDED; and what
        `prepare_resync` raises, with everything as it was.
        """
        async with self._commanded() as migration:
            phase = migration.record.resume_phase or migration.phase
            if phase not in _RESYNCED or not migration.record.options.follow:
                hint = "tables can be copied again while changes are replicated (clone --follow)"
                raise _wrong_phase(migration, "asked to copy tables again", hint)
            self._check_not_switching("asked to copy tables again")
            judged = await judge_to_go_on(migration.record, given)
            await self._halt()
            try:
                await self.pipeline.staffing.release()
                self.pipeline.credentials.take_over(judged)
                await self.pipeline.credentials.check_known()
                await prepare_resync(self.pipeline, tables)
            except BaseException:
                self._run()
                raise
            await self.pipeline.journal.save()
            self._run()

    async def switch_over(self, timeout_s: float) -> StepFeed:
        """Begin, or join the one that runs. It goes on whoever reads its steps."""
        async with self._commanded():
            if self._switching is not None and not self._switching.done() and self._feed is not None:
                return self._feed
            check_ready(self.migration)
            feed = self._feed = StepFeed()
            self._switching = asyncio.create_task(
                switchover.run(self.pipeline, feed, timeout_s), name=f"switchover-{self.migration.id}"
            )
            return feed

    async def unfreeze(self, given: Credentials = NOTHING_GIVEN, *, read_only: bool) -> None:
        """Let sessions into the old source again. Raises WRONG_PHASE, CREDENTIALS_NEEDED."""
        async with self._commanded() as migration:
            afterwards.check_frozen(migration)
            judged = await judge(migration.record, given, GO_ON)
            judged.check()
            self.pipeline.credentials.take_over(judged)
            await afterwards.unfreeze(self.pipeline, read_only=read_only)

    async def abort(self, given: Credentials) -> None:
        """Give up: slot, publication and origin go, copied data stays."""
        async with self._commanded() as migration:
            if migration.phase is Phase.ABORTED:
                return
            if migration.phase.ended or migration.phase is Phase.SWITCHOVER:
                raise _wrong_phase(migration, "aborted")
            self._check_not_switching("aborted")
            judged = await judge(migration.record, given, GIVE_UP)
            judged.check()
            self.pipeline.credentials.take_over(judged)
            await self._halt()
            await self.pipeline.staffing.release()
            try:
                removed = await teardown.remove_replication(self.pipeline)
            except PgmigError:
                self._run()  # it is not aborted, so it goes on
                raise
            migration.aborted()
            for line in removed:
                migration.event(EventLevel.INFO, f"removed {line}")
            await self.pipeline.journal.save()

    async def cleanup(self, given: Credentials, *, force: bool) -> CleanupResult:
        """Remove everything the migration left; the caller forgets it. Raises WRONG_PHASE.

        force: also while it runs, and also when a server cannot be reached, or is not given.
        """
        async with self._commanded() as migration:
            if migration.phase.running and not force:
                raise _wrong_phase(migration, "cleaned up", "pause or abort it first, or use --force")
            self._check_not_switching("cleaned up")
            judged = await judge(migration.record, given, GIVE_UP)
            if not force:
                judged.check()
            self.pipeline.credentials.take_over(judged)
            await self._halt()
            await self._unwatch()
            await self.pipeline.staffing.release()
            try:
                return await teardown.remove_all(self.pipeline, judged.refused, force=force)
            finally:
                if not migration.removed:
                    self._watch_old_source()


def _wrong_phase(migration: Migration, done: str, hint: str = "") -> PgmigError:
    return PgmigError(
        ErrorKind.WRONG_PHASE, f"migration {migration.id} in phase {migration.phase} cannot be {done}", hint
    )
