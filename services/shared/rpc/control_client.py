"""The typed client of the control API: model values in and out, PgmigError for every failure.

Calls with a single answer have a deadline. `watch` and `watch_operation` last as long as the caller reads
them. Keepalive detects a dead
coordinator within 20 s. Nothing is retried here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from types import TracebackType
from typing import Self, TypeVar

from grpc import aio
from pgmig.common.v1.common_pb2 import TableName
from pgmig.control.v1 import control_pb2 as pb
from pgmig.control.v1.control_pb2_grpc import ControlServiceStub

from services.shared.model import (
    CleanupResult,
    DryRunResult,
    DryRunStep,
    LagLimit,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    Operation,
    PgmigError,
    Readiness,
    SwitchoverOptions,
    TableId,
)
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport
from services.shared.rpc.channel import open_channel
from services.shared.rpc.conversion.view import (
    certificate_from_pb,
    cleaned_from_pb,
    conflicts_from_pb,
    dry_result_from_pb,
    dry_step_from_pb,
    lag_limit_to_pb,
    operation_from_pb,
    options_to_pb,
    plan_from_pb,
    readiness_from_pb,
    switchover_to_pb,
    view_from_pb,
)
from services.shared.rpc.status import error_from_rpc

DEADLINE_S = 10.0
LONG_DEADLINE_S = 60.0
"""For calls that access both databases before they answer."""

Answer = TypeVar("Answer")


class ControlClient:
    """Create it inside a running event loop, and close it. address: HOST:PORT of the coordinator."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = open_channel(address)
        self._stub = ControlServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def start(
        self,
        migration_id: MigrationId | str,
        source_uri: str,
        destination_uri: str,
        options: MigrationOptions,
    ) -> MigrationView:
        request = pb.StartMigrationRequest(
            migration_id=str(migration_id),
            source_uri=source_uri,
            destination_uri=destination_uri,
            options=options_to_pb(options),
        )
        call = self._stub.StartMigration(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"starting {migration_id}")
        return view_from_pb(answer.migration)

    async def plan(
        self,
        migration_id: MigrationId | str,
        source_uri: str,
        destination_uri: str,
        options: MigrationOptions,
    ) -> MigrationPlan:
        request = pb.PlanMigrationRequest(
            migration_id=str(migration_id),
            source_uri=source_uri,
            destination_uri=destination_uri,
            options=options_to_pb(options),
        )
        call = self._stub.PlanMigration(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"planning {migration_id}")
        return plan_from_pb(answer.plan)

    async def get(self, migration_id: MigrationId | str) -> MigrationView:
        request = pb.GetMigrationRequest(migration_id=str(migration_id))
        call = self._stub.GetMigration(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"asking for {migration_id}")
        return view_from_pb(answer.migration)

    async def list_all(self) -> tuple[MigrationView, ...]:
        call = self._stub.ListMigrations(pb.ListMigrationsRequest(), timeout=DEADLINE_S)
        answer = await self._answer(call, "listing the migrations")
        return tuple(view_from_pb(message) for message in answer.migrations)

    async def watch(self, migration_id: MigrationId | str) -> AsyncGenerator[MigrationView, None]:
        """The view at once and after every change; ends when the migration has been cleaned up.

        If you leave early, wrap it in contextlib.aclosing, so that the call ends at once.
        """
        call = self._stub.WatchMigration(pb.WatchMigrationRequest(migration_id=str(migration_id)))
        try:
            async for message in call:
                yield view_from_pb(message.migration)
        except aio.AioRpcError as exc:
            raise self._error(exc, f"watching {migration_id}") from exc
        finally:
            call.cancel()

    async def pause(self, migration_id: MigrationId | str) -> MigrationView:
        request = pb.PauseMigrationRequest(migration_id=str(migration_id))
        call = self._stub.PauseMigration(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"pausing {migration_id}")
        return view_from_pb(answer.migration)

    async def resume(
        self,
        migration_id: MigrationId | str,
        source_uri: str | None = None,
        destination_uri: str | None = None,
        skip_objects: tuple[str, ...] = (),
    ) -> MigrationView:
        """The URIs provide credentials after a restart of the coordinator. skip_objects: see
        MigrationOptions; they are added to the existing ones."""
        request = pb.ResumeMigrationRequest(
            migration_id=str(migration_id),
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
            skip_objects=skip_objects,
        )
        call = self._stub.ResumeMigration(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"resuming {migration_id}")
        return view_from_pb(answer.migration)

    async def skip_transaction(
        self,
        migration_id: MigrationId | str,
        lsn: Lsn,
        reason: str,
        who: str,
        *,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """lsn: of the commit record of the transaction on which the migration failed."""
        request = pb.SkipTransactionRequest(
            migration_id=str(migration_id),
            lsn=lsn.value,
            reason=reason,
            who=who,
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
        )
        call = self._stub.SkipTransaction(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"skipping a transaction of {migration_id}")
        return view_from_pb(answer.migration)

    async def resync_tables(
        self,
        migration_id: MigrationId | str,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """Copy tables again, or add tables that were created since the migration began."""
        request = pb.ResyncTablesRequest(
            migration_id=str(migration_id),
            tables=[TableName(schema=table.schema, name=table.name) for table in tables],
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
        )
        call = self._stub.ResyncTables(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"copying tables of {migration_id} again")
        return view_from_pb(answer.migration)

    async def switchover(
        self, migration_id: MigrationId | str, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        """Start a switchover, or return the one that was started with this request id."""
        request = pb.SwitchoverRequest(
            migration_id=str(migration_id), request_id=request_id, options=switchover_to_pb(options)
        )
        call = self._stub.Switchover(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"switching {migration_id} over")
        return operation_from_pb(answer.operation)

    async def rollback(
        self, migration_id: MigrationId | str, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        """Start a rollback, or return the one that was started with this request id."""
        request = pb.RollbackRequest(
            migration_id=str(migration_id), request_id=request_id, options=switchover_to_pb(options)
        )
        call = self._stub.Rollback(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"rolling {migration_id} back")
        return operation_from_pb(answer.operation)

    async def finalize(
        self,
        migration_id: MigrationId | str,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        request = pb.FinalizeRequest(
            migration_id=str(migration_id),
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
        )
        call = self._stub.Finalize(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"finalizing {migration_id}")
        return view_from_pb(answer.migration)

    async def get_operation(self, operation_id: str) -> Operation:
        call = self._stub.GetOperation(pb.GetOperationRequest(operation_id=operation_id), timeout=DEADLINE_S)
        answer = await self._answer(call, f"asking for operation {operation_id}")
        return operation_from_pb(answer.operation)

    async def list_operations(self, migration_id: MigrationId | str) -> tuple[Operation, ...]:
        """The oldest first."""
        request = pb.ListOperationsRequest(migration_id=str(migration_id))
        call = self._stub.ListOperations(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"listing the operations of {migration_id}")
        return tuple(operation_from_pb(message) for message in answer.operations)

    async def list_conflicts(self, migration_id: MigrationId | str, limit: int = 0) -> ConflictReport:
        """limit: of the conflicts that are listed, the newest first; 0: as many as allowed."""
        request = pb.ListConflictsRequest(migration_id=str(migration_id), limit=limit)
        call = self._stub.ListConflicts(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"listing the conflicts of {migration_id}")
        return conflicts_from_pb(answer.report)

    async def watch_operation(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """The operation at once and after every change, until it has ended. Leaving early does not stop
        it."""
        call = self._stub.WatchOperation(pb.WatchOperationRequest(operation_id=operation_id))
        try:
            async for message in call:
                yield operation_from_pb(message.operation)
        except aio.AioRpcError as exc:
            raise self._error(exc, f"watching operation {operation_id}") from exc
        finally:
            call.cancel()

    async def cancel_operation(self, operation_id: str) -> Operation:
        call = self._stub.CancelOperation(
            pb.CancelOperationRequest(operation_id=operation_id), timeout=DEADLINE_S
        )
        answer = await self._answer(call, f"cancelling operation {operation_id}")
        return operation_from_pb(answer.operation)

    async def proceed_operation(self, operation_id: str) -> Operation:
        call = self._stub.ProceedOperation(
            pb.ProceedOperationRequest(operation_id=operation_id), timeout=DEADLINE_S
        )
        answer = await self._answer(call, f"letting operation {operation_id} proceed")
        return operation_from_pb(answer.operation)

    async def readiness(self, migration_id: MigrationId | str, max_lag: LagLimit) -> Readiness:
        """Both servers are asked now."""
        request = pb.GetReadinessRequest(migration_id=str(migration_id), max_lag=lag_limit_to_pb(max_lag))
        call = self._stub.GetReadiness(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"checking whether {migration_id} can be switched over")
        return readiness_from_pb(answer.readiness)

    async def dry_run(
        self, migration_id: MigrationId | str, max_lag: LagLimit, options: SwitchoverOptions
    ) -> AsyncGenerator[DryRunStep | DryRunResult, None]:
        """The steps as they happen, then the result. Leaving early ends the dry run."""
        request = pb.DryRunSwitchoverRequest(
            migration_id=str(migration_id),
            max_lag=lag_limit_to_pb(max_lag),
            options=switchover_to_pb(options),
        )
        call = self._stub.DryRunSwitchover(request)
        try:
            async for message in call:
                ended = message.HasField("result")
                yield dry_result_from_pb(message.result) if ended else dry_step_from_pb(message.step)
        except aio.AioRpcError as exc:
            raise self._error(exc, f"checking whether {migration_id} can be switched over") from exc
        finally:
            call.cancel()

    async def certificate(self, migration_id: MigrationId | str, operation_id: str = "") -> StoredCertificate:
        """operation_id: "" for the last switchover."""
        request = pb.GetCertificateRequest(migration_id=str(migration_id), operation_id=operation_id)
        call = self._stub.GetCertificate(request, timeout=DEADLINE_S)
        answer = await self._answer(call, f"asking for the certificate of {migration_id}")
        return certificate_from_pb(answer.certificate)

    async def unfreeze(
        self,
        migration_id: MigrationId | str,
        read_only: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        request = pb.UnfreezeRequest(
            migration_id=str(migration_id),
            read_only=read_only,
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
        )
        call = self._stub.Unfreeze(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"unfreezing the source of {migration_id}")
        return view_from_pb(answer.migration)

    async def abort(
        self,
        migration_id: MigrationId | str,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        request = pb.AbortMigrationRequest(
            migration_id=str(migration_id),
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
        )
        call = self._stub.AbortMigration(request, timeout=LONG_DEADLINE_S)
        answer = await self._answer(call, f"aborting {migration_id}")
        return view_from_pb(answer.migration)

    async def cleanup(
        self,
        migration_id: MigrationId | str,
        force: bool = False,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> CleanupResult:
        """force: even if the migration still runs, and even if a server cannot be reached."""
        request = pb.CleanupMigrationRequest(
            migration_id=str(migration_id),
            force=force,
            source_uri=source_uri or "",
            destination_uri=destination_uri or "",
        )
        call = self._stub.CleanupMigration(request, timeout=LONG_DEADLINE_S)
        return cleaned_from_pb(await self._answer(call, f"cleaning {migration_id} up"))

    async def _answer(self, call: Awaitable[Answer], doing: str) -> Answer:
        try:
            return await call
        except aio.AioRpcError as exc:
            raise self._error(exc, doing) from exc

    def _error(self, exc: aio.AioRpcError, doing: str) -> PgmigError:
        return error_from_rpc(exc, doing, self.address)
