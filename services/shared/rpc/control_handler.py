"""What the coordinator does for a client of the control API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

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
    SwitchoverOptions,
    TableId,
)
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport


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

    async def switchover(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        """Start a switchover, or return the one that was started with this request id."""

    async def rollback(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        """Start a rollback, or return the one that was started with this request id."""

    async def finalize(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        """End the replication back after a switchover."""

    async def get_operation(self, operation_id: str) -> Operation: ...

    async def list_operations(self, migration_id: MigrationId) -> tuple[Operation, ...]: ...

    async def list_conflicts(self, migration_id: MigrationId, limit: int) -> ConflictReport: ...

    def watch_operation(self, operation_id: str) -> AsyncIterator[Operation]:
        """The operation at once and after every change, until it has ended."""

    async def cancel_operation(self, operation_id: str) -> Operation: ...

    async def proceed_operation(self, operation_id: str) -> Operation: ...

    async def readiness(self, migration_id: MigrationId, max_lag: LagLimit) -> Readiness:
        """Ask both servers now."""

    def dry_run(
        self, migration_id: MigrationId, max_lag: LagLimit, options: SwitchoverOptions
    ) -> AsyncIterator[DryRunStep | DryRunResult]:
        """The steps of a switchover that change nothing, as they happen, then the result."""

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> StoredCertificate:
        """operation_id: "" for the last switchover."""

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
