"""A typed client of the control API: immutable views as results, PgmigError for failures.

There are two ways to observe a migration or an operation. `watch` and `watch_operation` read one stream and
raise when it breaks. `follow` and `follow_operation` continue after a failure of the coordinator: they open
the stream again, with back-off, and report to their caller when the connection is lost and when it is
restored. All end without an error when the migration has been cleaned up, or the operation has ended. The
end of a stream alone does not mean that it was.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from services.shared.model import (
    CleanupResult,
    DryRunResult,
    DryRunStep,
    ErrorKind,
    LagLimit,
    Lsn,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    Operation,
    OperationState,
    PgmigError,
    Readiness,
    SwitchoverOptions,
    SwitchoverStep,
    TableId,
    back_off_s,
    error_of,
)
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport
from services.shared.rpc.control_client import ControlClient
from services.shared.rpc.streams import closing

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
NO_LIMIT = LagLimit()
PLAIN = SwitchoverOptions()

Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class Connection:
    """The state of the stream that `follow` reports. error: why it broke, None if it is restored."""

    error: PgmigError | None

    @property
    def lost(self) -> bool:
        return self.error is not None


OnConnection = Callable[[Connection], None]


def reconnect_delay(failures: int) -> float:
    """The longest wait, in seconds, after `failures` failed attempts in a row (from 1)."""
    return back_off_s(FIRST_DELAY_S, LONGEST_DELAY_S, failures - 1)


class Session:
    """Use it as an async context manager. Any method raises PgmigError."""

    def __init__(self, address: str) -> None:
        """address: HOST:PORT of a coordinator."""
        self.address = address
        self._client = ControlClient(address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()

    async def start(
        self, migration_id: str, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationView:
        """Check both databases, then start. If a check refuses, nothing is left behind."""
        return await self._client.start(migration_id, source_uri, destination_uri, options)

    async def plan(
        self, migration_id: str, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationPlan:
        """Check as `start` does, and return what it would drop or empty on the destination."""
        return await self._client.plan(migration_id, source_uri, destination_uri, options)

    async def get(self, migration_id: str) -> MigrationView:
        return await self._client.get(migration_id)

    async def list_all(self) -> tuple[MigrationView, ...]:
        return await self._client.list_all()

    async def pause(self, migration_id: str) -> MigrationView:
        return await self._client.pause(migration_id)

    async def resume(
        self,
        migration_id: str,
        source_uri: str | None = None,
        destination_uri: str | None = None,
        skip_objects: tuple[str, ...] = (),
    ) -> MigrationView:
        """Continue a paused or failed migration. The URIs provide credentials. skip_objects: further
        objects of the schema that are not restored."""
        return await self._client.resume(migration_id, source_uri, destination_uri, skip_objects)

    async def skip_transaction(
        self,
        migration_id: str,
        lsn: Lsn,
        reason: str,
        who: str,
        *,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """Skip the transaction on which the migration failed, and continue after it.

        lsn: of its commit record, as shown in the failure. who: USER@HOST, for the audit record.
        """
        return await self._client.skip_transaction(
            migration_id, lsn, reason, who, source_uri=source_uri, destination_uri=destination_uri
        )

    async def resync_tables(
        self,
        migration_id: str,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        """Copy tables again under a new snapshot, or add tables that were created since the start."""
        return await self._client.resync_tables(migration_id, tables, source_uri, destination_uri)

    async def certificate(self, migration_id: str, operation_id: str = "") -> StoredCertificate:
        """Of a switchover that has succeeded. operation_id: "" for the last one."""
        return await self._client.certificate(migration_id, operation_id)

    async def unfreeze(
        self,
        migration_id: str,
        source_uri: str | None = None,
        destination_uri: str | None = None,
        *,
        read_only: bool = False,
    ) -> MigrationView:
        """Open the old source to sessions again, after a switchover."""
        return await self._client.unfreeze(migration_id, read_only, source_uri, destination_uri)

    async def abort(
        self, migration_id: str, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        return await self._client.abort(migration_id, source_uri, destination_uri)

    async def cleanup(
        self,
        migration_id: str,
        source_uri: str | None = None,
        destination_uri: str | None = None,
        *,
        force: bool = False,
    ) -> CleanupResult:
        """What was removed; with force also what could not be removed."""
        return await self._client.cleanup(migration_id, force, source_uri, destination_uri)

    async def begin_switchover(
        self, migration_id: str, options: SwitchoverOptions, request_id: str = ""
    ) -> Operation:
        """Start a switchover. It continues even if no client watches it. request_id: a call with the id of
        an earlier one returns the same operation; "": a random one."""
        return await self._client.switchover(migration_id, request_id or secrets.token_hex(8), options)

    async def begin_rollback(
        self, migration_id: str, options: SwitchoverOptions, request_id: str = ""
    ) -> Operation:
        """Start a rollback, like `begin_switchover`."""
        return await self._client.rollback(migration_id, request_id or secrets.token_hex(8), options)

    async def finalize(
        self, migration_id: str, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        """End the replication back after a switchover."""
        return await self._client.finalize(migration_id, source_uri, destination_uri)

    async def switchover(self, migration_id: str, timeout_s: float) -> AsyncGenerator[SwitchoverStep, None]:
        """Start a switchover and yield its steps as they happen. Raises if it did not succeed. Leaving early
        does not stop it. timeout_s: the longest time for which writes are blocked."""
        options = SwitchoverOptions(round(timeout_s * 1000))
        operation = await self.begin_switchover(migration_id, options)
        yielded = 0
        async with aclosing(self.watch_operation(operation.operation_id)) as states:
            async for operation in states:
                for step in operation.steps[yielded:]:
                    yield step
                yielded = len(operation.steps)
        check_succeeded(operation)

    async def get_operation(self, operation_id: str) -> Operation:
        return await self._client.get_operation(operation_id)

    async def list_operations(self, migration_id: str) -> tuple[Operation, ...]:
        """The last operations of the migration, the oldest first."""
        return await self._client.list_operations(migration_id)

    async def list_conflicts(self, migration_id: str, limit: int = 0) -> ConflictReport:
        """The last conflicts, the newest first, and how many there are of each kind. limit: 0: as many as
        allowed."""
        return await self._client.list_conflicts(migration_id, limit)

    async def cancel_operation(self, operation_id: str) -> Operation:
        """Cancel an operation that was not decided. Watch it for its end."""
        return await self._client.cancel_operation(operation_id)

    async def proceed_operation(self, operation_id: str) -> Operation:
        """Let a held operation proceed. Watch it for its end."""
        return await self._client.proceed_operation(operation_id)

    async def watch_operation(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """Yields the operation at once and after every change, until it has ended."""
        ended = False
        async with closing(self._client.watch_operation(operation_id)) as states:
            async for operation in states:
                ended = operation.state.ended
                yield operation
        if not ended:
            raise self._broken_off()

    def follow_operation(
        self, operation_id: str, on_connection: OnConnection = lambda _: None, *, reached: bool = False
    ) -> AsyncGenerator[Operation, None]:
        """As `watch_operation`, but continues after broken streams and restarts of the coordinator.

        reached: the coordinator was reached before. Raises if it never was, and for any error that no retry
        cures.
        """
        return _again(lambda: self.watch_operation(operation_id), on_connection, reached)

    async def readiness(self, migration_id: str, max_lag: LagLimit = NO_LIMIT) -> Readiness:
        """Whether it can be switched over. The coordinator asks both servers now; `MigrationView.readiness`
        is some seconds old."""
        return await self._client.readiness(migration_id, max_lag)

    def dry_run(
        self, migration_id: str, max_lag: LagLimit = NO_LIMIT, options: SwitchoverOptions = PLAIN
    ) -> AsyncGenerator[DryRunStep | DryRunResult, None]:
        """Every step of a switchover that changes nothing, then the result. options: whose hooks and poolers
        are checked."""
        return self._client.dry_run(migration_id, max_lag, options)

    async def watch(self, migration_id: str) -> AsyncGenerator[MigrationView, None]:
        """Yields the view at once and after every change, until the migration has been cleaned up."""
        async with closing(self._client.watch(migration_id)) as views:
            async for view in views:
                yield view
        try:
            await self.get(migration_id)
        except PgmigError as exc:
            if exc.kind is ErrorKind.NOT_FOUND:
                return
            raise
        raise self._broken_off()

    def _broken_off(self) -> PgmigError:
        return PgmigError(
            ErrorKind.UNREACHABLE,
            f"the coordinator at {self.address} ended the watch",
            "it may be restarting; watch again",
        )

    def follow(
        self, migration_id: str, on_connection: OnConnection = lambda _: None
    ) -> AsyncGenerator[MigrationView, None]:
        """As `watch`, but continues after broken streams and restarts of the coordinator.

        Raises if the coordinator was never reached, and for any error that no retry cures.
        """
        return _again(lambda: self.watch(migration_id), on_connection)


def check_succeeded(operation: Operation) -> None:
    """Raises the failure of an operation that has ended without success."""
    if operation.state is OperationState.SUCCEEDED:
        return
    if operation.failure is not None:
        raise error_of(operation.failure)
    raise PgmigError(
        ErrorKind.SWITCHOVER_FAILED,
        f"the {operation.kind} was cancelled; the migration continues",
        f"see `pgmig-cli operations --id {operation.migration_id}`",
    )


async def _again(
    watch: Callable[[], AsyncGenerator[Seen, None]], on_connection: OnConnection, heard: bool = False
) -> AsyncGenerator[Seen, None]:
    """Yields what `watch` yields. Retries after an error that a retry cures. heard: retry even if the first
    call fails."""
    failures = 0
    while True:
        try:
            async with aclosing(watch()) as seen:
                async for one in seen:
                    if failures:
                        on_connection(Connection(None))
                    failures, heard = 0, True
                    yield one
        except PgmigError as exc:
            if not (heard and exc.policy.retry):
                raise
            if not failures:
                on_connection(Connection(exc))
            failures += 1
        else:
            return
        await asyncio.sleep(reconnect_delay(failures) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
