"""A handler of the control API that answers with constants and records its calls, served on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from services.shared.model import (
    CleanupResult,
    Direction,
    DryRunResult,
    DryRunStep,
    DryRunStepName,
    ErrorKind,
    EstimatedPart,
    Failure,
    LagLimit,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    Operation,
    OperationState,
    Phase,
    Readiness,
    Reason,
    ReasonCode,
    Register,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverResult,
    SwitchoverStep,
    TableId,
    WorkerReport,
)
from services.shared.model.conflicts.policy import ConflictKind, Decision
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import (
    ConflictCount,
    ConflictReport,
    KeyValue,
    RecordedConflict,
)
from services.shared.rpc.control_client import ControlClient
from services.shared.rpc.server import ControlServer
from services.shared.rpc.workers_api import Send
from tests.support.certificates import stored

VIEW = MigrationView("m1", Phase.STREAMING, revision=7)
STEPS = (
    SwitchoverStep(StepName.FREEZE, StepState.DONE, elapsed_ms=3, at=1_700_000_000.25),
    SwitchoverStep(
        StepName.COMMIT, StepState.DONE, "", 40, SwitchoverResult(Lsn(99), 41, 2, 1_700_000_000.5)
    ),
)
OPERATION = Operation(
    "8f3a",
    "m1",
    "request 1",
    options=SwitchoverOptions(2500, hold=True),
    state=OperationState.RUNNING,
    state_since=1_700_000_002.5,
    started_at=1_700_000_001.5,
    proceeded_at=1_700_000_002.25,
    steps=STEPS[:1],
    failure=Failure(ErrorKind.TIMEOUT, "out of time", "try again", Lsn(7)),
)
SUCCEEDED = replace(
    OPERATION, state=OperationState.SUCCEEDED, steps=STEPS, result=STEPS[1].result, failure=None
)
CONFLICTS = ConflictReport(
    (ConflictCount(Direction.FORWARD, ConflictKind.INSERT_EXISTS, Decision.KEPT, 1 << 40),),
    (
        RecordedConflict(
            Direction.REVERSE,
            TableId("app", "order lines"),
            ConflictKind.UPDATE_ORIGIN_DIFFERS,
            Decision.APPLIED,
            (KeyValue("order", "7"), KeyValue("line", "")),
            Lsn(2**64 - 1),
            1_700_000_000.25,
            0.0,
            1_700_000_001.0,
        ),
    ),
)
NOT_READY = Readiness(False, (Reason(ReasonCode.LAG, True, "it is behind", "wait"),))
DRY_RUN = (
    DryRunStep(DryRunStepName.READINESS, StepState.FAILED, "it is behind", "wait", 12),
    DryRunStep(DryRunStepName.RIGHTS, StepState.DONE, "they suffice", took_ms=7),
    DryRunResult(NOT_READY, False, (EstimatedPart(StepName.DRAIN, 300), EstimatedPart(StepName.COMMIT, 50))),
)


class NoWorkers:
    def holds(self, worker_id: str) -> bool:
        return False

    def connected(self, register: Register, send: Send) -> None:
        raise AssertionError("no worker is expected")

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        raise AssertionError("no worker is expected")

    def disconnected(self, worker_id: str) -> None:
        raise AssertionError("no worker is expected")


CLEANED = CleanupResult(("slot pgmig_m1", "publication pgmig_m1"), ("origin",))
PLAN = MigrationPlan(("table a.b", "view c"), ("d.e",), "token", ("f",))


@dataclass
class FakeControl:
    """Answers VIEW and records the calls. Raises `error` if that is set."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    views: asyncio.Queue[MigrationView | None] = field(default_factory=asyncio.Queue)
    watch_closed: asyncio.Event = field(default_factory=asyncio.Event)
    steps_closed: asyncio.Event = field(default_factory=asyncio.Event)
    more_steps: asyncio.Event = field(default_factory=asyncio.Event)
    now: Operation = OPERATION

    def note(self, *call: Any) -> MigrationView:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return VIEW

    async def start(
        self, migration_id: MigrationId, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationView:
        return self.note("start", migration_id, source_uri, destination_uri, options)

    async def get(self, migration_id: MigrationId) -> MigrationView:
        return self.note("get", migration_id)

    async def list_all(self) -> tuple[MigrationView, ...]:
        return (self.note("list_all"), replace(VIEW, migration_id="m2"))

    async def watch(self, migration_id: MigrationId) -> AsyncIterator[MigrationView]:
        yield self.note("watch", migration_id)
        try:
            while (view := await self.views.get()) is not None:
                yield view
        finally:
            self.watch_closed.set()

    async def pause(self, migration_id: MigrationId) -> MigrationView:
        return self.note("pause", migration_id)

    async def resume(
        self,
        migration_id: MigrationId,
        source_uri: str | None,
        destination_uri: str | None,
        skip_objects: tuple[str, ...],
    ) -> MigrationView:
        return self.note("resume", migration_id, source_uri, destination_uri, *skip_objects)

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
        return self.note("skip_transaction", migration_id, lsn, reason, who, source_uri, destination_uri)

    async def resync_tables(
        self,
        migration_id: MigrationId,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        return self.note("resync_tables", migration_id, tables, source_uri, destination_uri)

    async def switchover(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        self.note("switchover", migration_id, request_id, options)
        return OPERATION

    async def rollback(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        self.note("rollback", migration_id, request_id, options)
        return OPERATION

    async def finalize(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        return self.note("finalize", migration_id, source_uri, destination_uri)

    async def get_operation(self, operation_id: str) -> Operation:
        self.note("get_operation", operation_id)
        return self.now

    async def list_operations(self, migration_id: MigrationId) -> tuple[Operation, ...]:
        self.note("list_operations", migration_id)
        return (SUCCEEDED, OPERATION)

    async def list_conflicts(self, migration_id: MigrationId, limit: int) -> ConflictReport:
        self.note("list_conflicts", migration_id, limit)
        return CONFLICTS

    async def watch_operation(self, operation_id: str) -> AsyncIterator[Operation]:
        self.note("watch_operation", operation_id)
        try:
            yield OPERATION
            await self.more_steps.wait()
            yield SUCCEEDED
        finally:
            self.steps_closed.set()

    async def cancel_operation(self, operation_id: str) -> Operation:
        self.note("cancel_operation", operation_id)
        return OPERATION

    async def proceed_operation(self, operation_id: str) -> Operation:
        self.note("proceed_operation", operation_id)
        return OPERATION

    async def readiness(self, migration_id: MigrationId, max_lag: LagLimit) -> Readiness:
        self.note("readiness", migration_id, max_lag)
        return NOT_READY

    async def dry_run(
        self, migration_id: MigrationId, max_lag: LagLimit, options: SwitchoverOptions
    ) -> AsyncIterator[DryRunStep | DryRunResult]:
        self.note("dry_run", migration_id, max_lag, options)
        for one in DRY_RUN:
            yield one

    async def plan(
        self, migration_id: MigrationId, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationPlan:
        self.note("plan", migration_id, source_uri, destination_uri, options)
        return PLAN

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> StoredCertificate:
        self.note("certificate", migration_id, operation_id)
        return stored()

    async def unfreeze(
        self,
        migration_id: MigrationId,
        read_only: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        return self.note("unfreeze", migration_id, read_only, source_uri, destination_uri)

    async def abort(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        return self.note("abort", migration_id, source_uri, destination_uri)

    async def cleanup(
        self,
        migration_id: MigrationId,
        force: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> CleanupResult:
        self.note("cleanup", migration_id, force, source_uri, destination_uri)
        return CLEANED


@asynccontextmanager
async def serving(control: FakeControl) -> AsyncIterator[tuple[ControlServer, ControlClient]]:
    server = ControlServer("127.0.0.1:0", control, NoWorkers())
    address = await server.start()
    try:
        async with ControlClient(address) as client:
            yield server, client
    finally:
        await server.stop(0)
