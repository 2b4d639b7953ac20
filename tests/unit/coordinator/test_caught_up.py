"""A pipeline streams as soon as an applier works and little is pending: no look at the source is awaited."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.phases import follow
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import (
    ApplierProgress,
    DecoderProgress,
    Endpoint,
    Lsn,
    MigrationOptions,
    Phase,
    PipelineState,
    Role,
)
from services.shared.runtime.changes import Changes
from tests.support.records import make_record

FAR = Lsn(1 << 40)


class Parts:
    """Workers and servers of a migration that catches up. They do nothing by themselves."""

    def __init__(self) -> None:
        record = make_record(
            migration_id="m",
            revision=7,
            phase=Phase.CATCHUP,
            options=MigrationOptions(follow=True),
            source=Endpoint("a", 1, "b", "c"),
            destination=Endpoint("d", 2, "e", "f"),
            created_at=1.5,
            phase_since=2.5,
        )
        self.migration = Migration(record, lambda _: ())
        self.pipeline = self.migration.active
        changes = Changes()
        snapshot = Snapshot(self.pipeline.id, WorkerRegistry(), changes)
        self.reports = Reports(self.pipeline, snapshot, changes)
        self.staffing = self.routing = self
        ends, journal = cast(PipelineEnds, self), cast(Journal, self)
        self.context = Context(self.migration, self.pipeline, journal, ends)

    def report(self, applied: Lsn) -> None:
        self.reports.reported(Role.APPLIER, ApplierProgress("a", applied, applied, 0.0, 1, 1, 1))

    @property
    def streams(self) -> bool:
        return self.pipeline.state is PipelineState.STREAMING

    async def both(self) -> Credentials:
        return Credentials()

    async def staff(self, *_roles: Role) -> None:
        self.staffed = True

    async def save(self) -> None:
        pass

    async def look(self) -> None:
        """At the source."""

    async def close(self) -> None:
        pass


async def nothing(*_: object) -> None:
    pass


async def for_ever(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    parts = Parts()

    def watch(*_: object) -> Any:
        return parts

    monkeypatch.setattr(follow, "_check_gap", nothing)
    monkeypatch.setattr(follow, "look_for_routes", nothing)
    monkeypatch.setattr(follow, "try_compare_tables", nothing)
    monkeypatch.setattr(follow, "watch_tables", for_ever)
    monkeypatch.setattr(follow, "SourceWatch", watch)
    monkeypatch.setattr(follow, "LOOK_EVERY_S", 3600.0)
    return parts


async def test_it_streams_when_the_applier_reports_that_little_is_pending(parts: Parts) -> None:
    schema, workers = cast(Schema, parts), cast(Workers, parts)
    running = asyncio.create_task(follow.run(parts.context, schema, workers))
    while not hasattr(parts, "staffed"):
        await asyncio.sleep(0)
    parts.reports.reported(Role.DECODER, DecoderProgress("d", FAR, FAR, Lsn(1)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not parts.streams
    parts.report(FAR)
    async with asyncio.timeout(60):
        while not parts.streams:
            await parts.migration.changed()
    running.cancel()
    await asyncio.wait({running})
