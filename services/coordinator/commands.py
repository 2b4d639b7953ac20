"""The commands of operators on one migration. Only one command runs at a time."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from services.coordinator.commanded import wrong_phase
from services.coordinator.endings import Endings
from services.coordinator.migration import certificates
from services.coordinator.migration.views import readiness_of
from services.coordinator.operations import after_switchover as afterwards
from services.coordinator.operations import handover, settling, turning
from services.coordinator.operations import skip as skipping
from services.coordinator.operations.conflict_report import conflict_report
from services.coordinator.operations.dry_run import DryRun
from services.coordinator.pipeline.credentials import (
    GO_ON,
    NOTHING_GIVEN,
    Credentials,
    Judged,
    judge,
    judge_to_go_on,
)
from services.coordinator.pipeline.pipeline import Pipeline
from services.coordinator.tables.resync import prepare_resync
from services.shared.model import (
    Direction,
    DryRunResult,
    DryRunStep,
    ErrorKind,
    EventLevel,
    LagLimit,
    Lsn,
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
from services.shared.model.readiness import both_written
from services.shared.model.readiness_facts import Limits
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport
from services.shared.pg.schema.dump import check_skippable

_RESYNCED = frozenset(
    {PipelineState.COPY, PipelineState.INDEXES, PipelineState.CATCHUP, PipelineState.STREAMING}
)
"""In these states tables can be copied again."""


class Commands(Endings):
    async def pause(self) -> None:
        """Raises WRONG_PHASE unless it runs and is not switching over."""
        async with self._commanded() as migration:
            running = [one for one in self._working if one.context.pipeline.running]
            if not running and migration.phase is Phase.PAUSED:
                return
            if not running or migration.in_switchover:
                raise wrong_phase(migration, "paused")
            self._check_not_switching("paused")
            if settling.closed(self._context):
                raise wrong_phase(migration, "paused", "wait until the new primary accepts writes")
            await self._context.journal.check_ours()
            await self.loop.halt()
            running = [one for one in self._working if one.context.pipeline.running]  # one may have failed
            for one in running:
                one.context.pipeline.paused()
            await self._context.journal.save()
            for one in running:
                await one.workers.staffing.release()

    async def resume(self, given: Credentials, skip_objects: tuple[str, ...] = ()) -> None:
        """Continue after a pause or a failure, or with new credentials.

        skip_objects: of the schema, what is not restored either. Raises INVALID_ARGUMENT for a database
        that is not the recorded one.
        """
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
            if not self._halted:
                raise wrong_phase(migration, "resumed")
            if skip_objects:
                await self._skip_objects(skip_objects)
            await self._go_on(self._halted)

    async def _skip_objects(self, names: tuple[str, ...]) -> None:
        migration = self.migration
        await check_skippable(self._schema.files.archive, names)
        migration.objects_skipped(names)
        migration.event(EventLevel.WARNING, f"not restored, as requested: {', '.join(names)}")

    async def _begin_elsewhere(self, judged: Judged) -> None:
        """The running phase begins again at new addresses of the same databases."""
        await self.loop.halt()
        await self._release_all()
        self._credentials.take_over(judged)
        await self._context.journal.save()
        self.loop.begin()

    @property
    def _halted(self) -> list[Pipeline]:
        """The pipelines that are paused or have failed."""
        return [one for one in self._working if one.context.pipeline.record.resume_state is not None]

    async def _go_on(self, halted: Sequence[Pipeline], skipped: SkippedTransaction | None = None) -> None:
        """Out of a pause or a failure; the record is saved before anything runs. Workers that still report
        what they met before the operator has corrected it are released first."""
        await self.loop.halt()
        for one in halted:
            await one.workers.staffing.release()
            one.context.pipeline.resumed(skipped)
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
            failed = self.loop.pipelines.of(skipping.failed_at(migration.record, lsn).direction)
            await self._go_on([failed], given_up)
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
                hint = "the destination has been written to since; begin a new migration to copy tables again"
                raise wrong_phase(migration, "asked to copy tables again", hint)
            able = state in _RESYNCED and not migration.in_switchover
            if not able or not migration.record.options.follow:
                hint = "tables can be copied again while changes are replicated (clone --follow)"
                raise wrong_phase(migration, "asked to copy tables again", hint)
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
        async with self._commanded() as migration:
            if migration.record.options.bidirectional:
                raise wrong_phase(migration, "switched over", both_written(str(migration.id)))
            return await self.loop.switching.begin(request_id, options)

    async def roll_back(self, request_id: str, options: SwitchoverOptions) -> Operation:
        """Start a rollback, or return the one that was started with this request id."""
        async with self._commanded():
            return await self.loop.switching.begin(request_id, options, OperationKind.ROLLBACK)

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
        """Every step of a switchover that changes nothing. options: whose hooks, poolers and way back are
        checked. Raises WRONG_PHASE during a switchover, and INVALID_ARGUMENT."""
        self._check_not_switching("checked by a dry run")
        if self.migration.record.options.bidirectional:
            raise wrong_phase(self.migration, "switched over", both_written(str(self.migration.id)))
        context = replace(self._context, poolers=self._context.poolers.with_given(options.pause_poolers))
        options = handover.recorded(replace(options, max_lag=max_lag))
        handover.check_accepted(context, options)
        turning.check_options(OperationKind.SWITCHOVER, options, self.migration.record.options)
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


def unknown_operation(operation_id: str) -> PgmigError:
    return PgmigError(
        ErrorKind.NOT_FOUND,
        f"there is no operation {operation_id}",
        "see 'pgmig-cli operations' for those there are; the last ones of each migration are kept",
    )
