"""Views to show, and a session that the test controls instead of a coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from clients.session import Connection, OnConnection
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    IndexProgress,
    Lsn,
    MigrationOptions,
    MigrationView,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    Positions,
    Rates,
    Role,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverResult,
    SwitchoverStep,
    TableId,
    TableProgress,
    TableState,
    WorkerView,
    failure_of,
)

START = 1_760_000_000.0
MIB = 1024 * 1024


def table(name: str, state: TableState, mib: int, done: float = 0.0) -> TableProgress:
    """`done` is the copied share of `mib` MiB. A row has one KiB."""
    share = 1.0 if state is TableState.COPIED else done
    rows, size = mib * 1024, mib * MIB
    return TableProgress(TableId("public", name), state, rows, round(rows * share), size, round(size * share))


TABLES = (
    table("orders", TableState.COPYING, 42_000, 0.61),
    table("order_items", TableState.COPYING, 28_400, 0.34),
    table("payments", TableState.COPYING, 6_800, 0.88),
    table("audit_log_2025", TableState.WAITING, 18_200),
    table("audit_log_2024", TableState.WAITING, 17_900),
    table("Customer Addresses", TableState.WAITING, 900),
    table("sessions", TableState.WAITING, 410),
    table("customers", TableState.COPIED, 2_300),
    table("products", TableState.COPIED, 640),
    table("inventory", TableState.COPIED, 310),
    table("currencies", TableState.COPIED, 0),
)
WORKERS = (
    WorkerView("decoder-1", Role.DECODER, "mig-a.example.net"),
    WorkerView("copier-1", Role.COPIER, "mig-a.example.net"),
    WorkerView("copier-2", Role.COPIER, "mig-b.example.net"),
    WorkerView("applier-1", Role.APPLIER, "mig-b.example.net"),
)
EVENTS = (
    Event(START, EventLevel.INFO, "checks passed: source 14.19, destination 17.6"),
    Event(START + 2, EventLevel.INFO, "slot pgmig_shop created at 5C/9F000028"),
    Event(START + 9, EventLevel.INFO, "pre-data schema restored: 11 tables, 4 types, 3 functions"),
    Event(START + 9, EventLevel.INFO, "copying 11 tables, 115 GiB, 2 copiers"),
)


def view(phase: Phase = Phase.COPY, revision: int = 1) -> MigrationView:
    """A migration of a shop's database, 25 minutes old, in the middle of its copy."""
    return MigrationView(
        migration_id="shop",
        phase=phase,
        revision=revision,
        source=Endpoint("db-old.example.net", 5432, "shop", "migrator", 140019),
        destination=Endpoint("db-new.example.net", 5432, "shop", "migrator", 170006),
        options=MigrationOptions(follow=True),
        created_at=START,
        phase_since=START + 9,
        positions=Positions(
            source_lsn=Lsn.parse("5C/E4A10F30"),
            decoded_lsn=Lsn.parse("5C/E4A10F30"),
        ),
        rates=Rates(185_000, 181 * MIB, 0.0, 0, 0),
        tables=TABLES,
        events=EVENTS,
        workers=WORKERS,
        indexes=IndexProgress(38, 0, ("index public.i",)),
    )


def streaming(revision: int = 1) -> MigrationView:
    """Everything copied, 1.5 MiB and 0.4 s behind."""
    return replace(
        view(Phase.STREAMING, revision),
        phase_since=START + 1200,
        tables=tuple(replace(t, state=TableState.COPIED, rows_copied=t.rows_estimated) for t in TABLES),
        indexes=IndexProgress(38, 38),
        rates=Rates(4_200, 2.4 * MIB, 610, 5_200_000, 750_000),
        positions=Positions(
            source_lsn=Lsn.parse("5D/12A10F30"),
            decoded_lsn=Lsn.parse("5D/12A10F30"),
            applied_lsn=Lsn.parse("5D/12890F30"),
            flushed_lsn=Lsn.parse("5D/12890F30"),
            confirmed_lsn=Lsn.parse("5D/12890F30"),
            lag_bytes=MIB * 3 // 2,
            lag_seconds=0.42,
        ),
    )


