"""A switchover that waits for an applier in vain says why the last attempt of an applier failed."""

from __future__ import annotations

import time

import pytest

from services.coordinator.migration.state import Migration
from services.coordinator.migration.views import readiness_of
from services.coordinator.operations.readiness import await_ready
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import (
    ApplierProgress,
    AssignmentRetrying,
    Endpoint,
    ErrorKind,
    Lsn,
    MigrationOptions,
    PgmigError,
    Phase,
    ReasonCode,
    Role,
)
from services.shared.runtime.changes import Changes
from tests.support.records import make_record

CAUSE = "table app.top was not copied"


def migration() -> Migration:
    record = make_record(
        migration_id="m",
        revision=1,
        phase=Phase.STREAMING,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
    )
    return Migration(record, lambda _: ())


def reports(of: Migration) -> Reports:
    changes = Changes()
    return Reports(of.active, Snapshot(of.active.id, WorkerRegistry(), changes), changes)


def reason(of: Migration) -> str:
    return next((r.text for r in readiness_of(of).reasons if r.code is ReasonCode.NO_APPLIER), "")


@pytest.mark.parametrize("repeats_itself", [True, False])
async def test_reason_and_timeout_name_the_error_of_the_last_attempt(repeats_itself: bool) -> None:
    waiting = migration()
    if repeats_itself:
        reports(waiting).reported(Role.APPLIER, AssignmentRetrying("a", ErrorKind.TRANSIENT, CAUSE))
    else:
        reports(waiting).failed(Role.APPLIER, PgmigError(ErrorKind.TRANSIENT, CAUSE))
    assert CAUSE in reason(waiting)
    with pytest.raises(PgmigError) as caught:
        await await_ready(waiting.active, time.monotonic() + 0.01)
    assert caught.value.kind is ErrorKind.TIMEOUT
    assert CAUSE in caught.value.message


def test_error_is_forgotten_when_an_applier_is_live_again() -> None:
    waiting = migration()
    told = reports(waiting)
    told.failed(Role.APPLIER, PgmigError(ErrorKind.TRANSIENT, CAUSE))
    told.reported(Role.APPLIER, ApplierProgress("a", Lsn(5), Lsn(5), 0.0, 0, 0, 0))
    told.gone(Role.APPLIER)
    assert reason(waiting)
    assert CAUSE not in reason(waiting)


def test_errors_of_other_workers_are_not_the_appliers() -> None:
    waiting = migration()
    reports(waiting).reported(Role.DECODER, AssignmentRetrying("a", ErrorKind.TRANSIENT, CAUSE))
    assert CAUSE not in reason(waiting)
