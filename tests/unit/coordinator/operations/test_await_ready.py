"""A switchover that was requested waits for whatever the migration does by itself."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from services.coordinator.migration.state import Migration
from services.coordinator.operations.readiness import await_ready
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import (
    ApplierProgress,
    Endpoint,
    ErrorKind,
    Failure,
    Lsn,
    MigrationOptions,
    Operation,
    PgmigError,
    Phase,
    PipelineState,
    SwitchoverOptions,
)
from services.shared.runtime.changes import Changes
from tests.support.records import make_record

REPORT = ApplierProgress("a", Lsn(1), Lsn(1), 0.0, 1, 1, 1)


def copying(phase: Phase = Phase.COPY) -> Migration:
    """The coordinator was started again while a new partition is copied."""
    operation = Operation("o", "m", "r", options=SwitchoverOptions(hold=True))
    record = make_record(
        migration_id="m",
        revision=7,
        phase=phase,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
        operations=(operation,),
    )
    return Migration(record, lambda _: ())


async def test_it_waits_until_a_new_partition_is_copied() -> None:
    migration = copying()
    waiting = asyncio.create_task(await_ready(migration.active, time.monotonic() + 60.0))
    for state in (PipelineState.INDEXES, PipelineState.CATCHUP, PipelineState.STREAMING):
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        migration.active.following.live = state is PipelineState.STREAMING
        migration.active.entered(state)
    await waiting


async def test_it_names_the_copy_when_its_time_is_over() -> None:
    with pytest.raises(
        PgmigError, match="is in phase copy, not streaming; writes were not blocked"
    ) as caught:
        await await_ready(copying().active, time.monotonic() + 0.02)
    assert caught.value.kind is ErrorKind.TIMEOUT


async def test_it_does_not_wait_for_a_migration_that_failed() -> None:
    migration = copying()
    waiting = asyncio.create_task(await_ready(migration.active, time.monotonic() + 60.0))
    await asyncio.sleep(0)
    migration.active.failed(Failure(ErrorKind.GAP, "changes are missing"))
    with pytest.raises(PgmigError, match="changes are missing") as caught:
        await waiting
    assert caught.value.kind is ErrorKind.WRONG_PHASE


async def test_it_waits_for_an_applier_that_fails_and_tries_again() -> None:
    """Writes would be blocked, and nothing applied."""
    migration = copying(Phase.STREAMING)
    following = migration.active.following
    following.applier(REPORT)
    following.applier_failed("the destination is down")
    with pytest.raises(PgmigError, match="the last attempt failed: the destination is down") as caught:
        await await_ready(migration.active, time.monotonic() + 0.02)
    assert caught.value.kind is ErrorKind.TIMEOUT
    following.applier(REPORT)
    await await_ready(migration.active, time.monotonic() + 60.0)


async def test_it_waits_for_the_next_applier_when_the_workers_were_released() -> None:
    """They are when another server was promoted, or has another address. The state does not change."""
    migration = copying(Phase.STREAMING)
    pipeline = migration.active
    pipeline.following.applier(REPORT)
    await await_ready(pipeline, time.monotonic() + 60.0)
    registry = WorkerRegistry()
    snapshot = Snapshot(pipeline.id, registry, Changes())
    ends = cast(PipelineEnds, None)
    staffing = Staffing(pipeline, registry, ends, snapshot, Routing(), embedded=False, restored=False)
    assert await staffing.release()
    with pytest.raises(PgmigError, match="no applier is at work"):
        await await_ready(pipeline, time.monotonic() + 0.02)
