"""A switchover comes to its end for whoever asked for it, even if the coordinator is stopped amid it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import switchover
from services.coordinator.operations import undo as undo_module
from services.coordinator.operations.readiness import check_ready
from services.coordinator.operations.steps import StepFeed
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Failure,
    Lsn,
    MigrationOptions,
    MigrationPhase,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    PipelineState,
    StepName,
    StepState,
    SwitchoverResult,
)
from services.shared.pg.freeze.thaw import Before
from tests.support.records import make_record

RECORD = make_record(
    migration_id="m",
    revision=7,
    phase=Phase.SWITCHOVER,
    options=MigrationOptions(follow=True),
    source=Endpoint("a", 1, "b", "c"),
    destination=Endpoint("d", 2, "e", "f"),
    created_at=1.5,
    phase_since=2.5,
    operations=(Operation("o", "m", "r", state=OperationState.RUNNING),),
)
RESULT = SwitchoverResult(Lsn(4), 120, 6, 4.5)


class Saving:
    """A journal that has been asked to save, and takes its time."""

    def __init__(self) -> None:
        self.asked, self.may_end = asyncio.Event(), asyncio.Event()
        self.saved = False

    async def confirm(self) -> None:
        return

    async def issue(self) -> None:
        return

    async def save(self, *, strict: bool = False) -> None:
        self.asked.set()
        await self.may_end.wait()
        self.saved = True


class Stand:
    """The collaborators that the end of a switchover needs."""

    def __init__(self) -> None:
        self.migration = Migration(RECORD, lambda _: ())
        self.journal = Saving()
        self.decided, self.may_let_go = asyncio.Event(), asyncio.Event()
        self.fatal: PgmigError | None = None  # as of the workers' reports
        self.known = Credentials("host=a", "host=b")
        self.staffed = self.known

    @property
    def operation(self) -> Operation:
        """As it is stored."""
        return self.migration.record.operations[-1]

    @property
    def steps(self) -> list[tuple[StepName, StepState]]:
        return [(step.name, step.state) for step in self.operation.steps]

    async def run(self) -> None:
        context = Context(
            self.migration, self.migration.active, cast(Journal, self.journal), cast(PipelineEnds, self)
        )
        workers = Workers(cast(Staffing, self), cast(Snapshot, None), cast(Reports, self))
        await switchover.run(context, cast(Schema, None), workers, StepFeed(self.migration, "o"), 30.0)

    async def both(self) -> Credentials:
        return self.known

    async def find_primaries(self) -> bool:
        return False

    def works_with(self, uris: Credentials) -> bool:
        return self.staffed == uris

    async def release(self) -> bool:
        """The workers have stopped."""
        return True

    async def attempt(self, _run: Any) -> None:
        """Decides at once; letting go of the locks is what takes its time."""
        self.migration.switched_over(replace(RESULT, write_downtime_ms=0))
        self.decided.set()
        await self.may_let_go.wait()


@pytest.mark.parametrize("stopped", ["while the locks are let go", "while the outcome is saved"])
async def test_its_outcome_is_reported_although_the_coordinator_is_stopped(
    stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand()
    monkeypatch.setattr(switchover, "_attempt", stand.attempt)
    running = asyncio.create_task(stand.run())
    await stand.decided.wait()
    if stopped == "while the outcome is saved":
        stand.may_let_go.set()
        await stand.journal.asked.wait()
    running.cancel()
    await stand.journal.asked.wait()
    stand.journal.may_end.set()
    await asyncio.wait({running})
    assert running.cancelled()
    assert stand.journal.saved
    assert stand.steps == [(StepName.COMMIT, StepState.DONE)]
    assert stand.operation.state is OperationState.SUCCEEDED
    assert stand.operation.steps[0].result == stand.operation.result
    assert stand.operation.result is not None
    assert stand.operation.result.sentinel_lsn == RESULT.sentinel_lsn


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_roll_back_is_not_cut_off(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets writers in again. Meanwhile an operator cancels and the coordinator is stopped."""
    stand = Stand()
    thawing, thawed = asyncio.Event(), asyncio.Event()

    async def refused(_run: Any) -> None:
        raise PgmigError(ErrorKind.TIMEOUT, "out of time")

    async def undo(_context: Any) -> None:
        thawing.set()
        await asyncio.sleep(0.05)
        stand.migration.switchover_undone()
        thawed.set()

    monkeypatch.setattr(switchover, "_attempt", refused)
    monkeypatch.setattr(undo_module, "undo", undo)
    stand.journal.may_end.set()
    running = asyncio.create_task(stand.run())
    await thawing.wait()
    for _ in range(times):
        running.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({running})
    assert thawed.is_set()
    assert stand.steps == [(StepName.ROLLBACK, StepState.STARTED), (StepName.ROLLBACK, StepState.DONE)]
    assert stand.operation.state is OperationState.ROLLED_BACK
    assert stand.operation.failure is not None
    assert stand.operation.failure.message == "out of time"