def failed() -> MigrationView:
    return replace(
        streaming(9),
        phase=Phase.FAILED,
        resume_phase=Phase.STREAMING,
        failure=Failure(
            ErrorKind.MISSING_ROW,
            "UPDATE of public.orders found no row with key (id) on the destination",
            "look for writes on the destination; then resume, or start again with an empty one",
            Lsn.parse("5D/12890F30"),
        ),
    )


RESULT = SwitchoverResult(Lsn.parse("5D/12A200C8"), 1_240, 7, START + 1500)
STEPS = (
    SwitchoverStep(StepName.FREEZE, StepState.STARTED),
    SwitchoverStep(StepName.FREEZE, StepState.DONE, "", 30),
    SwitchoverStep(StepName.SENTINEL, StepState.DONE, "marker at 5D/12A200C8", 60),
    SwitchoverStep(StepName.DRAIN, StepState.STARTED, "", 60),
    SwitchoverStep(StepName.DRAIN, StepState.DONE, "destination flushed up to 5D/12A200C8", 910),
    SwitchoverStep(StepName.SEQUENCES, StepState.DONE, "7 sequences", 980),
    SwitchoverStep(StepName.VERIFY, StepState.DONE, "", 1_150),
    SwitchoverStep(StepName.COMMIT, StepState.DONE, "", 1_240, RESULT),
)


class FakeSession:
    """Yields what the test sends: views, connection news, and steps of a switchover.

    calls: the actions in order. failing: what an action raises.
    """

    def __init__(self, *news: MigrationView | Connection) -> None:
        self.calls: list[tuple[str, str, float]] = []
        self.failing: Exception | None = None
        self._views: asyncio.Queue[MigrationView | Connection | Exception | None] = asyncio.Queue()
        self._steps: asyncio.Queue[SwitchoverStep | OperationState | Exception | None] = asyncio.Queue()
        for each in news:
            self.send(each)

    def send(self, news: MigrationView | Connection | Exception | None) -> None:
        """A view; news of the connection; an error to raise; None: the migration is cleaned up."""
        self._views.put_nowait(news)

    def step(self, *steps: SwitchoverStep | OperationState | Exception | None) -> None:
        """Steps and states of the operation; an error with which it ends, or to raise if it is of the
        connection; None: it succeeds."""
        for each in steps:
            self._steps.put_nowait(each)

    async def follow(self, migration_id: str, on_connection: OnConnection) -> AsyncIterator[MigrationView]:
        while (news := await self._views.get()) is not None:
            if isinstance(news, Exception):
                raise news
            if isinstance(news, Connection):
                on_connection(news)
            else:
                yield news

    async def pause(self, migration_id: str) -> None:
        self._called("pause", migration_id)

    async def resume(self, migration_id: str) -> None:
        self._called("resume", migration_id)

    async def begin_switchover(self, migration_id: str, options: SwitchoverOptions) -> Operation:
        self._called("switchover", migration_id, options.timeout_ms / 1000)
        return Operation("op-1", migration_id, "request", options=options)

    async def follow_operation(self, operation_id: str) -> AsyncGenerator[Operation, None]:
        """Its last state is that of the last step, or a roll-back with the error."""
        operation = Operation(operation_id, "shop", "request", state=OperationState.RUNNING)
        while (step := await self._steps.get()) is not None:
            if isinstance(step, PgmigError) and step.kind is not ErrorKind.UNREACHABLE:
                yield replace(operation, state=OperationState.ROLLED_BACK, failure=failure_of(step))
                return
            if isinstance(step, OperationState):
                operation = replace(operation, state=step)
            elif isinstance(step, SwitchoverStep):
                operation = replace(operation, steps=(*operation.steps, step), result=step.result)
            else:
                raise step
            yield operation
            if operation.state.ended:
                return
        yield replace(operation, state=OperationState.SUCCEEDED)

    async def cancel_operation(self, operation_id: str) -> Operation:
        self._called("cancel", operation_id)
        return Operation(operation_id, "shop", "request", cancel_requested=True)

    def _called(self, action: str, migration_id: str, timeout_s: float = 0.0) -> None:
        self.calls.append((action, migration_id, timeout_s))
        if self.failing is not None:
            raise self.failing
