"""The gRPC server of the control API: converts requests to model values, and errors to statuses.

If a client disconnects, its call is cancelled here. This must not stop a `switchover` half way. Therefore
the handler runs the switchover as a separate task, and its iterator only reports the steps, so closing
the iterator changes nothing. If `start`, `cleanup` or another call with a single answer is cancelled, it
must leave a state that can be continued.
"""

# ruff: noqa: N802 - gRPC names the methods

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from grpc import aio
from pgmig.control.v1 import control_pb2 as pb
from pgmig.control.v1.control_pb2_grpc import ControlServiceServicer

from services.shared.model import (
    CleanupResult,
    ErrorKind,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    PgmigError,
    SwitchoverStep,
    TableId,
)
from services.shared.rpc.conversion.view import (
    cleaned_to_pb,
    options_from_pb,
    plan_to_pb,
    step_to_pb,
    view_to_pb,
)
from services.shared.rpc.status import abort_with
from services.shared.rpc.streams import closing, until

Context = aio.ServicerContext[Any, Any]

DEFAULT_SWITCHOVER_TIMEOUT_MS = 30_000


class ControlHandler(Protocol):
    """What the coordinator does for a client. The client receives every PgmigError that is raised.

    Only ids have been checked. URIs contain credentials.
    """

    async def start(
        self,
        migration_id: MigrationId,
        source_uri: str,
        destination_uri: str,
        options: MigrationOptions,
    ) -> MigrationView: ...

    async def plan(
        self,
        migration_id: MigrationId,
        source_uri: str,
        destination_uri: str,
        options: MigrationOptions,
    ) -> MigrationPlan:
        """Check as `start` does, and return what it would drop or empty on the destination."""

    async def get(self, migration_id: MigrationId) -> MigrationView: ...

    async def list_all(self) -> tuple[MigrationView, ...]: ...

    def watch(self, migration_id: MigrationId) -> AsyncIterator[MigrationView]:
        """The view at once and after every change; ends when the migration is cleaned up.

        The iterator is closed when the client disconnects.
        """

    async def pause(self, migration_id: MigrationId) -> MigrationView: ...

    async def resume(
        self,
        migration_id: MigrationId,
        source_uri: str | None,
        destination_uri: str | None,
        skip_objects: tuple[str, ...],
    ) -> MigrationView: ...

    async def skip_transaction(
        self,
        migration_id: MigrationId,
        lsn: Lsn,
        reason: str,
        who: str,
        *,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """Skip the transaction that commits at `lsn`, on which the migration failed."""

    async def resync_tables(
        self,
        migration_id: MigrationId,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """Copy tables again, or add tables that were created since the migration began."""

    def switchover(self, migration_id: MigrationId, timeout_s: float) -> AsyncIterator[SwitchoverStep]:
        """The steps as they happen. Closing the iterator must not stop the switchover.

        timeout_s: the longest time for which writes are blocked.
        """

    async def unfreeze(
        self,
        migration_id: MigrationId,
        read_only: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """Allow sessions on the old source again, read-only by default or with writes."""

    async def abort(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView: ...

    async def cleanup(
        self,
        migration_id: MigrationId,
        force: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> CleanupResult: ...


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

    async def Switchover(
        self, request: pb.SwitchoverRequest, context: Context
    ) -> AsyncIterator[pb.SwitchoverResponse]:
        async with answering(context, "Switchover"):
            migration = MigrationId.parse(request.migration_id)
            timeout_ms = request.timeout_ms or DEFAULT_SWITCHOVER_TIMEOUT_MS
            async with closing(self._handler.switchover(migration, timeout_ms / 1000)) as steps:
                async for step in steps:
                    yield pb.SwitchoverResponse(step=step_to_pb(step))

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
