"""The commands of operators on one migration. Only one command runs at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from services.coordinator.migration import certificates
from services.coordinator.migration.failpoints import Point, at_point
from services.coordinator.migration.state import Migration
from services.coordinator.migration.views import readiness_of
from services.coordinator.operations import after_switchover as afterwards
from services.coordinator.operations import handover, settling, teardown
from services.coordinator.operations import skip as skipping
from services.coordinator.operations.conflict_report import conflict_report
from services.coordinator.operations.dry_run import DryRun
from services.coordinator.operations.switchover import store
from services.coordinator.phase_loop import PhaseLoop
from services.coordinator.pipeline.credentials import (
    GIVE_UP,
    GO_ON,
    NOTHING_GIVEN,
    Credentials,
    Judged,
    judge,
    judge_to_go_on,
)
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.tables.resync import prepare_resync
from services.shared.model import (
    CleanupResult,
    Direction,
    DryRunResult,
    DryRunStep,
    ErrorKind,
    EventLevel,
    LagLimit,
    Lsn,
    MigrationPhase,
    Operation,
    OperationKind,
    PgmigError,
    Phase,
    PipelineState,
    Readiness,
    SkippedTransaction,
    SwitchoverOptions,
    TableId,
)
from services.shared.model.readiness_facts import Limits
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport
from services.shared.pg.schema.dump import check_skippable

_RESYNCED = frozenset(
    {PipelineState.COPY, PipelineState.INDEXES, PipelineState.CATCHUP, PipelineState.STREAMING}
)
"""In these states tables can be copied again."""


class Commands:
    def __init__(self, loop: PhaseLoop) -> None:
        self.loop = loop
        self._credentials = loop.pipelines.credentials
        self._bus = loop.pipelines.active.bus
        self._command = asyncio.Lock()

    @property
    def migration(self) -> Migration:
        return self.loop.migration

    # Of the pipeline that works.

    @property
    def _context(self) -> Context:
        return self.loop.pipelines.active.context

    @property
    def _schema(self) -> Schema:
        return self.loop.pipelines.active.schema

    @property
    def _workers(self) -> Workers:
        return self.loop.pipelines.active.workers

    @property
    def _contexts(self) -> tuple[Context, ...]:
        """Of all pipelines."""
        return tuple(pipeline.context for pipeline in self.loop.pipelines.all)

    @asynccontextmanager
    async def _commanded(self) -> AsyncIterator[Migration]:
        async with self._command:
            if self.migration.removed:
                raise PgmigError(ErrorKind.NOT_FOUND, f"migration {self.migration.id} has been cleaned up")
            yield self.migration

    def _check_not_switching(self, done: str) -> None:
        if self.loop.switching.running:
            cancel = f"`pgmig-cli switchover --id {self.migration.id} --cancel`"
            hint = f"wait for the end of the switchover, or cancel it: {cancel}"
            raise _wrong_phase(self.migration, done, hint)

    async def pause(self) -> None:
        """Raises WRONG_PHASE unless it runs and is not switching over."""
        pipeline = self._context.pipeline
        async with self._commanded() as migration:
            if pipeline.state is PipelineState.PAUSED:
                return
            if not migration.phase.running or migration.in_switchover:
                raise _wrong_phase(migration, "paused")
            self._check_not_switching("paused")
            if settling.closed(self._context):
                raise _wrong_phase(migration, "paused", "wait until the new primary accepts writes")
            await self._context.journal.check_ours()
            await self.loop.halt()
            pipeline.paused()
            await self._context.journal.save()
            await self._workers.staffing.release()

    async def resume(self, given: Credentials, skip_objects: tuple[str, ...] = ()) -> None:
        """Continue after a pause or a failure, or with new credentials.

        skip_objects: of the schema, what is not restored either. Raises INVALID_ARGUMENT for a database
        that is not the recorded one.
        """
        pipeline = self._context.pipeline
        async with self._commanded() as migration:
            judged = await judge_to_go_on(migration.record, given)
            await self._context.journal.check_ours()
            if judged.moved and migration.phase.running:
                self._check_not_switching("given another address")
                await self._begin_elsewhere(judged)
                return
            credentials = self._credentials.take_over(judged)
            if migration.phase.running or (migration.phase.ended and credentials.complete):
                return
            if pipeline.record.resume_state is None:
                raise _wrong_phase(migration, "resumed")
            if skip_objects:
                await self._skip_objects(skip_objects)
            await self._go_on()

    async def _skip_objects(self, names: tuple[str, ...]) -> None:
        migration = self.migration
        await check_skippable(self._schema.files.archive, names)
        migration.objects_skipped(names)
        migration.event(EventLevel.WARNING, f"not restored, as requested: {', '.join(names)}")

    async def _begin_elsewhere(self, judged: Judged) -> None:
        """The running phase begins again at new addresses of the same databases."""
        await self.loop.halt()
        await self._workers.staffing.release()
        self._credentials.take_over(judged)
        await self._context.journal.save()
        self.loop.begin()

    async def _go_on(self, skipped: SkippedTransaction | None = None) -> None:
        """Out of a pause or a failure; the record is saved before anything runs."""
        await self.loop.halt()
        self._context.pipeline.resumed(skipped)
        await self._context.journal.save()
        self.loop.begin()

    async def skip_transaction(
        self, lsn: Lsn, reason: str, who: str, given: Credentials = NOTHING_GIVEN
    ) -> None:
        """Continue after a failure, and skip the transaction that caused it.

        Raises INVALID_ARGUMENT unless that one commits at `lsn`, WRONG_PHASE for any other state.
        """
        async with self._commanded() as migration:
            given_up = skipping.decided(migration.record, lsn, reason, who, time.time())
            judged = await judge_to_go_on(migration.record, given)
            await self._context.journal.check_ours()
            self._credentials.take_over(judged)
            await self._go_on(given_up)
            migration.event(EventLevel.WARNING, skipping.audit_line(given_up))
            await self._context.journal.save()

    async def resync(self, tables: Sequence[TableId], given: Credentials = NOTHING_GIVEN) -> None:
        """Copy tables again, or add new ones. After that the migration continues, also if it was halted.

        Raises WRONG_PHASE unless it is copying or replicating, or was; CREDENTIALS_NEEDED; and what
        `prepare_resync` raises, with everything as it was.
        """
        pipeline = self._context.pipeline
        async with self._commanded() as migration:
            state = pipeline.record.resume_state or pipeline.state
            if pipeline.without_copy:
                hint = "the direction has changed since the copy; begin a new migration to copy tables again"
                raise _wrong_phase(migration, "asked to copy tables again", hint)
            able = state in _RESYNCED and not migration.in_switchover
            if not able or not migration.record.options.follow:
                hint = "tables can be copied again while changes are replicated (clone --follow)"
                raise _wrong_phase(migration, "asked to copy tables again", hint)
            self._check_not_switching("asked to copy tables again")
            judged = await judge_to_go_on(migration.record, given)
            await self._context.journal.confirm()
            await self.loop.halt()
            try:
                await self._workers.staffing.release()
                self._credentials.take_over(judged)
                await self._context.credentials.check_known()
                await prepare_resync(self._context, self._schema.routing, tables)
            except BaseException:
                self.loop.begin()
                raise
            await self._context.journal.save()
            self.loop.begin()

    async def switch_over(self, request_id: str, options: SwitchoverOptions) -> Operation:
        """Start a switchover, or return the one that was started with this request id."""
        async with self._commanded():
            return await self.loop.switching.begin(request_id, options)

    async def roll_back(self, request_id: str, options: SwitchoverOptions) -> Operation:
        """Start a rollback, or return the one that was started with this request id."""
        async with self._commanded():
            return await self.loop.switching.begin(request_id, options, OperationKind.ROLLBACK)

    async def finalize(self, given: Credentials) -> None:
        """End the replication back. What is on a server that cannot be reached is recorded as left, and
        `cleanup` removes it. Raises WRONG_PHASE unless the destination has replaced the source and changes
        are replicated back, and everything is done that follows the last change of direction.

        The end is stored before anything is removed. A coordinator that dies meanwhile leaves the rest to
        `cleanup`, or to a second call.
        """
        async with self._commanded() as migration:
            again = migration.record.finalized
            if migration.record.phase is not MigrationPhase.REVERSE and not again:
                hint = "it ends the replication back after `switchover --reverse`"
                raise _wrong_phase(migration, "finalized", hint)
            self._check_not_switching("finalized")
            opening = not again and settling.closed(self._context)
            if migration.operations.current is not None or opening:
                raise _wrong_phase(migration, "finalized", "wait until the destination accepts writes")
            judged = await judge(migration.record, given, GIVE_UP)
            judged.check()
            await self._context.journal.confirm()
            self._credentials.take_over(judged)
            if not again:
                await self.loop.halt()
                migration.finalized()
                await self._context.journal.save(strict=True)
                await at_point(migration.operations.kind, Point.FINALIZED)
            await self._release_all()
            self._report(await teardown.remove_replication(self._contexts, self._bus))
            await self._context.journal.save()
            self.loop.watch_old_source()

    def operation(self, operation_id: str) -> Operation:
        """Raises NOT_FOUND."""
        operation = self.migration.operations.found(operation_id)
        if operation is None or self.migration.removed:
            raise unknown_operation(operation_id)
        return operation

    async def watch_operation(self, operation_id: str) -> AsyncIterator[Operation]:
        """Yield the operation at once and after every change, until it has ended. Raises NOT_FOUND when its
        migration is cleaned up."""
        seen: Operation | None = None
        while seen is None or not seen.state.ended:
            operation = self.operation(operation_id)
            if operation is seen:
                await self.migration.changed()
                continue
            seen = operation
            yield operation

    async def cancel_operation(self, operation_id: str) -> Operation:
        """Raises NOT_FOUND, and WRONG_PHASE when it is decided or has ended otherwise."""
        return await self.loop.switching.cancel(self.operation(operation_id))

    async def proceed_operation(self, operation_id: str) -> Operation:
        """Raises NOT_FOUND, and WRONG_PHASE when it is not held or has ended."""
        return await self.loop.switching.proceed(self.operation(operation_id))

    async def readiness(self, max_lag: LagLimit) -> Readiness:
        """Ask both servers now, if it replicates changes."""
        await self.loop.readiness_watch.look()
        return readiness_of(self.migration, Limits(max_lag))

    def dry_run(
        self, max_lag: LagLimit, options: SwitchoverOptions
    ) -> AsyncGenerator[DryRunStep | DryRunResult, None]:
        """Every step of a switchover that changes nothing. options: whose hooks and poolers are checked.
        Raises WRONG_PHASE during a switchover, and INVALID_ARGUMENT."""
        self._check_not_switching("checked by a dry run")
        context = replace(self._context, poolers=self._context.poolers.with_given(options.pause_poolers))
        options = handover.recorded(replace(options, max_lag=max_lag))
        handover.check_accepted(context, options)
        watch = self.loop.readiness_watch
        return DryRun(context, self._schema, watch, options, self._without_switchover).run()

    @asynccontextmanager
    async def _without_switchover(self) -> AsyncIterator[None]:
        """No switchover runs, and none begins here. Raises WRONG_PHASE during a switchover, FENCED when
        another coordinator has taken the migration over, and BROKER."""
        async with self._commanded():
            self._check_not_switching("checked by a dry run")
            await self._context.journal.confirm()
            yield

    async def certificate(self, operation_id: str) -> StoredCertificate:
        """Of this switchover, or of the last one. Raises NOT_FOUND; WRONG_PHASE before its end; FENCED and
        BROKER if it was not issued yet and cannot be now."""
        if self.migration.operations.current is None:
            await self._context.journal.issue()
        return certificates.found(self.migration.record, operation_id)

    async def conflicts(self, limit: int) -> ConflictReport:
        """Those recorded on both servers. Raises CREDENTIALS_NEEDED, UNREACHABLE."""
        known = self._context.credentials.of_migration.known
        return await conflict_report(self.migration.id, known, limit)

    async def unfreeze(self, given: Credentials = NOTHING_GIVEN, *, read_only: bool) -> None:
        """Let sessions into the old source again. Raises WRONG_PHASE, CREDENTIALS_NEEDED."""
        async with self._commanded() as migration:
            afterwards.check_frozen(migration)
            context = self.loop.pipelines.of(Direction.FORWARD).context
            judged = await judge(migration.record, given, GO_ON)
            judged.check()
            self._credentials.take_over(judged)
            await afterwards.unfreeze(context, read_only=read_only)

    async def abort(self, given: Credentials) -> None:
        """Give up: slot, publication and origin go, copied data stays. It is recorded first, because without
        one of these the migration cannot be continued. What cannot be removed is recorded as left."""
        async with self._commanded() as migration:
            if migration.phase is Phase.ABORTED:
                return
            if migration.phase.ended or migration.phase is Phase.SWITCHOVER:
                raise _wrong_phase(migration, "aborted")
            if migration.record.phase in {MigrationPhase.REVERSE, MigrationPhase.ROLLBACK}:
                hint = "the destination has replaced the source: use `pgmig-cli rollback` or `finalize`"
                raise _wrong_phase(migration, "aborted", hint)
            self._check_not_switching("aborted")
            judged = await judge(migration.record, given, GIVE_UP)
            judged.check()
            await self._context.journal.confirm()
            self._credentials.take_over(judged)
            await self.loop.halt()
            await self._release_all()
            try:
                thawed = await teardown.thaw_first(self._contexts, self._bus)
            except PgmigError:
                self.loop.begin()  # it is not aborted, so it continues
                raise
            await self._end()
            try:
                result = await teardown.remove_replication(self._contexts, self._bus)
                self._report(replace(result, removed=(*thawed, *result.removed)))
                await self._context.journal.save()
            finally:
                self.loop.watch_old_source()  # and open the destination, if that was not possible

    async def _end(self) -> None:
        """Record that it is aborted, before anything is removed. Raises FENCED."""
        self.migration.aborted()
        self.loop.switching.settle()
        await store(self._context)

    async def _end_reverse(self) -> None:
        """The destination serves writers, also after a rollback that could not be undone: it is opened first.
        Raises what prevents that, and FENCED."""
        migration = self.migration
        if migration.in_switchover:
            await teardown.thaw_first(self._contexts, self._bus)
            migration.switchover_undone()
            self.loop.switching.settle()
        migration.finalized()
        await store(self._context)

    async def _release_all(self) -> None:
        for pipeline in self.loop.pipelines.all:
            await pipeline.workers.staffing.release()

    def _report(self, result: CleanupResult) -> None:
        for line in result.removed:
            self.migration.event(EventLevel.INFO, f"removed {line}")
        for line in result.left:
            self.migration.event(EventLevel.WARNING, f"not removed: {line}")
        self.migration.left_behind(result.left)

    async def cleanup(self, given: Credentials, *, force: bool) -> CleanupResult:
        """Remove everything the migration left; the caller forgets it if it is marked as removed then. Raises
        WRONG_PHASE.

        If a server cannot be reached, what is there is recorded as left, and the migration, which cannot be
        continued any more, is kept for another cleanup. force: also while it runs, and it is removed whatever
        is left, also if a server is not given.
        """
        async with self._commanded() as migration:
            if migration.phase.running and not force:
                raise _wrong_phase(migration, "cleaned up", "pause or abort it first, or use --force")
            if not self.loop.switching.opening:
                self._check_not_switching("cleaned up")
            judged = await judge(migration.record, given, GIVE_UP)
            if not force:
                judged.check()
            await teardown.check_ours(self._context, force=force)
            self._credentials.take_over(judged)
            await self.loop.switching.leave()
            await self.loop.halt()
            await self.loop.unwatch()
            await self._release_all()
            if not (migration.phase.ended or (force and migration.in_switchover)):
                if migration.record.phase in {MigrationPhase.REVERSE, MigrationPhase.ROLLBACK}:
                    await self._end_reverse()
                else:
                    await self._end()
            try:
                result = await teardown.remove_all(
                    self._contexts, self._schema.files, self._bus, judged.refused, force=force
                )
                if not migration.removed:
                    self._report(result)
                    await self._context.journal.save()
            finally:
                if not migration.removed:
                    self.loop.watch_old_source()
            return result


def unknown_operation(operation_id: str) -> PgmigError:
    return PgmigError(
        ErrorKind.NOT_FOUND,
        f"there is no operation {operation_id}",
        "see 'pgmig-cli operations' for those there are; the last ones of each migration are kept",
    )


def _wrong_phase(migration: Migration, done: str, hint: str = "") -> PgmigError:
    return PgmigError(
        ErrorKind.WRONG_PHASE, f"migration {migration.id} in phase {migration.phase} cannot be {done}", hint
    )