async def test_what_the_migration_failed_with_outlives_a_refused_switchover(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds the LSN that skip-transaction needs, and the way to go on."""
    stand = Stand()
    failure = Failure(ErrorKind.SCHEMA_DRIFT, "columns of app.a were altered", "resync", Lsn(77))
    stand.journal.may_end.set()

    async def fails_meanwhile(_run: Any) -> None:
        stand.migration.active.failed(failure)
        check_ready(stand.migration)

    monkeypatch.setattr(switchover, "_attempt", fails_meanwhile)
    await stand.run()
    assert stand.migration.failure == failure
    told = stand.operation.failure
    assert told is not None
    assert (told.kind, told.hint) == (ErrorKind.WRONG_PHASE, "resync")
    assert "columns of app.a were altered" in told.message


class Opened:
    """A freeze that blocks nothing."""

    before = Before("", 0.0, "d")
    number = 0

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        self.closed = 0

    async def open(self, _uri: str, _slot: str, _side: str) -> Self:
        """meanwhile: what happens while the sessions are opened for the first time."""
        self.number += 1
        if self.number == 1:
            self._meanwhile()
        return self

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("what", ["falls behind", "is lost", "fails", "is with a former primary"])
async def test_switchover_waits_again_when_something_happens_to_the_applier_while_it_opens_its_sessions(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand()
    migration = stand.migration = Migration(
        replace(RECORD, phase=MigrationPhase.MIGRATING, operations=(Operation("o", "m", "r"),)), lambda _: ()
    )
    migration.active.following.live = True

    def meanwhile() -> None:
        if what == "falls behind":
            migration.active.entered(PipelineState.CATCHUP)
        elif what == "is lost":
            migration.active.following.live = False
        elif what == "is with a former primary":
            stand.staffed = Credentials("host=a", "host=former")
        else:
            stand.fatal = PgmigError(ErrorKind.SCHEMA_DRIFT, "app.a was altered")

    opened = Opened(meanwhile)

    async def nothing(*_: object) -> None:
        return

    async def ready(*_: object) -> None:
        assert opened.closed == 1
        stand.fatal, migration.active.following.live, stand.staffed = None, True, stand.known
        if what == "falls behind":
            migration.active.entered(PipelineState.STREAMING)

    async def decides(*_: object) -> None:
        assert stand.operation.state is OperationState.RUNNING
        migration.switched_over(RESULT)

    stand.journal.may_end.set()
    monkeypatch.setattr(switchover, "_prepare", nothing)
    monkeypatch.setattr(switchover, "_freeze_mode", lambda _: opened)
    monkeypatch.setattr(switchover, "await_ready", ready)
    monkeypatch.setattr(switchover, "_while_frozen", decides)
    await stand.run()
    assert stand.operation.state is OperationState.SUCCEEDED
    assert (opened.number, opened.closed) == (2, 2)


async def test_switchover_does_not_begin_at_a_former_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby is promoted after the lookup of the connection strings, and the former primary still runs."""
    stand = Stand()
    migration = stand.migration = Migration(
        replace(RECORD, phase=MigrationPhase.MIGRATING, operations=(Operation("o", "m", "r"),)), lambda _: ()
    )
    migration.active.following.live = True

    async def promoted(*_: object) -> None:
        stand.known = stand.staffed = Credentials("host=promoted", "host=b")

    async def frozen(*_: object) -> None:
        migration.switched_over(RESULT)

    opened = Opened(lambda: None)
    stand.journal.may_end.set()
    monkeypatch.setattr(switchover, "_prepare", promoted)
    monkeypatch.setattr(switchover, "_freeze_mode", lambda _: opened)
    monkeypatch.setattr(switchover, "_while_frozen", frozen)
    await stand.run()
    assert stand.operation.state is OperationState.FAILED
    assert stand.operation.failure is not None
    assert "another server is the primary now; writes were not blocked" in stand.operation.failure.message
    assert opened.number == 0
