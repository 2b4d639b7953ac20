"""The control API and the worker API, answered from the coordinator's migrations.

A command that changes something runs in its own task. If the client disconnects, the command still
runs to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from services.coordinator.migration.views import view_of, watch
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.registry import Coordinator
from services.coordinator.workers.registry import Send, WorkerRegistry
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
    Readiness,
    Register,
    SwitchoverOptions,
    TableId,
    WorkerReport,
)
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport

T = TypeVar("T")


class ControlApiHandler:
    """services.shared.rpc.control_api.ControlHandler"""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._unbroken: set[asyncio.Task[Any]] = set()

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`. It continues to its end even if the caller is cancelled."""
        task = asyncio.create_task(work, name="command")
        self._unbroken.add(task)
        task.add_done_callback(self._unbroken.discard)
        return await asyncio.shield(task)

    async def start(
        self,
        migration_id: MigrationId,
        source_uri: str,
        destination_uri: str,
        options: MigrationOptions,
    ) -> MigrationView:
        credentials = Credentials(source_uri, destination_uri)
        commands = await self._coordinator.start(migration_id, credentials, options)
        return view_of(commands.migration)

    async def plan(
        self,
        migration_id: MigrationId,
        source_uri: str,
        destination_uri: str,
        options: MigrationOptions,
    ) -> MigrationPlan:
        return await self._coordinator.plan(migration_id, Credentials(source_uri, destination_uri), options)

    async def get(self, migration_id: MigrationId) -> MigrationView:
        return view_of(self._coordinator.commands(migration_id).migration)

    async def list_all(self) -> tuple[MigrationView, ...]:
        return tuple(map(view_of, self._coordinator.migrations()))

    async def watch(self, migration_id: MigrationId) -> AsyncIterator[MigrationView]:
        async for view in watch(self._coordinator.commands(migration_id).migration):
            yield view

    async def pause(self, migration_id: MigrationId) -> MigrationView:
        commands = self._coordinator.commands(migration_id)
        await self._whole(commands.pause())
        return view_of(commands.migration)

    async def resume(
        self,
        migration_id: MigrationId,
        source_uri: str | None,
        destination_uri: str | None,
        skip_objects: tuple[str, ...],
    ) -> MigrationView:
        commands = self._coordinator.commands(migration_id)
        await self._whole(commands.resume(Credentials(source_uri or "", destination_uri or ""), skip_objects))
        return view_of(commands.migration)

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
        commands = self._coordinator.commands(migration_id)
        given = Credentials(source_uri or "", destination_uri or "")
        await self._whole(commands.skip_transaction(lsn, reason, who, given))
        return view_of(commands.migration)

    async def resync_tables(
        self,
        migration_id: MigrationId,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        commands = self._coordinator.commands(migration_id)
        await self._whole(commands.resync(tables, Credentials(source_uri or "", destination_uri or "")))
        return view_of(commands.migration)

    async def switchover(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        return await self._whole(self._coordinator.commands(migration_id).switch_over(request_id, options))

    async def rollback(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        return await self._whole(self._coordinator.commands(migration_id).roll_back(request_id, options))

    async def finalize(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        commands = self._coordinator.commands(migration_id)
        await self._whole(commands.finalize(Credentials(source_uri or "", destination_uri or "")))
        return view_of(commands.migration)

    async def get_operation(self, operation_id: str) -> Operation:
        return self._coordinator.of_operation(operation_id).operation(operation_id)

    async def list_operations(self, migration_id: MigrationId) -> tuple[Operation, ...]:
        return self._coordinator.commands(migration_id).migration.record.operations

    async def list_conflicts(self, migration_id: MigrationId, limit: int) -> ConflictReport:
        return await self._coordinator.commands(migration_id).conflicts(limit)

    async def watch_operation(self, operation_id: str) -> AsyncIterator[Operation]:
        async for operation in self._coordinator.of_operation(operation_id).watch_operation(operation_id):
            yield operation

    async def cancel_operation(self, operation_id: str) -> Operation:
        commands = self._coordinator.of_operation(operation_id)
        return await self._whole(commands.cancel_operation(operation_id))

    async def proceed_operation(self, operation_id: str) -> Operation:
        commands = self._coordinator.of_operation(operation_id)
        return await self._whole(commands.proceed_operation(operation_id))

    async def readiness(self, migration_id: MigrationId, max_lag: LagLimit) -> Readiness:
        return await self._coordinator.commands(migration_id).readiness(max_lag)

    async def dry_run(
        self, migration_id: MigrationId, max_lag: LagLimit, options: SwitchoverOptions
    ) -> AsyncIterator[DryRunStep | DryRunResult]:
        async with aclosing(self._coordinator.commands(migration_id).dry_run(max_lag, options)) as steps:
            async for step in steps:
                yield step

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> StoredCertificate:
        return await self._coordinator.commands(migration_id).certificate(operation_id)

    async def unfreeze(
        self,
        migration_id: MigrationId,
        read_only: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        commands = self._coordinator.commands(migration_id)
        given = Credentials(source_uri or "", destination_uri or "")
        await self._whole(commands.unfreeze(given, read_only=read_only))
        return view_of(commands.migration)

    async def abort(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        commands = self._coordinator.commands(migration_id)
        await self._whole(commands.abort(Credentials(source_uri or "", destination_uri or "")))
        return view_of(commands.migration)

    async def cleanup(
        self,
        migration_id: MigrationId,
        force: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> CleanupResult:
        given = Credentials(source_uri or "", destination_uri or "")
        return await self._whole(self._cleanup(migration_id, given, force))

    async def _cleanup(self, migration_id: MigrationId, given: Credentials, force: bool) -> CleanupResult:
        commands = self._coordinator.commands(migration_id)
        result = await commands.cleanup(given, force=force)
        if commands.migration.removed:
            await commands.loop.stop()
            self._coordinator.forget(commands)
        return result


class WorkersApiHandler:
    """services.shared.rpc.workers_api.WorkerHandler"""

    def __init__(self, worker_registry: WorkerRegistry) -> None:
        self._worker_registry = worker_registry

    def holds(self, worker_id: str) -> bool:
        return self._worker_registry.holds(worker_id)

    def connected(self, register: Register, send: Send) -> None:
        self._worker_registry.connected(register, send)

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        self._worker_registry.report(worker_id, report)

    def disconnected(self, worker_id: str) -> None:
        self._worker_registry.disconnected(worker_id)
