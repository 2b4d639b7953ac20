"""A control handler whose migrations are what the test says they are."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.shared.model import (
    CleanupResult,
    DryRunResult,
    DryRunStep,
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    LagLimit,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    Readiness,
    Register,
    SkippedTransaction,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverResult,
    SwitchoverStep,
    TableId,
    WorkerReport,
)
from services.shared.model.view.certificate import StoredCertificate, no_certificate
from services.shared.model.view.conflicts import ConflictReport
from services.shared.model.view.jsonview import view_to_json
from tests.support.switchover.steps import AROUND

RESULT = SwitchoverResult(Lsn(0x16B374D8), 412, 3, 1_700_000_000.0)
STEPS = tuple(name for name in StepName if name not in {StepName.UNPUBLISHED, StepName.ROLLBACK, *AROUND})


class NoWorkers:
    """Accepts every worker and sends it nothing."""

    def holds(self, worker_id: str) -> bool:
        return False

    def connected(self, register: Register, send: Callable[..., None]) -> None:
        pass

    async def report(self, worker_id: str, report: WorkerReport) -> None:
        pass

    def disconnected(self, worker_id: str) -> None:
        pass


class StandInControl:
    """The test sets the views. Calls are recorded, and raise the error that `errors` contains for them.

    state_dir: directory for state files, which are written as the coordinator writes them.
    """

    def __init__(self, state_dir: Path | None = None) -> None:
        self.views: dict[str, MigrationView] = {}
        self.operations: dict[str, Operation] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.errors: dict[str, PgmigError] = {}
        self.planned = MigrationPlan()
        self.conflicts = ConflictReport()
        self.left: tuple[str, ...] = ()
        self.certificates: tuple[StoredCertificate, ...] = ()
        self.dry: tuple[DryRunStep | DryRunResult, ...] = ()
        self.started: Callable[[MigrationView], object] = lambda _view: None
        self._state_dir = state_dir
        self._changed = asyncio.Event()

    def put(self, view: MigrationView) -> MigrationView:
        """The migration's new view, with the next revision."""
        before = self.views.get(view.migration_id)
        view = replace(view, revision=before.revision + 1 if before else 1)
        self.views[view.migration_id] = view
        self._write(view)
        self._notify()
        return view

    def move(self, migration_id: str, phase: Phase, **changes: Any) -> MigrationView:
        """Change to another phase, with an event about it."""
        view = self.views[migration_id]
        number = view.events[-1].number + 1 if view.events else 1
        event = Event(time.time(), EventLevel.INFO, f"phase {phase}", number)
        changes = {"phase_since": time.time(), "events": (*view.events, event), **changes}
        return self.put(replace(view, phase=phase, **changes))

    def remove(self, migration_id: str) -> None:
        del self.views[migration_id]
        if self._state_dir is not None:
            (self._state_dir / migration_id / "state.json").unlink()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _write(self, view: MigrationView) -> None:
        if self._state_dir is not None:
            path = self._state_dir / view.migration_id / "state.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name("state.partial")
            partial.write_text(json.dumps({"view": view_to_json(view)}), encoding="utf-8")
            partial.replace(path)

    def _called(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if name in self.errors:
            raise self.errors[name]

    def _known(self, migration_id: MigrationId) -> MigrationView:
        if migration_id.value not in self.views:
            raise PgmigError(ErrorKind.NOT_FOUND, f"there is no migration {migration_id}")
        return self.views[migration_id.value]

    async def plan(
        self, migration_id: MigrationId, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationPlan:
        self._called("plan", migration_id.value, source_uri, destination_uri, options)
        return self.planned

    async def start(
        self, migration_id: MigrationId, source_uri: str, destination_uri: str, options: MigrationOptions
    ) -> MigrationView:
        self._called("start", migration_id.value, source_uri, destination_uri, options)
        if migration_id.value in self.views:
            raise PgmigError(ErrorKind.ALREADY_EXISTS, f"migration {migration_id} exists already")
        view = self.put(
            MigrationView(
                migration_id.value,
                Phase.CREATED,
                source=Endpoint("old", 5432, "shop", "app", 150004),
                destination=Endpoint("new", 5432, "shop", "app", 170002),
                options=options,
                created_at=time.time(),
                phase_since=time.time(),
            )
        )
        self.started(view)
        return view

    async def get(self, migration_id: MigrationId) -> MigrationView:
        self._called("get", migration_id.value)
        return self._known(migration_id)

    async def list_all(self) -> tuple[MigrationView, ...]:
        self._called("list")
        return tuple(self.views.values())

    async def watch(self, migration_id: MigrationId) -> AsyncIterator[MigrationView]:
        self._called("watch", migration_id.value)
        view = self._known(migration_id)
        while True:
            changed = self._changed
            yield view
            while self.views.get(migration_id.value) is view:
                await changed.wait()
                changed = self._changed
            if migration_id.value not in self.views:
                return
            view = self.views[migration_id.value]

    async def pause(self, migration_id: MigrationId) -> MigrationView:
        self._called("pause", migration_id.value)
        view = self._known(migration_id)
        return self.move(migration_id.value, Phase.PAUSED, resume_phase=view.phase)

    async def resume(
        self,
        migration_id: MigrationId,
        source_uri: str | None,
        destination_uri: str | None,
        skip_objects: tuple[str, ...],
    ) -> MigrationView:
        self._called("resume", migration_id.value, source_uri, destination_uri, *skip_objects)
        view = self._known(migration_id)
        view = self.move(
            migration_id.value, view.resume_phase or view.phase, resume_phase=None, needs_credentials=False
        )
        self.started(view)
        return view

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
        self._called("skip_transaction", migration_id.value, lsn, reason, who, source_uri, destination_uri)
        view = self._known(migration_id)
        skipped = SkippedTransaction(lsn, 742, time.time(), who, reason, "refused")
        return self.move(migration_id.value, view.resume_phase or view.phase, skipped=(skipped,))

    async def resync_tables(
        self,
        migration_id: MigrationId,
        tables: tuple[TableId, ...],
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        self._called("resync_tables", migration_id.value, tables, source_uri, destination_uri)
        self._known(migration_id)
        return self.move(migration_id.value, Phase.COPY, resume_phase=None, failure=None)

    async def rollback(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        self._called("rollback", migration_id.value, options.timeout_ms / 1000)
        return await self.switchover(migration_id, request_id, options)

    async def finalize(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        self._called("finalize", migration_id.value, source_uri, destination_uri)
        return self._known(migration_id)

    async def switchover(
        self, migration_id: MigrationId, request_id: str, options: SwitchoverOptions
    ) -> Operation:
        self._called("switchover", migration_id.value, options.timeout_ms / 1000)
        self._known(migration_id)
        for known in self.operations.values():
            if known.request_id == request_id:
                return known
        operation_id = f"{migration_id}-{len(self.operations) + 1}"
        return self._operation(
            Operation(operation_id, migration_id.value, request_id, options=options, started_at=time.time())
        )

    def _operation(self, operation: Operation) -> Operation:
        self.operations[operation.operation_id] = operation
        self.put(replace(self.views[operation.migration_id], operation=operation))
        return operation

    async def get_operation(self, operation_id: str) -> Operation:
        self._called("get_operation", operation_id)
        return self._known_operation(operation_id)

    def _known_operation(self, operation_id: str) -> Operation:
        if operation_id not in self.operations:
            raise PgmigError(ErrorKind.NOT_FOUND, f"there is no operation {operation_id}")
        return self.operations[operation_id]

    async def list_operations(self, migration_id: MigrationId) -> tuple[Operation, ...]:
        self._called("list_operations", migration_id.value)
        known = self.operations.values()
        return tuple(one for one in known if one.migration_id == migration_id.value)

    async def list_conflicts(self, migration_id: MigrationId, limit: int) -> ConflictReport:
        self._called("list_conflicts", migration_id.value, limit)
        return self.conflicts

    async def watch_operation(self, operation_id: str) -> AsyncIterator[Operation]:
        """While it is watched, its steps happen one by one. A held operation is ready until it may
        proceed."""
        self._called("watch_operation", operation_id)
        while not (operation := self._known_operation(operation_id)).state.ended:
            changed = self._changed
            yield operation
            operation = self._known_operation(operation_id)
            if operation.state is OperationState.READY and operation.held:
                await changed.wait()
            else:
                self._operation(await self._advanced(operation))
                self._called(f"switchover, {len(operation.steps)} steps are done")
        yield operation

    async def _advanced(self, operation: Operation) -> Operation:
        if operation.state is OperationState.PREPARING:
            return replace(
                operation, state=OperationState.READY if operation.held else OperationState.RUNNING
            )
        if operation.state is OperationState.READY:
            return replace(operation, state=OperationState.RUNNING)
        number = len(operation.steps)
        last = number == len(STEPS) - 1
        step = SwitchoverStep(
            STEPS[number],
            StepState.DONE,
            f"{STEPS[number]} is done",
            (number + 1) * 60,
            RESULT if last else None,
        )
        operation = replace(operation, steps=(*operation.steps, step))
        if last:
            operation = replace(operation, state=OperationState.SUCCEEDED, result=RESULT)
            self.move(operation.migration_id, Phase.SWITCHED_OVER, switchover=RESULT)
        return operation

    async def cancel_operation(self, operation_id: str) -> Operation:
        self._called("cancel_operation", operation_id)
        operation = self._known_operation(operation_id)
        return self._operation(replace(operation, state=OperationState.CANCELLED, cancel_requested=True))

    async def proceed_operation(self, operation_id: str) -> Operation:
        self._called("proceed_operation", operation_id)
        return self._operation(replace(self._known_operation(operation_id), proceeded_at=time.time()))

    async def readiness(self, migration_id: MigrationId, max_lag: LagLimit) -> Readiness:
        self._called("readiness", migration_id.value, max_lag)
        return self._known(migration_id).readiness or Readiness(True)

    async def dry_run(
        self, migration_id: MigrationId, max_lag: LagLimit, options: SwitchoverOptions
    ) -> AsyncIterator[DryRunStep | DryRunResult]:
        self._called("dry_run", migration_id.value, max_lag, options)
        self._known(migration_id)
        for one in self.dry:
            yield one

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> StoredCertificate:
        self._called("certificate", migration_id.value, operation_id)
        self._known(migration_id)
        for one in self.certificates:
            if operation_id in {"", one.operation_id}:
                return one
        raise no_certificate(migration_id.value)

    async def unfreeze(
        self,
        migration_id: MigrationId,
        read_only: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> MigrationView:
        self._called("unfreeze", migration_id.value, read_only, source_uri, destination_uri)
        return self._known(migration_id)

    async def abort(
        self, migration_id: MigrationId, source_uri: str | None = None, destination_uri: str | None = None
    ) -> MigrationView:
        self._called("abort", migration_id.value, source_uri, destination_uri)
        self._known(migration_id)
        return self.move(migration_id.value, Phase.ABORTED)

    async def cleanup(
        self,
        migration_id: MigrationId,
        force: bool,
        source_uri: str | None = None,
        destination_uri: str | None = None,
    ) -> CleanupResult:
        self._called("cleanup", migration_id.value, force, source_uri, destination_uri)
        view = self._known(migration_id)
        if not (view.phase.ended or force):
            raise PgmigError(ErrorKind.WRONG_PHASE, f"migration {migration_id} is in phase {view.phase}")
        self.remove(migration_id.value)
        removed = (
            f"replication slot {migration_id.forward.slot}",
            f"publication {migration_id.forward.publication}",
        )
        return CleanupResult(removed, self.left)
