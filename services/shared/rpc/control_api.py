"""The gRPC server of the control API: converts requests to model values, and errors to statuses.

If a client disconnects, its call is cancelled here. This does not stop an operation, such as a switchover:
the handler runs it as a separate task, and `watch_operation` only shows it. If `start`, `cleanup` or another
call with a single answer is cancelled, it must leave a state that can be continued.
"""

# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio
from pgmig.control.v1 import control_pb2 as pb
from pgmig.control.v1.control_pb2_grpc import ControlServiceServicer

from services.shared.model import (
    DryRunStep,
    ErrorKind,
    Lsn,
    MigrationId,
    MigrationOptions,
    PgmigError,
    TableId,
)
from services.shared.rpc.control_handler import ControlHandler
from services.shared.rpc.conversion.view import (
    certificate_to_pb,
    cleaned_to_pb,
    conflicts_to_pb,
    dry_result_to_pb,
    dry_step_to_pb,
    lag_limit_from_pb,
    operation_to_pb,
    options_from_pb,
    plan_to_pb,
    readiness_to_pb,
    switchover_from_pb,
    view_to_pb,
)
from services.shared.rpc.status import abort_with
from services.shared.rpc.streams import closing, until

Context = aio.ServicerContext[Any, Any]

LONGEST_REQUEST_ID = 100


@asynccontextmanager
async def answering(context: Context, doing: str) -> AsyncIterator[None]:
    """Convert an exception raised in the block to the call's status. doing: the call's name."""
    try:
        yield
    except aio.AbortError:
        raise
    except Exception as exc:
        cause: Exception = exc
        while isinstance(cause, ExceptionGroup):
            cause = cause.exceptions[0]
        await abort_with(context, cause, doing)


def shutting_down() -> PgmigError:
    return PgmigError(ErrorKind.UNREACHABLE, "the coordinator is shutting down", "try again when it is back")


def _start_arguments(
    request: pb.StartMigrationRequest | pb.PlanMigrationRequest,
) -> tuple[MigrationId, str, str, MigrationOptions]:
    migration = MigrationId.parse(request.migration_id)
    if not (request.source_uri and request.destination_uri):
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, "both source_uri and destination_uri must be given")
    return migration, request.source_uri, request.destination_uri, options_from_pb(request.options)


def _request_id(request: pb.SwitchoverRequest | pb.RollbackRequest) -> str:
    """Raises INVALID_ARGUMENT."""
    if not 0 < len(request.request_id) <= LONGEST_REQUEST_ID:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"a request id of 1 to {LONGEST_REQUEST_ID} characters must be given",
        )
    return request.request_id


class ControlApi(ControlServiceServicer):
    """stopping: set when the server shuts down. It ends the watches."""

    def __init__(self, handler: ControlHandler, stopping: asyncio.Event) -> None:
        self._handler = handler
        self._stopping = stopping

    async def StartMigration(
        self, request: pb.StartMigrationRequest, context: Context
    ) -> pb.StartMigrationResponse:
        async with answering(context, "StartMigration"):
            return pb.StartMigrationResponse(
                migration=view_to_pb(await self._handler.start(*_start_arguments(request)))
            )

    async def PlanMigration(
        self, request: pb.PlanMigrationRequest, context: Context
    ) -> pb.PlanMigrationResponse:
        async with answering(context, "PlanMigration"):
            return pb.PlanMigrationResponse(
                plan=plan_to_pb(await self._handler.plan(*_start_arguments(request)))
            )

    async def GetMigration(
        self, request: pb.GetMigrationRequest, context: Context
    ) -> pb.GetMigrationResponse:
        async with answering(context, "GetMigration"):
            return pb.GetMigrationResponse(
                migration=view_to_pb(await self._handler.get(MigrationId.parse(request.migration_id)))
            )

    async def ListMigrations(
        self, request: pb.ListMigrationsRequest, context: Context
    ) -> pb.ListMigrationsResponse:
        async with answering(context, "ListMigrations"):
            views = await self._handler.list_all()
            return pb.ListMigrationsResponse(migrations=[view_to_pb(view) for view in views])

    async def WatchMigration(
        self, request: pb.WatchMigrationRequest, context: Context
    ) -> AsyncIterator[pb.WatchMigrationResponse]:
        async with answering(context, "WatchMigration"):
            views = self._handler.watch(MigrationId.parse(request.migration_id))
            async with closing(views), closing(until(self._stopping, views)) as open_views:
                async for view in open_views:
                    yield pb.WatchMigrationResponse(migration=view_to_pb(view))
            if self._stopping.is_set():
                raise shutting_down()

    async def PauseMigration(
        self, request: pb.PauseMigrationRequest, context: Context
    ) -> pb.PauseMigrationResponse:
        async with answering(context, "PauseMigration"):
            return pb.PauseMigrationResponse(
                migration=view_to_pb(await self._handler.pause(MigrationId.parse(request.migration_id)))
            )

    async def ResumeMigration(
        self, request: pb.ResumeMigrationRequest, context: Context
    ) -> pb.ResumeMigrationResponse:
        async with answering(context, "ResumeMigration"):
            migration = MigrationId.parse(request.migration_id)
            view = await self._handler.resume(
                migration,
                request.source_uri or None,
                request.destination_uri or None,
                tuple(request.skip_objects),
            )
            return pb.ResumeMigrationResponse(migration=view_to_pb(view))

    async def SkipTransaction(
        self, request: pb.SkipTransactionRequest, context: Context
    ) -> pb.SkipTransactionResponse:
        async with answering(context, "SkipTransaction"):
            migration = MigrationId.parse(request.migration_id)
            view = await self._handler.skip_transaction(
                migration,
                Lsn(request.lsn),
                request.reason,
                request.who,
                source_uri=request.source_uri or None,
                destination_uri=request.destination_uri or None,
            )
            return pb.SkipTransactionResponse(migration=view_to_pb(view))

    async def ResyncTables(
        self, request: pb.ResyncTablesRequest, context: Context
    ) -> pb.ResyncTablesResponse:
        async with answering(context, "ResyncTables"):
            migration = MigrationId.parse(request.migration_id)
            tables = tuple(TableId(table.schema, table.name) for table in request.tables)
            if not tables:
                raise PgmigError(ErrorKind.INVALID_ARGUMENT, "at least one table must be given")
            view = await self._handler.resync_tables(
                migration, tables, request.source_uri or None, request.destination_uri or None
            )
            return pb.ResyncTablesResponse(migration=view_to_pb(view))

    async def Switchover(self, request: pb.SwitchoverRequest, context: Context) -> pb.SwitchoverResponse:
        async with answering(context, "Switchover"):
            migration = MigrationId.parse(request.migration_id)
            options = switchover_from_pb(request.options)
            operation = await self._handler.switchover(migration, _request_id(request), options)
            return pb.SwitchoverResponse(operation=operation_to_pb(operation))

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        async with answering(context, "Rollback"):
            migration = MigrationId.parse(request.migration_id)
            options = switchover_from_pb(request.options)
            operation = await self._handler.rollback(migration, _request_id(request), options)
            return pb.RollbackResponse(operation=operation_to_pb(operation))

    async def Finalize(self, request: pb.FinalizeRequest, context: Context) -> pb.FinalizeResponse:
        async with answering(context, "Finalize"):
            view = await self._handler.finalize(
                MigrationId.parse(request.migration_id),
                request.source_uri or None,
                request.destination_uri or None,
            )
            return pb.FinalizeResponse(migration=view_to_pb(view))

    async def GetOperation(
        self, request: pb.GetOperationRequest, context: Context
    ) -> pb.GetOperationResponse:
        async with answering(context, "GetOperation"):
            operation = await self._handler.get_operation(request.operation_id)
            return pb.GetOperationResponse(operation=operation_to_pb(operation))

    async def ListOperations(
        self, request: pb.ListOperationsRequest, context: Context
    ) -> pb.ListOperationsResponse:
        async with answering(context, "ListOperations"):
            found = await self._handler.list_operations(MigrationId.parse(request.migration_id))
            return pb.ListOperationsResponse(operations=[operation_to_pb(one) for one in found])

    async def ListConflicts(
        self, request: pb.ListConflictsRequest, context: Context
    ) -> pb.ListConflictsResponse:
        async with answering(context, "ListConflicts"):
            found = await self._handler.list_conflicts(MigrationId.parse(request.migration_id), request.limit)
            return pb.ListConflictsResponse(report=conflicts_to_pb(found))

    async def WatchOperation(
        self, request: pb.WatchOperationRequest, context: Context
    ) -> AsyncIterator[pb.WatchOperationResponse]:
        async with answering(context, "WatchOperation"):
            ended = False
            states = self._handler.watch_operation(request.operation_id)
            async with closing(states), closing(until(self._stopping, states)) as open_states:
                async for operation in open_states:
                    ended = operation.state.ended
                    yield pb.WatchOperationResponse(operation=operation_to_pb(operation))
            if ended:
                return
            operation = await self._handler.get_operation(request.operation_id)
            if not operation.state.ended:
                raise shutting_down()
            yield pb.WatchOperationResponse(operation=operation_to_pb(operation))

    async def CancelOperation(
        self, request: pb.CancelOperationRequest, context: Context
    ) -> pb.CancelOperationResponse:
        async with answering(context, "CancelOperation"):
            operation = await self._handler.cancel_operation(request.operation_id)
            return pb.CancelOperationResponse(operation=operation_to_pb(operation))

    async def ProceedOperation(
        self, request: pb.ProceedOperationRequest, context: Context
    ) -> pb.ProceedOperationResponse:
        async with answering(context, "ProceedOperation"):
            operation = await self._handler.proceed_operation(request.operation_id)
            return pb.ProceedOperationResponse(operation=operation_to_pb(operation))

    async def GetReadiness(
        self, request: pb.GetReadinessRequest, context: Context
    ) -> pb.GetReadinessResponse:
        async with answering(context, "GetReadiness"):
            migration, max_lag = MigrationId.parse(request.migration_id), lag_limit_from_pb(request.max_lag)
            readiness = await self._handler.readiness(migration, max_lag)
            return pb.GetReadinessResponse(readiness=readiness_to_pb(readiness))

    async def DryRunSwitchover(
        self, request: pb.DryRunSwitchoverRequest, context: Context
    ) -> AsyncIterator[pb.DryRunSwitchoverResponse]:
        async with answering(context, "DryRunSwitchover"):
            migration, max_lag = MigrationId.parse(request.migration_id), lag_limit_from_pb(request.max_lag)
            options = switchover_from_pb(request.options)
            async with closing(self._handler.dry_run(migration, max_lag, options)) as steps:
                async for one in steps:
                    if isinstance(one, DryRunStep):
                        yield pb.DryRunSwitchoverResponse(step=dry_step_to_pb(one))
                    else:
                        yield pb.DryRunSwitchoverResponse(result=dry_result_to_pb(one))

    async def GetCertificate(
        self, request: pb.GetCertificateRequest, context: Context
    ) -> pb.GetCertificateResponse:
        async with answering(context, "GetCertificate"):
            migration = MigrationId.parse(request.migration_id)
            found = await self._handler.certificate(migration, request.operation_id)
            return pb.GetCertificateResponse(certificate=certificate_to_pb(found))

    async def Unfreeze(self, request: pb.UnfreezeRequest, context: Context) -> pb.UnfreezeResponse:
        async with answering(context, "Unfreeze"):
            view = await self._handler.unfreeze(
                MigrationId.parse(request.migration_id),
                request.read_only,
                request.source_uri or None,
                request.destination_uri or None,
            )
            return pb.UnfreezeResponse(migration=view_to_pb(view))

    async def AbortMigration(
        self, request: pb.AbortMigrationRequest, context: Context
    ) -> pb.AbortMigrationResponse:
        async with answering(context, "AbortMigration"):
            view = await self._handler.abort(
                MigrationId.parse(request.migration_id),
                request.source_uri or None,
                request.destination_uri or None,
            )
            return pb.AbortMigrationResponse(migration=view_to_pb(view))

    async def CleanupMigration(
        self, request: pb.CleanupMigrationRequest, context: Context
    ) -> pb.CleanupMigrationResponse:
        async with answering(context, "CleanupMigration"):
            done = await self._handler.cleanup(
                MigrationId.parse(request.migration_id),
                request.force,
                request.source_uri or None,
                request.destination_uri or None,
            )
            return cleaned_to_pb(done)
